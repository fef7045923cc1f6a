"""Models that bentoml.xgboost has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model) -> Any:
    import xgboost

    file = file_of(tag, "bentoml.xgboost")
    made = getattr(xgboost, str(get(tag).info.options.get("model_class", "Booster")))()
    made.load_model(file)
    return made


__all__ = ["get", "load_model"]
