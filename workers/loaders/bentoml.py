"""A version of BentoML's model store: model.yaml says which library its file is of. Bentoml itself is not needed.

An input is named arrays whose first dimension counts rows: `data`, or what the graph calls them. Of several methods a
request may name one in `method`, once for each row. What has to be unpickled is so only where model.toml trusts it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headway.bentoml import store
from headway.manifest import Manifest, Tensor
from headway.model import Context, InvalidInput
from headway.versions import UNTRUSTED
from workers.loaders import LoadedModel, Unloadable, bentoml_pickles, rowed

logger = logging.getLogger(__name__)

INPUT = "data"

_Array = np.ndarray[Any, Any]
_Method = Callable[[Any], Any]


class MethodsModel:
    """An object with methods that take an array of rows."""

    framework = "bentoml"

    def __init__(self, methods: dict[str, _Method], usual: str, inputs: dict[str, Tensor], manifest: Manifest) -> None:
        """`inputs`: none where nothing is known of them, and any JSON is taken; else one array, or a column each."""
        self.inputs = dict(inputs)
        self.outputs: dict[str, Tensor] = manifest.outputs
        if inputs and len(methods) > 1:
            self.inputs[store.METHOD] = Tensor("string", (-1,), optional=True)
        self._columns = list(inputs)
        self._methods = methods
        self._usual = usual
        self._joined = manifest.items == "joined"

    def predict(self, inputs: list[Any], context: Context) -> object:
        answers: list[Any] = [None] * len(inputs)
        of_method: defaultdict[str, list[int]] = defaultdict(list)
        for index, given in enumerate(inputs):
            name = _method(given) or self._usual
            if name in self._methods:
                of_method[name].append(index)
            else:
                answers[index] = InvalidInput(f"there is no method {name[:80]!r}, but {', '.join(self._methods)}")
        for name, indexes in of_method.items():
            for group in self._groups(inputs, indexes):
                for index, answer in zip(group, self._called(name, [inputs[one] for one in group]), strict=True):
                    answers[index] = answer
        return answers

    def _groups(self, inputs: Sequence[Any], indexes: list[int]) -> list[list[int]]:
        if not (self._joined and self._columns):
            return [[index] for index in indexes]
        chosen = [inputs[index] for index in indexes]
        return [[indexes[at] for at in group] for group in rowed.groups(chosen, self._columns, "joined")]

    def _called(self, name: str, given: Sequence[Any]) -> list[Any]:
        if not self._columns:
            return [self._named(_dense(self._methods[name](_data(one)))) for one in given]
        arrays = [self._array(one) for one in given]
        answer = _dense(self._methods[name](rowed.together(arrays, "joined")))
        cuts = rowed.Cuts([{INPUT: array} for array in arrays], "joined")
        if len(given) == 1:
            return [self._named(answer)]
        if not cuts.fits(answer):
            raise ValueError(f"{name} has no row for each of {cuts.rows} rows")
        return [self._named(part) for part in cuts.parts(answer)]

    def _array(self, given: Any) -> _Array:
        columns = [given[name] for name in self._columns]
        array: _Array = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
        return array

    def _named(self, answer: Any) -> Any:
        return {next(iter(self.outputs)): answer} if self.outputs else answer


def load(manifest: Manifest, context: Context) -> LoadedModel:
    call = store.call_of(manifest)
    file = context.path / call.file
    if call.module in store.PICKLED:
        if not manifest.artifact.trust:
            raise Unloadable(UNTRUSTED)
        logger.warning("%s is unpickled, since model.toml trusts it: it runs what it likes", file)
    if (context.path / "custom_objects.pkl").exists():
        logger.warning("%s is not read: a model.py may", context.path / "custom_objects.pkl")
    if call.module not in _GRAPHS and len(manifest.outputs) > 1:
        raise Unloadable(f"{file.name} answers one array: declare one of [outputs.NAME], or none")
    model: LoadedModel = _LOADERS[call.module](manifest, context, call, file)
    model.framework = "bentoml"
    return model


def _estimator(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    made = (bentoml_pickles.estimator if call.module == "bentoml.sklearn" else bentoml_pickles.anything)(file)
    features = getattr(made, "n_features_in_", None)
    known = {INPUT: Tensor("float64", (-1, int(features)))} if features else {}
    return MethodsModel(_methods(made, call, file), call.method, manifest.inputs or known, manifest)


def _xgboost(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    try:
        import xgboost
    except ImportError as error:
        raise Unloadable("it needs XGBoost: pip install 'headway[xgboost]'") from error
    cls = xgboost_class(call.options)
    try:
        made = cls()
        made.load_model(str(file))
    except xgboost.core.XGBoostError as error:
        reason = str(error).split("Stack trace:")[0].rpartition("]")[2].strip()[:300]
        raise Unloadable(f"{file.name} is no model that XGBoost {xgboost.__version__} reads: {reason}") from error
    methods = _methods(made, call, file)
    booster = made
    if isinstance(made, xgboost.Booster):
        methods = {name: _of_matrix(method, xgboost.DMatrix) for name, method in methods.items()}
    else:
        booster = made.get_booster()
    known = {INPUT: Tensor("float32", (-1, int(booster.num_features())), nullable=True)}
    return MethodsModel(methods, call.method, manifest.inputs or known, manifest)


def xgboost_class(options: Mapping[str, Any]) -> Any:
    """That a model was saved as. Raises Unloadable."""
    import xgboost

    kind = str(options.get("model_class", "Booster"))
    cls = getattr(xgboost, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, xgboost.Booster | xgboost.XGBModel)):
        raise Unloadable(f"model.yaml says that it is a {kind[:80]!r}, which is none of XGBoost's models")
    return cls


def _lightgbm(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    try:
        import lightgbm

        from workers.loaders.lightgbm import check
    except ImportError as error:
        raise Unloadable("it needs LightGBM: pip install 'headway[lightgbm]'") from error
    check(file)
    try:
        made = lightgbm.Booster(model_file=file)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise Unloadable(f"{file.name} is no model that LightGBM {lightgbm.__version__} reads: {error}") from error
    known = {INPUT: Tensor("float64", (-1, int(made.num_feature())), nullable=True)}
    return MethodsModel(_methods(made, call, file), call.method, manifest.inputs or known, manifest)


def _onnx(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    from workers.loaders import onnx

    return onnx.load(msgspec.structs.replace(manifest, file=call.file), context)


def _torchscript(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    from workers.loaders import torchscript

    return torchscript.load(msgspec.structs.replace(manifest, file=call.file), context)


def _pytorch(manifest: Manifest, context: Context, call: store.Call, file: Path) -> LoadedModel:
    import torch

    from workers.loaders import weights

    if not manifest.inputs:
        raise Unloadable(f"{file.name} does not say what it takes: declare it, [inputs.NAME]")
    module = bentoml_pickles.module(file, context.device)
    if not isinstance(module, torch.nn.Module):
        raise Unloadable(f"{file.name} holds a {type(module).__name__}, and should hold a torch.nn.Module")
    return weights.WeightsModel(module.to(context.device).eval(), manifest, context.device)


_LOADERS: dict[str, Callable[[Manifest, Context, store.Call, Path], Any]] = {
    "bentoml.sklearn": _estimator,
    "bentoml.picklable_model": _estimator,
    "bentoml.xgboost": _xgboost,
    "bentoml.lightgbm": _lightgbm,
    "bentoml.onnx": _onnx,
    "bentoml.torchscript": _torchscript,
    "bentoml.pytorch": _pytorch,
}
#: Of these the first method alone is called, the graph's own.
_GRAPHS = ("bentoml.onnx", "bentoml.torchscript", "bentoml.pytorch")


def _methods(made: Any, call: store.Call, file: Path) -> dict[str, _Method]:
    found = {name: getattr(made, name, None) for name in call.methods}
    for name, method in found.items():
        if not callable(method):
            raise Unloadable(f"{file.name} holds a {type(made).__name__}, which has no method {name!r}")
    return {name: method for name, method in found.items() if callable(method)}


def _of_matrix(method: _Method, matrix: Any) -> _Method:
    return lambda rows: method(matrix(rows))


def _method(given: Any) -> str | None:
    """That a request names: the same in every row."""
    named = given.get(store.METHOD) if isinstance(given, dict) else None
    if isinstance(named, np.ndarray):
        named = named.reshape(-1).tolist()
    return str(named[0]) or None if isinstance(named, list) and named else None


def _data(given: Any) -> Any:
    """Of a model of which nothing is known: the value, or what stands beside its method."""
    if isinstance(given, dict):
        rest = [value for name, value in given.items() if name != store.METHOD]
        return rest[0] if len(rest) == 1 else given
    return given


def _dense(answer: Any) -> Any:
    """An array, also of what is sparse."""
    answer = answer.toarray() if hasattr(answer, "toarray") else answer
    return (
        np.asarray(answer)
        if isinstance(answer, list) and all(isinstance(one, np.ndarray) for one in answer)
        else answer
    )
