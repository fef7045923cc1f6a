"""Models that bentoml.torchscript has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model, device_id: str | None = "cpu") -> Any:
    import torch

    return torch.jit.load(file_of(tag, "bentoml.torchscript"), map_location=device_id)  # type: ignore[no-untyped-call]


__all__ = ["get", "load_model"]
