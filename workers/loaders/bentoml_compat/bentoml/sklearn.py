"""Models that bentoml.sklearn has saved."""

from typing import Any

from workers.loaders.bentoml_pickles import estimator
from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model) -> Any:
    return estimator(file_of(tag, "bentoml.sklearn"))


__all__ = ["get", "load_model"]
