"""Time and the ids made of it."""

import datetime
import time

import uuid_utils


def now_us() -> int:
    """Wall clock, microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def new_id() -> str:
    """A UUIDv7 in its canonical form: 36 characters, rising with time within a process."""
    return str(uuid_utils.uuid7())


def rfc3339(us: int) -> str:
    """Microseconds since 1970 as RFC 3339, UTC, with microseconds and a `Z`."""
    moment = datetime.datetime.fromtimestamp(us // 1_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000:06d}Z"
