"""Ties a process to the one that started it, then becomes the program it was asked to start.

    python tether.py PARENT_PID PROGRAM ARGUMENT…

Its rule: no process outlives the supervisor, not even when that is killed with SIGKILL and can tell nobody. On Linux
the kernel sees to it (PR_SET_PDEATHSIG survives the exec); macOS has no such thing, and this file does nothing there.
Run by its path, not as a module, so that it costs no more than a bare interpreter.
"""

import os
import signal
import sys


def tether(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it is gone."""
    if sys.platform != "linux":
        return
    import ctypes

    set_pdeathsig = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before we asked, so the kernel will never tell us
        sys.exit("the supervisor is gone")


if __name__ == "__main__":
    tether(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  (becoming the program is the point)
