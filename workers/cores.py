"""How many threads torch computes with on a CPU: one, where more do not make a short call shorter.

A small model waits longer for its threads to meet than it computes, and burns cores meanwhile that the API and the
worker need. What is slow enough to gain by them keeps them.
"""

import os
import sys
import time
from collections.abc import Callable

#: A call that takes longer is worth a core, and too long to be tried over and over.
_SHORT_S = 0.005
#: One thread may take so many times as long and is taken all the same: it leaves a core to others.
_HARDLY_LONGER = 1.25
_TRIES = 5


def choose_threads(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> int | None:
    """The number of threads from now on, found by calling; None where that is not ours to say.

    It is not without torch, or where the model itself has set it. `call`: a full batch, which was called before.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    several = torch.get_num_threads()
    if several == 1 or str(several) != os.environ.get("OMP_NUM_THREADS"):
        return None
    first = _seconds(call, clock, 1)
    if first > _SHORT_S:
        return int(several)
    with_several = min(first, _seconds(call, clock, _TRIES))
    torch.set_num_threads(1)
    if _seconds(call, clock, _TRIES) <= _HARDLY_LONGER * with_several:
        return 1
    torch.set_num_threads(several)
    return int(several)


def _seconds(call: Callable[[], object], clock: Callable[[], float], tries: int) -> float:
    """The shortest of them."""
    took = []
    for _ in range(tries):
        began = clock()
        call()
        took.append(clock() - began)
    return min(took)
