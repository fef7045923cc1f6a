"""`import bentoml` of a service that Headway serves."""

from typing import Any, NoReturn

from pydantic import Field

from workers.loaders.bentoml_sdk.methods import api, task
from workers.loaders.bentoml_sdk.services import Context, Service, importing, missing, on_startup, service, unheeded
from workers.loaders.bentoml_sdk.stored import Model, Tag

from . import exceptions, images, models, validators

on_shutdown = on_deployment = unheeded

__all__ = [
    "Context", "Field", "Model", "Service", "Tag", "api", "exceptions", "images", "importing", "models",
    "on_deployment", "on_shutdown", "on_startup", "service", "task", "validators",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _FRAMEWORKS:
        import importlib

        return importlib.import_module(f"bentoml.{name}")
    if name.startswith("__"):
        raise AttributeError(name)
    return _missing(name)


_FRAMEWORKS = ("lightgbm", "onnx", "picklable_model", "pytorch", "sklearn", "torchscript", "xgboost")


def _missing(name: str) -> NoReturn:
    missing(name)
