"""Models that bentoml.pytorch has saved: whole modules, pickled."""

from typing import Any

from workers.loaders.bentoml_pickles import module
from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model, device_id: str | None = "cpu", **options: Any) -> Any:
    return module(file_of(tag, "bentoml.pytorch"), device_id, **options)


__all__ = ["get", "load_model"]
