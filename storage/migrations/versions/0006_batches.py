"""Batches of predictions that came as one file, and inputs and outputs that are not JSON, or too large for a row.

An item of a batch is a prediction with `batch_id`, numbered by its line in the file. It is not marked `queued`: its
batch knows how far its hints were published, so a million items cost the queue's index nothing. Only one that was given
back is marked, like any other.

How many items have ended is not counted where they end, by many at once, but by whoever looks after the batch: up to
`counted` every item has ended and is in the counts. So the last of them cannot be missed, nor seen twice.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

_BATCHES = """
CREATE TABLE batches (
    id {uuid} PRIMARY KEY,
    tenant_id {text} NOT NULL,
    model {text} NOT NULL,
    version {text} NOT NULL,
    alias {text},
    line {text} NOT NULL,
    priority {smallint} NOT NULL,
    max_attempts {integer} NOT NULL,
    status {smallint} NOT NULL DEFAULT 0 CHECK (status BETWEEN 0 AND 6),
    ending {smallint} CHECK (ending BETWEEN 4 AND 6),  -- why what has not begun is not to begin any more
    error {text},
    revision {integer} NOT NULL DEFAULT 1,
    created_at {bigint} NOT NULL,
    touched_at {bigint} NOT NULL,  -- when its file last went on
    sealed_at {bigint},            -- when its file was complete
    completed_at {bigint},
    expires_at {bigint},
    window_us {bigint},            -- completion_window, counted from sealed_at
    blocks {integer} NOT NULL DEFAULT 0,  -- of the file, that are stored
    digest {text} NOT NULL,        -- of all that is stored: each block's with the one before
    last_line {bigint} NOT NULL DEFAULT 0,
    total {bigint} NOT NULL DEFAULT 0,    -- items: lines that are not empty
    fed {bigint} NOT NULL DEFAULT 0,      -- up to this line hints were published
    counted {bigint} NOT NULL DEFAULT 0,  -- up to this line every item has ended
    succeeded {bigint} NOT NULL DEFAULT 0,
    failed {bigint} NOT NULL DEFAULT 0,
    canceled {bigint} NOT NULL DEFAULT 0,
    expired {bigint} NOT NULL DEFAULT 0,
    ahead {text},                  -- JSON: the same four of items beyond `counted`, as far as they were looked at
    rate {real},                   -- items a second, lately
    webhook {text},
    idempotency_key {text},
    idempotency_digest {text}      -- of the route and its parameters, hex
) {hot};
CREATE INDEX batches_tenant ON batches (tenant_id, id);
CREATE INDEX batches_open ON batches (id) WHERE completed_at IS NULL;
CREATE UNIQUE INDEX batches_idempotency ON batches (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL
"""

_COLUMNS = (
    ("predictions", "batch_id {uuid}"),
    ("predictions", "batch_index {bigint}"),   # the line in the file, from 1
    ("predictions", "custom_id {text}"),
    ("predictions", "output_type {text}"),     # its media type; null: JSON
    ("predictions", "output_bytes {bigint}"),  # where it lies in the blob store
    ("inputs", "content_type {text}"),         # null: JSON
    ("inputs", "blob_bytes {bigint}"),         # where it lies in the blob store, and `body` is empty
)  # fmt: skip

_INDEX = """
CREATE UNIQUE INDEX predictions_batch ON predictions (batch_id, batch_index) WHERE batch_id IS NOT NULL
"""

_SQLITE = {
    **dict.fromkeys(("bigint", "integer", "smallint"), "INTEGER"),
    **dict.fromkeys(("text", "uuid"), "TEXT"),
    "real": "REAL",
    "hot": "STRICT",
}
_POSTGRESQL = {
    **{name: name for name in ("bigint", "integer", "smallint", "text", "uuid")},
    "real": "double precision",
    "hot": "WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)",
}


def upgrade() -> None:
    connection = op.get_bind()
    types = _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
    for statement in _BATCHES.format(**types).split(";"):
        connection.exec_driver_sql(statement)
    for table, column in _COLUMNS:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column.format(**types)}")
    connection.exec_driver_sql(_INDEX)
