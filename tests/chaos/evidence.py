"""What is left after the drain: rows by plain SELECTs, the lengths of lines in Redis, and what /metrics said.

Nothing of Headway's own code reads here: the checker is to see what anybody would.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
from prometheus_client.parser import text_string_to_metric_families

_STATUSES = ("queued", "in_progress", "canceling", "succeeded", "failed", "canceled", "expired")

_PREDICTIONS = """
SELECT id, tenant_id, model, status, revision, attempt, charged, max_attempts, idempotency_key, webhook,
    webhook_events, webhook_status, error_code, output, created_at, started_at, completed_at, log, queued, deleted_at,
    batch_id, batch_index
FROM predictions"""
_BATCHES = "SELECT id, tenant_id, idempotency_key, status, total, succeeded FROM batches"
_DELIVERIES = "SELECT id, prediction_id, event, url, state, attempts FROM deliveries"
_CLAIMS = "SELECT id, worker_id FROM claims"
_OPEN = """
SELECT (SELECT count(*) FROM predictions WHERE status < 3), (SELECT count(*) FROM claims),
    (SELECT count(*) FROM batches WHERE completed_at IS NULL),
    (SELECT count(*) FROM deliveries WHERE state = 0 AND ({reachable}))"""

Samples = dict[str, float]


@contextmanager
def _rows_of(url: str) -> Iterator[Any]:
    """A function from a SELECT to rows. `url`: sqlite:///PATH or PostgreSQL's."""
    if url.startswith("sqlite"):
        try:
            from pysqlite3 import dbapi2 as sqlite3
        except ImportError:
            import sqlite3
        connection = sqlite3.connect(f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True, timeout=10)
        yield lambda query: connection.execute(query).fetchall()
        connection.close()
        return
    with psycopg.connect(url, autocommit=True) as server:
        yield lambda query: server.execute(query).fetchall()


def open_work(url: str, reachable: list[str]) -> tuple[int, int, int, int]:
    """(predictions that have not ended, claims, open batches, deliveries owed to receivers whose URLs begin so)."""
    wanted = " OR ".join(f"url LIKE '{prefix}%'" for prefix in reachable) or "1 = 1"
    with _rows_of(url) as rows:
        return tuple(rows(_OPEN.format(reachable=wanted))[0])


def dump_sql(url: str, path: Path) -> None:
    with _rows_of(url) as rows, path.open("w", encoding="utf-8") as file:
        for row in rows(_PREDICTIONS):
            id_, tenant, model, status, revision, attempt, charged, most, key, hook, events, told, *rest = row
            code, output, created, started, completed, log, queued, deleted, batch, line = rest
            record = {
                "table": "predictions",
                "id": str(id_),
                "tenant": tenant,
                "model": model,
                "status": _STATUSES[status],
                "revision": revision,
                "attempt": attempt,
                "charged": charged,
                "max_attempts": most,
                "key": key,
                "webhook": hook,
                "events": events,
                "told": told,
                "error": code,
                "output": None if output is None else json.loads(bytes(output)),
                "created_at": created,
                "started_at": started,
                "completed_at": completed,
                "log": json.loads(f"[{log or ''}]"),
                "queued": bool(queued),
                "deleted": deleted is not None,
                "batch": None if batch is None else str(batch),
                "line": line,
            }
            file.write(json.dumps(record) + "\n")
        for id_, prediction, event, url_, state, attempts in rows(_DELIVERIES):
            record = {"table": "deliveries", "id": id_, "prediction": str(prediction), "event": event, "url": url_}
            file.write(json.dumps(record | {"state": state, "attempts": attempts}) + "\n")
        for id_, tenant, key, status, total, succeeded in rows(_BATCHES):
            record = {"table": "batches", "id": str(id_), "tenant": tenant, "key": key, "status": status}
            file.write(json.dumps(record | {"total": total, "succeeded": succeeded}) + "\n")
        for id_, worker in rows(_CLAIMS):
            file.write(json.dumps({"table": "claims", "id": str(id_), "worker": worker}) + "\n")


def lines(client: "redis.Redis") -> dict[str, int]:
    """Every line, by its name, and how many envelopes are in it."""
    found = {}
    for key in client.scan_iter("headway:*", count=1000):
        name = key.decode()
        if "@" in name and client.type(key) == b"list":
            found[name] = int(client.llen(key))
    return found


def scrape(url: str, key: str | None = None) -> Samples:
    """Each sample by its name and labels, as they stand in the text. Raises OSError."""
    request = urllib.request.Request(url)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=5) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f"|{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
