"""A week of predictions, written straight into a store: what months of use leave behind, in minutes.

The rows are made by the database itself, in the real schema with all its indexes, a hundred thousand to a transaction.
Ids are UUIDv7 and rise with the time they claim to be of.
"""

import random
from string import Template

from storage.engine import Database

_WEEK_MS = 7 * 24 * 3600 * 1000
_CHUNK = 100_000
#: What was stored ended before this many milliseconds ago; what is queued came after.
_QUEUED_MS = 600_000

#: Of the line that is measured; a part of the queued rows belongs to others.
MODEL, VERSION, PRIORITY = "digits", "1", 5
#: The receiver of all webhooks.
RECEIVER = "https://example.com"

#: What both kinds of rows have. Seven in ten are on one line, half are of one tenant, one in eight came with a key.
_COMMON = """
    $id, ms * 1000, ms * 1000, 120, 3, 5, '{}',
    CASE WHEN n % 10 < 5 THEN 'default' WHEN n % 10 < 8 THEN 'research' ELSE 'tenant-' || n % 7 END,
    CASE WHEN n % 8 = 0 THEN $key END, CASE WHEN n % 8 = 0 THEN $key END, model, version,
    'headway:' || model || '@' || version || ':1'"""
_COMMON_COLUMNS = """id, position, created_at, size, max_attempts, priority, metadata, tenant_id, idempotency_key,
    idempotency_digest, model, version, line"""
_LINES = """(
    SELECT n, ms, CASE WHEN n % 10 < 7 THEN 'digits' ELSE 'sentiment' END AS model,
        CASE WHEN n % 10 < 7 THEN '1' ELSE CAST(1 + n % 3 AS text) END AS version,
        CASE WHEN n % 100 = 0 THEN 4 WHEN n % 200 = 1 THEN 5 WHEN n % 400 = 3 THEN 6 ELSE 3 END AS status
    FROM (SELECT n, $began + CAST(n * $step AS bigint) AS ms FROM ($series) AS s) AS t) AS r"""

#: One in a hundred has failed, fewer were canceled or expired, all others succeeded.
_STORED = f"""
INSERT INTO predictions ({_COMMON_COLUMNS}, status, queued, failed, claim, started_at, completed_at, revision, attempt,
    predict_us, batch_size, error_code, error_message, output)
SELECT {_COMMON}, status, NULL, CASE WHEN status = 4 THEN $true END, CASE WHEN status IN (3, 4) THEN $claim END,
    CASE WHEN status IN (3, 4) THEN ms * 1000 + 800000 END, ms * 1000 + 1000000, 3, 1, 900 + n % 1000, 32,
    CASE WHEN status = 4 THEN 'model_error' END, CASE WHEN status = 4 THEN 'ValueError: not a digit' END,
    CASE WHEN status = 3 THEN $output END
FROM {_LINES}"""

#: One in ten would expire, in a day.
_QUEUED = f"""
INSERT INTO predictions ({_COMMON_COLUMNS}, expires_at)
SELECT {_COMMON}, CASE WHEN n % 10 = 0 THEN ms * 1000 + 86400000000 END
FROM {_LINES}"""

_INPUTS = """
INSERT INTO inputs (id, body)
SELECT id, $body FROM predictions WHERE id >= '$first' AND id < '$last' ON CONFLICT (id) DO NOTHING"""

#: One in fifty of the stored told a receiver; of those one in twenty waits for its next try, in an hour.
_DELIVERIES = f"""
INSERT INTO deliveries (id, prediction_id, tenant_id, event, url, receiver, at, due_at, state, attempts, step, record,
    output)
SELECT $delivery, id, tenant_id, 'prediction.succeeded', '{RECEIVER}/hook', '{RECEIVER}', completed_at,
    CASE WHEN predict_us % 1000 = 7 THEN $soon ELSE completed_at END, CASE WHEN predict_us % 1000 = 7 THEN 0 ELSE 1 END,
    1, 1, '["a record of about the usual length, which nobody reads: {"." * 300}"]', output
FROM predictions WHERE id >= '$first' AND id < '$last' AND predict_us % 50 = 7 AND status = 3
ON CONFLICT (id) DO NOTHING"""

_OUTPUT = '{"label": 7, "scores": [0.01, 0.02, 0.01, 0.03, 0.01, 0.02, 0.01, 0.86, 0.02, 0.01]}'
_BODY = '{"image": "' + "0123456789" * 10 + '"}'

_WORDS = {
    "sqlite": {
        "series": "WITH RECURSIVE c (n) AS (VALUES ($start) UNION ALL SELECT n + 1 FROM c WHERE n + 1 < $stop) "
        "SELECT n FROM c",
        "id": "format('%08x-%04x-7%03x-%04x-%012x', ms >> 16, ms & 65535, abs(random() % 4096), "
        "32768 + abs(random() % 16384), abs(random() % 281474976710656))",
        "claim": "format('%08x-0000-7000-8000-%012x', n / 64, n / 64)",
        "key": "lower(hex(randomblob(16)))",
        "delivery": "id || '-3'",
        "true": "1",
        "output": f"CAST('{_OUTPUT}' AS BLOB)",
        "body": f"CAST('{_BODY}' AS BLOB)",
    },
    "postgresql": {
        "series": "SELECT generate_series($start, $stop - 1) AS n",
        "id": "(lpad(to_hex(ms), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' "
        "|| substr(md5(n::text), 4, 15))::uuid",
        "claim": "md5((n / 64)::text)::uuid",
        "key": "md5(ms::text || n::text)",
        "delivery": "id::text || '-3'",
        "true": "true",
        "output": f"convert_to('{_OUTPUT}', 'UTF8')",
        "body": f"convert_to('{_BODY}', 'UTF8')",
    },
}


class History:
    """Makes one database grow. `stored` and `queued` are what it will hold in the end, over the whole of the week."""

    def __init__(self, database: Database, *, now_ms: int, stored: int, queued: int) -> None:
        self._database = database
        self._now_ms = now_ms
        self._began_ms = now_ms - _QUEUED_MS - _WEEK_MS
        self._stored_step = _WEEK_MS / max(1, stored)
        self._queued_step = (_QUEUED_MS - 60_000) / max(1, queued)
        self._stored = 0
        self._queued = 0

    @property
    def began(self) -> int:
        """Everything is younger, µs."""
        return self._began_ms * 1000

    def grow(self, *, stored: int, queued: int) -> None:
        """To so many rows; those that are there stay."""
        for start in range(self._stored, stored, _CHUNK):
            self._add(_STORED, start, min(start + _CHUNK, stored), self._began_ms, self._stored_step, ended=True)
        for start in range(self._queued, queued, _CHUNK):
            from_ms = self._now_ms - _QUEUED_MS
            self._add(_QUEUED, start, min(start + _CHUNK, queued), from_ms, self._queued_step, ended=False)
        self._stored, self._queued = stored, queued
        if self._database.dialect == "sqlite":
            with self._database.read() as connection:  # out of the log, into the file
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def scattered_ids(self, count: int) -> list[str]:
        """Of stored rows, from all over them."""
        found = []
        with self._database.read() as connection:
            for _ in range(count):
                first = _first_id(self._began_ms + int(random.randrange(self._stored) * self._stored_step))
                select = f"SELECT id FROM predictions WHERE id >= '{first}' ORDER BY id LIMIT 1"
                found.append(str(connection.exec_driver_sql(select).scalar_one()))
        return found

    def _add(self, rows: str, start: int, stop: int, began_ms: int, step: float, *, ended: bool) -> None:
        words = {
            **_WORDS[self._database.dialect],
            "began": str(began_ms),
            "step": repr(step),
            "first": _first_id(began_ms + int(start * step)),
            "last": _first_id(began_ms + int(stop * step) + 1),
            "soon": str((self._now_ms + 3_600_000) * 1000),
        }
        words["series"] = Template(words["series"]).substitute(start=start, stop=stop)
        with self._database.write(durable=False) as connection:
            if self._database.dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            for statement in (rows, _INPUTS, _DELIVERIES) if ended else (rows, _INPUTS):
                text = Template(statement).substitute(words)
                connection.exec_driver_sql(text.replace("%", "%%") if "::" in words["id"] else text)


def _first_id(ms: int) -> str:
    """No UUIDv7 made from this millisecond on is smaller."""
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"
