"""Models that bentoml.picklable_model has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, get, unpickled


def load_model(tag: str | Model) -> Any:
    return unpickled(tag, "bentoml.picklable_model")


__all__ = ["get", "load_model"]
