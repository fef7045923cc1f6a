"""Models that bentoml.onnx has saved."""

from typing import Any

from workers.loaders.bentoml_sdk.stored import Model, file_of, get


def load_model(tag: str | Model, *, providers: Any = None, session_options: Any = None) -> Any:
    import onnxruntime

    file = str(file_of(tag, "bentoml.onnx"))
    return onnxruntime.InferenceSession(file, session_options, providers=providers or ["CPUExecutionProvider"])


__all__ = ["get", "load_model"]
