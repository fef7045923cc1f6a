"""Folders of KServe's and MLServer's, loaded and called as a device process does it."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from headway import kserve, mlserver
from headway.errors import ItemCode
from headway.model import Context, Item
from headway.types import Outcome
from headway.versions import scan_model
from workers import loaders
from workers.executor import Executor

TRUST = "[artifact]\ntrust = true\n[batching]\nmax_batch_size = 8\n"


class Doubling:
    """Counts its calls; refuses what is negative."""

    calls: list[int] = []  # noqa: RUF012

    def predict(self, rows: Any) -> Any:
        rows = np.asarray(rows)
        Doubling.calls.append(len(rows))
        if rows.ndim != 2:
            raise ValueError(f"{rows.ndim} dimensions")
        if rows.dtype.kind in "if" and (rows < 0).any():
            raise ValueError("negative")
        return rows[:, 0] * 2


def service(folder: Path, format_: str, name: str = "model") -> Path:
    model = folder / name
    (model / "1").mkdir(parents=True)
    predictor = {"model": {"modelFormat": {"name": format_}}}
    document = {"kind": "InferenceService", "metadata": {"name": name}, "spec": {"predictor": predictor}}
    (model / kserve.FILE).write_text(yaml.safe_dump(document))
    (model / "model.toml").write_text(TRUST)
    return model


def settings(folder: Path, implementation: str, name: str = "model", **more: Any) -> Path:
    model = folder / name
    model.mkdir(parents=True)
    (model / mlserver.FILE).write_text(json.dumps({"name": name, "implementation": implementation} | more))
    (model / "model.toml").write_text(TRUST)
    return model


def loaded(model: Path) -> Any:
    (found,) = scan_model(model)
    assert found.error is None, found.error
    assert found.manifest is not None
    context = Context(path=found.path, device="cpu", config=found.manifest.config)
    given = loaders.load(found.manifest, context)
    return lambda *inputs: given.predict(list(inputs), Context(found.path, "cpu", {}, [Item(str(i)) for i in inputs]))


@pytest.fixture
def doubling(tmp_path: Path) -> Any:
    model = service(tmp_path, "sklearn")
    (model / "1" / "best.pkl").write_bytes(pickle.dumps(Doubling()))
    Doubling.calls.clear()
    return loaded(model)


def v2(data: list[Any], shape: list[int], datatype: str = "FP64", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]} | more


def test_requests_whose_rows_are_alike_are_one_call(doubling: Any) -> None:
    answers = doubling({"instances": [[1.5], [2.5]]}, v2([3.5], [1, 1]), {"instances": [[4.5]]})
    assert Doubling.calls == [4]
    assert answers[0] == {"predictions": [3.0, 5.0]}
    assert answers[1] == {"outputs": [{"name": "output-0", "shape": [1], "datatype": "FP64", "data": [7.0]}]}
    assert answers[2] == {"predictions": [9.0]}


def test_integers_and_fractions_are_not_one_call(doubling: Any) -> None:
    assert doubling({"instances": [[1]]}, {"instances": [[1.5]]}) == [{"predictions": [2]}, {"predictions": [3.0]}]
    assert Doubling.calls == [1, 1]


def test_who_is_guilty_in_a_call_fails_alone_in_the_exception_s_words(doubling: Any) -> None:
    good, bad, flat = doubling({"instances": [[1.0]]}, {"instances": [[-1.0]]}, {"instances": [1.0]})
    assert good == {"predictions": [2.0]}
    assert (bad.code, str(bad)) == (ItemCode.MODEL_ERROR, "negative")
    assert (flat.code, str(flat)) == (ItemCode.MODEL_ERROR, "1 dimensions")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boosters that have learnt whether the first of two numbers is over 0.5; XGBoost's regressor and classifier."""
    import lightgbm
    import xgboost

    folder = tmp_path_factory.mktemp("trees")
    rows = np.random.default_rng(0).random((64, 2))
    over = (rows[:, 0] > 0.5).astype(int)
    matrix = xgboost.DMatrix(rows, over)
    xgboost.train({"max_depth": 2, "nthread": 1}, matrix, 8).save_model(folder / "regressor.json")
    classifier = xgboost.XGBClassifier(n_estimators=8, max_depth=2, n_jobs=1)
    classifier.fit(rows, over)
    classifier.save_model(folder / "classifier.json")
    options = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, "objective": "binary"}
    lightgbm.train(options, lightgbm.Dataset(rows, over), 8).save_model(folder / "light.txt")
    return folder


@pytest.mark.parametrize(
    ("format_", "file", "name"), [("xgboost", "regressor.json", "model.bst"), ("lightgbm", "light.txt", "model.bst")]
)
def test_a_booster_of_kserve_s_answers_a_number_a_row(
    tmp_path: Path, trees: Path, format_: str, file: str, name: str
) -> None:
    model = service(tmp_path, format_)
    (model / "1" / name).write_bytes((trees / file).read_bytes())
    (answer,) = loaded(model)({"instances": [[0.1, 0.5], [0.9, 0.5]]})
    low, high = answer["predictions"]
    assert low < 0.5 < high


class Running:
    """A version in a device process of its own."""

    def __init__(self, model: Path) -> None:
        (found,) = scan_model(model)
        assert found.error is None, found.error
        assert found.manifest is not None
        self.executor = Executor(
            model=found.model, version=found.version, path=found.path, manifest=found.manifest, device="cpu"
        )
        self.executor.load()

    def ask(self, *values: Any) -> list[Outcome]:
        items = [(f"item-{number}", msgspec.json.encode(value)) for number, value in enumerate(values)]
        self.executor.submit(1, items)
        return self.executor.receive().outcomes


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """Those that are put in here end with the test."""
    started: list[Running] = []
    yield started
    for one in started:
        one.executor.close()


def output(outcome: Outcome) -> Any:
    assert outcome.output is not None, outcome.error
    return msgspec.json.decode(outcome.output)


def test_xgboost_s_classifier_answers_labels_and_probabilities(
    tmp_path: Path, trees: Path, running: list[Running]
) -> None:
    model = settings(tmp_path, "mlserver_xgboost.XGBoostModel")
    (model / "model.json").write_bytes((trees / "classifier.json").read_bytes())
    running.append(Running(model))
    both = [{"name": "predict"}, {"name": "predict_proba"}]
    asked, refused = running[0].ask(
        v2([0.1, 0.5, 0.9, 0.5], [2, 2], outputs=both), v2([0.1, 0.5], [1, 2], outputs=[{"name": "transform"}])
    )
    labels, probabilities = output(asked)["outputs"]
    assert (labels["name"], labels["shape"], labels["data"]) == ("predict", [2, 1], [0, 1])
    assert (probabilities["name"], probabilities["shape"], probabilities["datatype"]) == (
        "predict_proba",
        [2, 2],
        "FP32",
    )
    assert refused.error is not None
    assert refused.error.message == (
        "XGBoostModel only supports 'predict' and 'predict_proba' as outputs (transform was received)"
    )


ARGUMENTS = """
import asyncio
from pathlib import Path
from typing import List, Optional

import numpy as np
import mlserver
from helper import SUFFIX
from mlserver import MLModel, register, log
from mlserver.codecs import decode_args
from mlserver.utils import get_model_uri


class Words(MLModel):
    async def load(self) -> bool:
        register("asked", "how often")
        self.words = Path(await get_model_uri(self.settings, wellknown_filenames=["words.txt"])).read_text().split()
        self.together = 0
        return True

    @decode_args
    async def predict(self, numbers: np.ndarray, prefix: Optional[List[str]] = None) -> List[str]:
        log(asked=1)
        self.together += 1
        await asyncio.sleep(0.05)
        words = [self.words[number] for number in numbers.reshape(-1).astype(int)]
        return [f"{(prefix or [''])[0]}{word}{SUFFIX}{self.together}" for word in words]
"""


def test_a_class_of_the_author_s_own_takes_its_arguments_and_several_requests_at_once(
    tmp_path: Path, running: list[Running]
) -> None:
    model = settings(tmp_path, "words.Words", parameters={"uri": "./data", "version": "1"})
    (model / "words.py").write_text(ARGUMENTS)
    (model / "helper.py").write_text("SUFFIX = '!'\n")
    (model / "data").mkdir()
    (model / "data" / "words.txt").write_text("zero one two")
    running.append(Running(model))
    numbers = {"name": "numbers", "datatype": "INT32", "shape": [2], "data": [1, 2]}
    prefix = {"name": "prefix", "datatype": "BYTES", "shape": [1], "data": ["a "]}
    stranger = {**prefix, "name": "suffix"}
    first, second, third, none = running[0].ask(
        {"inputs": [numbers]}, {"inputs": [numbers, prefix]}, {"inputs": [numbers, stranger]}, {"inputs": [{}]}
    )
    (told,) = output(first)["outputs"]
    assert (told["name"], told["datatype"], told["data"]) == ("output-0", "BYTES", ["one!2", "two!2"])
    assert output(second)["outputs"][0]["data"] == ["a one!2", "a two!2"]
    assert third.error is not None
    assert (third.error.code, third.error.message) == (
        ItemCode.INVALID_INPUT,
        "Input 'suffix' was not found. Available inputs are 'numbers', 'prefix'.",
    )
    assert none.error is not None
    assert none.error.message == "the input is no inference request: /inputs/0/name: Field required"


def test_a_class_that_is_none_is_said(tmp_path: Path) -> None:
    model = settings(tmp_path, "words.Words")
    (model / "words.py").write_text("class Words: pass\n")
    with pytest.raises(Exception, match=r"no subclass of mlserver\.MLModel"):
        Running(model)


def test_what_such_classes_import_is_in_device_processes_alone() -> None:
    assert "mlserver" not in sys.modules
