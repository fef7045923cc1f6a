"""One micro-batch on its way through the device process, and what becomes of its rows before it is answered.

A row leaves its call early when its own time is up, or when the model was told that it is canceled; the rest goes on.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headway import reports
from headway.clock import now_us
from headway.errors import ItemCode, ItemError
from headway.reports import Report
from headway.types import Claimed, Outcome
from workers.frames import Saying


@dataclass(slots=True)
class Call:
    """Guarded by its runner's lock."""

    id: int
    rows: list[Claimed]  # that are still to be settled
    claims: dict[str, str]  # prediction id → claim id, of all that it began with
    bulk: bool = False  # it, and all that was claimed with it, is of batches
    taken_at: float = 0.0  # monotonic
    second_try: bool = False  # every item had failed alone; run once more on a fresh process
    sent: bool = False  # the device process has it
    #: Since when (monotonic) it holds what nobody wants. None: all of it is wanted.
    unwanted_since: float | None = None
    _limited: bool = field(init=False)  # whether any row has a limit of its own: hardly ever
    _numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int), init=False)

    def __post_init__(self) -> None:
        self._limited = any(row.execution_timeout_us is not None for row in self.rows)

    @property
    def alone(self) -> bool:
        """Whether it began with one row: what goes wrong then is that one's fault."""
        return len(self.claims) == 1

    def submission(self) -> list[tuple[str, bytes]]:
        return [(row.id, row.body) for row in self.rows]

    def types(self) -> dict[str, str]:
        """Media types of the inputs that are no JSON, by prediction id."""
        return {row.id: row.content_type for row in self.rows if row.content_type is not None}

    def next_limit_s(self) -> float | None:
        """Seconds from its beginning to when the time of a row is up."""
        if not self._limited:
            return None
        limits = [row.execution_timeout_us for row in self.rows if row.execution_timeout_us is not None]
        return min(limits) / 1e6 if limits else None

    def late(self, ran_s: float) -> list[Outcome]:
        """Failures of the rows whose own time is up."""
        if not self._limited:
            return []
        return [
            Outcome(
                id=row.id,
                error=ItemError(ItemCode.EXECUTION_TIMEOUT, _late(row.execution_timeout_us)),
                predict_us=int(ran_s * 1e6),
                batch_size=len(self.claims),
            )
            for row in self.rows
            if row.execution_timeout_us is not None and row.execution_timeout_us <= ran_s * 1e6
        ]

    def leave(self, ids: Iterable[str]) -> list[Claimed]:
        """Takes these rows out and answers them."""
        left = set(ids)
        leaving = [row for row in self.rows if row.id in left]
        if leaving:
            self.rows = [row for row in self.rows if row.id not in left]
        return leaving

    def waiting(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes of rows that are still to be settled."""
        if len(self.rows) == len(outcomes):
            return list(outcomes)
        ids = {row.id for row in self.rows}
        return [one for one in outcomes if one.id in ids]

    def reports(self, sayings: Sequence[tuple[str, Saying, bytes]]) -> dict[str, list[Report]]:
        """What the model has said, numbered; a second try goes on counting."""
        attempts = {row.id: row.attempt for row in self.rows}
        at = now_us()
        said: dict[str, list[Report]] = defaultdict(list)
        for id_, kind, json in sayings:
            if kind == "canceled" or id_ not in attempts or self._numbers[id_] >= reports.MOST:
                continue
            self._numbers[id_] += 1
            said[id_].append(Report(attempts[id_], self._numbers[id_], kind, at, json))
        return said


def by_claim(ids: Iterable[str], claims: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for id_ in ids:
        grouped[claims[id_]].append(id_)
    return grouped


def _late(limit_us: int) -> str:
    return f"it was not done within its own {limit_us / 1e6:g} s (execution_timeout_seconds)"
