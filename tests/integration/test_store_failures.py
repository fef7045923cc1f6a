"""The last failures of everybody, and the newest batches, on both stores."""

from typing import Any

from headway.clock import new_id
from headway.errors import ItemCode, ItemError
from headway.types import Outcome
from storage.batches import Batches, NewBatch
from storage.failures import MESSAGE_AT_MOST, SCANNED_AT_MOST, Failures
from storage.running import Finished
from tests.integration.conftest import Store


def failed(store: Store, count: int = 1, message: str = "no good", **fields: Any) -> list[str]:
    ids = store.submitted(count, **fields)
    claim, _ = store.claimed(ids)
    error = ItemError(ItemCode.MODEL_ERROR, message)
    outcomes = [Outcome(id=id_, error=error) for id_ in ids]
    store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
    return ids


def test_the_last_failures_of_all_tenants_come_first_and_without_shadows(store: Store) -> None:
    failures = Failures(store.database)
    assert failures.recent() == ([], 0)
    (first,) = failed(store, tenant_id="acme")
    (second,) = failed(store, message="<b>" + "x" * 300, tenant_id="zeta")
    (third,) = failed(store, tenant_id="bolt")
    failed(store, tenant_id="bolt", shadow_of=third)
    store.finished(*_claimed(store))
    recent = failures.recent()
    assert [(one.id, one.tenant_id) for one in recent.failures] == [(third, "bolt"), (second, "zeta"), (first, "acme")]
    assert recent.lately == 3
    assert recent.failures[0].batch_id is None
    message = recent.failures[1].message
    assert (message[:4], message[-1], len(message)) == ("<b>x", "…", MESSAGE_AT_MOST)
    assert [one.id for one in failures.recent(2).failures] == [third, second]
    assert failures.recent(lately_s=0).lately == 0


def _claimed(store: Store) -> tuple[str, list[str]]:
    ids = store.submitted()
    return store.claimed(ids)[0], ids


def test_what_succeeded_in_the_end_or_was_deleted_is_no_failure(store: Store) -> None:
    again, gone = failed(store, 2)
    assert store.predictions.retry(again, "default")[0]
    assert store.predictions.delete(gone, "default")[0]
    assert Failures(store.database).recent() == ([], 0)


def test_a_tenant_with_any_number_of_failures_hides_no_other_and_is_counted_so_far(store: Store) -> None:
    (quiet,) = failed(store, tenant_id="quiet")
    failed(store, SCANNED_AT_MOST + 1, tenant_id="loud")
    recent = Failures(store.database).recent(SCANNED_AT_MOST * 2)
    assert recent.lately == SCANNED_AT_MOST + 1
    assert recent.failures[-1].id == quiet


def test_of_the_newest_batches_of_all_tenants_those_that_ended_are_told_the_last_to_end_first(store: Store) -> None:
    batches = Batches(store.database)

    def begun(tenant_id: str) -> str:
        new = NewBatch(
            id=new_id(),
            tenant_id=tenant_id,
            model="digits",
            version="1",
            alias=None,
            line=store.lines[0],
            priority=5,
            max_attempts=3,
        )
        return batches.begin(new, "digest").id

    first, second, still = begun("acme"), begun("zeta"), begun("zeta")
    for id_, tenant_id in ((second, "zeta"), (first, "acme")):
        assert batches.cancel(id_, tenant_id)[0]
        assert batches.complete(id_)
    assert [row.id for row in batches.ended(10)] == [first, second]
    assert [row.id for row in batches.ended(2)] == [second]
    assert [row.id for row in batches.open()] == [still]
