"""TorchServe's `config.properties`, of which that is heeded which has a meaning here; the rest is said to be not.

It is the file that HEADWAY_TORCHSERVE_CONFIG names, else `config.properties` in the models folder, else none. Java's
form of it: `key=value`, `#` and `!` for comments, a backslash at the end of a line goes on in the next.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from headway.errors import SettingsError
from headway.registration import Registration

FILE = "config.properties"
VARIABLE = "HEADWAY_TORCHSERVE_CONFIG"
_MOST_BYTES = 1024 * 1024

#: Heeded, besides the addresses.
_HEEDED = (
    "load_models",
    "models",
    "default_workers_per_model",
    "default_response_timeout",
    "default_startup_timeout",
    "job_queue_size",
    "max_request_size",
    "enable_envvars_config",
)
_ADDRESSES = ("inference_address", "management_address", "metrics_address")

_Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=60_000)]
_Seconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
_Workers = Annotated[int, msgspec.Meta(ge=0, le=64)]


class Said(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of one version of a model, in `models`. None: nothing."""

    min_workers: _Workers | None = None
    max_workers: _Workers | None = None
    batch_size: _Count | None = None
    max_batch_delay: _Milliseconds | None = None  # milliseconds
    response_timeout: _Seconds | None = None  # seconds
    startup_timeout: _Seconds | None = None  # seconds


#: Of a version in `models`, what says again what is known.
_KNOWN = frozenset({*(field.encode_name for field in msgspec.structs.fields(Said)), "marName"})


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """What is heeded of the file; without one, nothing is said."""

    file: Path | None = None
    load: tuple[tuple[str, str], ...] = ()  # (model's name or "", archive)
    load_all: bool = False
    models: Mapping[str, Mapping[str, Said]] = {}  # model → version → what
    default_workers: int | None = None
    default_response_timeout: int | None = None  # seconds
    default_startup_timeout: int | None = None  # seconds
    job_queue_size: int | None = None
    max_request_size: int | None = None  # bytes
    addresses: Mapping[str, tuple[str, int]] = {}  # role → host and port
    warnings: tuple[str, ...] = ()

    def fill(self, said: Registration, config: Mapping[str, Any]) -> Registration:
        """With what the file says where neither the registration nor the archive's YAML does."""
        of_version = self.models.get(said.model_name, {}).get(said.model_version, Said())
        values = {
            "min_workers": _first(of_version.min_workers, self.default_workers),
            "max_workers": of_version.max_workers,
            "batch_size": of_version.batch_size,
            "max_batch_delay": of_version.max_batch_delay,
            "response_timeout": _first(of_version.response_timeout, self.default_response_timeout),
            "startup_timeout": _first(of_version.startup_timeout, self.default_startup_timeout),
            "max_queue": self.job_queue_size,
        }
        names = {field.name: field.encode_name for field in msgspec.structs.fields(Registration)}
        filled = {
            name: value
            for name, value in values.items()
            if value is not None and getattr(said, name) is None and config.get(names[name]) is None
        }
        return msgspec.structs.replace(said, **filled)

    def differing(self, host: str, ports: Mapping[str, int]) -> Iterator[str]:
        """For each address that is not where its role is listened for, a sentence with both."""
        for role, (said_host, port) in self.addresses.items():
            there = ports.get(role)
            if there is None:
                yield f"{role}_address is port {port}, and --dialect torchserve= names none for it"
            elif there != port or said_host not in (host, "localhost" if host == "127.0.0.1" else host):
                yield f"{role}_address is {said_host}:{port}, and --dialect torchserve= and --host say {host}:{there}"


def read(models: Path, named: str, environ: Mapping[str, str]) -> Properties:
    """`named`: what HEADWAY_TORCHSERVE_CONFIG says. Raises SettingsError, naming the file and the key."""
    file = Path(named) if named else models / FILE
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        if named:
            raise SettingsError(f"{VARIABLE}: there is no {file}") from error
        return Properties()
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    if len(text) > _MOST_BYTES:
        raise SettingsError(f"{file}: is larger than {_MOST_BYTES} bytes")
    try:
        return _heeded(file, parse(text.decode("utf-8")), environ)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: is no UTF-8") from error


def parse(text: str) -> dict[str, str]:
    """Java's properties: of a key that comes twice the last counts. Raises SettingsError."""
    found = {}
    for line in _logical(text):
        match = _LINE.fullmatch(line)
        assert match is not None  # it takes any line
        found[_unescaped(match[1])] = _unescaped(match[2])
    return found


_LINE = re.compile(r"((?:\\.|[^\\=:\s])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def _logical(text: str) -> Iterator[str]:
    """Lines with those that they go on in; no comments."""
    begun = ""
    for line in re.split(r"\r\n|\r|\n", text):
        line = line.lstrip(" \t\f")
        if not begun and (not line or line[0] in "#!"):
            continue
        goes_on = (len(line) - len(line.rstrip("\\"))) % 2
        begun += line[:-1] if goes_on else line
        if not goes_on:
            yield begun.rstrip(" \t\f")
            begun = ""
    if begun:
        yield begun.rstrip(" \t\f")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(
        lambda found: chr(int(found[1][1:], 16)) if len(found[1]) == 5 else _ESCAPED.get(found[1], found[1]), text
    )


def _heeded(file: Path, said: dict[str, str], environ: Mapping[str, str]) -> Properties:
    if _truth(file, said, "enable_envvars_config"):
        for key in (*_HEEDED, *_ADDRESSES):
            if (value := environ.get(f"TS_{key.upper()}")) is not None:
                said[key] = value
    models, warnings = _models(file, said.get("models", ""))
    others = sorted(set(said) - {*_HEEDED, *_ADDRESSES})
    if others:
        warnings.insert(0, f"not heeded: {', '.join(key[:80] for key in others)}")
    load_all, load = _load(file, said.get("load_models", ""))
    return Properties(
        file=file,
        load=load,
        load_all=load_all,
        models=models,
        default_workers=_number(file, said, "default_workers_per_model", 0, 64) or None,
        default_response_timeout=_number(file, said, "default_response_timeout", 1, 86_400),
        default_startup_timeout=_number(file, said, "default_startup_timeout", 1, 86_400),
        job_queue_size=_number(file, said, "job_queue_size", 1, 10_000_000),
        max_request_size=_number(file, said, "max_request_size", 1, 1 << 40),
        addresses={key.removesuffix("_address"): _address(file, key, said[key]) for key in _ADDRESSES if key in said},
        warnings=tuple(f"{file}: {warning}" for warning in warnings),
    )


def _load(file: Path, text: str) -> tuple[bool, tuple[tuple[str, str], ...]]:
    text = text.strip()
    if not text or text.lower() == "none":
        return False, ()
    if text.lower() == "all":
        return True, ()
    load = []
    for part in (part.strip() for part in text.split(",")):
        name, equals, archive = part.rpartition("=")
        if not archive or (equals and not name):
            raise SettingsError(f"{file}: load_models has {part[:80]!r}, and should be all, or a.mar, or name=a.mar")
        load.append((name.strip(), archive.strip()))
    return False, tuple(load)


def _models(file: Path, text: str) -> tuple[dict[str, dict[str, Said]], list[str]]:
    """What it says, and of what it is to be said that it is not heeded."""
    if not text.strip():
        return {}, []
    try:
        given = msgspec.json.decode(text, type=dict[str, dict[str, dict[str, Any]]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise SettingsError(f'{file}: models should be {{"name": {{"1.0": {{…}}}}}}: {error}') from error
    found: dict[str, dict[str, Said]] = {}
    warnings = []
    for model, versions in given.items():
        for version, values in versions.items():
            where = f"models, {model[:80]} {version[:80]}"
            try:
                found.setdefault(model, {})[version] = one = msgspec.convert(values, Said)
            except msgspec.ValidationError as error:
                raise SettingsError(f"{file}: {where}: {str(error)[:1].lower()}{str(error)[1:]}") from error
            if one.max_workers is not None and one.max_workers < (one.min_workers or 0):
                raise SettingsError(f"{file}: {where}: maxWorkers is less than minWorkers")
            if others := sorted(set(values) - _KNOWN):
                warnings.append(f"{where}: not heeded: {', '.join(key[:80] for key in others)}")
    return found, warnings


def _number(file: Path, said: Mapping[str, str], key: str, least: int, most: int) -> int | None:
    text = said.get(key)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise SettingsError(f"{file}: {key} is {text[:80]!r}, and should be a whole number from {least} to {most}")
    return int(text)


def _truth(file: Path, said: Mapping[str, str], key: str) -> bool:
    text = said.get(key, "false").strip().lower()
    if text not in ("true", "false"):
        raise SettingsError(f"{file}: {key} is {text[:80]!r}, and should be true or false")
    return text == "true"


def _address(file: Path, key: str, text: str) -> tuple[str, int]:
    """Of http://127.0.0.1:8080, or with https."""
    parts = urlsplit(text.strip())
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        raise SettingsError(f"{file}: {key} is {text[:80]!r}, and should be an address like http://127.0.0.1:8080")
    return parts.hostname, port


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
