"""What KServe's and MLServer's runtimes read: an object with `predict`, and maybe `predict_proba` and `transform`."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

from workers.loaders import Unloadable, lightgbm

logger = logging.getLogger(__name__)


def read(kind: str, file: Path, *, labels: bool) -> Any:
    """`kind`: sklearn, xgboost, lightgbm. A scikit-learn file is unpickled: whether it may be is asked before.

    `labels`: an XGBoost classifier answers classes, as its class for scikit-learn does, and not probabilities.
    Raises Unloadable.
    """
    match kind:
        case "sklearn":
            return _unpickled(file)
        case "xgboost":
            return _xgboost(file, labels)
        case _:
            return _LightGBM(file)


def _unpickled(file: Path) -> Any:
    logger.warning("%s is unpickled, since model.toml trusts it: it runs what it likes", file)
    if file.suffix in (".pkl", ".pickle"):
        try:
            with file.open("rb") as stream:
                return pickle.load(stream)  # noqa: S301 the operator trusts it, and the log says so
        except (pickle.UnpicklingError, KeyError, IndexError):
            pass  # joblib writes under these names, too
    try:
        import joblib
    except ImportError as error:
        raise Unloadable(f"{file.name} needs joblib: pip install joblib, and what it was made with") from error
    return joblib.load(file)


class _Booster:
    def __init__(self, booster: Any, matrix: Any) -> None:
        self._booster = booster
        self._matrix = matrix

    def predict(self, rows: Any) -> Any:
        return self._booster.predict(self._matrix(rows))


def _xgboost(file: Path, labels: bool) -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise Unloadable("it needs XGBoost: pip install 'headway[xgboost]'") from error
    content = bytearray(file.read_bytes())  # whose form it knows by itself, whatever the file is called
    try:
        if not labels:
            return _Booster(xgboost.Booster(model_file=content), xgboost.DMatrix)
        for kind in (xgboost.XGBRegressor, xgboost.XGBClassifier):
            model = kind()
            try:
                model.load_model(content)
            except TypeError:  # it is of the other
                continue
            return model
    except (xgboost.core.XGBoostError, ImportError) as error:
        raise Unloadable(f"{file.name} is no model that XGBoost {xgboost.__version__} reads: {error}"[:500]) from error
    raise Unloadable(f"{file.name} is of neither a regressor nor a classifier")


class _LightGBM:
    def __init__(self, file: Path) -> None:
        self._booster = lightgbm.booster(file)
        self._threads = int(os.environ.get("OMP_NUM_THREADS", "0"))

    def predict(self, rows: Any) -> Any:
        return self._booster.predict(rows, num_threads=self._threads)
