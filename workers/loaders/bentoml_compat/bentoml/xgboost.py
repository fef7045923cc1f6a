"""Models that bentoml.xgboost has saved."""

from typing import Any

from workers.loaders.bentoml import xgboost_class
from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model) -> Any:
    made = xgboost_class(get(tag).info.options)()
    made.load_model(str(file_of(tag, "bentoml.xgboost")))
    return made


__all__ = ["get", "load_model"]
