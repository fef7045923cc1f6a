"""What is counted of a version, and how long it counts."""

from headway.notices import Ended
from headway.quantiles import quantile
from headway.states import Status
from headway.types import Claimed
from workers.tally import Tally


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ended(status: Status = Status.SUCCEEDED, *, at: int = 2_000_000) -> Ended:
    return Ended(
        status=status,
        revision=3,
        claim="c",
        attempt=1,
        started_at=1,
        completed_at=at,
        predict_us=1,
        batch_size=1,
        output=b"1",
        output_omitted=False,
        error=None,
    )


def row(id_: str, step: int = 1) -> Claimed:
    return Claimed(
        id=id_,
        line=f"headway:m@1:{step}",
        size=1,
        shape=None,
        position=1_000_000,
        created_at=1_000_000,
        started_at=1,
        attempt=1,
        revision=2,
        charged=0,
        losses=0,
        max_attempts=3,
        execution_timeout_us=None,
        body=b"1",
    )


def test_ends_failures_sizes_and_durations_are_counted_and_items_of_batches_have_none() -> None:
    clock = Clock()
    tally = Tally("m", "1", clock)
    tally.ended({"a": ended(), "b": ended(Status.FAILED), "c": ended()})
    tally.finished([row("a"), row("b"), row("c", 3)], {"a": ended(), "b": ended(), "c": ended(at=9_000_000)})
    for size in (1, 2, 3, 32):
        tally.computed(size, 0.5)
    clock.now += 2.0
    served = tally.served()
    assert (served.ended, served.stats.failed, tally.busy_s) == (3, 1, 2.0)
    assert served.stats.sizes == {1: 1, 2: 1, 4: 1, 32: 1}
    assert sum(served.stats.seconds.values()) == 2
    assert 0.9 < (quantile(served.stats.seconds, 0.99) or 0) < 1.1
    assert 0 < served.rate < 1.5


def test_durations_are_of_the_last_minutes() -> None:
    clock = Clock()
    tally = Tally("m", "1", clock)
    tally.finished([row("a")], {"a": ended()})
    clock.now += 200
    tally.finished([row("b")], {"b": ended()})
    assert sum(tally.served().stats.seconds.values()) == 2
    clock.now += 200
    tally.finished([row("c")], {"c": ended()})
    assert sum(tally.served().stats.seconds.values()) == 2
    clock.now += 2000
    tally.finished([row("d")], {"d": ended()})
    assert sum(tally.served().stats.seconds.values()) == 1
