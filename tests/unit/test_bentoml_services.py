"""service.py, read without being run; and what the names of its decorators make of a class."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from headway import versions
from headway.bentoml import configuration, exported, service, store
from headway.errors import ManifestError
from headway.manifest import Manifest, Tensor
from tests import bentos
from workers.loaders.bentoml_sdk.descriptors import DType, Upload
from workers.loaders.bentoml_sdk.exceptions import Unsupported
from workers.loaders.bentoml_sdk.methods import Method, api, task
from workers.loaders.bentoml_sdk.services import Service
from workers.loaders.bentoml_sdk.services import service as decorated

SOURCE = """
import bentoml
raise RuntimeError("nobody runs this")

@bentoml.service(workers=2, traffic={"timeout": 9})
class Rows:
    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=500)
    def one(self, rows): ...

    @bentoml.api(batchable=True, max_batch_size=SOME)
    def two(self, rows): ...

    @bentoml.api
    def three(self, x): ...

    def helper(self): ...
"""


def written(folder: Path, source: str = SOURCE) -> Path:
    version = folder / "rows" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "service.py").write_text(source)
    return version


def test_batches_and_processes_are_read_from_the_decorators(tmp_path: Path) -> None:
    written(tmp_path)
    (found,) = versions.scan(tmp_path)
    assert (found.framework, found.error) == ("bentoml.service", None)
    assert found.manifest is not None
    assert (found.manifest.batching.max_batch_size, found.manifest.instances) == (100, 2)  # of what is computed, 100
    alone = written(tmp_path, SOURCE.replace("SOME", "8"))
    assert service.served(Manifest(), alone).batching.max_batch_size == 16


def test_a_request_waits_as_long_as_max_latency_ms_says_and_a_task_may_take_its_time(tmp_path: Path) -> None:
    short = written(tmp_path, SOURCE.replace(", max_batch_size=SOME", ", max_latency_ms=700"))
    limits = service.served(Manifest(), short).limits
    assert (limits.queue_timeout_s, limits.timeout_s) == (0.7, 60.0)
    long = written(tmp_path, SOURCE.replace("@bentoml.api\n", "@bentoml.task\n"))
    limits = service.served(Manifest(), long).limits
    assert (limits.queue_timeout_s, limits.timeout_s) == (None, service.TASK_TIMEOUT_S)


def test_a_service_without_a_batchable_api_is_asked_one_by_one(tmp_path: Path) -> None:
    version = written(tmp_path, "@service\nclass A:\n    @api\n    def f(self): ...\n")
    assert service.served(Manifest(), version).batching.max_batch_size == 1


def test_bentofile_says_where_the_service_is(tmp_path: Path) -> None:
    version = written(tmp_path)
    (version / "bentofile.yaml").write_text('service: "parts.main:Rows"\ninclude: ["*.py"]\n')
    assert service.entry_of(version) == (version, "parts.main", "Rows")
    (version / "bentofile.yaml").write_text('service: "../main"\n')
    with pytest.raises(ManifestError, match="should read"):
        service.entry_of(version)


@pytest.mark.parametrize(
    ("source", "said"), [("class", "is no Python"), (None, "cannot be read")], ids=["broken", "elsewhere"]
)
def test_what_cannot_be_read_says_why(tmp_path: Path, source: str | None, said: str) -> None:
    version = written(tmp_path, source or SOURCE)
    if source is None:
        (version / "bentofile.yaml").write_text("service: other:Rows\n")
    with pytest.raises(ManifestError, match=said):
        service.served(Manifest(), version)


def test_declared_arrays_are_not_for_a_service(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"\[inputs\]"):
        service.served(Manifest(inputs={"x": Tensor("float32")}), written(tmp_path))


class Point(BaseModel):
    x: int
    next: "Point | None" = None


def test_a_model_within_itself_is_written_out_so_far() -> None:
    @api
    def f(self: Any, point: Point) -> Point:
        return point

    text = str(f.input.schema)
    assert "$ref" not in text
    assert f.input.schema["properties"]["point"]["properties"]["x"]["type"] == "integer"


def test_arrays_in_lists_and_alternatives_are_parsed() -> None:
    @api
    def f(self: Any, arrays: list[np.ndarray], more: Annotated[np.ndarray, DType("int8")] | None = None) -> Any:
        return arrays

    arguments = f.input.of_json(b'{"arrays": [[1, 2], [3]], "more": [4]}')
    assert [one.tolist() for one in arguments["arrays"]] == [[1, 2], [3]]
    assert arguments["more"].dtype == np.int8
    with pytest.raises(ValidationError):
        f.input.of_json(b'{"arrays": 5}')


def test_files_of_a_form_are_paths(tmp_path: Path) -> None:
    @api
    def f(self: Any, files: list[Path], name: str) -> int:
        return len(files)

    given = [("files", Upload("../../a.txt", "", b"a")), ("files", Upload("b", "", b"b")), ("name", "x")]
    arguments = f.input.of_form(given)
    try:
        assert [file.read_text() for file in arguments["files"]] == ["a", "b"]
        assert arguments["files"][0].parent == arguments["files"][1].parent
    finally:
        for file in arguments["files"]:
            file.unlink()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: decorated("name", runners=[]), "bentoml.Service with runners"),
        (lambda: api(lambda self, x: x, input_spec=Point), "input_spec"),
        (lambda: api(lambda self, a, b: a, batchable=True), "more than the one argument"),
        (lambda: Service(type("A", (), {})).mount_asgi_app, "mount_asgi_app is not there"),
    ],
)
def test_what_is_not_there_of_bentoml_is_named(make: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        make()


def test_a_task_answers_once_and_a_route_begins_with_a_slash() -> None:
    def pieces(self: Any) -> Any:
        yield 1

    with pytest.raises(ValueError, match="piece by piece"):
        task(pieces)
    with pytest.raises(ValueError, match="slash"):
        api(lambda self: 1, route="x")


def test_defaults_in_a_field_hold_for_calls_between_methods() -> None:
    from pydantic import Field

    class Adds:
        @api
        def add(self, a: int, b: int = Field(default=2)) -> int:
            return a + b

        @api
        def more(self, a: int) -> int:
            return self.add(a) * 10  # type: ignore[no-any-return]

    assert isinstance(Adds.more, Method)
    assert Adds().more(1) == 30


CONFIGURED = """
services:
  traffic: {timeout: 30}
  Rows:
    traffic: {max_concurrency: 12}
    workers: 3
runners:
  batching: {max_batch_size: 9, max_latency_ms: 800}
  quiet:
    batching: {enabled: false}
"""


def test_a_configuration_file_outranks_the_decorators_and_model_toml_outranks_both(tmp_path: Path) -> None:
    version = written(tmp_path)
    (version / "bentoml_configuration.yaml").write_text(CONFIGURED)
    served = service.served(Manifest(), version)
    assert (served.batching.max_queue, served.instances) == (12, 3)
    assert configuration.of_service(version, "Rows").traffic.timeout == 30
    written_down = Manifest(config={"batching": {"max_queue": 10_000}, "resources": {"instances": 1}})
    served = service.served(written_down, version)
    assert (served.batching.max_queue, served.instances) == (10_000, 1)


def test_runners_of_a_configuration_are_stored_models(tmp_path: Path) -> None:
    for name in ("loud", "quiet"):
        folder = bentos.stored(tmp_path, name, "a", "bentoml.onnx", signatures={"run": bentos.BATCHED})
        (folder / "saved_model.onnx").write_bytes(b"")
        (folder.parent / "bentoml_configuration.yaml").write_text(CONFIGURED)
    loud = store.served(Manifest(), tmp_path / "loud" / "a")
    assert (loud.items, loud.batching.max_batch_size, loud.limits.queue_timeout_s) == ("joined", 9, 0.8)
    assert store.served(Manifest(), tmp_path / "quiet" / "a").items == "alone"


def test_a_configuration_that_makes_no_sense_names_the_key(tmp_path: Path) -> None:
    version = written(tmp_path)
    (version / "bentoml_configuration.yaml").write_text("services: {traffic: {timeout: -1}}\n")
    with pytest.raises(ManifestError, match=r"traffic\.timeout"):
        service.served(Manifest(), version)


def test_a_bento_is_a_service_as_it_was_built_and_exported(tmp_path: Path) -> None:
    built = tmp_path / "bentos" / "rows" / "v7x2"
    (built / "src").mkdir(parents=True)
    (built / "src" / "main.py").write_text(SOURCE)
    (built / "bento.yaml").write_text("service: main:Rows\nname: rows\nversion: v7x2\nmodels: []\n")
    (built.parent / "latest").write_text("v7x2")
    (found,) = versions.scan(tmp_path / "bentos")
    assert (found.framework, found.error) == ("bentoml.service", None)
    assert found.manifest is not None
    assert found.manifest.latest == "v7x2"
    assert service.entry_of(built) == (built / "src", "main", "Rows")
    assert service.read(built).name == "Rows"
    file = bentos.exported(built, tmp_path / "rows.bento")
    target = exported.unpack(file, tmp_path / "models")
    assert target == tmp_path / "models" / "rows" / "v7x2"
    assert (target / "src" / "main.py").read_text() == SOURCE
