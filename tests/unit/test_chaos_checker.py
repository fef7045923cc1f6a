"""The checker of chaos runs finds each kind of bug that is planted in a clean history, and nothing in the clean one."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import answers, checker
from tests.chaos.checker import VERDICTS, Evidence, check

#: (tenant, key, id, kind, input, receiver, events) of what is submitted in the clean history.
_CLEAN: tuple[tuple[str, str, str, str, int, str | None, list[str]], ...] = (
    ("ants", "k1", "p1", "good", 1, "good", ["started", "completed"]),
    ("bees", "k2", "p2", "raise", 2, "flaky", ["completed"]),
    ("ants", "k3", "p3", "good", 3, None, []),
    ("bees", "k4", "p4", "good", 4, "gone", ["completed"]),
)


class Run:
    """A clean run of four predictions, one of them canceled and retried; tests spoil it."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.sql: list[dict[str, Any]] = []
        self.lines = {"headway:steady@1:1": 0}
        self._t = 0.0
        self._calls = 0
        for tenant, key, id_, kind, number, hook, events in _CLEAN:
            status, error = next(iter(answers.ENDS[kind]))
            output = answers.answer(number) if status == "succeeded" else None
            asked = {"key": key, "model": "steady", "kind": kind, "n": number, "hook": hook, "events": events}
            asked["expires"] = False
            self.call("submit", tenant, None, {"type": "info", "error": "ReadError"}, **asked)
            self.call("submit", tenant, None, self.sight(id_, "queued", 1), **asked)
            if "started" in events:
                self.told(hook, id_, "prediction.started", f"{id_}-2", "in_progress", 2)
            revision = 3
            log: list[list[int]] = []
            if id_ == "p3":
                self.call("cancel", tenant, id_, self.sight(id_, "canceled", 2))
                self.call("read", tenant, id_, self.sight(id_, "canceled", 2))
                self.call("retry", tenant, id_, self.sight(id_, "queued", 3))
                revision, log = 5, [[5, 20], [0, 30]]
            self.call("read", tenant, id_, self.sight(id_, "in_progress", revision - 1))
            self.call("read", tenant, id_, self.sight(id_, status, revision, output, error))
            if hook is not None:
                event = f"prediction.{status}"
                for answer in (500, 200) if hook == "flaky" else (410,) if hook == "gone" else (200,):
                    self.told(hook, id_, event, f"{id_}-3", status, revision, output, error, answer)
                self.owed(id_, event, f"{id_}-3", hook, 2 if hook == "gone" else 1)
                revision += 1
            self.call("read", tenant, id_, self.sight(id_, status, revision, output, error))
            stranger = "bees" if tenant == "ants" else "ants"
            refusal = {"type": "fail", "http": 404, "problem": "prediction_not_found", "retry_after": None}
            self.call("foreign", stranger, id_, refusal, verb="read")
            self.row(id_, tenant, key, status, revision, output, error, log)
            self.of(id_)["webhook"] = hook
        self.history.append({"t": 1.0, "type": "fault", "phase": "begin", "name": "worker killed"})
        # A caller who gave up, and what became of it all the same.
        asked = {"key": "k5", "model": "steady", "kind": "good", "n": 5, "hook": None, "events": []}
        asked["expires"] = False
        self.call("submit", "cats", None, {"type": "info", "error": "ReadError"}, **asked)
        self.row("p5", "cats", "k5", "succeeded", 3, answers.answer(5), None, [])
        self.batch()
        ended = "headway_predictions_ended_total|model=steady|status=succeeded|version=1"
        size = "headway_batch_size_sum|model=steady|version=1"
        self.metrics: dict[str, Any] = {
            "control": 2,
            "before": {ended: 1.0, size: 1.0},
            "after": {ended: 3.0, size: 3.0},
            "pending": [0, 0],
            "api": {
                "headway_backlog_predictions|model=steady|priority=3-6|version=1": 0.0,
                "headway_webhooks_pending": 0.0,
                "headway_sql_up": 1.0,
                "headway_broker_up": 1.0,
                "headway_workers": 2.0,
            },
        }
        self.facts: dict[str, Any] = {
            "store": "sqlite",
            "seed": 1,
            "seconds": 1,
            "workers": 2,
            "reachable": ["good", "flaky"],
            "patience_s": 120,
            "drained_s": 3.0,
            "left": [0, 0, 0, 0],
            "callers": 0,
        }

    def evidence(self) -> Evidence:
        whole = (self.facts, self.history, self.received, self.sql, self.lines, self.metrics)
        return Evidence(*copy.deepcopy(whole))

    def call(self, op: str, tenant: str, id_: str | None, answer: dict[str, Any], **asked: Any) -> None:
        self._calls += 1
        self._t += 1
        self.history.append(
            {"t": self._t, "type": "invoke", "call": self._calls, "op": op, "tenant": tenant, "id": id_} | asked
        )
        self._t += 1
        self.history.append({"t": self._t, "call": self._calls} | answer)

    @staticmethod
    def sight(
        id_: str, status: str, revision: int, output: Any = None, error: str | None = None, http: int = 200
    ) -> dict[str, Any]:
        seen = {"id": id_, "status": status, "revision": revision, "output": output, "error": error}
        return {"type": "ok", "http": http, **seen}

    def told(
        self,
        receiver: str | None,
        id_: str,
        event: str,
        webhook_id: str,
        status: str,
        revision: int,
        output: Any = None,
        error: str | None = None,
        answer: int = 200,
    ) -> None:
        told = {"receiver": receiver, "webhook_id": webhook_id, "signed": True, "answer": answer, "sha256": webhook_id}
        seen = {"event": event, "id": id_, "status": status, "revision": revision, "output": output, "error": error}
        self.received.append({"t": self._t} | told | seen)

    def owed(self, id_: str, event: str, webhook_id: str, hook: str, state: int) -> None:
        row = {"table": "deliveries", "id": webhook_id, "prediction": id_, "event": event, "state": state}
        self.sql.append(row | {"url": f"http://127.0.0.1:1/{hook}", "attempts": 1})

    def row(
        self, id_: str, tenant: str, key: str, status: str, revision: int, output: Any, error: str | None, log: Any
    ) -> None:
        self.sql.append(
            {
                "table": "predictions",
                "id": id_,
                "tenant": tenant,
                "model": "steady",
                "status": status,
                "revision": revision,
                "attempt": 1,
                "charged": 0,
                "max_attempts": 10,
                "key": key,
                "error": error,
                "output": output,
                "webhook": None,
                "created_at": 10,
                "started_at": 40,
                "completed_at": 50,
                "log": log,
                "queued": False,
                "deleted": False,
                "batch": None,
                "line": None,
            }
        )

    def batch(self) -> None:
        """One of two lines, with its webhook."""
        asked = {"key": "k6", "model": "steady", "n": 7, "count": 2, "hook": "good"}
        self.call("batch", "ants", None, {"type": "ok", "http": 202, "id": "b1", "status": "in_progress"}, **asked)
        lines = [[line, f"c{line + 6}", answers.answer(line + 6)] for line in (1, 2)]
        self.call("results", "ants", "b1", {"type": "ok", "http": 200, "lines": lines})
        self.told("good", "b1", "batch.completed", "b1-4", "completed", 4)
        row = {"table": "batches", "id": "b1", "tenant": "ants", "key": "k6", "status": 3, "total": 2, "succeeded": 2}
        self.sql.append(row)
        for line in (1, 2):
            self.row(f"i{line}", "ants", "", "succeeded", 3, answers.answer(line + 6), None, [])
            self.of(f"i{line}").update(batch="b1", line=line)

    def of(self, id_: str) -> dict[str, Any]:
        """The row of a prediction."""
        return next(row for row in self.sql if row["table"] == "predictions" and row["id"] == id_)

    def last_read(self, id_: str) -> dict[str, Any]:
        return [one for one in self.history if one["type"] == "ok" and one.get("id") == id_][-1]


def _found(run: Run) -> set[str]:
    return {verdict for verdict, _ in check(run.evidence())}


def test_a_clean_history_passes() -> None:
    assert check(Run().evidence()) == []


def _lost(run: Run) -> None:
    run.sql.remove(run.of("p1"))


def _stuck(run: Run) -> None:
    run.of("p3").update(status="in_progress", completed_at=None, output=None)


def _not_found(run: Run) -> None:
    run.call("read", "ants", "p1", {"type": "fail", "http": 404, "problem": "prediction_not_found"})


def _unexpected(run: Run) -> None:
    run.row("p9", "ants", "never sent", "succeeded", 3, answers.answer(9), None, [])


def _redirected(run: Run) -> None:
    run.received.append(run.received[-1] | {"receiver": "honeypot"})


def _doubled(run: Run) -> None:
    run.sql.append(run.of("p5") | {"id": "p6"})


def _doubled_for_the_caller(run: Run) -> None:
    asked = {"key": "k1", "model": "steady", "kind": "good", "n": 1, "hook": "good", "events": ["started", "completed"]}
    asked["expires"] = False
    run.call("submit", "ants", None, run.sight("p5", "queued", 1), **asked)


def _crossed(run: Run) -> None:
    one, other = run.of("p1"), run.of("p4")
    one["output"], other["output"] = other["output"], one["output"]


def _failed(run: Run) -> None:
    run.of("p5").update(status="failed", error="worker_lost", output=None)


def _another(run: Run) -> None:
    run.call("read", "ants", "p1", run.sight("p4", "succeeded", 4, answers.answer(4)))


def _changed(run: Run) -> None:
    run.last_read("p2").update(error="worker_lost", status="failed")


def _taken_back(run: Run) -> None:
    run.call("read", "ants", "p1", run.sight("p1", "in_progress", 2))


def _illegal(run: Run) -> None:
    run.of("p4")["log"] = [[1, 20], [5, 30]]  # from in_progress to canceled without a cancel


def _claimed_twice(run: Run) -> None:
    run.of("p4")["attempt"] = 2


def _written_again(run: Run) -> None:
    run.of("p3")["revision"] += 1


def _trespassed(run: Run) -> None:
    run.call("foreign", "bees", "p1", {"type": "ok", "http": 200}, verb="read")


def _hinted(run: Run) -> None:
    run.call("foreign", "bees", "p1", {"type": "fail", "http": 409, "problem": "not_terminal"}, verb="delete")


def _moved(run: Run) -> None:
    run.of("p1")["tenant"] = "bees"


def _untold(run: Run) -> None:
    run.received[:] = [one for one in run.received if one["event"] != "prediction.failed" or one["answer"] != 200]


def _start_untold(run: Run) -> None:
    run.received[:] = [one for one in run.received if one["event"] != "prediction.started"]


def _told_twice(run: Run) -> None:
    run.told("good", "p1", "prediction.succeeded", "p1-4", "succeeded", 4, answers.answer(1))


def _told_otherwise(run: Run) -> None:
    run.received.append(run.received[1] | {"sha256": "another"})


def _forged(run: Run) -> None:
    run.received[0]["signed"] = False


def _left_in_redis(run: Run) -> None:
    run.lines["headway:steady@1:1"] = 3


def _left_claimed(run: Run) -> None:
    run.sql.append({"table": "claims", "id": "c1", "worker": "w1"})


def _left_owed(run: Run) -> None:
    next(row for row in run.sql if row["table"] == "deliveries")["state"] = 0


def _never_drained(run: Run) -> None:
    run.facts["drained_s"] = None


def _miscounted(run: Run) -> None:
    run.metrics["after"]["headway_predictions_ended_total|model=steady|status=succeeded|version=1"] += 1


def _misreported(run: Run) -> None:
    run.metrics["api"]["headway_backlog_predictions|model=steady|priority=3-6|version=1"] = 1.0


def _starved(run: Run) -> None:
    run.of("p3").update(status="queued", queued=True, started_at=None, completed_at=None, output=None, attempt=0)


def _late(run: Run) -> None:
    run.of("p4")["completed_at"] = 10 + 121_000_000


def _crashed(run: Run) -> None:
    run.call("read", "ants", "p1", {"type": "info", "http": 500, "problem": "internal_error", "retry_after": None})


def _impatient(run: Run) -> None:
    run.call("read", "ants", "p1", {"type": "info", "http": 503, "problem": "unavailable", "retry_after": None})


def _locked_out(run: Run) -> None:
    run.call("read", "ants", "p1", {"type": "fail", "http": 401, "problem": "unauthenticated", "retry_after": None})


def _broken(run: Run) -> None:
    run.history.append({"t": 1.0, "type": "broken", "error": "AssertionError()"})


def _item_lost(run: Run) -> None:
    run.sql.remove(run.of("i2"))


def _item_doubled(run: Run) -> None:
    run.sql.append(run.of("i2") | {"id": "i3"})


def _items_crossed(run: Run) -> None:
    run.of("i1")["output"], run.of("i2")["output"] = run.of("i2")["output"], run.of("i1")["output"]


def _results_cut(run: Run) -> None:
    next(one for one in run.history if "lines" in one)["lines"].pop()


def _batch_untold(run: Run) -> None:
    run.received[:] = [one for one in run.received if one["id"] != "b1"]


PLANTED: list[tuple[str, Callable[[Run], None]]] = [
    ("lost", _lost),
    ("lost", _stuck),
    ("lost", _not_found),
    ("unexpected", _unexpected),
    ("unexpected", _redirected),
    ("doubled", _doubled),
    ("doubled", _doubled_for_the_caller),
    ("wrong", _crossed),
    ("wrong", _failed),
    ("wrong", _another),
    ("changed", _changed),
    ("changed", _taken_back),
    ("illegal", _illegal),
    ("illegal", _claimed_twice),
    ("illegal", _written_again),
    ("cross-tenant", _trespassed),
    ("cross-tenant", _hinted),
    ("cross-tenant", _moved),
    ("webhook missing", _untold),
    ("webhook missing", _start_untold),
    ("webhook doubled", _told_twice),
    ("webhook doubled", _told_otherwise),
    ("webhook unsigned", _forged),
    ("not drained", _left_in_redis),
    ("not drained", _left_claimed),
    ("not drained", _left_owed),
    ("not drained", _never_drained),
    ("metrics", _miscounted),
    ("metrics", _misreported),
    ("starved", _starved),
    ("starved", _late),
    ("answers", _crashed),
    ("answers", _impatient),
    ("answers", _locked_out),
    ("harness", _broken),
    ("lost", _item_lost),
    ("doubled", _item_doubled),
    ("wrong", _items_crossed),
    ("wrong", _results_cut),
    ("webhook missing", _batch_untold),
]


@pytest.mark.parametrize(("verdict", "plant"), PLANTED, ids=[plant.__name__ for _, plant in PLANTED])
def test_a_planted_bug_is_found(verdict: str, plant: Callable[[Run], None]) -> None:
    run = Run()
    plant(run)
    assert verdict in _found(run)


def test_a_bug_of_each_kind_is_planted() -> None:
    assert {verdict for verdict, _ in PLANTED} == VERDICTS.keys()


def test_an_end_may_change_by_an_explicit_retry_and_is_then_told_of_again() -> None:
    run = Run()
    run.call("retry", "bees", "p2", run.sight("p2", "queued", 5))
    run.call("read", "bees", "p2", run.sight("p2", "failed", 7, None, "model_error"))
    run.told("flaky", "p2", "prediction.failed", "p2-7", "failed", 7, None, "model_error")
    run.of("p2").update(revision=7, attempt=2, log=[[1, 20], [4, 30], [0, 35]])
    assert _found(run) == set()


def test_what_its_owner_has_deleted_may_be_gone() -> None:
    run = Run()
    run.call("delete", "ants", "p1", {"type": "ok", "http": 204})
    run.call("read", "ants", "p1", {"type": "fail", "http": 410, "problem": "prediction_purged"})
    run.of("p1").update(deleted=True, output=None, revision=6)
    assert _found(run) == set()


def test_the_checker_is_a_program_that_reads_files_and_fails_where_something_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    for name in ("history", "received", "sql"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, getattr(run, name))))
    for name, what in (("run", run.facts), ("redis", run.lines), ("metrics", run.metrics)):
        (tmp_path / f"{name}.json").write_text(json.dumps(what))
    monkeypatch.setattr("sys.argv", ["checker", str(tmp_path)])
    assert checker.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["accepted"], report["recovered"], report["faults"]) == (4, 1, 1)
    (tmp_path / "redis.json").write_text('{"headway:steady@1:1": 1}')
    assert checker.main() == 1
