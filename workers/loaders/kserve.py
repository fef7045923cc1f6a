"""A model that `inferenceservice.yaml` describes, called as KServe's runtimes for estimators and boosters call it.

One prediction is one request: {"instances": […]} of KServe's first protocol, or one of the Open Inference Protocol,
whose inputs have a datatype. Requests of a micro-batch whose rows are alike are computed in one call; where that
raises, each by itself, so that who is guilty fails alone, with the words of the exception.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from headway import kserve, tensors
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Manifest, Tensor
from headway.model import Context, InvalidInput
from headway.versions import UNTRUSTED
from workers.loaders import Unloadable, estimators

#: What the one output is called in the Open Inference Protocol.
OUTPUT = "output-0"
_UNPICKLED = ("joblib", "pickle")


class KServeModel:
    """An estimator behind the two protocols."""

    def __init__(self, framework: str, call: Callable[[Any], Any]) -> None:
        self.framework = framework
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._call = call

    def predict(self, inputs: list[Any], context: Context) -> object:
        answers: list[Any] = [None] * len(inputs)
        alike: defaultdict[object, list[tuple[int, Any]]] = defaultdict(list)
        for index, request in enumerate(inputs):
            try:
                rows = _rows(request)
                alike[_likeness(rows, index)].append((index, rows))
            except Exception as error:
                answers[index] = _failed(error)
        for group in alike.values():
            for (index, _), answer in zip(group, self._together([rows for _, rows in group]), strict=True):
                answers[index] = answer if isinstance(answer, Exception) else _reply(inputs[index], answer)
        return answers

    def _together(self, parts: Sequence[Any]) -> list[Any]:
        """The answer to each part, or why there is none."""
        if len(parts) > 1:
            lengths = [len(part) for part in parts]
            whole = (
                np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]
            )
            try:
                answer = self._call(whole)
                if len(answer) == sum(lengths):
                    return np.split(np.asarray(answer), np.cumsum(lengths)[:-1])
            except Exception:  # noqa: S110  each by itself says whose it is
                pass
        return [self._alone(part) for part in parts]

    def _alone(self, rows: Any) -> Any:
        try:
            return np.asarray(self._call(rows))
        except Exception as error:
            return _failed(error)


def load(manifest: Manifest, context: Context) -> KServeModel:
    said = manifest.config["kserve"]
    file = kserve.artifact(context.path, manifest)
    if file is None:
        raise Unloadable(f"no model file in {context.path}")
    framework = kserve.framework_of(file, manifest)
    if framework in _UNPICKLED and not manifest.artifact.trust:
        raise Unloadable(UNTRUSTED)
    model = estimators.read(said["format"], file, labels=False)
    call = getattr(model, said["method"], None) or getattr(model, "predict", None)
    if not callable(call):
        raise Unloadable(f"{file.name} holds a {type(model).__name__}, which has no method 'predict'")
    return KServeModel(framework, call)


def is_v2(request: Any) -> bool:
    """Whether it is one of the Open Inference Protocol."""
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(inputs, list) or not (inputs or "parameters" in request):
        return False
    return all(isinstance(one, dict) and "datatype" in one for one in inputs)


def _rows(request: Any) -> Any:
    """What the estimator gets: an array, or a list of texts. Raises whatever is wrong with it."""
    if is_v2(request):
        return _first(request)
    if not isinstance(request, dict):
        raise InvalidInput("the request should be a JSON object")
    rows = request["inputs"] if "inputs" in request else request["instances"]
    if not isinstance(rows, list):
        raise InvalidInput('Expected "instances" to be a list')
    if rows and isinstance(rows[0], str):
        return rows
    if rows and (isinstance(rows[0], dict) or (isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], dict))):
        return _frame(rows)
    return np.array(rows)


def _first(request: dict[str, Any]) -> Any:
    """The first input; others are not looked at, as KServe does."""
    if (request.get("parameters") or {}).get("content_type") == "pd":
        return _columns(request["inputs"])
    given = request["inputs"][0]
    data = given["data"]
    if given["datatype"] == "BYTES" and data and isinstance(data[0], str):
        return data
    return np.array(data, _dtype(given["datatype"])).reshape(given["shape"])


def _dtype(datatype: str) -> np.dtype[Any]:
    if datatype == "BYTES":
        return np.dtype(object)
    if datatype not in tensors.ITEM_BYTES or datatype == "BF16":
        raise InvalidInput("invalid datatype None in the input")
    return np.dtype(tensors.DTYPES[datatype])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise InvalidInput("rows of named values need pandas: pip install pandas where Headway is") from error
    return pandas


def _frame(rows: list[Any]) -> Any:
    pandas = _pandas()
    return pandas.concat([pandas.DataFrame(row) for row in rows], axis=0)


def _columns(inputs: list[dict[str, Any]]) -> Any:
    pandas = _pandas()
    return pandas.concat([pandas.DataFrame(one["data"], columns=[one["name"]]) for one in inputs], axis=1)


def _likeness(rows: Any, index: int) -> object:
    """What has the same can be computed in one call."""
    if isinstance(rows, list):
        return "texts"
    if isinstance(rows, np.ndarray) and rows.ndim > 1 and len(rows):
        return rows.shape[1:], rows.dtype.str
    return index


def _reply(request: Any, answer: np.ndarray[Any, Any]) -> dict[str, Any]:
    if not is_v2(request):
        return {"predictions": answer.tolist()}
    datatype = "BYTES" if answer.dtype.kind in "OSU" else tensors.DATATYPES[answer.dtype.name]
    data = answer.reshape(-1).tolist()
    return {"outputs": [{"name": OUTPUT, "shape": list(answer.shape), "datatype": datatype, "data": data}]}


def _failed(error: Exception) -> Exception:
    return error if isinstance(error, InvalidInput) else ItemFailed(ItemCode.MODEL_ERROR, str(error))
