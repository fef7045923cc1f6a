"""Models that bentoml.lightgbm has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model) -> Any:
    import lightgbm

    return lightgbm.Booster(model_file=file_of(tag, "bentoml.lightgbm"))


__all__ = ["get", "load_model"]
