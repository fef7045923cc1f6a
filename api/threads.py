"""Blocking storage calls from the event loop: off it, and never waited for longer than a caller would.

A call that is late is StorageUnavailable to whoever waits. Its thread goes on, since nothing can stop it; what was
queued behind it and not begun is dropped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from headway.errors import StorageUnavailable

#: Together with what else a request does, the answer is out within two seconds.
PATIENCE_S = 1.5

T = TypeVar("T")


class Threads:
    """A few threads that do one kind of storage call."""

    def __init__(self, name: str, count: int) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
        """Raises StorageUnavailable when there is no answer in time, and whatever the call raises."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            done, _ = await asyncio.wait((future,), timeout=patience_s)
        except asyncio.CancelledError:
            future.cancel()
            raise
        if not done:
            future.cancel()
            raise StorageUnavailable(f"no answer in {patience_s} seconds")
        return future.result()

    def close(self) -> None:
        """Does not wait for a call that hangs."""
        self._executor.shutdown(wait=False, cancel_futures=True)
