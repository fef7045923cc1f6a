"""Archives of TorchServe's in real device processes: what a handler is given, and what becomes of what it returns."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console

from headway import envelopes, mar
from headway.errors import ItemCode
from headway.manifest import parse
from headway.model import Context, Item
from headway.types import Outcome
from headway.versions import scan_model
from launch import check
from tests.archives import ECHO, SCORES, archive
from workers.executor import Executor, Reply
from workers.loaders import LoadedModel, Unloadable, load

MODEL_FILE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)
"""
ROWS = """
from ts.torch_handler.base_handler import BaseHandler

class Rows(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])
"""
MULTIPART = (
    b'--x y\r\nContent-Disposition: form-data; name="data"; filename="f"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\r\n--x\r\n\xff\r\n"
    b'--x y\r\nContent-Disposition: form-data; name="j"\r\n'
    b"Content-Type: application/json\r\n\r\n[1]\r\n--x y--\r\n"
)
CONFIG = "minWorkers: 1\nbatchSize: 4\nmaxBatchDelay: 20\nresponseTimeout: 30\nown: {word: yes}\n"


class Served:
    """A version in a device process."""

    def __init__(self, folder: Path) -> None:
        (found,) = scan_model(folder)
        assert found.error is None, found.error
        assert found.manifest is not None
        self.found = found
        self.executor = Executor(
            model=found.model, version=found.version, path=found.path, manifest=found.manifest, device="cpu"
        )
        self._calls = 0

    def ask(self, *bodies: Any, types: dict[str, str] | None = None) -> list[Outcome]:
        """One call. Bytes come with the type that `types` has for their number, other values as JSON."""
        self._calls += 1
        items = [
            (str(i), body if isinstance(body, bytes) else msgspec.json.encode(body)) for i, body in enumerate(bodies)
        ]
        self.executor.submit(self._calls, items, types or {})
        reply = self.executor.receive()
        assert isinstance(reply, Reply)
        return reply.outcomes

    def one(self, body: Any, type_: str | None = None) -> Outcome:
        (outcome,) = self.ask(body, types={} if type_ is None else {"0": type_})
        return outcome


def linear(file: Path) -> None:
    """A TorchScript file of a layer with 2 inputs and 3 outputs."""
    layer = torch.nn.Linear(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(layer).save(str(file))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "config.yaml").write_text(CONFIG)
    made = archive(folder, "echo", ECHO, config_file=folder / "config.yaml")
    mar.unpack(made, folder / "models" / "echo" / "1.0")
    served = Served(folder / "models" / "echo")
    served.executor.load()
    yield served
    served.executor.close()


@pytest.mark.parametrize(
    ("body", "type_", "seen"),
    [
        ({"x": [1]}, None, {"body": ["dict", {"x": [1]}]}),
        (b"[1, NaN", "application/json", {"body": ["bytearray", "[1, NaN"]}),
        (b"caf\xc3\xa9", "text/plain; charset=utf-8", {"body": ["str", "café"]}),
        (b"\xff", "text/plain", {"body": ["bytearray", "\xff"]}),
        (b"\x00\xff", "application/octet-stream", {"body": ["bytearray", "\x00\xff"]}),
        (b"", "application/octet-stream", {"body": ["bytearray", ""]}),
        (b"a=1&b=%ff", "application/x-www-form-urlencoded", {"a": ["bytearray", "1"], "b": ["bytearray", "\xff"]}),
        (
            MULTIPART,
            'multipart/form-data; boundary="x y"',
            {"data": ["bytearray", "\r\n--x\r\n\xff"], "j": ["list", [1]]},
        ),
    ],
)
def test_a_handler_is_given_each_kind_of_body_as_torchserve_gives_it(
    echo: Served, body: Any, type_: str | None, seen: dict[str, Any]
) -> None:
    outcome = echo.one(body, type_)
    assert outcome.error is None, outcome.error
    assert json.loads(outcome.output or b"") == seen


def test_a_multipart_body_without_its_boundary_is_the_callers_fault(echo: Served) -> None:
    for type_ in ("multipart/form-data", "multipart/form-data; boundary=y"):
        error = echo.one(b"--x\r\n\r\n", type_).error
        assert error is not None
        assert error.code is ItemCode.INVALID_INPUT


def test_headers_reach_the_handler_by_any_spelling(echo: Served) -> None:
    request = envelopes.Request("/predictions/echo", {"x-name": "Ada", "content-type": "application/json"}, b'"named"')
    assert echo.one(envelopes.pack_request(request), envelopes.REQUEST).output == b'"Ada"'


def test_what_a_handler_says_beside_its_answer_is_in_the_output(echo: Served) -> None:
    teapot, header, png, raw = echo.ask("teapot", "header", "png", "bytes")
    assert [one.error for one in (teapot, header, png, raw)] == [None] * 4
    assert teapot.output_type == envelopes.RESPONSE
    reply = envelopes.unpack_response(teapot.output or b"")
    assert (reply.status, reply.phrase) == (418, "I'm a teapot")
    assert json.loads(reply.body) == {"body": ["str", "teapot"]}
    said = envelopes.unpack_response(header.output or b"")
    assert (said.status, said.headers["x-said"]) == (200, "yes")
    assert (png.output_type, png.output) == ("image/png", b"\x89PNG")
    assert (raw.output_type, raw.output) == ("application/octet-stream", b"\x00\x01")


def test_who_makes_a_handler_fail_fails_alone(echo: Served) -> None:
    good, raising, refused = echo.ask("hello", "raise", "refuse")
    assert good.error is None
    assert raising.error is not None
    assert (raising.error.code, raising.error.message) == (ItemCode.MODEL_ERROR, "ValueError: asked to")
    assert refused.error is not None
    assert (refused.error.code, refused.error.message) == (ItemCode.INVALID_INPUT, "[404] no such label")
    for body, code in {
        "memory": ItemCode.OUT_OF_MEMORY,
        "tuple": ItemCode.OUTPUT_INVALID,
        "short": ItemCode.OUTPUT_INVALID,
        "object": ItemCode.OUTPUT_INVALID,
    }.items():
        error = echo.one(body).error
        assert error is not None, body
        assert error.code is code


def test_requests_that_explain_or_describe_are_not_mixed_with_others(echo: Served) -> None:
    def asking(what: str, body: bytes) -> bytes:
        return envelopes.pack_request(envelopes.Request("/", {what: "True", "content-type": "application/json"}, body))

    described, explained, plain, second = echo.ask(
        asking("describe", b"{}"),
        asking("explain", b'"explained"'),
        "explained",
        "size",
        types={"0": envelopes.REQUEST, "1": envelopes.REQUEST},
    )
    assert described.output == b'{"described":true}'
    assert (explained.output, plain.output, second.output) == (b'"True"', b'"False"', b"2")


def test_the_archives_own_settings_are_heeded_where_model_toml_has_none(echo: Served, tmp_path: Path) -> None:
    manifest = echo.found.manifest
    assert manifest is not None
    assert (manifest.batching.max_batch_size, manifest.batching.max_wait_ms) == (4, 20.0)
    assert (manifest.limits.timeout_s, manifest.instances) == (30.0, 1)
    assert json.loads(echo.one("config").output or b"")["own"] == {"word": True}
    (echo.found.path.parent / "model.toml").write_text("[batching]\nmax_batch_size = 2\n[limits]\ntimeout_s = 7\n")
    try:
        (found,) = scan_model(echo.found.path.parent)
    finally:
        (echo.found.path.parent / "model.toml").unlink()
    assert found.manifest is not None
    assert (found.manifest.batching.max_batch_size, found.manifest.limits.timeout_s) == (2, 7.0)


def test_headway_check_runs_the_usual_handler_alone_and_as_a_full_batch(tmp_path: Path) -> None:
    linear(tmp_path / "model.pt")
    made = archive(tmp_path, "scores", SCORES, serialized_file=tmp_path / "model.pt")
    folder = tmp_path / "models" / "scores"
    mar.unpack(made, folder / "1.0")
    (folder / "model.toml").write_text("[batching]\nmax_batch_size = 3\n[model]\nexample = {features = [1.0, 2.0]}\n")
    text = StringIO()
    assert check.run(folder, "cpu", Console(file=text, width=200)) == 0, text.getvalue()
    assert "torchserve" in text.getvalue()
    assert text.getvalue().count("[3 × number]") == 2  # in a batch of one, and of three


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedModel]:
    """An archive of `Net` and a file of weights, loaded in this process."""

    def make(state: object, **sections: Any) -> LoadedModel:
        (tmp_path / "net.py").write_text(MODEL_FILE)
        torch.save(state, tmp_path / "weights.pth")
        made = archive(tmp_path, "net", ROWS, model_file=tmp_path / "net.py", serialized_file=tmp_path / "weights.pth")
        version = tmp_path / "models" / "net" / "1.0"
        mar.unpack(made, version)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(version))
        monkeypatch.setattr(sys, "path_hooks", [*sys.path_hooks])
        for module in ("net", "net_handler"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return load(parse(sections), Context(path=version, device="cpu", config=sections))

    return make


def test_weights_are_read_with_the_class_they_are_of(weights: Callable[..., LoadedModel]) -> None:
    model = weights({"layer.weight": torch.tensor([[1.0, 10.0]]), "layer.bias": torch.tensor([0.5])})
    context = Context(path=Path(), device="cpu", config={}, items=[Item("a"), Item("b")])
    assert model.predict([[1.0, 2.0], [0.0, 0.0]], context) == [[21.5], [0.5]]


class Payload:
    """Unpickled, it is a tensor, by way of code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_tensor, ())


def _tensor() -> torch.Tensor:
    return torch.zeros(1, 2)


def test_a_pickle_that_is_more_than_weights_needs_trust(weights: Callable[..., LoadedModel]) -> None:
    with pytest.raises(Unloadable, match="trust = true"):
        weights({"layer.weight": Payload()})


def test_a_pickle_that_is_more_than_weights_is_read_where_it_is_trusted(weights: Callable[..., LoadedModel]) -> None:
    model = weights({"layer.weight": Payload(), "layer.bias": torch.tensor([0.5])}, artifact={"trust": True})
    context = Context(path=Path(), device="cpu", config={}, items=[Item("a")])
    assert model.predict([[1.0, 2.0]], context) == [[0.5]]
