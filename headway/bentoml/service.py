"""service.py of BentoML, read and not run: how its APIs are batched, and how many processes it wants.

Only what stands there as a plain value is seen; where it is computed, BentoML's default is taken.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from headway.bentoml import BENTO, SERVICE, configuration, yaml_of
from headway.errors import ManifestError
from headway.manifest import Manifest

MAX_BATCH_SIZE, MAX_LATENCY_MS = 100, 60_000
#: Seconds that a call may take in a service with tasks, where model.toml says nothing: they are meant to be long.
TASK_TIMEOUT_S = 3_600.0
_MOST = 4096  # rows
_BENTOFILES = ("bentofile.yaml", "bentofile.yml")


S = TypeVar("S", bound=msgspec.Struct)


class Api(msgspec.Struct, frozen=True):
    """One method that is decorated."""

    name: str
    is_task: bool
    batchable: bool
    max_batch_size: int
    max_latency_ms: int


class Read(msgspec.Struct, frozen=True):
    """What of a service can be seen."""

    name: str
    apis: list[Api]
    workers: int
    max_concurrency: int | None


class Entry(NamedTuple):
    """Where a service is."""

    folder: Path  # of its sources
    module: str
    attribute: str | None  # None: the only one there


def entry_of(version: Path) -> Entry:
    """As bento.yaml or bentofile.yaml says, else of service.py. Raises ManifestError."""
    folder = version / "src" if (version / BENTO).is_file() else version
    for file in (version / name for name in (BENTO, *_BENTOFILES)):
        if file.is_file() and (service := yaml_of(file).get("service")) is not None:
            module, _, attribute = str(service).partition(":")
            if not all(part.isidentifier() for part in module.split(".")):
                raise ManifestError(f'{file}: service is {str(service)[:80]!r}, and should read "service:Name"')
            return Entry(folder, module, attribute or None)
    return Entry(folder, SERVICE.removesuffix(".py"), None)


def read(version: Path) -> Read:
    """Raises ManifestError for what is no Python."""
    entry = entry_of(version)
    file = entry.folder.joinpath(*entry.module.split(".")).with_suffix(".py")
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ManifestError(f"{file}: is no Python: {error}") from error
    apis: list[Api] = []
    name, workers, most = "", 1, None
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        said = next((words for name, words in _decorators(cls) if name == "service"), None)
        if said is None:
            continue
        name = str(said.get("name") or cls.name)
        workers = max(workers, _whole(said.get("workers"), 1))
        traffic = said.get("traffic")
        most = _whole(traffic.get("max_concurrency"), 0) or None if isinstance(traffic, dict) else most
        for method in cls.body:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                apis += [_api(method.name, kind, words) for kind, words in _decorators(method) if kind in _KINDS]
    return Read(name, apis, workers, most)


_KINDS = ("api", "task")


def _api(name: str, kind: str, words: dict[str, Any]) -> Api:
    return Api(
        name,
        is_task=kind == "task",
        batchable=words.get("batchable") is True,
        max_batch_size=min(_whole(words.get("max_batch_size"), MAX_BATCH_SIZE), _MOST),
        max_latency_ms=_whole(words.get("max_latency_ms"), MAX_LATENCY_MS),
    )


def _decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, its plain keywords) of each that may be BentoML's: `bentoml.api`, or `api` as it was imported."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        yield name, {word.arg: _plain(word.value) for word in keywords if word.arg is not None}


def _plain(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _whole(value: Any, usual: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else usual


def served(manifest: Manifest, version: Path) -> Manifest:
    """The manifest with what service.py and bentoml_configuration.yaml say; model.toml outranks them.

    A service without a batchable API gets its requests one by one. A request that could not begin within
    max_latency_ms is given up, as BentoML's dispatcher does; max_concurrency is how many may wait.

    Raises ManifestError.
    """
    if manifest.inputs or manifest.outputs:
        raise ManifestError("[inputs] and [outputs] are for arrays: a service says itself what it takes")
    found = read(version)
    said = configuration.of_service(version, found.name)
    batched, tasks = [api for api in found.apis if api.batchable], any(api.is_task for api in found.apis)
    batching: dict[str, Any] = {"max_batch_size": max((api.max_batch_size for api in batched), default=1)}
    if (most := said.traffic.max_concurrency or found.max_concurrency) is not None:
        batching["max_queue"] = most
    limits: dict[str, Any] = {"timeout_s": TASK_TIMEOUT_S} if tasks else {}
    longest = max((api.max_latency_ms for api in batched), default=MAX_LATENCY_MS)
    if longest < MAX_LATENCY_MS and not tasks:
        limits["queue_timeout_s"] = longest / 1000
    instances = min(said.processes or found.workers, 64)
    return msgspec.structs.replace(
        manifest,
        batching=_unless_written(manifest, "batching", manifest.batching, batching),
        limits=_unless_written(manifest, "limits", manifest.limits, limits),
        instances=manifest.instances if "instances" in manifest.config.get("resources", {}) else instances,
    )


def _unless_written(manifest: Manifest, section: str, value: S, said: dict[str, Any]) -> S:
    """With what is said, but for the keys that model.toml has."""
    written = manifest.config.get(section, {})
    return msgspec.structs.replace(value, **{key: one for key, one in said.items() if key not in written})
