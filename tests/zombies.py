"""Workers that were thought dead and wake up, as many as wanted: what they write then must change nothing."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headway.states import Status
from headway.types import Outcome
from headway.webhooks import Events
from storage.returning import Returned
from storage.running import Finished

ROWS = 4  # of each

STARTED, SUCCEEDED = "prediction.started", "prediction.succeeded"


def wake_zombies(store: Any, zombies: int) -> None:
    """Each holds a claim of four rows when its lease ends; others run the rows meanwhile, or have only claimed them."""
    ids = store.submitted(
        zombies * ROWS, webhook="https://receiver.example/", webhook_events=Events.STARTED | Events.COMPLETED
    )
    claims = {}
    for number in range(zombies):
        store.workers.register(f"zombie{number}", "cpu", "host", number)
        mine = ids[number * ROWS : (number + 1) * ROWS]
        claims[store.claimed(mine, f"zombie{number}")[0]] = mine
    for number in range(zombies):
        store.workers.mark_dead(f"zombie{number}")
    queued = 0
    while given := store.predictions.give_back_dead():
        queued += len(given.queued)
    assert queued == len(ids)
    for start in range(0, len(ids), 6):  # so that the new micro-batches cut across the old ones
        claim, _ = store.claimed(ids[start : start + 6])
        if start % 12 == 0:
            store.finished(claim, ids[start : start + 6])
    before = store.predictions.read(ids)
    assert {row.status for row in before.values()} == {Status.SUCCEEDED, Status.IN_PROGRESS}
    running = [id_ for id_ in ids if before[id_].status is Status.IN_PROGRESS]
    ended = [id_ for id_ in ids if before[id_].status is Status.SUCCEEDED]
    owed = deliveries(store)
    assert sorted(owed) == sorted([(id_, STARTED) for id_ in ids] + [(id_, SUCCEEDED) for id_ in ended])

    overwritten: list[str] = []

    def wake(claim: str, mine: list[str]) -> None:
        """The result it had, and, having learned that it is late, its rows: each may come first."""
        late = [Outcome(id=id_, output=b'"late"') for id_ in mine]
        returned = [Returned(id=id_, losses=2, charge=True) for id_ in mine]
        for verb in random.Random(claim).sample(["finish", "give back"], 2):
            if verb == "finish":
                changed = bool(store.predictions.finish([Finished(claim=claim, outcomes=late, settled=True)]))
            else:
                changed = bool(store.predictions.give_back(claim, returned, True))
            if changed:
                overwritten.extend(mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: wake(*one), claims.items()))

    assert overwritten == []
    assert store.predictions.read(ids) == before
    assert deliveries(store) == owed
    for number in range(zombies):
        assert not store.workers.beat(f"zombie{number}")

    for id_ in running:
        store.finished(before[id_].claim, [id_], settled=False)
    assert sorted(deliveries(store)) == sorted((id_, event) for id_ in ids for event in (STARTED, SUCCEEDED))


def deliveries(store: Any) -> list[tuple[str, str]]:
    """(prediction, event) of every row, in the order of their ids."""
    with store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT prediction_id, event FROM deliveries ORDER BY id").all()
    return [(str(prediction_id), event) for prediction_id, event in rows]
