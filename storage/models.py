"""Model versions and where they are loaded."""

import logging
from collections import defaultdict
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection

from headway.manifest import Manifest
from headway.registry import Placement, State, Stats, Version, Wish, effective
from headway.versions import Found
from storage.engine import Database

log = logging.getLogger(__name__)

_manifest = msgspec.json.Decoder(Manifest)
_stats = msgspec.json.Decoder(Stats)


class Models:
    """Every verb raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, found: Found, worker_id: str = "", *, pinned: bool = False) -> str | None:
        """A version as it lies in a worker's folder, broken ones too; None, or the digest that it should have.

        What its loaded model said of itself is kept until the files or the manifest change. Other files take the place
        of those that are registered once no other live worker has these any more; where it is `pinned`, never. A folder
        without any version has no row.
        """
        if not found.version:
            return None
        name = {"model": found.model, "version": found.version}
        manifest = msgspec.json.encode(found.manifest or Manifest()).decode()

        def once() -> str | None:
            with self._database.write() as connection:
                if worker_id:
                    holding = {"worker_id": worker_id, "digest": found.sha256}
                    self._database.run(connection, "hold_version", **name, **holding)
                before = self._database.run(connection, "registered_digest", **name).scalar_one_or_none()
                registered = self._database.run(
                    connection,
                    "register_version",
                    **name,
                    worker_id=worker_id,
                    pinned=int(pinned),
                    path=str(found.path),
                    sha256=found.file_sha256 or found.sha256,
                    digest=found.sha256,
                    framework=found.framework,
                    manifest=manifest,
                    error=found.error,
                )
            if not registered.rowcount:
                return str(before)
            if before and found.sha256 and before != found.sha256:
                log.warning(
                    "%s@%s has other files: sha256 %s, before %s", found.model, found.version, found.sha256, before
                )
            return None

        return self._database.retrying(once)

    def let_go(self, model: str, version: str, worker_id: str) -> None:
        """The version is not in that worker's folder any more."""

        def write(connection: Connection) -> None:
            self._database.run(connection, "let_go_version", model=model, version=version, worker_id=worker_id)

        self._write(write)

    def place(
        self,
        worker_id: str,
        device: str,
        model: str,
        version: str,
        state: State,
        reason: str | None = None,
        memory_bytes: int | None = None,
        instances: int = 1,
    ) -> None:
        """What a worker says of a version on its device. `memory_bytes`: of all instances."""

        def write(connection: Connection) -> None:
            self._database.run(
                connection,
                "place",
                worker_id=worker_id,
                model=model,
                version=version,
                device=device,
                state=state,
                reason=reason,
                ready=int(state == "ready"),
                memory_bytes=memory_bytes,
            )
            if state == "ready":
                one = None if memory_bytes is None else memory_bytes // instances
                self._database.run(connection, "loaded_version", model=model, version=version, memory_bytes=one)

        self._write(write)

    def describe(self, model: str, version: str, framework: str, manifest: Manifest) -> None:
        """After a load: the manifest with the inputs and outputs that the model reported."""
        text = msgspec.json.encode(manifest).decode()

        def write(connection: Connection) -> None:
            self._database.run(
                connection, "describe_version", model=model, version=version, framework=framework, manifest=text
            )

        self._write(write)

    def wish(self, model: str, version: str, wish: Wish | None) -> bool:
        """An operator's word. False: there is no such version."""

        def once() -> bool:
            with self._database.write() as connection:
                changed = self._database.run(connection, "wish", model=model, version=version, wish=wish)
            return bool(changed.rowcount)

        return self._database.retrying(once)

    def all(self) -> list[Version]:
        """By model, oldest first, with their placements on live workers."""

        def read() -> list[Version]:
            placements: dict[tuple[str, str], list[Placement]] = defaultdict(list)
            with self._database.read() as connection:
                for model, version, *of in self._database.run(connection, "all_placements"):
                    placements[model, version].append(_placement(*of))
                rows = self._database.run(connection, "all_versions").all()
            return [_version(*row, placements=placements[row[0], row[1]]) for row in rows]

        return self._database.retrying(read)

    def _write(self, write: Callable[[Connection], None]) -> None:
        def once() -> None:
            with self._database.write() as connection:
                write(connection)

        self._database.retrying(once)


def _placement(
    worker_id: str,
    device: str,
    state: State,
    reason: str | None,
    loaded_at: int | None,
    memory_bytes: int | None,
    ended: int,
    rate: float,
    stats: str | None,
) -> Placement:
    return Placement(
        worker_id=worker_id,
        device=device,
        state=state,
        reason=reason,
        loaded_at=loaded_at,
        memory_bytes=memory_bytes,
        ended=ended,
        rate=rate,
        stats=Stats() if stats is None else _stats.decode(stats),
    )


def _version(
    model: str,
    version: str,
    path: str,
    sha256: str,
    framework: str | None,
    manifest: str,
    error: str | None,
    created_at: int,
    loaded_at: int | None,
    memory_bytes: int | None,
    wish: Wish | None,
    wished_at: int | None,
    *,
    placements: list[Placement],
) -> Version:
    state, reason = effective(placements, error)
    return Version(
        model=model,
        version=version,
        state=state,
        reason=reason,
        framework=framework,
        path=path,
        sha256=sha256,
        manifest=_manifest.decode(manifest),
        created_at=created_at,
        loaded_at=loaded_at,
        memory_bytes=memory_bytes,
        wish=wish,
        wished_at=wished_at,
        placements=placements,
    )
