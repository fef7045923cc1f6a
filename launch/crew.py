"""The workers that a `headway up` has started, remembered beside its data.

When `up` itself is killed, or the machine loses power, nobody sees its workers die, and the janitor needs fifteen quiet
seconds to be sure. The next `up` of the same folder has its lock, so it knows at once: they are gone.
"""

import logging
from pathlib import Path

import msgspec

from headway.clock import new_id
from headway.errors import StorageUnavailable
from storage.workers import Workers

log = logging.getLogger(__name__)


class Crew:
    """One for an `up`, which holds the lock of its folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: dict[str, str] = {}  # device → the id of the worker that has it now

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._ids.values())

    def sign_on(self, device: str) -> str:
        """The id of a new worker."""
        self._ids[device] = new_id()
        written = self._path.with_suffix(".new")
        try:
            written.write_bytes(msgspec.json.encode(self._ids))
            written.replace(self._path)
        except OSError as error:  # a full disk: the janitor will see to them
            log.warning("workers are not remembered: %s", error)
        return self._ids[device]

    def disband(self) -> None:
        """All have ended, and were seen to."""
        self._path.unlink(missing_ok=True)

    def bury_predecessors(self, workers: Workers) -> None:
        """Those of the `up` before this one."""
        try:
            ids = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return
        for id_ in ids.values():
            try:
                workers.mark_dead(id_)
            except StorageUnavailable as error:
                log.warning("a worker of before is left to the janitor: %s", error)
