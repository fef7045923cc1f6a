"""Files as BentoML's store has them, loaded by the libraries that wrote them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import torch
import xgboost
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from headway import versions
from headway.manifest import Tensor
from headway.model import Context, InvalidInput, Item
from tests import bentos
from tests.bentos import BATCHED
from tests.graphs import doubling
from workers.loaders import LoadedModel, Unloadable, load
from workers.loaders.bentoml_sdk import stored
from workers.loaders.bentoml_sdk.exceptions import NotFound, Unsupported

ROWS = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
CLASSES = np.array([0, 0, 1, 1])
BOTH: dict[str, object] = {"predict": BATCHED, "predict_proba": BATCHED}


def loaded(models: Path, toml: str = "") -> LoadedModel:
    (folder,) = models.iterdir()
    if toml:
        (folder / "model.toml").write_text(toml)
    (found,) = versions.scan_model(folder)
    assert found.error is None, found.error
    assert found.manifest is not None
    return load(found.manifest, Context(found.path, "cpu", found.manifest.config))


def asked(model: LoadedModel, *inputs: Any) -> list[Any]:
    context = Context(Path(), "cpu", {}, [Item(str(at)) for at in range(len(inputs))])
    answers: Any = model.predict(list(inputs), context)
    return list(answers)


def test_sklearn_answers_rows_of_several_requests_and_methods(tmp_path: Path) -> None:
    made = LogisticRegression().fit(ROWS, CLASSES)
    folder = bentos.stored(tmp_path, "iris", "a", "bentoml.sklearn", signatures=BOTH)
    joblib.dump(made, folder / "saved_model.pkl")
    bentos.trusted(tmp_path, "iris")
    model = loaded(tmp_path)
    assert model.inputs == {"data": Tensor("float64", (-1, 2)), "method": Tensor("string", (-1,), optional=True)}
    proba = np.array(["predict_proba"], dtype=object)
    answers = asked(
        model, {"data": ROWS}, {"data": ROWS[:1], "method": proba}, {"data": ROWS[3:]},
        {"data": ROWS[:1], "method": np.array(["fit"], dtype=object)},
    )  # fmt: skip
    assert answers[0].tolist() == CLASSES.tolist()
    assert answers[1].tolist() == made.predict_proba(ROWS[:1]).tolist()
    assert answers[2].tolist() == [1]
    assert isinstance(answers[3], InvalidInput)


def test_sklearn_that_takes_text_takes_any_json(tmp_path: Path) -> None:
    made = make_pipeline(CountVectorizer(), MultinomialNB()).fit(["good day", "bad night"], [1, 0])
    folder = bentos.stored(tmp_path, "words", "a", "bentoml.sklearn", signatures={"predict": BATCHED})
    joblib.dump(made, folder / "saved_model.pkl")
    bentos.trusted(tmp_path, "words")
    model = loaded(tmp_path)
    assert model.inputs == {}
    answers = asked(model, ["good day", "bad"], {"data": ["night"]})
    assert [one.tolist() for one in answers] == [[1, 0], [0]]


def _classifier(file: Path) -> tuple[dict[str, object], Callable[[Any], Any]]:
    made = xgboost.XGBClassifier(n_estimators=2, max_depth=2, min_child_weight=0).fit(ROWS, CLASSES)
    made.save_model(file)
    return {"model_class": "XGBClassifier"}, made.predict


def _booster(file: Path) -> tuple[dict[str, object], Callable[[Any], Any]]:
    made = xgboost.train({"max_depth": 2, "min_child_weight": 0}, xgboost.DMatrix(ROWS, CLASSES), 2)
    made.save_model(file)
    return {"model_class": "Booster"}, lambda rows: made.predict(xgboost.DMatrix(rows))


@pytest.mark.parametrize("make", [_classifier, _booster])
def test_xgboost_is_loaded_as_the_class_it_was_saved_as(
    tmp_path: Path, make: Callable[[Path], tuple[dict[str, object], Callable[[Any], Any]]]
) -> None:
    options, predict = make(tmp_path / "saved.ubj")
    models = tmp_path / "models"
    folder = bentos.stored(models, "trees", "a", "bentoml.xgboost", signatures={"predict": BATCHED}, options=options)
    (tmp_path / "saved.ubj").rename(folder / "saved_model.ubj")
    model = loaded(models)
    assert model.inputs == {"data": Tensor("float32", (-1, 2), nullable=True)}
    answers = asked(model, {"data": ROWS[:1]}, {"data": ROWS[1:]})
    assert [*answers[0].tolist(), *answers[1].tolist()] == predict(ROWS).tolist()


def test_xgboost_of_a_class_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = bentos.stored(tmp_path, "trees", "a", "bentoml.xgboost", options={"model_class": "sys"})
    (folder / "saved_model.ubj").write_bytes(b"")
    with pytest.raises(Unloadable, match="is a 'sys', which is none of XGBoost's models"):
        loaded(tmp_path)


def test_lightgbm_is_loaded_from_its_text(tmp_path: Path) -> None:
    data = lightgbm.Dataset(np.repeat(ROWS, 10, 0), np.repeat(CLASSES, 10))
    made = lightgbm.train({"min_data_in_leaf": 1, "verbose": -1}, data, 3)
    folder = bentos.stored(tmp_path, "trees", "a", "bentoml.lightgbm")
    made.save_model(folder / "saved_model.ubj")
    (answer,) = asked(loaded(tmp_path), {"data": ROWS})
    assert answer.tolist() == np.asarray(made.predict(ROWS)).tolist()
    file = folder / "saved_model.ubj"
    file.write_text(file.read_text()[:400])
    with pytest.raises(Unloadable, match=r"saved_model\.ubj"):
        loaded(tmp_path)


def test_onnx_says_its_own_inputs_and_joins_rows(tmp_path: Path) -> None:
    folder = bentos.stored(tmp_path, "twice", "a", "bentoml.onnx", signatures={"run": BATCHED})
    (folder / "saved_model.onnx").write_bytes(doubling())
    model = loaded(tmp_path)
    assert model.inputs == {"x": Tensor("float32", (-1, 2))}
    ones = np.ones((1, 2), np.float32)
    answers = asked(model, {"x": ones}, {"x": np.repeat(ones, 2, 0)})
    assert [one["y"].shape for one in answers] == [(1, 2), (2, 2)]


TOML = '[inputs.x]\ndtype = "float32"\nshape = [2]\n'


def test_torchscript_and_pickled_modules_need_declared_inputs(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1)
    scripts, modules = tmp_path / "scripts", tmp_path / "modules"
    folder = bentos.stored(scripts, "net", "a", "bentoml.torchscript", signatures={"__call__": BATCHED})
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(layer).save(str(folder / "saved_model.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(Unloadable, match=r"declare it, \[inputs"):
        loaded(scripts)
    folder = bentos.stored(modules, "net", "a", "bentoml.pytorch", signatures={"__call__": BATCHED})
    torch.save(torch.nn.Sequential(layer), folder / "saved_model.pt")
    rows = ROWS.astype(np.float32)
    wanted = layer(torch.from_numpy(rows)).tolist()
    for models, toml in ((scripts, TOML), (modules, TOML.replace(".x]", ".input]") + "[artifact]\ntrust = true\n")):
        model = loaded(models, toml)
        (name,) = model.inputs
        answers = asked(model, {name: rows[:1]}, {name: rows[1:]})
        np.testing.assert_allclose(np.concatenate(answers), wanted, rtol=1e-6)


def test_what_was_pickled_with_a_class_that_is_not_here_says_which(tmp_path: Path) -> None:
    folder = bentos.stored(tmp_path, "any", "a", "bentoml.picklable_model")
    (folder / "saved_model.pkl").write_bytes(b"cnowhere_at_all\nClass\n.")
    bentos.trusted(tmp_path, "any")
    with pytest.raises(Unloadable, match="needs nowhere_at_all"):
        loaded(tmp_path)
    (folder / "saved_model.pkl").write_bytes(pickle.dumps({"no": "model"}))
    with pytest.raises(Unloadable, match="holds a dict, which has no method 'predict'"):
        loaded(tmp_path)


def test_a_service_reads_no_pickle_that_model_toml_does_not_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bentos.stored(tmp_path, "iris", "a", "bentoml.sklearn")
    joblib.dump(LogisticRegression().fit(ROWS, CLASSES), folder / "saved_model.pkl")
    monkeypatch.setattr(stored.place, "folders", {tmp_path / "inner": True, tmp_path: False})
    with pytest.raises(Unsupported, match="iris:a: to read its model file is to unpickle it"):
        stored.file_of("iris:latest", "bentoml.sklearn")
    bentos.trusted(tmp_path, "iris")
    assert stored.file_of("iris", "bentoml.sklearn") == folder / "saved_model.pkl"
    inner = bentos.stored(tmp_path / "inner", "iris", "b", "bentoml.sklearn")
    (inner / "saved_model.pkl").touch()
    assert stored.file_of("iris", "bentoml.sklearn") == inner / "saved_model.pkl"
    for tag in ("../iris:a", "iris:../iris/a", "iris:c", "other", "iris:a/.."):
        with pytest.raises(NotFound):
            stored.get(tag)
