"""`model.ubj` or `model.json`, as XGBoost's `save_model` writes them (the extra `xgboost`). Nothing is unpickled.

`[config] output = "margin"` asks for what the trees add up to, before the objective makes probabilities of it. Where
training was stopped early, the file says which round was the best, and later trees are left out, as
`XGBClassifier.predict` does.
"""

from typing import Any

import numpy as np

from headway.manifest import Manifest
from headway.model import Context
from headway.versions import artifact
from workers.loaders import Unloadable, boosters


def load(manifest: Manifest, context: Context) -> boosters.BoosterModel:
    try:
        import xgboost
    except ImportError as error:
        raise Unloadable("it needs XGBoost: pip install 'headway[xgboost]'") from error
    file = artifact(context.path)
    assert file is not None
    output = boosters.option(manifest, "output", ("value", "margin"))
    try:
        booster = xgboost.Booster(model_file=str(file))
        features = booster.num_features()
        best = booster.attributes().get("best_iteration")
    except xgboost.core.XGBoostError as error:
        raise Unloadable(
            f"{file.name} is no model that XGBoost {xgboost.__version__} reads: {_reason(error)}"
        ) from error
    if not features:
        raise Unloadable(f"{file.name} has no features: it was saved before it was trained")
    trees = (0, int(best) + 1) if best is not None and best.isdecimal() else (0, 0)

    def call(rows: boosters.Array) -> boosters.Array:
        answer: Any = booster.inplace_predict(rows, predict_type=output, iteration_range=trees, missing=np.nan)
        return np.asarray(answer)

    return boosters.BoosterModel(
        "xgboost", call, features=features, names=booster.feature_names, dtype="float32", manifest=manifest
    )


def _reason(error: Exception) -> str:
    """What went wrong, without where in XGBoost it did."""
    return str(error).split("Stack trace:")[0].rpartition("]")[2].strip()[:300]
