"""What the real KServe and MLServer and ours are given: scikit-learn's own files, with numbers that are written here.

`python estimators.py FOLDER`, by the Python that is to read them: a file of one release of scikit-learn is not meant
for another.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline


def iris() -> Any:
    """Four numbers to one of three classes, 0, 1 and 2."""
    return _classifier(
        [0, 1, 2],
        [[-0.4, 0.9, -2.3, -1.0], [0.5, -0.3, -0.2, -0.7], [-0.1, -0.6, 2.5, 1.7]],
        [9.0, 2.0, -11.0],
    )


def sums() -> Any:
    """Two numbers to one: a regressor, which has no probabilities."""
    model = LinearRegression()
    model.coef_, model.intercept_ = np.array([1.0, 2.0]), 0.5
    model.n_features_in_ = 2
    return model


def words() -> Any:
    """Texts to a word each."""
    names = ["bad", "good"]
    return Pipeline(
        [("counts", CountVectorizer(vocabulary=names)), ("classes", _classifier(names, [[-1.0, 1.0]], [0.25]))]
    )


def _classifier(classes: list[Any], weights: list[list[float]], bias: list[float]) -> Any:
    model = LogisticRegression()
    model.classes_ = np.array(classes)
    model.coef_, model.intercept_ = np.array(weights), np.array(bias)
    model.n_features_in_ = len(weights[0])
    return model


ALL: dict[str, Callable[[], Any]] = {"iris": iris, "sums": sums, "words": words}


def write(folder: Path) -> None:
    """`NAME.joblib` each."""
    for name, made in ALL.items():
        joblib.dump(made(), folder / f"{name}.joblib")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
