"""What operators do to many predictions at once, and shadows, on both stores."""

from typing import Any

from headway import broker
from headway.clock import new_id, now_us
from headway.errors import ItemCode, ItemError
from headway.manifest import parse
from headway.registry import Route
from headway.states import Status
from headway.types import BULK_PRIORITY, Outcome
from headway.versions import Found
from storage.changing import Redriven
from storage.models import Models
from storage.routes import Routes
from storage.running import Finished
from tests.integration.conftest import Store

LINE = broker.line("digits", "1", 5)
BULK = broker.line("digits", "2", BULK_PRIORITY + 9)


def ended(store: Store, ids: list[str], code: ItemCode | None = None) -> None:
    claim, claimed = store.claimed(ids)
    assert len(claimed) == len(ids)
    error = None if code is None else ItemError(code, "no")
    outcomes = [Outcome(id=id_, output=None if error else b"[1]", error=error) for id_ in ids]
    assert len(store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])) == len(ids)


def shadow_of(store: Store, original: str, **fields: object) -> str:
    said: dict[str, Any] = {
        "version": "2",
        "line": BULK,
        "priority": BULK_PRIORITY + 9,
        "shadow_of": original,
        **fields,
    }
    (id_,) = store.submitted(**said)
    return id_


def redriven(page: Redriven) -> list[str]:
    return [hint.id for _, _, hint in page.queued]


# Aliases


def test_what_was_said_of_an_alias_can_be_forgotten(store: Store) -> None:
    routes = Routes(store.database)
    routes.point("digits", "stable", "1")
    routes.point("digits", "new", None)
    routes.forget("digits", "stable")
    assert routes.all() == {"digits": Route(aliases={"new": None})}


def test_a_version_that_an_operator_has_unloaded_is_not_released_while_it_still_stands_there(store: Store) -> None:
    models = Models(store.database)
    models.register(Found(model="digits", version="1", path="/d", manifest=parse({})))  # type: ignore[arg-type]
    models.place("w1", "cpu", "digits", "1", "ready")
    assert models.all()[0].released
    models.wish("digits", "1", "unload")
    assert (models.all()[0].state, models.all()[0].released) == ("ready", False)


# Purges


def test_what_a_line_has_is_canceled_page_by_page_and_what_came_later_is_not(store: Store) -> None:
    ids = store.submitted(5, webhook="https://example.com/", webhook_events=1)
    running, *queued = ids
    store.claimed([running])
    before = now_us() + 1_000_000
    late = store.submitted(1)[0]
    store.execute(f"UPDATE predictions SET position = {before} WHERE id = '{late}'")
    first = store.predictions.cancel_line(LINE, before, limit=3)
    assert (list(first), {end.status for end in first.values()}) == (queued[:3], {Status.CANCELED})
    assert list(store.predictions.cancel_line(LINE, before, limit=3)) == queued[3:]
    assert store.predictions.cancel_line(LINE, before) == {}
    rows = store.predictions.read([*ids, late])
    assert [rows[id_].status.label for id_ in (running, *queued, late)] == ["in_progress", *["canceled"] * 4, "queued"]
    assert store.count("deliveries") == 4


def test_a_batchs_item_that_was_handed_back_is_not_canceled_with_the_line(store: Store) -> None:
    id_, other = store.submitted(2)
    store.execute(f"UPDATE predictions SET batch_id = '{new_id()}', batch_index = 1 WHERE id = '{id_}'")
    assert list(store.predictions.cancel_line(LINE, now_us() + 1_000_000)) == [other]


# Redrives


def test_all_that_failed_is_queued_again_in_pages_of_all_tenants(store: Store) -> None:
    ours, theirs = store.submitted(3), store.submitted(2, tenant_id="zeta")
    ended(store, [*ours, *theirs], ItemCode.MODEL_ERROR)
    (fine,) = store.submitted(1)
    ended(store, [fine])
    store.execute(f"UPDATE predictions SET batch_id = '{new_id()}', batch_index = 1 WHERE id = '{ours[2]}'")
    shadow = shadow_of(store, fine)
    store.execute(
        f"UPDATE predictions SET status = 4, queued = NULL, failed = (1 = 1), completed_at = 1 WHERE id = '{shadow}'"
    )
    first = store.predictions.redrive(Status.FAILED, limit=3)
    assert (redriven(first), first.last) == ([*ours[:2], theirs[0]], ("zeta", theirs[0]))
    second = store.predictions.redrive(Status.FAILED, limit=3, after=first.last)
    assert (redriven(second), second.last) == ([theirs[1]], None)
    line, priority, hint = second.queued[0]
    rows = store.predictions.read([theirs[1], ours[2], fine, shadow])
    row = rows[theirs[1]]
    assert (line, priority, hint.position) == (LINE, 5, row.position)
    assert (row.status, row.error, row.completed_at, row.attempt, row.revision) == (Status.QUEUED, None, None, 1, 4)
    assert row.log is not None
    assert row.log.startswith("[1,")
    assert [rows[id_].status.label for id_ in (ours[2], fine, shadow)] == ["failed", "succeeded", "failed"]


def test_a_redrive_takes_only_what_it_is_asked_for(store: Store) -> None:
    (memory,), (model,) = store.submitted(1), store.submitted(1, model="digits", tenant_id="b")
    ended(store, [memory], ItemCode.OUT_OF_MEMORY)
    ended(store, [model], ItemCode.MODEL_ERROR)
    (expired,) = store.submitted(1, queue_timeout_us=0)
    store.predictions.expire()
    (deleted,) = store.submitted(1)
    ended(store, [deleted], ItemCode.MODEL_ERROR)
    store.predictions.delete(deleted, "default")
    redrive, failed = store.predictions.redrive, Status.FAILED
    assert redriven(redrive(failed, code="worker_lost")) == []
    assert redriven(redrive(failed, model="other")) == redriven(redrive(failed, version="2")) == []
    assert redriven(redrive(failed, since=now_us() + 60_000_000)) == redriven(redrive(failed, until=1)) == []
    assert redriven(redrive(failed, tenant_id="nobody")) == redriven(redrive(Status.CANCELED)) == []
    assert redriven(redrive(failed, tenant_id="b", model="digits", version="1", since=1)) == [model]
    assert redriven(redrive(failed, code="out_of_memory")) == [memory]
    assert redriven(redrive(Status.EXPIRED)) == [expired]
    assert store.predictions.tenant_of(model) == "b"
    assert store.predictions.tenant_of(new_id()) is store.predictions.tenant_of("no id") is None


def test_a_redrive_looks_at_so_many_rows_and_says_where_it_stopped(store: Store) -> None:
    fine, canceled = store.submitted(4), store.submitted(1)
    ended(store, fine)
    store.predictions.cancel(canceled[0], "default")
    pages, after = 0, None
    while pages == 0 or after is not None:
        page = store.predictions.redrive(Status.CANCELED, after=after, scan=2)
        after, pages = page.last, pages + 1
        assert redriven(page) == (canceled if pages == 3 else [])
    assert pages == 3
    # The next tenant's rows are not looked at for this one's.
    store.submitted(3, tenant_id="next")
    assert store.predictions.redrive(Status.CANCELED, tenant_id="default", scan=6).last is None


# Shadows


def test_a_shadow_is_no_clients(store: Store) -> None:
    (original,) = store.submitted(1)
    ended(store, [original])
    shadow = shadow_of(store, original)
    assert store.predictions.read([shadow])[shadow].shadow_of == original
    for verb in (store.predictions.cancel, store.predictions.retry, store.predictions.delete):
        changed, row = verb(shadow, "default")
        assert (changed, row is not None and row.status) == (False, Status.QUEUED)
    store.execute(
        f"UPDATE predictions SET status = 4, queued = NULL, failed = (1 = 1), completed_at = 1 WHERE id = '{shadow}'"
    )
    assert not store.predictions.retry(shadow, "default")[0]
    assert not store.predictions.delete(shadow, "default")[0]
    assert [row.id for row in store.predictions.page("default").rows] == [original]
    assert store.predictions.page("default", status=Status.FAILED).rows == []


def test_with_the_original_goes_what_its_shadows_were_about_even_of_one_that_runs(store: Store) -> None:
    original, other = store.submitted(2)
    ended(store, [original, other])
    done, queued, running = (shadow_of(store, original, version="1") for _ in range(3))
    kept = shadow_of(store, other, version="1")
    ended(store, [done])
    claim, _ = store.claimed([running])
    assert set(store.predictions.shadows_of(original)) == {done, queued, running}
    assert store.predictions.delete(original, "default")[0]
    rows = store.predictions.read([done, queued, running, kept])
    assert [rows[id_].status.label for id_ in (done, queued, running, kept)] == [
        "succeeded",
        "canceled",
        "canceled",
        "queued",
    ]
    assert all(rows[id_].deleted_at is not None and rows[id_].output is None for id_ in (done, queued, running))
    assert store.finished(claim, [running]) == set()  # what comes of it is not written any more
    assert store.predictions.read([running])[running].output is None
    assert store.count("inputs") == 2
    store.predictions.delete_shadows([other, "no id"])
    assert store.predictions.read([kept])[kept].deleted_at is not None
    assert store.count("inputs") == 1


def test_shadows_are_listed_beside_their_originals_newest_first(store: Store) -> None:
    originals = store.submitted(3)
    ended(store, originals)
    shadows = [shadow_of(store, id_) for id_ in originals]
    shadow_of(store, originals[0], version="3", line=broker.line("digits", "3", 19))
    pairs, after = store.predictions.shadows("digits", "2", limit=2)
    assert [(shadow.id, original and original.id) for shadow, original in pairs] == [
        (shadows[2], originals[2]),
        (shadows[1], originals[1]),
    ]
    assert pairs[0][1] is not None
    assert pairs[0][1].output == b"[1]"
    assert after == shadows[1]
    store.execute(f"DELETE FROM predictions WHERE id = '{originals[0]}'")
    pairs, after = store.predictions.shadows("digits", "2", after=after, limit=2)
    assert ([(shadow.id, original) for shadow, original in pairs], after) == ([(shadows[0], None)], None)
    assert store.predictions.shadows("digits", "7") == ([], None)


def test_names_that_differ_in_case_alone_are_different_models(store: Store) -> None:
    models, routes = Models(store.database), Routes(store.database)
    for name in ("bert", "Bert", "_BERT"):
        models.register(Found(model=name, version="1", path=f"/{name}", manifest=parse({})))  # type: ignore[arg-type]
    models.place("w1", "cpu", "Bert", "1", "ready")
    routes.pause("Bert", True)
    assert {one.model: one.state for one in models.all()} == {"_BERT": "loading", "bert": "loading", "Bert": "ready"}
    assert list(routes.all()) == ["Bert"]
    lines = [broker.line(name, "1", 5) for name in ("bert", "Bert")]
    for line, count in zip(lines, (1, 2), strict=True):
        store.submitted(count, line=line)
    assert [store.predictions.depth([line], 10) for line in lines] == [1, 2]
