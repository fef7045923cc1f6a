"""When to ask again: a pure function of how often it went wrong and what the server said to that."""

import datetime
import email.utils

#: Answers of a server, or of a proxy before it, that another time may be different.
PASSING = frozenset({429, 502, 503, 504})

_FIRST_S = 0.25
_DOUBLINGS = 5  # to 8 s


def delay_s(failures: int, chance: float, retry_after_s: float | None = None) -> float:
    """Seconds to wait after `failures` in a row, 1 or more; `chance` in [0, 1) spreads callers who failed together.

    What the server asked for is waited for, and a little more.
    """
    spread = _FIRST_S * 2.0 ** min(failures - 1, _DOUBLINGS) * (0.5 + chance / 2)
    return spread if retry_after_s is None else retry_after_s + min(spread, 0.1 * retry_after_s)


def retry_after_s(value: str | None, now: datetime.datetime) -> float | None:
    """A `Retry-After`: seconds, or an HTTP date, which is compared with `now` (UTC). None for what is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=datetime.UTC)
    return max(0.0, (until - now).total_seconds())
