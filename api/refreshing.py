"""Views of SQL that are kept in memory and read anew every second."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

log = logging.getLogger(__name__)

_EVERY_S = 1.0


def seen(task: "asyncio.Task[Any]") -> None:
    """A task's last callback, so that a failure is not reported as unseen when everybody who waited for it has left."""
    if not task.cancelled():
        task.exception()


async def keep_fresh(refresh: Callable[[], Awaitable[None]], what: str) -> None:
    """Until canceled. While `refresh` fails the last view stands; said once for each time it begins to fail."""
    failing = False
    while True:
        try:
            await refresh()
            failing = False
        except Exception as error:
            if not failing:
                log.warning("%s cannot be read; what was read last stands", what, extra={"error": repr(error)[:500]})
            failing = True
        await asyncio.sleep(_EVERY_S)
