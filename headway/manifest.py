"""model.toml: what a model folder says about itself. Every key has a default, and so has the file.

The rule: what makes no sense says so in a sentence for whoever wrote it, with what was meant, as far as that can be
guessed.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from headway.errors import ManifestError

#: dtype → the range of its numbers; None where there is none. "string" is for `model.py` and `model.onnx`.
DTYPES: dict[str, tuple[int, int] | tuple[float, float] | None] = {
    "bool": None,
    "string": None,
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    "float16": (-65504.0, 65504.0),
    "bfloat16": (-3.3895313892515355e38, 3.3895313892515355e38),
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38),
    "float64": (-1.7976931348623157e308, 1.7976931348623157e308),
}

#: Names of models, versions and aliases: they stand in URLs, Redis keys and Celery queues.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
#: Of an alias, which no other server has a word about.
ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_ENTRY = re.compile(r"\w+(\.\w+)*:\w+")

_Whole = Annotated[int, msgspec.Meta(ge=1)]
S = TypeVar("S", bound=msgspec.Struct)


class Tensor(msgspec.Struct, frozen=True):
    """One array of one item: without the batch dimension, -1 where the length is free. `()` is a single number."""

    dtype: str
    shape: tuple[int, ...] = ()
    nullable: bool = False  # a null in JSON is NaN, a value that is missing; of floating-point numbers only
    optional: bool = False  # of an input that a request may leave out, of a model of another server's


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """When a micro-batch departs, and what may travel together."""

    max_batch_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32
    max_wait_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 5.0
    max_queue: _Whole = 10_000
    size: Literal["bytes", "shape", "none"] = "bytes"  # how an item's size is measured
    max_batch_cost: _Whole | None = None  # number of items × the largest size


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often a prediction is tried."""

    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0  # of one predict call
    queue_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)] | None = None  # where a request says none
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    memory: _Whole | None = None  # bytes of main memory that a device process may hold; beyond them it is loaded anew


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """How torch runs a graph, or a module that `[model] entry` names. A `model.py` sees to that itself."""

    compile: bool | str = False  # by torch.compile; a name is that of its backend
    cuda_graphs: bool = False  # each bucket is recorded once and replayed; on CUDA only
    buckets: tuple[Annotated[int, msgspec.Meta(ge=1, le=4096)], ...] = ()  # batches are filled up to the next of these

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """The batch sizes that the graph sees, ascending; none where it sees every size."""
        if self.buckets:
            return (*sorted({size for size in self.buckets if size < max_batch_size}), max_batch_size)
        if not self.compile and not self.cuda_graphs:
            return ()
        powers = (1 << bit for bit in range(max_batch_size.bit_length()))
        return (*(size for size in powers if size < max_batch_size), max_batch_size)


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """How an input `{"url": …}` is fetched."""

    max_bytes: int
    timeout_s: float  # in all, from the name's resolution to the last byte


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of the versions have to be, and whether they may run code while they are read."""

    sha256: dict[str, str] = {}  # version → `digest_of` its folder; "*": of any version
    trust: bool = False


#: How inputs become a batch. stacked: an item has no batch dimension, and theirs are stacked. joined: the first
#: dimension of an item's arrays counts rows, and theirs are joined along it; its size is its rows. alone: it is the
#: model's whole input, and each is called by itself.
Items = Literal["stacked", "joined", "alone"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One model of an ensemble."""

    model: str
    version: str | None  # None: the latest
    inputs: dict[str, str]  # of the model → the ensemble's tensor
    outputs: dict[str, str]


#: Which versions stay loaded. A number: so many of the latest.
Policy = Literal["latest", "all"] | int | list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """model.toml with every default filled in. Survives JSON unchanged."""

    batching: Batching = Batching()
    limits: Limits = Limits()
    inputs: dict[str, Tensor] = {}  # in the declared order; empty: any JSON value
    outputs: dict[str, Tensor] = {}
    policy: Policy = "latest"
    aliases: dict[str, str] = {}  # alias → version
    latest: str | None = None  # the version, where another server's folder says which; None: by number and age
    entry: str | None = None  # "package.module:Class"
    instances: int = 1  # device processes per device
    memory_bytes: int | None = None  # what an instance takes on its device; None: as it was measured
    devices: tuple[str, ...] = ()  # where it may be loaded: cuda:0, or cuda for every one of them; empty: anywhere
    fetch: Fetch | None = None  # None: `{"url": …}` is JSON like any other
    items: Items = "stacked"
    backend: str | None = None  # whose loader it is, where another server's configuration says so
    file: str | None = None  # its model file in each version folder, where that configuration says so
    steps: tuple[Step, ...] = ()  # of an ensemble, in an order in which they can begin; it is no model, nothing loads
    artifact: Artifact = Artifact()
    canary_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None  # of the latest, the rest the one before
    graph: Graph = Graph()
    example: Any = None  # an input that works: warm-up, `headway check`, OpenAPI
    config: dict[str, Any] = {}  # all of model.toml, for the model itself

    @property
    def whole(self) -> bool:
        """Whether a request of another server's protocol is one input as it is: JSON that says itself what it holds."""
        return self.backend in ("kserve", "mlserver")

    def pin(self, version: str) -> str | None:
        """The digest that the version must have, where model.toml says one."""
        return self.artifact.sha256.get(version, self.artifact.sha256.get("*"))


def read(model_folder: Path) -> Manifest:
    """The folder's model.toml, else its configuration of another server's, or the defaults if it has none.

    Raises ManifestError naming the key.
    """
    file = model_folder / "model.toml"
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        from headway import triton  # which builds on this module

        if triton.is_one(model_folder):
            return triton.read(model_folder)
        raw = {}
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{file}: not valid TOML: {error}") from error
    try:
        manifest = parse(raw)
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    from headway import kserve  # which builds on this module

    return kserve.served(manifest, model_folder) if kserve.is_one(model_folder) else manifest


def parse(raw: Mapping[str, Any]) -> Manifest:
    """A manifest from the decoded TOML. Raises ManifestError naming the key."""
    config = msgspec.to_builtins(raw)  # TOML's dates become strings, so that what SQL gives back is the same
    _refuse_unknown("", config, _SECTIONS)
    model = _section(config, "model", _ModelSection)
    inputs, outputs = _tensors(config, "inputs"), _tensors(config, "outputs")
    resources = _section(config, "resources", _ResourcesSection)
    batching = _section(config, "batching", Batching)
    if "size" not in config.get("batching", {}):
        batching = msgspec.structs.replace(batching, size=_default_size(inputs))
    if model.entry is not None and not _ENTRY.fullmatch(model.entry):
        raise ManifestError(f'[model] entry is {model.entry!r}, and should read "package.module:Class"')
    return Manifest(
        batching=batching,
        limits=_limits(config),
        inputs=inputs,
        outputs=outputs,
        policy=_policy(_section(config, "versions", _VersionsSection).policy),
        aliases=_aliases(config.get("aliases", {})),
        entry=model.entry,
        instances=resources.instances,
        memory_bytes=_memory(resources.memory),
        devices=_devices(resources.devices),
        artifact=_artifact(_section(config, "artifact", _ArtifactSection)),
        graph=_section(config, "graph", Graph),
        fetch=Fetch(max_bytes=model.fetch_max_bytes, timeout_s=model.fetch_timeout_s) if model.fetch_urls else None,
        example=model.example,
        config=config,
    )


def with_signature(
    manifest: Manifest, inputs: dict[str, Tensor], outputs: dict[str, Tensor], said: Mapping[str, Any] | None = None
) -> Manifest:
    """The manifest with the inputs and outputs that a loaded model reported (a graph knows its own).

    `said`: what else of it belongs into `config`.
    """
    batching = manifest.batching
    if "size" not in manifest.config.get("batching", {}):
        batching = msgspec.structs.replace(batching, size=_default_size(inputs))
    config = manifest.config
    if "triton" in config:
        from headway.triton import mapping  # which builds on this module

        config = {**config, "triton": mapping.said_by_the_model(manifest, inputs, outputs)}
    if said:
        config = {**config, **said}
    return msgspec.structs.replace(manifest, batching=batching, inputs=inputs, outputs=outputs, config=config)


_SECTIONS = (
    "model", "artifact", "batching", "limits", "inputs", "outputs", "versions", "aliases", "resources",
    "graph", "config",
)  # fmt: skip


class _ModelSection(msgspec.Struct):
    entry: str | None = None
    example: Any = None
    fetch_urls: bool = False
    fetch_max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] = 32 * 1024 * 1024
    fetch_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0


class _ArtifactSection(msgspec.Struct):
    sha256: str | dict[str, str] = ""
    trust: bool = False


class _VersionsSection(msgspec.Struct):
    policy: str | list[int | str] = "latest"


class _ResourcesSection(msgspec.Struct):
    instances: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    memory: int | str | None = None
    devices: list[str] = []


def _section(config: Mapping[str, Any], name: str, kind: type[S]) -> S:
    raw = config.get(name, {})
    if isinstance(raw, dict):
        _refuse_unknown(f"[{name}] ", raw, kind.__struct_fields__)
    return _convert(f"[{name}]", raw, kind)


def _convert(where: str, raw: object, kind: type[S]) -> S:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        wanted, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").lstrip(".")
        raise ManifestError(f"{where} {key}: {_lower(wanted)}" if key else f"{where}: {_lower(wanted)}") from error


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].replace("`object`", "a table")


def _refuse_unknown(where: str, raw: Mapping[str, Any], known: Iterable[str]) -> None:
    known = list(known)
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ManifestError(f"{where}{key!r} is not a known key; {hint}")


def _limits(config: Mapping[str, Any]) -> Limits:
    raw = config.get("limits", {})
    if isinstance(raw, dict) and isinstance(raw.get("memory"), str):
        try:
            raw = {**raw, "memory": bytes_of(raw["memory"])}
        except ValueError as error:
            raise ManifestError(f"[limits] memory {error}") from error
    return _section({"limits": raw}, "limits", Limits)


def _memory(raw: int | str | None) -> int | None:
    if raw is None:
        return None
    try:
        return bytes_of(str(raw))
    except ValueError as error:
        raise ManifestError(f"[resources] memory {error}") from error


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _artifact(section: _ArtifactSection) -> Artifact:
    raw = section.sha256
    pins = raw if isinstance(raw, dict) else {"*": raw} if raw else {}
    for version, digest in pins.items():
        if version != "*":
            _version("[artifact] sha256", version)
        if not _SHA256.fullmatch(digest):
            raise ManifestError(f"[artifact] sha256 is {digest[:80]!r}, and should be 64 of 0-9 and a-f")
    return Artifact(sha256=pins, trust=section.trust)


_SIZE = re.compile(r"(?P<number>\d{1,12}(?:\.\d{1,6})?) *(?P<unit>[KMGT]i?B|B)?")
_POWERS = "BKMGT"


def bytes_of(text: str) -> int:
    """Of a size like 6GiB, 512MB or 1000000. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not (
        size := int(
            float(found["number"])
            * (1024 if "i" in (found["unit"] or "") else 1000) ** _POWERS.index((found["unit"] or "B")[0])
        )
    ):
        raise ValueError(f"is {text[:80]!r}, and should be a size like 6GiB, 512MB or a number of bytes")
    return size


_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def _devices(raw: list[str]) -> tuple[str, ...]:
    for device in raw:
        if not _DEVICE.fullmatch(device):
            raise ManifestError(
                f"[resources] devices: {device!r} is none; there are cpu, mps, cuda and cuda:0, cuda:1, …"
            )
    return tuple(raw)


def fits(manifest: Manifest, device: str) -> bool:
    """Whether it may be loaded on a device such as cuda:1."""
    return not manifest.devices or device in manifest.devices or device.partition(":")[0] in manifest.devices


def _tensors(config: Mapping[str, Any], section: str) -> dict[str, Tensor]:
    tables = config.get(section, {})
    if not isinstance(tables, dict):
        raise ManifestError(f"[{section}]: expected one table [{section}.NAME] per array")
    return {name: _tensor(f"[{section}.{name}]", name, raw) for name, raw in tables.items()}


def _tensor(where: str, name: str, raw: object) -> Tensor:
    if not _TENSOR_NAME.fullmatch(name):
        raise ManifestError(f"{where}: a name is a letter or _ and up to 63 of letters, digits, _ . -")
    if isinstance(raw, dict):
        _refuse_unknown(f"{where} ", raw, [field for field in Tensor.__struct_fields__ if field != "optional"])
    tensor = _convert(where, raw, Tensor)
    if tensor.dtype not in DTYPES:
        raise ManifestError(f"{where} dtype is {tensor.dtype!r}; known are {', '.join(DTYPES)}")
    if tensor.nullable and "float" not in tensor.dtype:
        raise ManifestError(
            f"{where} nullable is for floating-point numbers: {tensor.dtype} has no NaN to stand for null"
        )
    if len(tensor.shape) > 16 or any(length < 1 and length != -1 for length in tensor.shape):
        raise ManifestError(
            f"{where} shape is {list(tensor.shape)}: up to 16 lengths of 1 or more, -1 where it is free"
        )
    return tensor


def _default_size(inputs: Mapping[str, Tensor]) -> Literal["bytes", "shape", "none"]:
    if not inputs:
        return "bytes"
    return "shape" if any(-1 in tensor.shape for tensor in inputs.values()) else "none"


def _policy(raw: str | list[int | str]) -> Policy:
    if isinstance(raw, list):
        return [_version("[versions] policy", version) for version in raw]
    if raw == "latest":
        return "latest"
    if raw == "all":
        return "all"
    raise ManifestError(f'[versions] policy is {raw!r}, and should be "latest", "all" or a list of versions')


def _aliases(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise ManifestError("[aliases]: expected a table of alias = version")
    for alias in raw:
        if not ALIAS.fullmatch(alias):
            raise ManifestError(f"[aliases] {alias!r} is no name: {ALIAS_RULE}")
    return {alias: _version(f"[aliases] {alias}", version) for alias, version in raw.items()}


def _version(where: str, raw: object) -> str:
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise ManifestError(f"{where} is {raw!r}, and should name a version folder")
    return text


NAME_RULE = "letters, digits and _, and . - after the first character, at most 64"
ALIAS_RULE = "lower-case letters, digits, and . _ - after the first character, at most 64"
