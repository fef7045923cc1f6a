"""Files of a BentoML model store that run what they say while they are read: only where model.toml trusts them.

Whoever calls has looked. No other module of the loaders of BentoML's unpickles.
"""

import pickle
from pathlib import Path
from typing import Any

from workers.loaders import Unloadable


def estimator(file: Path) -> Any:
    """Of bentoml.sklearn. Raises Unloadable for what it needs and is not here."""
    try:
        import joblib

        return joblib.load(file)
    except ModuleNotFoundError as error:
        raise _missing(file, error) from error


def anything(file: Path) -> Any:
    """Of bentoml.picklable_model. Raises Unloadable for what it needs and is not here."""
    try:
        with file.open("rb") as stream:
            return pickle.load(stream)  # noqa: S301 the operator trusts it, and the log says so
    except ModuleNotFoundError as error:
        raise _missing(file, error) from error


def module(file: Path, device: str | None, **options: Any) -> Any:
    """Of bentoml.pytorch: a whole module. Raises Unloadable for a class that is not here."""
    import torch

    try:
        return torch.load(file, map_location=device, **{"weights_only": False, **options})
    except (AttributeError, ModuleNotFoundError) as error:
        raise Unloadable(
            f"{file.name} is a pickle of a class that is not installed where Headway is: {error}"
        ) from error


def _missing(file: Path, error: ModuleNotFoundError) -> Unloadable:
    return Unloadable(f"{file.name} needs {error.name}, which is not installed where Headway is")
