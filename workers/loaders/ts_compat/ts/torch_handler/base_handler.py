"""`BaseHandler`: loads what the archive names, and calls preprocess, inference and postprocess in turn."""

import importlib
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from ..handler_utils.timer import timed
from ..utils.util import list_classes_from_module, load_label_mapping

logger = logging.getLogger(__name__)


class BaseHandler:
    """What handlers subclass; each of its steps may be another's."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.manifest: Any = None
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.map_location: str | None = None
        self.explain = False
        self.target = 0

    def initialize(self, context: Any) -> None:
        """Once, before the first request: the model, its device and its labels."""
        self.context = context
        properties = context.system_properties
        folder = Path(properties["model_dir"])
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        self.map_location, self.device = _device(properties.get("gpu_id"))
        model = self.manifest["model"]
        if serialized := model.get("serializedFile"):
            self.model_pt_path = str(folder / serialized)
        if model_file := model.get("modelFile"):
            self.model = self._load_pickled_model(str(folder), model_file, self.model_pt_path)
            self.model.to(self.device).eval()
        elif self.model_pt_path is None:
            raise RuntimeError("the archive names neither a serializedFile nor a modelFile")
        elif self.model_pt_path.endswith(".onnx"):
            self.model = _onnx_session(self.model_pt_path, self.map_location)
        elif self.model_pt_path.endswith((".pt", ".pth", ".ts", ".jit")):
            self.model = self._load_torchscript_model(self.model_pt_path)
            self.model.eval()
        else:
            raise RuntimeError(
                f"{Path(self.model_pt_path).name} is neither TorchScript (.pt) nor ONNX (.onnx); "
                "weights alone need a modelFile"
            )
        self._compile()
        self.mapping = load_label_mapping(str(folder / "index_to_name.json"))
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        with warnings.catch_warnings():
            # Every use of torch.jit warns that torch.export has replaced it.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\..*` is deprecated", category=DeprecationWarning)
            return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """The one class that `model_file` defines, with the weights of `model_pt_path`."""
        if not Path(model_dir, model_file).is_file():
            raise RuntimeError(f"there is no {model_file}")
        module = importlib.import_module(Path(model_file).stem)
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            names = ", ".join(cls.__name__ for cls in classes) or "none"
            raise ValueError(f"{model_file} should define one class, and defines {names}")
        model = classes[0]()
        if model_pt_path is not None:
            trusted = bool(getattr(self.context, "trusted", False))
            model.load_state_dict(torch.load(model_pt_path, map_location=self.device, weights_only=not trusted))
        return model

    def _compile(self) -> None:
        """As the model's YAML asks for it: `pt2: inductor`, or `pt2: {compile: {enable: true, …}}`."""
        asked = self.model_yaml_config.get("pt2")
        if asked is None:
            return
        if isinstance(asked, str):
            options: dict[str, Any] = {"backend": asked}
        elif isinstance(asked, dict) and "compile" in asked:
            options = dict(asked["compile"] or {})
            if not options.pop("enable", False):
                return
        elif isinstance(asked, dict) and "export" not in asked:
            options = dict(asked)
        else:
            raise ValueError("pt2 of the model's YAML should be the name of a backend, or have `compile`")
        self.model = torch.compile(self.model, **options)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Of requests a tensor on the device."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        """Of what the model answered a list, one element a request."""
        return data.tolist()  # type: ignore[no-any-return]

    def handle(self, data: Any, context: Any) -> Any:
        """A call: `data` has an element for each request, and so has the answer."""
        began = time.perf_counter()
        self.context = context
        if self._is_describe():
            output: Any = [self.describe_handle()]
        else:
            prepared = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(prepared, data)
            else:
                output = self.postprocess(self.inference(prepared))
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - began) * 1e3, 2), None, "ms")
        return output

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Of subclasses that can explain: `get_insights(prepared, raw, target)`."""
        insights = getattr(self, "get_insights", None)
        if insights is None:
            raise NotImplementedError(f"{type(self).__name__} has no get_insights, so it explains nothing")
        first = raw_data[0]
        body = first.get("body", first.get("data")) if isinstance(first, dict) else None
        target = body.get("target", 0) if isinstance(body, dict) else 0
        return [insights(data_preprocess, body, target)]

    def describe_handle(self) -> Any:
        """What `GET /models/NAME?customized=true` shows beside the rest."""
        return None

    def get_device(self) -> Any:
        return self.device

    def _is_explain(self) -> bool:
        self.explain = self._asks("explain")
        return self.explain

    def _is_describe(self) -> bool:
        return self._asks("describe")

    def _asks(self, what: str) -> bool:
        return self.context is not None and self.context.get_request_header(0, what) == "True"


def _device(gpu: int | None) -> tuple[str, torch.device]:
    if gpu is not None and torch.cuda.is_available():
        return "cuda", torch.device(f"cuda:{gpu}")
    if gpu is not None and torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    return "cpu", torch.device("cpu")


def _onnx_session(path: str, where: str | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeError(f"{Path(path).name} needs onnxruntime: pip install onnxruntime") from error
    providers = ["CUDAExecutionProvider"] if where == "cuda" else []
    return onnxruntime.InferenceSession(path, providers=[*providers, "CPUExecutionProvider"])
