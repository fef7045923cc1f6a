"""What a verb of the store costs does not grow with what is stored or queued.

Measured not by the clock but by the work that the database itself counts: SQLite the instructions of its machine,
PostgreSQL the rows that each scan has looked at. The plans are those of the statements as the verbs send them.
"""

import contextlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import event

from bench.history import History
from bench.verbs import Verbs
from headway.clock import now_us
from storage.engine import Database
from storage.migrate import upgrade

T = TypeVar("T")

STORED, QUEUED = 50_000, 20_000
BOUND = 100  # rows that the backlog counts, or that are looked at for a page

#: Verb → the indexes of predictions it goes by.
INDEXES = {
    "oldest_queued 64": {"queued"},
    "read 1": {"primary"},
    "read 64": {"primary"},
    "read 64, scattered": {"primary"},
    "read_input": {"primary", "tenant"},
    "holder": {"idempotency"},
    "list 20": {"primary", "tenant"},
    "list 20 failed": {"failed", "primary"},
    "list 20, no match": {"tenant"},
    "retry 1": {"primary", "tenant"},
    "cancel 1": {"primary", "tenant"},
    "delete 1": {"primary", "shadow_of", "tenant"},
    "redrive failed, none": {"failed"},
    "redrive, no match": {"tenant"},
    "cancel_line, none": {"primary", "queued"},
    "shadows 20": {"primary", "shadows"},
    "progress 64": {"primary"},
    "claim 64": {"primary"},
    "give_back 64": {"primary"},
    "claims of a worker": {"primary"},
    "finish 64": {"primary"},
    "cancel_queued 64": {"primary", "tenant"},
    "expire, none due": {"expiring", "primary"},
    "purge, none old": {"primary"},
    "record 8": {"primary"},
    "backlog": {"queued"},
    "waiting": {"queued"},
    "depth": {"queued"},
    "first positions": {"queued"},
}
#: They hold what was ever submitted. Claims and workers are only what is under way.
LARGE = ("predictions", "inputs", "deliveries")


@dataclass
class Seen:
    """What the database says of each verb."""

    work: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    indexes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # of predictions
    scans: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # of all of a large table
    verb: str = ""

    def __call__(self, verb: str, call: Callable[[], T]) -> T:
        self.verb = verb
        try:
            return call()
        finally:
            self.verb = ""


@contextlib.contextmanager
def watched(url: str, seen: Seen) -> Iterator[Database]:
    watch = _watch_sqlite if url.startswith("sqlite") else _watch_postgresql
    with watch(url, seen) as watched_url, contextlib.closing(Database.open(watched_url)) as database:
        yield database


@contextlib.contextmanager
def _watch_sqlite(url: str, seen: Seen) -> Iterator[str]:
    def connected(connection: Any, _record: Any) -> None:
        def ten_instructions() -> int:
            if seen.verb:
                seen.work[seen.verb] += 10
            return 0

        connection.set_progress_handler(ten_instructions, 10)

    def executing(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        verb, seen.verb = seen.verb, ""
        if verb and statement.startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
            explained = cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            for action, name, *rest in (row[-1].split() for row in explained if " " in row[-1]):
                alias = re.search(rf"(predictions|inputs|deliveries) {name}\b", statement)
                table = alias[1] if alias else name
                if action == "SCAN" and table in LARGE:
                    seen.scans[verb].add(f"{action} {table} {' '.join(rest)}")
                if action == "SEARCH" and table == "predictions":
                    index = rest[rest.index("INDEX") + 1]
                    seen.indexes[verb].add("primary" if "autoindex" in index else index.removeprefix("predictions_"))
        seen.verb = verb

    with _listening("connect", connected), _listening("before_cursor_execute", executing):
        yield url


@contextlib.contextmanager
def _watch_postgresql(url: str, seen: Seen) -> Iterator[str]:
    def noticed(diagnostic: Any) -> None:
        _, found, plan = (diagnostic.message_primary or "").partition("plan:\n")
        if found and seen.verb:
            walk(json.loads(plan)["Plan"])

    def walk(node: dict[str, Any]) -> None:
        if node["Node Type"].endswith("Scan"):
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            seen.work[seen.verb] += rows * node["Actual Loops"]
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE:
                seen.scans[seen.verb].add(f"Seq Scan on {node['Relation Name']}")
            index = node.get("Index Name", "")
            if index.startswith("predictions_"):
                name = index.removeprefix("predictions_")
                seen.indexes[seen.verb].add("primary" if name == "pkey" else name)
        for inner in node.get("Plans", ()):
            walk(inner)

    settings = {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_level": "notice",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_timing": "off",
        "auto_explain.log_nested_statements": "on",
        "auto_explain.log_format": "json",
    }
    parsed = sqlalchemy.make_url(url)
    options = " ".join(
        [str(parsed.query.get("options", "")), *(f"-c {name}={value}" for name, value in settings.items())]
    )

    def connected(connection: Any, _record: Any) -> None:
        connection.prepare_threshold = 0  # at its first execution and not at its sixth
        connection.add_notice_handler(noticed)

    with _listening("connect", connected):
        yield parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)


@contextlib.contextmanager
def _listening(name: str, listener: Callable[..., None]) -> Iterator[None]:
    event.listen(sqlalchemy.Engine, name, listener)
    try:
        yield
    finally:
        event.remove(sqlalchemy.Engine, name, listener)


@contextlib.contextmanager
def growing(full_url: str, empty_url: str) -> Iterator[tuple[History, Seen]]:
    """A database's history, and what the verbs do on one that stays empty."""
    empty = Seen()
    with contextlib.closing(Database.open(full_url)) as database:
        history = History(database, now_ms=now_us() // 1000, stored=STORED, queued=QUEUED)
        with watched(empty_url, empty) as other:
            Verbs(other, history.began, counted=BOUND, scanned=BOUND).round(empty)
        a_row = 10 if database.dialect == "sqlite" else 1
        empty.work["backlog"] += 4 * BOUND * a_row  # four lines fill
        empty.work["waiting"] += 12 * a_row  # the lines, each of which has one
        empty.work["depth"] += BOUND * a_row
        empty.work["first positions"] += 2 * BOUND * a_row
        empty.work["list 20, no match"] += 2 * BOUND * a_row  # looked at, and to find where the next page begins
        empty.work["redrive failed, none"] += 6 * BOUND * a_row
        empty.work["redrive, no match"] += 6 * BOUND * a_row
        yield history, empty


def check(verbs: Verbs, history: History, seen: Seen, empty: Seen) -> None:
    """One round of all verbs. Raises AssertionError for those that do more than on the empty database."""
    for noted in (seen.work, seen.indexes, seen.scans):
        noted.clear()
    verbs.round(seen, history.scattered_ids(100))
    assert not seen.scans
    strange = {verb: seen.indexes[verb] for verb, known in INDEXES.items() if not seen.indexes[verb] <= known}
    assert not strange
    assert seen.indexes.keys() >= INDEXES.keys()
    grown = {verb: (empty.work[verb], work) for verb, work in seen.work.items() if work > 1.2 * empty.work[verb] + 20}
    assert not grown


@pytest.mark.parametrize("analyzed", [False, True], ids=["not analyzed", "analyzed"])
def test_on_sqlite_no_verb_does_more_work_when_much_is_stored(sqlite_url: str, tmp_path: Path, analyzed: bool) -> None:
    other = tmp_path / "empty.db"
    shutil.copy(sqlite_url.removeprefix("sqlite:///"), other)
    with growing(sqlite_url, f"sqlite:///{other}") as (history, empty):
        history.grow(stored=STORED, queued=QUEUED)
        if analyzed:
            with contextlib.closing(Database.open(sqlite_url)) as database, database.write() as connection:
                connection.exec_driver_sql("ANALYZE")
        seen = Seen()
        with watched(sqlite_url, seen) as database:
            verbs = Verbs(database, history.began, counted=BOUND, scanned=BOUND)
            verbs.round(seen)  # a connection's first statements read the schema
            check(verbs, history, seen, empty)


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_on_postgresql_no_verb_does_more_work_when_much_is_stored(
    new_postgres_url: str, empty_postgres_url: str, plans: str
) -> None:
    upgrade(empty_postgres_url)
    urls = [
        sqlalchemy.make_url(url)
        .update_query_dict({"options": f"-c plan_cache_mode={plans}"})
        .render_as_string(hide_password=False)
        for url in (new_postgres_url, empty_postgres_url)
    ]
    seen = Seen()
    with (
        growing(*urls) as (history, empty),
        watched(urls[0], seen) as database,
        psycopg.connect(new_postgres_url, autocommit=True) as connection,
    ):
        for table in LARGE:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        verbs = Verbs(database, history.began, counted=BOUND, scanned=BOUND)

        verbs.round(seen)  # plans made while it is empty are kept while it fills
        history.grow(stored=STORED // 2, queued=QUEUED // 2)
        check(verbs, history, seen, empty)

        connection.execute("UPDATE predictions SET status = 5, queued = NULL WHERE queued")
        connection.execute("VACUUM ANALYZE")
        verbs.round(seen)  # and those made for a short queue while it grows
        history.grow(stored=STORED, queued=QUEUED)
        check(verbs, history, seen, empty)

        connection.execute("VACUUM ANALYZE")
        check(verbs, history, seen, empty)
