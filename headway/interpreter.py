"""How Python itself is set in the processes that serve."""

import sys

#: Seconds a thread may keep the interpreter while others wait for it.
_SWITCH_S = 0.0005


def yield_often() -> None:
    """Threads that talk to SQL and Redis give the interpreter up at every call.

    With Python's default of 5 ms, each of those calls could wait so long to get it back from a busy event loop.
    """
    sys.setswitchinterval(_SWITCH_S)
