"""Models that bentoml.sklearn has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, get, unpickled


def load_model(tag: str | Model) -> Any:
    return unpickled(tag, "bentoml.sklearn")


__all__ = ["get", "load_model"]
