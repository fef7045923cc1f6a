"""Judges a run by what clients, receivers and SQL saw: `python -m tests.chaos.checker FOLDER`.

A program of its own: it reads the files that `tests/chaos/history.py` names, imports nothing of Headway, and knows its
rules by itself. It exits 1 where anything was found. `tests/unit/test_chaos_checker.py` plants each kind of bug and
sees it found.
"""

import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.chaos import answers
from tests.chaos.history import Record, read

#: What can be wrong, and what it means.
VERDICTS = {
    "lost": "accepted, and not there or stuck at the end",
    "unexpected": "there, told or fetched, and nobody asked for it",
    "doubled": "several predictions for one idempotency key",
    "wrong": "another end, output or id than the input comes to",
    "changed": "seen ended, and otherwise later, without an explicit retry",
    "illegal": "a step outside the table of transitions, or attempts that do not add up",
    "cross-tenant": "a foreign id was anything but unknown",
    "webhook missing": "a reachable receiver was not told of an event",
    "webhook doubled": "one event under two ids, or two bodies under one id",
    "webhook unsigned": "a signature that does not verify",
    "not drained": "something waits in Redis, SQL or the outbox though all is well again",
    "metrics": "/metrics and SQL disagree",
    "starved": "waited longer than anything should",
    "answers": "an answer that nobody should get: a 5xx but 503, a 503 without Retry-After, a refusal of what is right",
    "harness": "this program is broken",
}

_ALLOWED = {
    ("queued", "in_progress"),
    ("queued", "canceled"),
    ("queued", "expired"),
    ("in_progress", "succeeded"),
    ("in_progress", "failed"),
    ("in_progress", "queued"),
    ("in_progress", "canceling"),
    ("canceling", "canceled"),
    ("canceling", "succeeded"),
    ("canceling", "failed"),
    ("failed", "queued"),
    ("expired", "queued"),
    ("canceled", "queued"),
}
_STATUSES = ("queued", "in_progress", "canceling", "succeeded", "failed", "canceled", "expired")
_TERMINAL = frozenset(_STATUSES[3:])
_STARTED = "prediction.started"
#: Refusals that a caller must live with, by what it asked.
_RIGHTFUL: dict[str, tuple[int, ...]] = {
    "submit": (429,),
    "cancel": (409,),
    "retry": (409,),
    "delete": (409,),
    "foreign": (404,),
}
#: Of a batch, as SQL has it.
_COMPLETED = 3
#: Shown of each verdict.
_EXAMPLES = 5


@dataclass(frozen=True)
class Sight:
    """A prediction as somebody saw it at a moment."""

    status: str
    revision: int
    output: Any
    error: str | None
    source: str
    since: float = float("inf")  # when it was asked
    until: float = float("inf")  # when it was answered

    @property
    def end(self) -> str:
        return json.dumps([self.status, self.error, self.output], sort_keys=True)


@dataclass
class Evidence:
    """All that is left of a run."""

    run: Record
    history: Sequence[Record] = ()
    received: Sequence[Record] = ()
    sql: Sequence[Record] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    metrics: Record = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Evidence":
        return cls(
            run=json.loads((folder / "run.json").read_text()),
            history=read(folder / "history.jsonl"),
            received=read(folder / "received.jsonl"),
            sql=read(folder / "sql.jsonl"),
            lines=json.loads((folder / "redis.json").read_text()),
            metrics=json.loads((folder / "metrics.json").read_text()),
        )

    @cached_property
    def rows(self) -> dict[str, Record]:
        """Of single predictions, by their ids."""
        return {row["id"]: row for row in self.sql if row["table"] == "predictions" and row["batch"] is None}

    @cached_property
    def items(self) -> dict[str, list[Record]]:
        """Of batches: the rows of each."""
        items: dict[str, list[Record]] = defaultdict(list)
        for row in self.sql:
            if row["table"] == "predictions" and row["batch"] is not None:
                items[row["batch"]].append(row)
        return items

    @cached_property
    def deliveries(self) -> list[Record]:
        return [row for row in self.sql if row["table"] == "deliveries"]

    @cached_property
    def calls(self) -> list[tuple[Record, Record | None]]:
        """Each call of a client, and what came of it; None where the run ended before."""
        answered = {one["call"]: one for one in self.history if one["type"] in ("ok", "fail", "info")}
        return [(one, answered.get(one["call"])) for one in self.history if one["type"] == "invoke"]

    @cached_property
    def asked(self) -> dict[tuple[str, str], Record]:
        """(tenant, idempotency key) → what was submitted with it."""
        return {(one["tenant"], one["key"]): one for one, _ in self.calls if one["op"] == "submit"}

    @cached_property
    def accepted(self) -> dict[tuple[str, str], set[str]]:
        """The same → ids that were answered."""
        ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        for one, answer in self.calls:
            if one["op"] == "submit" and answer is not None and answer["type"] == "ok":
                ids[one["tenant"], one["key"]].add(answer["id"])
        return ids

    @cached_property
    def owners(self) -> dict[str, Record]:
        """Prediction id → what was submitted, by what clients and SQL say."""
        known = {id_: self.asked[key] for key, ids in self.accepted.items() for id_ in ids}
        for id_, row in self.rows.items():
            if (asked := self.asked.get((row["tenant"], row["key"]))) is not None:
                known.setdefault(id_, asked)
        return known

    @cached_property
    def verbs(self) -> Counter[tuple[str, str]]:
        """(prediction id, verb) → how often its owner may have done that."""
        return Counter(
            (one["id"], one["op"])
            for one, answer in self.calls
            if one["op"] in ("cancel", "retry", "delete") and (answer is None or answer["type"] != "fail")
        )

    @cached_property
    def sights(self) -> dict[str, list[Sight]]:
        seen: dict[str, list[Sight]] = defaultdict(list)
        for one, answer in self.calls:
            if answer is not None and answer["type"] == "ok" and "revision" in answer:
                source = f"{one['op']} at {one['t']:.1f}"
                seen[answer["id"]].append(_sight(answer, source, one["t"], answer["t"]))
        for one in self.received:
            if one["status"] is not None and not _of_batch(one):
                # What it tells is of a while ago.
                seen[one["id"]].append(_sight(one, f"webhook at {one['t']:.1f}", float("-inf"), one["t"]))
        for id_, row in self.rows.items():
            if not row["deleted"]:
                seen[id_].append(_sight(row, "SQL"))
        return seen


def _of_batch(one: Record) -> bool:
    return str(one["event"]).startswith("batch.")


def _sight(one: Record, source: str, since: float = float("inf"), until: float = float("inf")) -> Sight:
    return Sight(one["status"], one["revision"], one["output"], one["error"], source, since, until)


Finding = tuple[str, str]  # verdict, in words


def check(evidence: Evidence) -> list[Finding]:
    """Everything that is wrong."""
    return [finding for rule in _RULES for finding in rule(evidence)]


def _presence(evidence: Evidence) -> Iterator[Finding]:
    by_key: dict[tuple[str, str], set[str]] = defaultdict(set)
    for id_, row in evidence.rows.items():
        asked = evidence.asked.get((row["tenant"], row["key"]))
        if asked is None:
            yield "unexpected", f"{id_} of {row['tenant']} has the key {row['key']}, which nobody sent"
        elif asked["model"] != row["model"]:
            yield "unexpected", f"{id_} is for {row['model']}, and {asked['model']} was asked for"
        by_key[row["tenant"], row["key"]].add(id_)
    for key, ids in evidence.accepted.items():
        by_key[key] |= ids
        for id_ in ids:
            status = evidence.rows.get(id_, {"status": "nowhere"})["status"]
            if status == "queued":
                yield "starved", f"{id_} is still queued"
            elif status not in _TERMINAL:
                yield "lost", f"{id_} was accepted, and is {status}"
    for key, ids in by_key.items():
        if len(ids) > 1:
            yield "doubled", f"{key} made {sorted(ids)}"


def _ends(evidence: Evidence) -> Iterator[Finding]:
    for id_, sights in evidence.sights.items():
        asked = evidence.owners.get(id_)
        if asked is None:
            yield "unexpected", f"{id_} was seen ({sights[0].source}), and nobody asked for it"
            continue
        allowed = answers.ENDS[asked["kind"]]
        if evidence.verbs[id_, "cancel"]:
            allowed |= {("canceled", None)}
        if asked["expires"]:
            allowed |= {("expired", None)}
        for sight in sights:
            if sight.status not in _TERMINAL:
                continue
            if (sight.status, sight.error) not in allowed:
                yield "wrong", f"{id_}, {asked['kind']}: {sight.status} {sight.error} ({sight.source})"
            elif sight.output != (answers.answer(asked["n"]) if sight.status == "succeeded" else None):
                yield "wrong", f"{id_} of the input {asked['n']}: {str(sight.output)[:100]} ({sight.source})"


def _stability(evidence: Evidence) -> Iterator[Finding]:
    for id_, sights in evidence.sights.items():
        retries = evidence.verbs[id_, "retry"]
        ends = sorted((sight for sight in sights if sight.status in _TERMINAL), key=lambda sight: sight.revision)
        differing = [(a, b) for a, b in itertools.pairwise(ends) if a.end != b.end]
        same_revision = [(a, b) for a, b in differing if a.revision == b.revision]
        if len(differing) > retries or same_revision:
            a, b = (same_revision or differing)[0]
            yield "changed", f"{id_}: {a.end} ({a.source}), then {b.end} ({b.source})"
        if retries or not ends:
            continue
        first = min(ends, key=lambda sight: sight.until)
        for later in sights:
            if later.since > first.until and (later.status not in _TERMINAL or later.revision < first.revision):
                yield "changed", f"{id_}: {first.status} ({first.source}), then {later.status} ({later.source})"


def _steps(evidence: Evidence) -> Iterator[Finding]:
    for row in evidence.sql:
        if row["table"] != "predictions" or row["deleted"]:
            continue
        id_ = row["id"]
        steps = ["queued", *(_STATUSES[code] for code, _ in row["log"])]
        if steps[-1] == "queued" and row["started_at"] is not None:
            steps.append("in_progress")
        if row["completed_at"] is not None:
            steps.append(row["status"])
        if bad := [pair for pair in itertools.pairwise(steps) if pair not in _ALLOWED]:
            yield "illegal", f"{id_}: {' → '.join(bad[0])} in {' → '.join(steps)}"
        if steps[-1] != row["status"]:
            yield "illegal", f"{id_} is {row['status']}, and was last {steps[-1]}"
        if (claims := steps.count("in_progress")) != row["attempt"]:
            yield "illegal", f"{id_} has {row['attempt']} attempts, and was claimed {claims} times"
        if row["webhook"] is None and row["revision"] != len(
            steps
        ):  # with one, the end of its delivery is noted as well
            yield "illegal", f"{id_} is revision {row['revision']} after {' → '.join(steps)}: somebody wrote it again"
        if row["charged"] > row["max_attempts"]:
            yield "illegal", f"{id_} was charged {row['charged']} times, at most {row['max_attempts']}"
        if row["batch"] is None and row["queued"] != (row["status"] == "queued"):
            yield "illegal", f"{id_} is {row['status']}, and marked as {'queued' if row['queued'] else 'not queued'}"


def _tenants(evidence: Evidence) -> Iterator[Finding]:
    for one, answer in evidence.calls:
        if answer is None:
            continue
        if one["op"] == "foreign":
            if answer["type"] == "ok" or (answer["type"] == "fail" and answer["problem"] != "prediction_not_found"):
                yield "cross-tenant", f"{one['tenant']} tried {one['verb']} on {one['id']}: {answer.get('http')}"
        elif answer["type"] == "ok" and one["id"] is not None and answer.get("id") not in (one["id"], None):
            yield "wrong", f"{one['op']} of {one['id']} was answered with {answer['id']}"
    for id_, row in evidence.rows.items():
        if (asked := evidence.owners.get(id_)) is not None and asked["tenant"] != row["tenant"]:
            yield "cross-tenant", f"{id_} was asked for by {asked['tenant']}, and belongs to {row['tenant']}"


def _answers(evidence: Evidence) -> Iterator[Finding]:
    for one, answer in evidence.calls:
        if answer is None or (code := answer.get("http", 0)) < 400:
            continue
        what = f"{one['op']} of {one['id'] or one.get('key')} at {one['t']:.1f}: {code} {answer.get('problem')}"
        if code >= 500 and code != 503:
            yield "answers", what
        elif code == 503 and not answer.get("retry_after"):
            yield "answers", f"{what} without Retry-After"
        elif code == 410 and evidence.verbs[one["id"], "delete"]:
            continue
        elif one["op"] == "read" and code in (404, 410):
            yield "lost", what
        elif code < 500 and code not in _RIGHTFUL.get(one["op"], ()):
            yield "answers", what


def _webhooks(evidence: Evidence) -> Iterator[Finding]:
    reachable = set(evidence.run["reachable"])
    taken: dict[str, set[str]] = defaultdict(set)  # prediction → events that a receiver has taken
    ids: dict[tuple[str, bool], set[str]] = defaultdict(set)  # (prediction, whether it is the start) → webhook-ids
    bodies: dict[str, set[str]] = defaultdict(set)
    for one in evidence.received:
        if one["receiver"] == "honeypot":
            yield "unexpected", f"{one['webhook_id']} followed a redirect"
        if not one["signed"]:
            yield "webhook unsigned", f"{one['webhook_id']}"
        bodies[one["webhook_id"]].add(one["sha256"])
        if _of_batch(one):
            continue
        asked = evidence.owners.get(one["id"])
        if asked is None:
            yield "unexpected", f"the webhook {one['webhook_id']} tells of {one['id']}, for which nobody asked"
            continue
        kind = "started" if one["event"] == _STARTED else "completed"
        if kind not in asked["events"] or one["receiver"] != asked["hook"]:
            yield "unexpected", f"the webhook {one['webhook_id']} tells {one['receiver']} of {one['event']}"
        ids[one["id"], one["event"] == _STARTED].add(one["webhook_id"])
        if one["answer"] == 200:
            taken[one["id"]].add(one["event"])
    for row in evidence.deliveries:
        ids[row["prediction"], row["event"] == _STARTED].add(row["id"])
        if row["state"] == 2 and _temper(row["url"]) in reachable:
            yield "webhook missing", f"{row['id']} was given up after {row['attempts']} attempts, of {row['url']}"
    for (id_, start), found in ids.items():
        if len(found) > 1 + (0 if start else evidence.verbs[id_, "retry"]):
            yield "webhook doubled", f"{'the start' if start else 'the end'} of {id_} has the ids {sorted(found)}"
    for webhook_id, found in bodies.items():
        if len(found) > 1:
            yield "webhook doubled", f"{webhook_id} came with {len(found)} bodies"
    for id_, row in evidence.rows.items():
        wanted = evidence.owners.get(id_)
        if wanted is None or wanted["hook"] not in reachable:
            continue
        if row["status"] in _TERMINAL and f"prediction.{row['status']}" not in taken[id_]:
            yield "webhook missing", f"{wanted['hook']} never took the end of {id_}, {row['status']}"
        if "started" in wanted["events"] and row["attempt"] > 0 and _STARTED not in taken[id_]:
            yield "webhook missing", f"{wanted['hook']} never took the start of {id_}"


def _batches(evidence: Evidence) -> Iterator[Finding]:
    asked = {(one["tenant"], one["key"]): one for one, _ in evidence.calls if one["op"] == "batch"}
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, answer in evidence.calls:
        if one["op"] == "batch" and answer is not None and answer["type"] == "ok":
            ids[one["tenant"], one["key"]].add(answer["id"])
    rows = {row["id"]: row for row in evidence.sql if row["table"] == "batches"}
    for id_, row in rows.items():
        ids[row["tenant"], row["key"]].add(id_)
    for key, found in ids.items():
        if key not in asked:
            yield "unexpected", f"the batch {sorted(found)} has the key {key}, which nobody sent"
            continue
        if len(found) > 1:
            yield "doubled", f"{key} made the batches {sorted(found)}"
        for id_ in found:
            yield from _batch(evidence, id_, asked[key], rows.get(id_, {}))
    for id_ in evidence.items.keys() - rows.keys():
        yield "unexpected", f"items of {id_}, and no such batch"


def _batch(evidence: Evidence, id_: str, asked: Record, row: Record) -> Iterator[Finding]:
    wanted = range(1, asked["count"] + 1)
    if row.get("status") != _COMPLETED or (row["total"], row["succeeded"]) != (asked["count"],) * 2:
        yield "lost", f"the batch {id_} of {asked['count']} is at its end {row}"
    items = Counter(item["line"] for item in evidence.items[id_])
    if missing := [line for line in wanted if not items[line]]:
        yield "lost", f"the batch {id_} has no items {missing[:9]}"
    if more := [line for line, count in items.items() if count > 1 or line not in wanted]:
        yield "doubled", f"the batch {id_} has the items {more[:9]} more than once"
    for item in evidence.items[id_]:
        if (item["status"], item["output"]) != ("succeeded", answers.answer(asked["n"] + item["line"] - 1)):
            yield "wrong", f"line {item['line']} of {id_}: {item['status']} {item['output']}"
    numbers = range(asked["n"], asked["n"] + asked["count"])
    lines = [[line, f"c{number}", answers.answer(number)] for line, number in zip(wanted, numbers, strict=True)]
    for one, answer in evidence.calls:
        if (one["op"], one["id"]) == ("results", id_) and (answer or {}).get("lines", lines) != lines:
            yield "wrong", f"the results of {id_} are {str(answer)[:200]}"
    told = [one for one in evidence.received if _of_batch(one) and one["id"] == id_]
    if len({one["webhook_id"] for one in told}) > 1:
        yield "webhook doubled", f"the end of the batch {id_} has several ids"
    if asked["hook"] in evidence.run["reachable"] and not any(one["answer"] == 200 for one in told):
        yield "webhook missing", f"{asked['hook']} never took the end of the batch {id_}"


def _temper(url: str) -> str:
    return url.rpartition("/")[2]


def _drained(evidence: Evidence) -> Iterator[Finding]:
    if evidence.run["drained_s"] is None:
        yield (
            "not drained",
            f"{evidence.run['left']} (predictions, claims, deliveries), {evidence.run['callers']} callers",
        )
    for name, length in evidence.lines.items():
        if length:
            yield "not drained", f"{length} envelopes in {name}"
    for row in evidence.sql:
        if row["table"] == "claims":
            yield "not drained", f"the claim {row['id']} of {row['worker']}"
        if row["table"] == "deliveries" and row["state"] == 0 and _temper(row["url"]) in evidence.run["reachable"]:
            yield "not drained", f"the delivery {row['id']} to {row['url']}"
    for id_, row in evidence.rows.items():
        if row["status"] not in _TERMINAL and id_ not in {i for ids in evidence.accepted.values() for i in ids}:
            yield "not drained", f"{id_} is {row['status']}, whose caller has given up"


def _metrics(evidence: Evidence) -> Iterator[Finding]:
    api, control = evidence.metrics["api"], evidence.metrics["control"]
    queued = sum(row["queued"] for row in evidence.rows.values())
    backlog = sum(value for name, value in api.items() if name.startswith("headway_backlog_predictions|"))
    if backlog != queued:
        yield "metrics", f"headway_backlog_predictions is {backlog:g}, and SQL has {queued} queued"
    least, most = sorted(evidence.metrics["pending"])
    if not least <= api.get("headway_webhooks_pending", -1) <= most:
        yield (
            "metrics",
            f"headway_webhooks_pending is {api.get('headway_webhooks_pending')}, and SQL has {least}–{most}",
        )
    expected = {"headway_sql_up": 1, "headway_broker_up": 1, "headway_workers": evidence.run["workers"]}
    for name, value in expected.items():
        if api.get(name) != value:
            yield "metrics", f"{name} is {api.get(name)}, and should be {value}"
    before, after = evidence.metrics["before"], evidence.metrics["after"]
    for name in ("headway_predictions_ended_total|model=steady|status=succeeded|version=1",
                 "headway_batch_size_sum|model=steady|version=1"):  # fmt: skip
        moved = after.get(name, 0) - before.get(name, 0)
        if moved != control:
            yield "metrics", f"{name} moved by {moved:g} while {control} predictions ended"
    rows = Counter((row["model"], row["status"]) for row in evidence.sql if row["table"] == "predictions")
    for name, value in after.items():  # of processes that live now: never more than there are
        if name.startswith("headway_predictions_ended_total|"):
            labels = dict(part.split("=") for part in name.split("|")[1:])
            if labels["status"] == "succeeded" and value > rows[labels["model"], "succeeded"]:
                yield "metrics", f"{name} is {value:g}, and SQL has {rows[labels['model'], 'succeeded']}"


def waits(evidence: Evidence) -> list[float]:
    """Seconds from acceptance to the end, of those that nobody retried."""
    return [
        (row["completed_at"] - row["created_at"]) / 1e6
        for id_, row in evidence.rows.items()
        if row["completed_at"] is not None and not evidence.verbs[id_, "retry"]
    ]


def _patience(evidence: Evidence) -> Iterator[Finding]:
    for wait in waits(evidence):
        if wait > evidence.run["patience_s"]:
            yield "starved", f"one waited {wait:.0f} s for its end"


def _harness(evidence: Evidence) -> Iterator[Finding]:
    for one in evidence.history:
        if one["type"] == "broken":
            yield "harness", one["error"]


_RULES = (
    *(_presence, _ends, _stability, _steps, _tenants, _answers, _webhooks, _batches),
    *(_drained, _metrics, _patience, _harness),
)


def report(evidence: Evidence) -> Record:
    """Counts and verdicts, for people and for files."""
    findings = check(evidence)
    found = Counter(verdict for verdict, _ in findings)
    examples: dict[str, list[str]] = defaultdict(list)
    for verdict, words in findings:
        if len(examples[verdict]) < _EXAMPLES:
            examples[verdict].append(words)
    unanswered = {key for key in evidence.asked if not evidence.accepted.get(key)}
    recovered = sum((row["tenant"], row["key"]) in unanswered for row in evidence.rows.values())
    ends = Counter(row["status"] for row in evidence.rows.values())
    calls = Counter(answer["type"] if answer else "unanswered" for _, answer in evidence.calls)
    longest = sorted(waits(evidence))
    faults = Counter(one["name"] for one in evidence.history if one["type"] == "fault" and one["phase"] == "begin")
    taken = sum(one["answer"] == 200 for one in evidence.received)
    return {
        "store": evidence.run["store"],
        "seed": evidence.run["seed"],
        "seconds": evidence.run["seconds"],
        "accepted": sum(map(len, evidence.accepted.values())),
        "batches": len(evidence.items),
        "items": sum(map(len, evidence.items.values())),
        "recovered": recovered,  # accepted by SQL, and their callers never knew
        "ends": dict(ends),
        "attempts": sum(row["attempt"] for row in evidence.rows.values()),
        "calls": dict(calls),
        "foreign": sum(one["op"] == "foreign" for one, _ in evidence.calls),
        "posts": len(evidence.received),
        "taken": taken,
        "faults": sum(faults.values()),
        "kinds": dict(faults),
        "drained_s": evidence.run["drained_s"],
        "wait_s": {
            name: round(longest[min(int(len(longest) * share), len(longest) - 1)], 2) if longest else None
            for name, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0))
        },
        "verdicts": {verdict: found[verdict] for verdict in VERDICTS},
        "examples": dict(examples),
    }


def main() -> int:
    """Prints the report of a folder; 1 where anything was found."""
    result = report(Evidence.of(Path(sys.argv[1])))
    print(json.dumps(result, indent=2))
    return 1 if any(result["verdicts"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
