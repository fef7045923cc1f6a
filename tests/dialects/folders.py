"""Model folders of KServe's and MLServer's: what lies in `models/`, with the estimators that they name."""

import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).resolve().parent
MODELS = _HERE / "models"

#: Folder with a model file → which estimator that is.
_ESTIMATORS = {
    "kserve": {"iris/1": "iris", "proba/1": "iris", "sums/1": "sums", "words/1": "words"},
    "mlserver": {
        "petals": "iris",
        "declared": "iris",
        "versions/one": "iris",
        "versions/two": "iris",
        "totals": "sums",
        "moods": "words",
    },
}
#: model → method, of those that the real KServe is told so by its environment.
KSERVE = {"iris": "predict", "proba": "predict_proba", "sums": "predict", "words": "predict"}
_TRUST = "[artifact]\ntrust = true\n"


#: Models that only slow cases ask: each has a process of its own.
SLOW = {"kserve": ("proba",), "mlserver": ("declared", "versions")}


def build(system: str, models: Path, python: Path, *, quick: bool = False) -> None:
    """Into a folder that is there, with estimators of a Python's scikit-learn; they are trusted. `quick`: few."""
    left_out = SLOW[system] if quick else ()
    ignored = shutil.ignore_patterns("__pycache__", *left_out)
    shutil.copytree(MODELS / system, models, dirs_exist_ok=True, ignore=ignored)
    made = models.parent / "estimators"
    if not made.exists():
        made.mkdir()
        subprocess.run([python, str(_HERE / "estimators.py"), str(made)], check=True, capture_output=True, timeout=120)
    for folder, name in _ESTIMATORS[system].items():
        if folder.partition("/")[0] in left_out:
            continue
        (models / folder).mkdir(exist_ok=True)
        shutil.copy(made / f"{name}.joblib", models / folder / "model.joblib")
        (models / folder.partition("/")[0] / "model.toml").write_text(_TRUST, encoding="utf-8")
