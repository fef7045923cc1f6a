"""Field by field, what the real server said beside what ours says, and which differences are meant.

A field is `status`, `header NAME`, or a place in the body such as `body/json/outputs/0/shape`. Numbers that are equal
as JSON has them (11 and 11.0), or to five places, are equal; so is the order of an object's keys.
"""

import fnmatch
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.dialects.exchanges import Case, Reply

_MISSING = "nothing"
_OURS = "header x-request-id"  # every reply of ours has one, which is in nobody's way
_FILE = Path(__file__).resolve().parent / "expected.toml"
_SHOWN = 160  # characters of a value


class Difference(msgspec.Struct):
    """One field in which the replies to a request differ."""

    case: str
    field: str
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.case}: {self.field}: {_shown(self.theirs)} there, {_shown(self.ours)} here"


class Expected(msgspec.Struct):
    """Differences that are known: cases and fields as shells name files."""

    reason: str
    cases: list[str]
    fields: tuple[str, ...] = ("*",)
    theirs: Any = None  # only where it is this
    ours: Any = None
    sometimes: bool = False  # it may be equal, as time has it

    def covers(self, difference: Difference) -> bool:
        named = _any(difference.case, self.cases) and _any(difference.field, self.fields)
        return named and self.theirs in (None, difference.theirs) and self.ours in (None, difference.ours)


class Verdict(msgspec.Struct):
    """What a comparison has found."""

    unexpected: list[Difference]
    expected: list[tuple[Difference, Expected]]
    stale: list[Expected]  # meant, and no longer there
    equal: int  # cases
    compared: int


def expected(system: str) -> list[Expected]:
    """What `expected.toml` says of a system."""
    return msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8")).get(system, []), list[Expected])


def judge(system: str, theirs: Sequence[Case], ours: Sequence[Case]) -> Verdict:
    """Of the same cases in the same order."""
    known = expected(system)
    verdict = Verdict([], [], [], 0, len(theirs))
    seen = set()
    for real, case in zip(theirs, ours, strict=True):
        found = list(differences(real, case))
        verdict.equal += not found
        for difference in found:
            meant = next((each for each in known if each.covers(difference)), None)
            if meant is None:
                verdict.unexpected.append(difference)
            else:
                seen.add(id(meant))
                verdict.expected.append((difference, meant))
    verdict.stale = [each for each in known if id(each) not in seen and not each.sometimes]
    return verdict


def differences(theirs: Case, ours: Case) -> Iterator[Difference]:
    """Of two recordings of one case."""
    for theirs_one, ours_one in zip(theirs.replies, ours.replies, strict=True):
        one, other = dict(_fields(theirs_one)), dict(_fields(ours_one))
        for field in sorted(one.keys() | other.keys()):
            if field == _OURS and field not in one:
                continue
            left, right = one.get(field, _MISSING), other.get(field, _MISSING)
            if not _alike(left, right):
                yield Difference(theirs.name, field, left, right)


def report(system: str, verdict: Verdict) -> str:
    """For people: a line of numbers, then every difference, those that are meant by their reasons."""
    meant = {each.case for each, _ in verdict.expected}
    others = {each.case for each in verdict.unexpected}
    counts = f"{verdict.equal} equal | {len(meant - others)} differ as meant | {len(others)} differ |"
    lines = [f"| {system} | {verdict.compared} cases | {counts}"]
    for reason, count in Counter(each.reason for _, each in verdict.expected).items():
        cases = sorted({difference.case for difference, each in verdict.expected if each.reason == reason})
        lines.append(f"  {reason} ({count} fields: {', '.join(cases)})")
    lines += [f"  NOT MEANT  {difference}" for difference in verdict.unexpected]
    lines += [f"  NO LONGER  {each.reason} ({', '.join(each.cases)})" for each in verdict.stale]
    return "\n".join(lines)


def _fields(reply: Reply) -> Iterator[tuple[str, Any]]:
    yield "status", reply.broken or reply.status
    for name, value in reply.headers.items():
        yield f"header {name}", value.partition(";")[0].strip().lower() if name == "content-type" else value
    yield from _leaves("body", reply.body)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(f"{path}/{key}", one)
    elif isinstance(value, list) and all(isinstance(one, dict) and _name(one) for one in value) and value:
        yield f"{path} order", " ".join(map(_name, value))
        for one in value:
            yield from _leaves(f"{path}/{_name(one)}", one)
    elif isinstance(value, list) and value:
        for index, one in enumerate(value):
            yield from _leaves(f"{path}/{index}", one)
    else:
        yield path, value


def _name(one: dict[str, Any]) -> str:
    """Of a model's version, an input or an output: by it, what is in another order is found."""
    parts = [one.get("name", one.get("modelName")), one.get("version", one.get("modelVersion"))]
    return "@".join(str(part) for part in parts if part is not None)


def _alike(left: Any, right: Any) -> bool:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if numbers and not isinstance(left, bool) and not isinstance(right, bool):
        return math.isclose(left, right, rel_tol=1e-5) if isinstance(left, float) else bool(left == right)
    return type(left) is type(right) and bool(left == right)


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
