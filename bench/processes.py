"""Processor time of a tree of processes, from /proc: what remains steady on a busy machine. Linux only."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from headway.running import command_line, descendants

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PARTS = ("api", "worker", "utility", "flower", "up")


def spent(roots: Iterable[int]) -> dict[str, float]:
    """Seconds, user and system, of each living process below and including `roots`, by `name:pid`."""
    pids = {pid for root in roots for pid in [root, *descendants(root)]}
    return {f"{name_of(command_line(pid))}:{pid}": processor_s(pid) for pid in pids}


def by_name(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds between two looks, summed by name. One that was started meanwhile counts from its start."""
    seconds: dict[str, float] = defaultdict(float)
    for key, value in after.items():
        seconds[key.rpartition(":")[0]] += value - before.get(key, 0.0)
    return dict(seconds)


def processor_s(pid: int) -> float:
    """User and system time; 0 if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(words[11]) + int(words[12])) * _TICK_S


def name_of(words: list[str]) -> str:
    """What a process is called in a table: Headway's by its part, a model's as `device`, others by their program."""
    if not words:
        return "gone"
    program = os.path.basename(words[0].split(" ")[0])
    if "launch" in words:
        return next((part for part in _PARTS if part in words), "up")
    if any("@" in word and "#" in word for word in words):
        return "device"
    if any("resource_tracker" in word for word in words):
        return "tracker"
    return "valkey" if program in ("valkey-server", "redis-server") else program.rstrip(":")
