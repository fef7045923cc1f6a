"""Models of the store."""

from workers.loaders.bentoml_sdk.stored import Model, get

BentoModel = get

__all__ = ["BentoModel", "Model", "get"]
