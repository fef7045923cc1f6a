"""Models that bentoml.picklable_model has saved."""

from typing import Any

from workers.loaders.bentoml_pickles import anything
from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model) -> Any:
    return anything(file_of(tag, "bentoml.picklable_model"))


__all__ = ["get", "load_model"]
