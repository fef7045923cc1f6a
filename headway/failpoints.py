"""Named places where a test makes this process die, stop, stall or fail.

Off unless HEADWAY_FAILPOINTS names a folder; then each pass through `hit("finish.committed")` looks for a file of that
name in there, which says what is to happen: an action, and what it needs.

    kill            SIGKILL to this process
    stop 20         SIGSTOP to this process, and SIGCONT after 20 s
    stall 3         the thread waits 3 s
    error           raises what the place says that failing looks like there, else `Injected`

A file fires once, in whichever process comes first: it is renamed to `finish.committed.fired`. With a percentage at its
end (`error 5%`, `stall 0.2 10%`) it stays, and fires that often.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from headway.errors import SettingsError, StorageUnavailable

VARIABLE = "HEADWAY_FAILPOINTS"

#: Where something may go wrong, by what is being done there. `committed` is after SQL has it and before anybody knows.
POINTS = (
    "submit.begin",  # the API has a group of submissions
    "submit.committed",  # their rows are there; nobody has a 202
    "submit.publishing",  # callers may have their 202; Redis has no hint
    "submit.published",  # it has
    "claim.begin",  # a micro-batch was taken out of its window
    "claim.committed",  # its rows are ours; the device has nothing
    "compute.begin",  # the device process has the call
    "compute.end",  # the model has answered; the worker has not heard
    "finish.begin",  # the worker has the results
    "finish.committed",  # they are written, with what is owed to receivers; nobody was told
    "notify.begin",  # a notice is about to go to Redis
    "notify.end",  # it has gone
    "deliver.begin",  # a webhook is leased to this process
    "deliver.answered",  # the receiver has answered; SQL does not know
    "deliver.recorded",  # SQL knows
    "reconcile.begin",  # the janitor begins a pass
    "reconcile.given_back",  # what the dead held is queued again; Redis has no hint
    "reconcile.recovering",  # lost hints are about to be published
    "reconcile.end",  # a pass is over
)
#: Every statement and every commit of every process: for rates, not for single shots.
SQL_POINTS = (
    "sql.execute",  # a statement is not executed
    "sql.committed",  # a transaction is committed, and its answer lost
)


class Injected(Exception):  # noqa: N818
    """What no code expects: a defect, as it were."""


def hit(point: str, error: Callable[[], Exception] = Injected) -> None:
    """Does here what a test has asked for. Raises what `error` makes, if that is it."""
    if _FOLDER is not None:
        _fire(_FOLDER / point, error)


def storage_lost() -> Exception:
    """What a call to the store raises where nobody knows whether it was done."""
    return StorageUnavailable("a test lost the connection")


def _folder() -> Path | None:
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    if not Path(name).is_dir():
        raise SettingsError(f"HEADWAY_FAILPOINTS should be a folder, and {name[:200]} is none")
    return Path(name)


_FOLDER = _folder()
#: Whether any of it can happen: what costs something where it is off asks first.
ARMED = _FOLDER is not None


def _fire(file: Path, error: Callable[[], Exception]) -> None:
    try:
        words = file.read_text(encoding="ascii").split()
    except OSError:
        return
    if words and words[-1].endswith("%"):
        if random.random() * 100 >= float(words.pop()[:-1]):
            return
    elif not _first(file):
        return
    match words:
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["stop", seconds]:
            _stop(float(seconds))
        case ["stall", seconds]:
            time.sleep(float(seconds))
        case ["error"]:
            raise error()
        case _:
            raise SettingsError(f"{file} should hold kill, stop SECONDS, stall SECONDS or error")


def _first(file: Path) -> bool:
    """Whether this process is the one for which it fires."""
    with contextlib.suppress(OSError):
        file.rename(file.with_name(f"{file.name}.fired"))
        return True
    return False


def _stop(seconds: float) -> None:
    """Nobody in a stopped process can wake it up: a process of its own does."""
    wake = f"sleep {seconds}; kill -CONT {os.getpid()}"
    subprocess.Popen(["/bin/sh", "-c", wake], start_new_session=True, stdin=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)
