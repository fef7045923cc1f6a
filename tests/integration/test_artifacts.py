"""What a version's files are, who has which, and what becomes of those that are not what they should be."""

import contextlib
import json
import os
import pickle
import py_compile
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway.manifest import read
from headway.model import Context
from headway.versions import Found, scan
from storage.engine import Database
from storage.models import Models
from storage.workers import Workers
from tests.graphs import message
from workers import loaders
from workers.executor import Executor, LoadFailed

MODEL_PY = """
from headway import Model
import helper

class Answer(Model):
    def predict(self, inputs):
        return [helper.ANSWER for _ in inputs]
"""


# ── who has which ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Hosts:
    """Live workers, each with a models folder of its own that holds `digits@1`."""

    database: Database

    def __post_init__(self) -> None:
        self.models = Models(self.database)
        self.workers = Workers(self.database)

    def start(self, name: str) -> None:
        self.workers.register(name, "cpu", name, 1)

    def has(self, name: str, sha256: str, *, pinned: bool = False) -> str | None:
        """What it is told."""
        found = Found(model="digits", version="1", path=Path("/m"), sha256=sha256, file_sha256=f"file-{sha256}")
        return self.models.register(found, name, pinned=pinned)

    @property
    def registered(self) -> str:
        (version,) = self.models.all()
        return version.sha256


@pytest.fixture
def hosts(database: Database) -> Hosts:
    hosts = Hosts(database)
    for name in ("a", "b"):
        hosts.start(name)
    return hosts


def test_a_host_whose_files_are_others_is_told_which_they_should_be(hosts: Hosts) -> None:
    assert hosts.has("a", "one") is None
    assert hosts.has("b", "two") == "one"
    assert hosts.has("b", "one") is None
    assert hosts.registered == "one"


def test_new_files_are_taken_once_no_live_worker_has_the_old_ones(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    hosts.has("a", "one")
    hosts.has("b", "one")
    assert hosts.has("a", "two") == "one"
    assert hosts.registered == "one"
    assert not caplog.records
    assert hosts.has("b", "two") is None
    assert hosts.has("a", "two") is None
    assert hosts.registered == "two"
    assert "other files: sha256 two, before one" in caplog.text


@pytest.mark.parametrize("end", ["dies", "is retired", "has it no more"])
def test_who_is_gone_holds_nobody_up(hosts: Hosts, end: str) -> None:
    hosts.has("a", "one")
    assert hosts.has("b", "two") == "one"
    match end:
        case "dies":
            hosts.workers.mark_dead("a")
        case "is retired":
            hosts.workers.retire("a")
        case _:
            hosts.models.let_go("digits", "1", "a")
    assert hosts.has("b", "two") is None
    hosts.workers.forget_dead()
    with hosts.database.read() as connection:
        assert connection.exec_driver_sql("SELECT worker_id FROM holdings").scalars().all() == ["b"]


def test_what_is_pinned_gives_way_to_nobody_not_even_to_itself(hosts: Hosts) -> None:
    assert hosts.has("a", "one", pinned=True) is None
    assert hosts.has("a", "two", pinned=True) == "one"
    hosts.workers.mark_dead("a")
    assert hosts.has("b", "two", pinned=True) == "one"
    assert hosts.has("b", "", pinned=True) == "one"  # broken there
    assert hosts.has("b", "one", pinned=True) is None


def test_a_version_from_before_there_were_digests_of_folders_stays_released(hosts: Hosts) -> None:
    hosts.has("a", "one")
    hosts.models.place("a", "cpu", "digits", "1", "ready")
    with hosts.database.write() as connection:
        connection.exec_driver_sql("UPDATE versions SET digest = NULL, sha256 = 'of the model file'")
    assert hosts.has("b", "one") is None
    (version,) = hosts.models.all()
    assert (version.loaded_at is not None, version.sha256) == (True, "one")


# ── at load ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version folder, models/m/1."""
    version = tmp_path / "models" / "m" / "1"
    version.mkdir(parents=True)
    return version


@pytest.fixture
def load(folder: Path) -> Iterator[Callable[..., Executor]]:
    made: list[Executor] = []

    def load(sha256: str | None = None, toml: str = "") -> Executor:
        (folder.parent / "model.toml").write_text(toml)
        executor = Executor(
            model="m", version="1", path=folder, manifest=read(folder.parent), device="cpu", sha256=sha256
        )
        made.append(executor)
        executor.load()
        return executor

    yield load
    for executor in made:
        executor.kill()


def answer(executor: Executor, value: Any = None) -> Any:
    executor.submit(1, [("id", msgspec.json.encode(value))])
    (outcome,) = executor.receive().outcomes
    return msgspec.json.decode(outcome.output) if outcome.output is not None else outcome.error


def test_files_that_change_between_the_look_and_the_load_are_refused(
    folder: Path, load: Callable[..., Executor]
) -> None:
    (folder / "model.py").write_text(MODEL_PY)
    (folder / "helper.py").write_text("ANSWER = 1")
    (found,) = scan(folder.parent.parent)
    assert answer(load(found.sha256)) == 1
    (folder / "helper.py").write_text("ANSWER = 2")
    with pytest.raises(LoadFailed, match=f"and should have {found.sha256}"):
        load(found.sha256)
    assert answer(load()) == 2  # nobody asked


def test_compiled_python_that_no_digest_covers_is_not_believed(folder: Path, load: Callable[..., Executor]) -> None:
    for name, text in {"model.py": MODEL_PY, "helper.py": "ANSWER = 2"}.items():
        (folder / name).write_text(text)
        stat = (folder / name).stat()
        forged = folder / "forged.py"
        forged.write_text(text.replace("2", "3").replace("helper.ANSWER", '"evil thing"'))
        assert forged.stat().st_size in (stat.st_size, stat.st_size - 1)
        compiled = py_compile.compile(
            str(forged), dfile=name, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
        assert compiled is not None
        Path(compiled).rename(Path(compiled).with_name(Path(compiled).name.replace("forged", name[:-3])))
        forged.unlink()
    (found,) = scan(folder.parent.parent)
    assert answer(load(found.sha256)) == 2


# ── what runs code while it is read ───────────────────────────────────────────────────────────────────────────────


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from torch.export import Dim, export, save

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).reshape(x.shape[0] * 2, -1).reshape(x.shape[0], 2)  # type: ignore[no-any-return]

    file = tmp_path_factory.mktemp("graph") / "model.pt2"
    save(export(Net(), (torch.zeros(2, 3),), dynamic_shapes={"x": {0: Dim("batch", max=64)}}), file)
    return file


def changed(graph: Path, target: Path, change: Callable[[str, bytes], bytes | None], **more: bytes) -> None:
    """The archive with each member as `change` makes it of its name and content; None leaves it out."""
    with zipfile.ZipFile(graph) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            if (content := change(name.removeprefix(f"{root}/"), old.read(name))) is not None:
                new.writestr(name, content)
        for name, content in more.items():
            new.writestr(f"{root}/{name}", content)


def in_this_process(folder: Path, toml: str = "") -> Any:
    """Loads it here, which is quicker: torch has been imported."""
    (folder.parent / "model.toml").write_text(toml)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of old formats
        return _load(folder)


def _load(folder: Path) -> Any:
    return loaders.load(read(folder.parent), Context(path=folder, device="cpu", config={}))


def pickled(canary: Path, *, by_torch: bool) -> bytes:
    if not by_torch:
        return pickle.dumps(Canary(canary))
    import io

    import torch

    stream = io.BytesIO()
    torch.save({"w": Canary(canary)}, stream)
    return stream.getvalue()


def pt2(kind: str, canary: Path, graph: Path, target: Path) -> None:
    evil = pickled(canary, by_torch=True)
    attack = f"__import__('pathlib').Path({str(canary)!r}).touch()"

    def change(name: str, content: bytes) -> bytes | None:
        described = json.loads(content) if name.endswith(".json") else {}
        if kind == "sample inputs" and name == "data/sample_inputs/model.pt":
            return evil
        if kind == "a weight" and name.endswith("model_weights_config.json"):
            for payload in described["config"].values():
                payload["use_pickle"] = True
            return json.dumps(described).encode()
        if kind == "a weight" and name.startswith("data/weights/weight_"):
            return evil
        if kind in ("a constant", "an opaque constant") and name.endswith("model_constants_config.json"):
            file = "tensor_0" if kind == "a constant" else "opaque_obj_0"
            payload = {"path_name": file, "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"c": payload}}).encode()
        if kind == "old weights" and name == "data/weights/model_weights_config.json":
            return None
        if kind == "a shape" and name == "models/model.json":
            return content.replace(b"Symbol('s", attack.encode() + b" or Symbol('s", 1)
        if kind == "an operator" and name == "models/model.json":
            node = described["graph_module"]["graph"]["nodes"][0]
            node["target"] = "torch.os.system"
            node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {canary}"}, "kind": 1}]
            return json.dumps(described).encode()
        return content

    more = {
        "a constant": {"data/constants/tensor_0": evil},
        "an opaque constant": {"data/constants/opaque_obj_0": pickled(canary, by_torch=False)},
        "old weights": {"data/weights/model.pt": evil},
        "compiled code": {"data/aotinductor/model/model.so": b"\x7fELF"},
    }
    changed(graph, target, change, **more.get(kind, {}))


PT2 = (
    "sample inputs", "a weight", "a constant", "an opaque constant", "old weights", "a shape", "an operator",
    "compiled code",
)  # fmt: skip


@pytest.mark.parametrize("kind", PT2)
def test_no_part_of_a_pt2_archive_runs_code_while_it_is_read(
    folder: Path, canary: Path, graph: Path, kind: str
) -> None:
    pt2(kind, canary, graph, folder / "model.pt2")
    refusal: tuple[type[Exception], str] = (loaders.Unloadable, "trust = true")
    if kind == "an operator":
        refusal = (Exception, "not an allowed operator")  # torch's own
    with pytest.raises(refusal[0], match=refusal[1]):
        in_this_process(folder)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["sample inputs", "a weight", "an opaque constant", "a shape"])
def test_the_attacks_are_real_where_the_archive_is_trusted(folder: Path, canary: Path, graph: Path, kind: str) -> None:
    pt2(kind, canary, graph, folder / "model.pt2")
    with contextlib.suppress(Exception):  # by then it has run
        in_this_process(folder, "[artifact]\ntrust = true")
    assert canary.exists()


def test_a_graph_with_arithmetic_on_its_lengths_is_read(folder: Path, graph: Path) -> None:
    shutil.copy(graph, folder / "model.pt2")
    assert set(in_this_process(folder).inputs) == {"x"}


@pytest.mark.parametrize("name", ["model.pt", "model.pt2", "model.pkl", "model.pickle", "model.joblib"])
@pytest.mark.parametrize("by_torch", [False, True], ids=["pickle", "torch.save"])
def test_a_pickle_under_any_name_is_refused_and_not_read(folder: Path, canary: Path, name: str, by_torch: bool) -> None:
    (folder / name).write_bytes(pickled(canary, by_torch=by_torch))
    with pytest.raises(Exception, match=r"."):  # in torch's words, or ours
        in_this_process(folder, "[inputs.x]\ndtype = 'float32'")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib"])
def test_an_estimator_is_served_where_it_is_trusted(folder: Path, name: str) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [2.0, 0.0]], [1, 0, 1, 0])
    if name == "model.joblib":
        joblib.dump(estimator, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(estimator))
    for inputs, rows in (
        ("[inputs.x]\ndtype = 'float64'\nshape = [2]", [{"x": [0.0, 3.0]}, {"x": [3.0, 0.0]}]),
        ("[inputs.a]\ndtype = 'float64'\n[inputs.b]\ndtype = 'float64'", [{"a": 0.0, "b": 3.0}, {"a": 3.0, "b": 0.0}]),
    ):
        model = in_this_process(folder, f"[artifact]\ntrust = true\n[outputs.label]\ndtype = 'int64'\n{inputs}")
        import numpy as np

        arrays = [{key: np.array(value) for key, value in row.items()} for row in rows]
        answers = model.predict(arrays, None)
        assert [int(one["label"]) for one in answers] == [1, 0]
    model = in_this_process(folder, f"[artifact]\ntrust = true\n[config]\nmethod = 'predict_proba'\n{inputs}")
    for probabilities in model.predict(arrays, None):
        assert probabilities.shape == (2,)
        assert sum(probabilities) == pytest.approx(1)
    with pytest.raises(loaders.Unloadable, match="has no method 'transform'"):
        in_this_process(folder, f"[artifact]\ntrust = true\n[config]\nmethod = 'transform'\n{inputs}")


# ── formats that hold numbers and a graph ─────────────────────────────────────────────────────────────────────────


def test_weights_in_safetensors_are_read_into_the_module_that_entry_names(folder: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    (folder / "net_of_weights.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(width, 1)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n"
    )
    weights = {"layer.weight": torch.tensor([[1.0, 2.0]]), "layer.bias": torch.tensor([0.5])}
    save_file(weights, folder / "model.safetensors")
    toml = "[model]\nentry = 'net_of_weights:Net'\n[config]\nwidth = {}\n[inputs.{}]\ndtype = 'float32'\nshape = [2]"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        model = in_this_process(folder, toml.format(2, "x"))
        assert model.framework == "safetensors"
        arrays = [{"x": np.array(row, dtype=np.float32)} for row in ([1, 1], [2, 0])]
        assert [float(row[0]) for row in model.predict(arrays, None)] == [3.5, 2.5]
        with pytest.raises(loaders.Unloadable, match=r"does not fit Net: .*size mismatch"):
            in_this_process(folder, toml.format(3, "x"))
        with pytest.raises(loaders.Unloadable, match=r"\[inputs\] does not fit Net.forward"):
            in_this_process(folder, toml.format(2, "y"))


def onnx(batch: int | None, location: str | None, constant: str | None = None) -> bytes:
    """y = x + w, for x of shape [batch, 2]; w is [10, 20], or lies at `location`."""

    def value(name: str) -> bytes:
        first = message((2, "n")) if batch is None else message((1, batch))
        shape = message((1, first), (1, message((1, 2))))
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))))

    def tensor(name: str, where: str | None) -> bytes:
        if where is None:
            return message((1, 2), (2, 1), (8, name), (9, struct.pack("<2f", 10, 20)))
        entry = message((1, "location"), (2, where))
        return message((1, 2), (2, 1), (8, name), (13, entry), (14, 1))

    nodes = [(1, message((1, "x"), (1, "w"), (2, "y"), (4, "Add")))]
    if constant is not None:
        attribute = message((1, "value"), (5, tensor("c", constant)), (20, 4))
        nodes.append((1, message((2, "c"), (4, "Constant"), (5, attribute))))
    graph = message(*nodes, (2, "g"), (5, tensor("w", location)), (11, value("x")), (12, value("y")))
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))


def test_an_onnx_graph_says_what_it_takes_and_names_its_outputs(folder: Path, load: Callable[..., Executor]) -> None:
    (folder / "model.onnx").write_bytes(onnx(None, "weights.bin"))
    (folder / "weights.bin").write_bytes(struct.pack("<2f", 1, 2))
    executor = load()
    assert answer(executor, {"x": [1, 1]}) == {"y": [2, 3]}
    (found,) = scan(folder.parent.parent)
    assert found.framework == "onnx"


def test_an_onnx_graph_that_cannot_be_served_says_why(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(onnx(4, None))
    with pytest.raises(loaders.Unloadable, match="fixed batch size"):
        in_this_process(folder)
    for rubbish in (b"", b"rubbish", onnx(None, None)[:40]):
        (folder / "model.onnx").write_bytes(rubbish)
        with pytest.raises(loaders.Unloadable, match=r"no ONNX|empty"):
            in_this_process(folder)


@pytest.mark.parametrize("where", ["../secret", "/etc/passwd", "link", "sub/../../secret"])
@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_weights_of_an_onnx_graph_lie_in_its_folder(folder: Path, where: str, place: str) -> None:
    (folder.parent / "secret").write_bytes(struct.pack("<2f", 1, 2))
    (folder / "link").symlink_to(folder.parent / "secret")
    made = onnx(None, where) if place == "initializer" else onnx(None, None, where)
    (folder / "model.onnx").write_bytes(made)
    with pytest.raises(loaders.Unloadable, match="not in its version folder"):
        in_this_process(folder)


def labelled(batch: bytes) -> bytes:
    """words → label, the words themselves, and p, a map of classes to the word's numbers: as a text classifier's."""

    def tensor(name: str, kind: int, *lengths: bytes) -> bytes:
        shape = message(*((1, length) for length in lengths))
        return message((1, name), (2, message((1, message((1, kind), (2, shape))))))

    number = message((1, 2))
    classes = message((1, "classlabels_strings"), (9, "no"), (9, "yes"), (20, 8))
    numbers = message((5, message((1, 8), (2, message((1, message((1, 1))))))))  # a map of strings to floats
    maps = message((1, "p"), (2, message((4, message((1, numbers))))))
    nodes = (
        (1, message((1, "words"), (2, "label"), (4, "Identity"))),
        (1, message((1, "x"), (2, "p"), (4, "ZipMap"), (5, classes), (7, "ai.onnx.ml"))),
    )
    graph = message(
        *nodes, (2, "g"), (11, tensor("words", 8, batch)), (11, tensor("x", 1, batch, number)),
        (12, tensor("label", 8, batch)), (12, maps),
    )  # fmt: skip
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))), (8, message((1, "ai.onnx.ml"), (2, 3))))


def test_an_onnx_graph_may_take_strings_and_answer_them_and_a_number_for_each_class(
    folder: Path, load: Callable[..., Executor]
) -> None:
    (folder / "model.onnx").write_bytes(labelled(message((2, "batch"))))
    executor = load()
    assert answer(executor, {"words": "fine", "x": [0.25, 0.75]}) == {"label": "fine", "p": {"no": 0.25, "yes": 0.75}}
    assert "/words" in answer(executor, {"words": 1, "x": [0.25, 0.75]}).message


# ── trees ─────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMED = ["age", "height", "weight"]


@pytest.fixture(scope="module")
def rows() -> Any:
    """Of three features, of which the first decides and some are missing."""
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(200, 3))
    rows[::7, 1] = np.nan
    return rows


def trained(library: str, file: Path, rows: Any, classes: int, names: list[str] | None) -> Callable[[Any], Any]:
    """A small model as the library saves it, and what the library itself makes of rows."""
    import numpy as np

    labels = np.digitize(rows[:, 0], np.linspace(-1, 1, classes + 1)[1:-1])
    if library == "xgboost":
        import xgboost

        settings = (
            {"objective": "multi:softprob", "num_class": classes} if classes > 2 else {"objective": "binary:logistic"}
        )
        data = xgboost.DMatrix(rows, label=labels, feature_names=names)
        booster = xgboost.train(settings, data, 4)
        booster.save_model(file)
        return lambda asked: booster.predict(xgboost.DMatrix(asked, feature_names=names))
    import lightgbm

    settings = {"objective": "multiclass", "num_class": classes} if classes > 2 else {"objective": "binary"}
    of_names = lightgbm.Dataset(rows, labels, feature_name=names or "auto")
    trees = lightgbm.train(settings | {"verbose": -1}, of_names, 4)
    trees.save_model(file)
    return trees.predict


TREES = [("xgboost", "model.ubj"), ("xgboost", "model.json"), ("lightgbm", "model.txt")]


@pytest.mark.parametrize(("library", "name"), TREES)
@pytest.mark.parametrize("classes", [2, 3])
def test_trees_answer_what_their_library_answers_and_know_their_features(
    folder: Path, rows: Any, library: str, name: str, classes: int
) -> None:
    import numpy as np

    theirs = trained(library, folder / name, rows, classes, None)
    model = in_this_process(folder)
    (found,) = scan(folder.parent.parent)
    assert found.framework == model.framework == library
    assert model.inputs["x"].shape == (3,)
    assert model.outputs["y"].shape == (() if classes == 2 else (3,))
    asked = [{"x": row.astype(model.inputs["x"].dtype)} for row in rows[:10]]
    answers = model.predict(asked, None)
    np.testing.assert_allclose(np.array([one["y"] for one in answers]), theirs(rows[:10]), rtol=1e-6)


@pytest.mark.parametrize(("library", "name"), TREES[1:])
def test_features_are_found_by_name_and_null_is_a_value_that_is_missing(
    folder: Path, rows: Any, load: Callable[..., Executor], library: str, name: str
) -> None:
    import numpy as np

    theirs = trained(library, folder / name, rows, 2, NAMED)
    toml = "".join(
        f"[inputs.{one}]\ndtype = 'float64'\nnullable = {str(one == 'height').lower()}\n" for one in NAMED[::-1]
    )
    executor = load(toml=toml + "[outputs.p]\ndtype = '%s'" % ("float32" if library == "xgboost" else "float64"))
    given = answer(executor, {"weight": 0.5, "height": None, "age": 1.5})
    assert given["p"] == pytest.approx(float(theirs(np.array([[1.5, np.nan, 0.5]]))[0]))
    assert "null" in answer(executor, {"weight": None, "height": 1, "age": 1}).message
    for wrong, said in (
        ("[inputs.x]\ndtype = 'float32'\nshape = [4]", "has 3 features"),
        (toml.replace("inputs.age", "inputs.wage"), "wage. is no feature of the file, whose features are age, height"),
        ("[outputs.p]\ndtype = 'float64'\nshape = [2]", "declares float64 .2., and it answers"),
        ("[config]\noutput = 'leaves'", "should be one of value, margin"),
    ):
        with pytest.raises(loaders.Unloadable, match=said):
            in_this_process(folder, wrong)
    margin = in_this_process(folder, "[config]\noutput = 'margin'")
    (only,) = margin.predict([{"x": np.array([1.5, np.nan, 0.5])}], None)
    assert 1 / (1 + np.exp(-only["y"])) == pytest.approx(given["p"])


def test_training_that_was_stopped_early_answers_with_its_best_round(folder: Path, rows: Any) -> None:
    import numpy as np
    import xgboost

    learner = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, learning_rate=1.0)
    labels = np.random.default_rng(1).integers(0, 2, len(rows))  # nothing to learn
    learner.fit(rows[:100], labels[:100], eval_set=[(rows[100:], labels[100:])], verbose=False)
    learner.save_model(folder / "model.ubj")
    model = in_this_process(folder)
    (given,) = model.predict([{"x": rows[0].astype("float32")}], None)
    assert given["y"] == pytest.approx(learner.predict_proba(rows[:1])[0, 1])
    everything = learner.get_booster().inplace_predict(rows[:1])
    assert given["y"] != pytest.approx(everything[0])


@pytest.mark.parametrize(("library", "name"), TREES)
def test_a_file_of_trees_that_is_none_says_so(folder: Path, rows: Any, library: str, name: str) -> None:
    trained(library, folder / name, rows, 3, None)
    good = (folder / name).read_bytes()
    bad = [b"", b"rubbish", b"{}", good[: len(good) // 2], good[:100], good.replace(b"Tree=3", b"Tree=7")]
    for content in bad:
        if content == good:
            continue
        (folder / name).write_bytes(content)
        with pytest.raises(loaders.Unloadable, match=f"{name} (is no model|is cut short|contradicts)"):
            in_this_process(folder)


def test_a_file_that_kills_whoever_reads_it_kills_a_device_process_alone(
    folder: Path, load: Callable[..., Executor]
) -> None:
    (folder / "model.json").write_bytes(b'{"learner":' * 1_000_000)
    with pytest.raises(LoadFailed, match=r"signal|SIGSEGV|nest"):
        load()
