"""Model folders of Triton's, loaded and called as a worker does it."""

import json
import textwrap
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from batching import outcomes
from headway import tensors
from headway.errors import ItemCode
from headway.manifest import read
from headway.model import Context, Item
from headway.types import Outcome
from headway.versions import scan_model
from launch import check
from tests.graphs import message
from workers import loaders
from workers.executor import Executor, LoadFailed

MODEL_PY = """
import json
import os
import numpy as np
import triton_python_backend_utils as pb_utils
from .words import SHOUT

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        config = json.loads(args["model_config"])
        self.dtype = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, "LENGTHS")["data_type"])
        self.calls = pb_utils.MetricFamily("calls", "of execute", pb_utils.MetricFamily.COUNTER).Metric(labels={})
        pb_utils.Logger.log_info("initialized")

    def execute(self, requests):
        self.calls.increment(1)
        responses = []
        for request in requests:
            words = pb_utils.get_input_tensor_by_name(request, "WORDS").as_numpy()
            first = words[0, 0]
            assert type(first) is bytes, type(first)
            if first in REFUSALS:
                error = pb_utils.TritonError("no: " + first.decode(), REFUSALS[first])
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            match first:
                case b"raise": raise ValueError("asked to")
                case b"none": responses.append(None); continue
                case b"short": return []
                case b"bls": pb_utils.InferenceRequest.exec(request)
                case b"raw": loud = np.array([[b"\\xff\\x00"]], dtype=object)
                case b"args": loud = np.array([[json.dumps(self.args)]], dtype=object)
                case b"calls": loud = np.array([[f"{self.calls.value()} {len(requests)}"]], dtype=object)
                case _: loud = np.vectorize(SHOUT, otypes=[object])(words)
            lengths = pb_utils.Tensor("LENGTHS", np.vectorize(len)(words).astype(self.dtype))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("LOUD", loud), lengths]))
        return responses

    def finalize(self):
        with open(os.environ["FINALIZED"], "w") as file:
            file.write("finalized")

REFUSALS = {
    b"invalid": pb_utils.TritonError.INVALID_ARG, b"missing": pb_utils.TritonError.NOT_FOUND,
    b"busy": pb_utils.TritonError.UNAVAILABLE, b"unknown": pb_utils.TritonError.UNSUPPORTED,
    b"internal": pb_utils.TritonError.INTERNAL,
}
"""
PYTHON = """
backend: "python"
max_batch_size: 8
input [ { name: "WORDS" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "LOUD" data_type: TYPE_STRING dims: [ -1 ] }, { name: "LENGTHS" data_type: TYPE_INT16 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
dynamic_batching { }
"""


def folder(tmp_path: Path, name: str, config: str, **files: str | bytes) -> Path:
    """Of a model with one version; `model_py="…"` is `1/model.py`."""
    version = tmp_path / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(config)
    for file, content in files.items():
        path = version / ".".join(file.rsplit("_", 1))
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())
    return version.parent


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Executor]]:
    made: list[Executor] = []

    def serve(model: Path) -> Executor:
        (found,) = scan_model(model)
        assert found.error is None, found.error
        assert found.manifest is not None
        made.append(Executor(model=model.name, version="1", path=model / "1", manifest=found.manifest, device="cpu"))
        return made[-1]

    yield serve
    for executor in made:
        executor.kill()


def call(executor: Executor, *values: Any) -> list[Outcome]:
    """As JSON, or as tensors what is bytes."""
    items = [
        (f"id-{place}", value if isinstance(value, bytes) else msgspec.json.encode(value))
        for place, value in enumerate(values)
    ]
    types = {id_: tensors.MEDIA_TYPE for (id_, _), value in zip(items, values, strict=True) if isinstance(value, bytes)}
    executor.submit(1, items, types)
    return executor.receive().outcomes


def said(outcome: Outcome) -> Any:
    if outcome.error is not None:
        return outcome.error.code, outcome.error.message
    assert outcome.output is not None
    if outcome.output_type is not None:
        return tensors.load(outcome.output)
    return msgspec.json.decode(outcome.output)


def test_a_python_backend_model_runs_as_it_is(
    tmp_path: Path, serve: Callable[[Path], Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINALIZED", str(tmp_path / "finalized"))
    words = "SHOUT = lambda word: word.upper().decode()"
    executor = serve(folder(tmp_path, "Shouter", PYTHON, model_py=MODEL_PY, words_py=words))
    loaded = executor.load()
    assert loaded.framework == "triton-python"
    assert loaded.inputs["WORDS"].shape == (-1, -1)

    as_json = {"WORDS": [["ein"], ["zwei"]]}
    as_tensors = tensors.dump({"WORDS": np.array([[b"drei"]], dtype=object)})
    first, second = call(executor, as_json, as_tensors)
    assert first.batch_size == 2  # one call of execute for both
    assert said(first) == {"LOUD": [["EIN"], ["ZWEI"]], "LENGTHS": [[3], [4]]}
    assert said(second) == {"LOUD": [["DREI"]], "LENGTHS": [[4]]}

    asked = ("invalid", "missing", "busy", "unknown", "internal", "ok")
    refusals = call(executor, *({"WORDS": [[word]]} for word in asked))
    assert [said(one) for one in refusals[:-1]] == [
        (ItemCode.INVALID_INPUT, "no: invalid"),
        (ItemCode.NOT_FOUND, "no: missing"),
        (ItemCode.UNAVAILABLE, "no: busy"),
        (ItemCode.UNSUPPORTED, "no: unknown"),
        (ItemCode.MODEL_ERROR, "no: internal"),
    ]
    assert said(refusals[-1])["LOUD"] == [["OK"]]

    mixed = call(executor, *({"WORDS": [[word]]} for word in ("a", "raise", "none", "short", "bls", "raw", "b")))
    assert [said(one)["LOUD"] for one in (mixed[0], mixed[-1])] == [[["A"]], [["B"]]]
    assert said(mixed[1]) == (ItemCode.MODEL_ERROR, "ValueError: asked to")
    assert said(mixed[2])[0] == ItemCode.OUTPUT_INVALID
    assert said(mixed[3]) == (ItemCode.OUTPUT_INVALID, "execute returned 0 responses for 1 requests")
    assert said(mixed[4])[1].startswith("TritonModelException: a model cannot call another one here")
    assert said(mixed[5])[0] == ItemCode.OUTPUT_INVALID  # JSON has no place for such bytes, tensors have
    (raw,) = call(executor, tensors.dump({"WORDS": np.array([[b"raw"]], dtype=object)}))
    assert said(raw)["LOUD"].tolist() == [[b"\xff\x00"]]

    (told,) = call(executor, {"WORDS": [["args"]]})
    args = json.loads(said(told)["LOUD"][0][0])
    assert args["model_name"] == "Shouter"
    assert (args["model_version"], args["model_instance_kind"]) == ("1", "CPU")
    assert json.loads(args["model_config"])["max_batch_size"] == 8
    executor.close()
    assert (tmp_path / "finalized").read_text() == "finalized"


def onnx(*shape: int | str) -> bytes:
    """SUM = A + B and SAME = A, of float32 arrays of this shape; a name is a length that is free."""

    def value(name: str) -> bytes:
        lengths = [(1, message((2, one) if isinstance(one, str) else (1, one))) for one in shape]
        return message((1, name), (2, message((1, message((1, 1), (2, message(*lengths)))))))

    nodes = [
        (1, message((1, "A"), (1, "B"), (2, "SUM"), (4, "Add"))),
        (1, message((1, "A"), (2, "SAME"), (4, "Identity"))),
    ]
    values = [(11, value("A")), (11, value("B")), (12, value("SUM")), (12, value("SAME"))]
    return message((1, 8), (7, message(*nodes, (2, "g"), *values)), (8, message((1, ""), (2, 17))))


ONNX = """
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "A" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "B" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { }
"""


def in_this_process(model: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of old formats
        return loaders.load(read(model), Context(path=model / "1", device="cpu", config={}))


def answers(model: Any, *items: dict[str, Any]) -> list[Any]:
    """What each item is answered; `Exception`s as they are."""
    context = Context(Path(), "cpu", {}, [Item(f"id-{place}") for place in range(len(items))])
    rows = outcomes.rows(model.predict([dict(item) for item in items], context), len(items))
    return [row if isinstance(row, Exception) else {name: one.tolist() for name, one in row.items()} for row in rows]


def of(*rows: list[float]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


def test_rows_of_several_requests_are_one_array_of_an_onnx_graph(tmp_path: Path) -> None:
    model = in_this_process(folder(tmp_path, "adds", ONNX, model_onnx=onnx("n", "m")))
    run = model._model._session.run
    seen: list[tuple[int, ...]] = []

    class Session:
        def run(self, names: Any, feeds: Any) -> Any:
            seen.append(feeds["A"].shape)
            return run(names, feeds)

    model._model._session = Session()
    items = [
        {"A": of([1, 2], [3, 4]), "B": of([10, 10], [20, 20])},
        {"A": of([1, 2, 3]), "B": of([1, 1, 1])},
        {"A": of([5, 6]), "B": of([0, 1])},
    ]
    assert answers(model, *items) == [{"SUM": [[11, 12], [23, 24]]}, {"SUM": [[2, 3, 4]]}, {"SUM": [[5, 7]]}]
    assert sorted(seen) == [(1, 3), (3, 2)]  # alike travels with alike


def test_without_a_batch_dimension_each_request_is_called_alone(tmp_path: Path) -> None:
    config = ONNX.replace("max_batch_size: 4", "").replace("dims: [ -1 ]", "dims: [ 2 ]")
    model = in_this_process(folder(tmp_path, "adds", config, model_onnx=onnx(2)))
    vectors = [{"A": np.array([n, 2], np.float32), "B": np.array([1, 1], np.float32)} for n in (1, 5)]
    assert answers(model, *vectors) == [{"SUM": [2, 3]}, {"SUM": [6, 3]}]


def test_what_config_pbtxt_leaves_out_an_onnx_graph_says(tmp_path: Path) -> None:
    model = in_this_process(folder(tmp_path, "adds", "", model_onnx=onnx("n", 2)))
    assert {name: one.shape for name, one in model.inputs.items()} == {"A": (-1, 2), "B": (-1, 2)}
    assert answers(model, {"A": of([1, 2]), "B": of([1, 1])}) == [{"SUM": [[2, 3]], "SAME": [[1, 2]]}]


def test_a_reshape_is_between_the_request_and_the_model(tmp_path: Path) -> None:
    config = ONNX.replace("dims: [ -1 ]", "dims: [ 2, 2 ] reshape { shape: [ 4 ] }")
    model = in_this_process(folder(tmp_path, "adds", config, model_onnx=onnx("n", 4)))
    square = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert answers(model, {"A": square, "B": square}) == [{"SUM": (square * 2).tolist()}]


SCRIPT = """
platform: "pytorch_libtorch"
max_batch_size: 8
input [ { name: "B" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "A" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "DIFF" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "BIG" data_type: TYPE_BOOL dims: [ 2 ] } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
"""


def script() -> bytes:
    """forward(x, y) → x - y, x > y"""
    import io

    import torch

    class Compares(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x - y, x > y

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Compares(), (torch.zeros(1, 2), torch.zeros(1, 2)))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("x", "y", "diff", "big"),
    [("x", "y", "DIFF", "BIG"), ("IN__0", "IN__1", "OUT__0", "OUT__1"), ("first", "second", "DIFF", "BIG")],
    ids=["by the names of its arguments", "by their places", "in the order of config.pbtxt"],
)
def test_the_arguments_of_torchscript_are_found(tmp_path: Path, x: str, y: str, diff: str, big: str) -> None:
    config = (
        SCRIPT.replace('"B"', f'"{y}"')
        .replace('"A"', f'"{x}"')
        .replace('"DIFF"', f'"{diff}"')
        .replace('"BIG"', f'"{big}"')
    )
    if x == "first":  # what stands first is the first
        config = config.replace('"second"', '"-"').replace('"first"', '"second"').replace('"-"', '"first"')
    model = in_this_process(folder(tmp_path, "Compares", config, model_pt=script()))
    given = [{x: of([5, 5], [1, 1]), y: of([2, 9], [0, 0])}, {x: of([7, 7]), y: of([0, 8])}]
    assert answers(model, *given) == [
        {diff: [[3, -4], [1, 1]], big: [[True, False], [True, True]]},
        {diff: [[7, -1]], big: [[True, False]]},
    ]


def test_an_output_of_torchscript_has_to_be_of_the_type_that_is_declared(tmp_path: Path) -> None:
    config = SCRIPT.replace("TYPE_BOOL", "TYPE_INT64").replace('"A"', '"x"').replace('"B"', '"y"')
    model = in_this_process(folder(tmp_path, "Compares", config, model_pt=script()))
    (answer,) = answers(model, {"x": of([5, 5]), "y": of([2, 9])})
    assert str(answer) == "the output 'BIG' is BOOL, and config.pbtxt says INT64"


COMPLETES = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [2]})
        config.set_max_batch_size(4)
        return config

    def execute(self, requests):
        import torch
        from torch.utils.dlpack import from_dlpack
        answers = []
        for request in requests:
            x = from_dlpack(pb_utils.get_input_tensor_by_name(request, "X").to_dlpack())
            y = pb_utils.Tensor.from_dlpack("Y", torch.utils.dlpack.to_dlpack(x * 2))
            answers.append(pb_utils.InferenceResponse(output_tensors=[y]))
        return answers
"""


def test_a_python_backend_model_may_complete_its_configuration_and_pass_tensors_by_dlpack(
    tmp_path: Path, serve: Callable[[Path], Executor]
) -> None:
    executor = serve(folder(tmp_path, "halves", 'backend: "python" max_batch_size: 4', model_py=COMPLETES))
    assert executor.load().inputs["X"].shape == (-1, 2)
    (outcome,) = call(executor, {"X": [[1, 2]]})
    assert said(outcome) == {"Y": [[2, 4]]}
    with pytest.raises(LoadFailed, match=r"write max_batch_size: 4 into config\.pbtxt"):
        serve(folder(tmp_path, "lacks", 'backend: "python"', model_py=COMPLETES)).load()


def test_check_says_what_a_folder_of_tritons_is(tmp_path: Path) -> None:
    config = ONNX + 'metric_tags { key: "a" value: "b" }'
    model = folder(tmp_path, "Adds", config, model_onnx=onnx("n", "m"))
    console = Console(file=StringIO(), width=200)
    assert check.run(model, "cpu", console) == 0
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Adds@1 works" in text
    assert "metric_tags are not exported" in text
