"""bentoml_configuration.yaml, in a version folder or beside it: what it says of batches, waits and processes.

    services: {traffic: {timeout, max_concurrency}, workers, NAME: {the same}}    of services
    runners: {batching: {enabled, max_batch_size, max_latency_ms}, NAME: {the same}}    of stored models

What it says of hosts, ports, resources and tracing, Headway's own options decide.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from headway.bentoml import yaml_of
from headway.errors import ManifestError

FILE = "bentoml_configuration.yaml"

_Whole = Annotated[int, msgspec.Meta(ge=1)]


class Traffic(msgspec.Struct, frozen=True):
    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None  # seconds
    max_concurrency: _Whole | None = None


class Batching(msgspec.Struct, frozen=True):
    enabled: bool | None = None
    max_batch_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    max_latency_ms: _Whole | None = None


class Configured(msgspec.Struct, frozen=True):
    """None: nothing was said."""

    traffic: Traffic = Traffic()
    batching: Batching = Batching()
    workers: _Whole | str | None = None

    @property
    def processes(self) -> int | None:
        """`cpu_count` is Headway's own to decide."""
        return self.workers if isinstance(self.workers, int) else None


def of_service(version: Path, name: str) -> Configured:
    """Raises ManifestError naming the key."""
    return _read(version, "services", name)


def of_model(version: Path) -> Configured:
    """Raises ManifestError naming the key."""
    return _read(version, "runners", version.parent.name)


def _read(version: Path, section: str, name: str) -> Configured:
    file = next((file for file in (version / FILE, version.parent / FILE) if file.is_file()), None)
    if file is None:
        return Configured()
    said = yaml_of(file).get(section)
    if not isinstance(said, dict):
        return Configured()
    own = said.get(name)
    merged: dict[str, Any] = {
        key: _over(said.get(key), own.get(key) if isinstance(own, dict) else None)
        for key in Configured.__struct_fields__
    }
    try:
        return msgspec.convert({key: value for key, value in merged.items() if value is not None}, Configured)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{file}: {section}: {str(error)[:1].lower()}{str(error)[1:]}") from error


def _over(common: Any, own: Any) -> Any:
    if isinstance(common, Mapping) and isinstance(own, Mapping):
        return {**common, **own}
    return common if own is None else own
