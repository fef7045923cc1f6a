"""Predictions and their inputs, claims, workers, model versions and where they are loaded.

Finishing a success must change no column that an index mentions, in its key or in its predicate: PostgreSQL then
rewrites no index (a HOT update). That is why `queued` and `failed` are markers, true or NULL, beside `status`, and why
half of each page is left free. There are no foreign keys: the rows are written together, and checking would lock more.
Times are microseconds since 1970.
"""

from alembic import op

revision = "0001"
down_revision = None

_PREDICTIONS = """
CREATE TABLE predictions (
    id {uuid} PRIMARY KEY,
    claim {uuid},                 -- the fence: the micro-batch that owns the row, or ended it
    position {bigint} NOT NULL,   -- in its line: the time of acceptance or of the last explicit retry
    created_at {bigint} NOT NULL,
    started_at {bigint},
    completed_at {bigint},
    expires_at {bigint},          -- only until the first claim
    size {bigint} NOT NULL,
    predict_us {bigint},
    revision {integer} NOT NULL DEFAULT 1,
    attempt {integer} NOT NULL DEFAULT 0,  -- claims so far
    charged {integer} NOT NULL DEFAULT 0,  -- attempts it is blamed for, held against max_attempts
    losses {integer} NOT NULL DEFAULT 0,   -- 0: runs in any company, 1: with its like, 2: alone
    max_attempts {integer} NOT NULL,
    batch_size {integer},
    status {smallint} NOT NULL DEFAULT 0 CHECK (status BETWEEN 0 AND 6),
    priority {smallint} NOT NULL,
    queued {boolean} DEFAULT true CHECK (queued),
    failed {boolean} CHECK (failed),
    tenant_id {text} NOT NULL,
    model {text} NOT NULL,
    version {text} NOT NULL,
    alias {text},
    line {text} NOT NULL,
    shape {text},
    metadata {text} NOT NULL,     -- JSON object
    error_code {text},
    error_message {text},
    output {bytes}                -- JSON
) {hot}
"""

_REST = """
CREATE TABLE inputs (
    id {uuid} PRIMARY KEY,
    body {bytes} NOT NULL         -- JSON as it was received, apart so that a claim does not rewrite it
) {strict};
CREATE TABLE claims (
    id {uuid} PRIMARY KEY,
    worker_id {text} NOT NULL,
    ids {uuids} NOT NULL,
    at {bigint} NOT NULL
) {hot};
CREATE TABLE workers (
    id {text} PRIMARY KEY,
    device {text} NOT NULL,
    host {text} NOT NULL,
    pid {integer} NOT NULL,
    state {text} NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'dead')),
    beat {bigint} NOT NULL DEFAULT 0,
    started_at {bigint} NOT NULL
) {hot};
CREATE TABLE versions (
    model {text} NOT NULL,
    version {text} NOT NULL,
    path {text} NOT NULL,
    sha256 {text} NOT NULL,
    framework {text},
    declared {text} NOT NULL,     -- the manifest as the folder has it
    manifest {text} NOT NULL,     -- the same, with what the loaded model said of itself
    error {text},                 -- what is wrong with the folder
    created_at {bigint} NOT NULL,
    loaded_at {bigint},
    PRIMARY KEY (model, version)
) {strict};
CREATE TABLE placements (
    worker_id {text} NOT NULL,
    model {text} NOT NULL,
    version {text} NOT NULL,
    device {text} NOT NULL,
    state {text} NOT NULL CHECK (state IN ('loading', 'ready', 'failed', 'unloaded')),
    reason {text},
    loaded_at {bigint},
    memory_bytes {bigint},
    ended {bigint} NOT NULL DEFAULT 0,
    rate {real} NOT NULL DEFAULT 0,
    PRIMARY KEY (worker_id, model, version)
) {hot};
CREATE TABLE leases (
    name {text} PRIMARY KEY,
    holder {text} NOT NULL,
    until {bigint} NOT NULL
) {strict};
CREATE INDEX predictions_queued ON predictions (line, position, id) WHERE queued;
CREATE INDEX predictions_expiring ON predictions (expires_at) WHERE queued AND expires_at IS NOT NULL;
CREATE INDEX predictions_tenant ON predictions (tenant_id, id);
CREATE INDEX predictions_failed ON predictions (tenant_id, id) WHERE failed
"""

_SQLITE = {
    **dict.fromkeys(("bigint", "integer", "smallint", "boolean"), "INTEGER"),
    **dict.fromkeys(("text", "uuid", "uuids"), "TEXT"),  # uuids: a JSON array
    "bytes": "BLOB",
    "real": "REAL",
    "hot": "STRICT",
    "strict": "STRICT",
}
_POSTGRESQL = {
    **{name: name for name in ("bigint", "integer", "smallint", "boolean", "text", "uuid")},
    "uuids": "uuid[]",
    "bytes": "bytea",
    "real": "double precision",
    "hot": "WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, "
    "autovacuum_vacuum_cost_delay = 0)",
    "strict": "",
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    text = (_PREDICTIONS + ";" + _REST).format(**_SQLITE if sqlite else _POSTGRESQL)
    if sqlite:
        text = text.replace("DEFAULT true", "DEFAULT 1")
    for statement in text.split(";"):
        op.get_bind().exec_driver_sql(statement)
