"""One `headway up` to a data folder.

The lock is the kernel's (`flock`): it is gone with its holder, however that ended. The file is only where it hangs.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from headway.errors import SettingsError


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Raises SettingsError where another process holds it. The file is removed at the end."""
    descriptor = _take(path)
    try:
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise SettingsError(f"{path.parent} is in use by another `headway up` (process {holder})") from None
        if _is_still(descriptor, path):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)  # its last holder removed it between our open and our flock


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
