"""Webhooks: what a prediction's receiver is owed, and the secrets that sign it.

The outbox is written by a trigger and not by the statements that end a prediction: whatever ends one, now or later,
writes its delivery in the same transaction, and a prediction without a webhook costs one comparison and no statement.

A delivery's id is made of the prediction's id and revision, so it names the event and not the row: the same change
written twice, as after a crash that forgot a claim, is the same event to the receiver. `record` is the prediction as it
was then, in the order of the statement `read`.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = """
CREATE TABLE deliveries (
    id {text} PRIMARY KEY,           -- the webhook-id
    prediction_id {uuid} NOT NULL,
    tenant_id {text} NOT NULL,
    event {text} NOT NULL,
    url {text} NOT NULL,
    receiver {text} NOT NULL,        -- scheme, host and port of the URL: what is slow or dead together
    at {bigint} NOT NULL,            -- of the event
    due_at {bigint} NOT NULL,        -- the next attempt, or when the lease of its deliverer ends
    state {smallint} NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),  -- pending, succeeded, failed
    leased {boolean} CHECK (leased),
    attempts {integer} NOT NULL DEFAULT 0,  -- begun ones, and the fence of the one under way
    step {integer} NOT NULL DEFAULT 0,      -- in the schedule, begun anew by a redelivery
    log {text} NOT NULL DEFAULT '[]',       -- JSON: what came of the attempts
    record {text} NOT NULL,
    output {bytes}                   -- JSON, null where it is too large
) {hot};
CREATE TABLE webhook_secrets (
    tenant_id {text} PRIMARY KEY,
    secret {text} NOT NULL,
    previous {text},
    rotated_at {bigint}
) {strict};
CREATE INDEX deliveries_due ON deliveries (receiver, due_at) WHERE state = 0;
CREATE INDEX deliveries_prediction ON deliveries (prediction_id)
"""

_COLUMNS = ("webhook {text}", "webhook_events {smallint}", "webhook_status {smallint}")

_WHEN = """
    NEW.webhook IS NOT NULL AND (
        (NEW.status >= 3 AND OLD.status < 3 AND NEW.webhook_events & 1 <> 0)
        OR (NEW.status = 1 AND OLD.status = 0 AND NEW.attempt = 1 AND NEW.webhook_events & 2 <> 0))
"""

_INSERT = """
INSERT INTO deliveries (id, prediction_id, tenant_id, event, url, receiver, at, due_at, record, output)
VALUES (NEW.id || '-' || NEW.revision, NEW.id, NEW.tenant_id,
    CASE NEW.status WHEN 1 THEN 'prediction.started' WHEN 3 THEN 'prediction.succeeded' WHEN 4 THEN 'prediction.failed'
        WHEN 5 THEN 'prediction.canceled' ELSE 'prediction.expired' END,
    NEW.webhook,
    -- stored URLs have a path: the receiver is what stands before it, and `https://` has eight characters
    substr(NEW.webhook, 1, 7 + {position}(substr(NEW.webhook, 9), '/')),
    coalesce(NEW.completed_at, NEW.started_at), coalesce(NEW.completed_at, NEW.started_at),
    {array}(NEW.id, NEW.tenant_id, NEW.model, NEW.version, NEW.alias, NEW.line, NEW.position, NEW.priority, NEW.status,
        NEW.revision, NEW.attempt, NEW.max_attempts, NEW.claim, NEW.metadata, NULL, NEW.error_code, NEW.error_message,
        NEW.created_at, NEW.started_at, NEW.completed_at, NEW.expires_at, NEW.predict_us, NEW.batch_size, 1),
    CASE WHEN length(NEW.output) <= 65536 THEN NEW.output END)
"""

_SQLITE = {
    **dict.fromkeys(("bigint", "integer", "smallint", "boolean"), "INTEGER"),
    **dict.fromkeys(("text", "uuid"), "TEXT"),
    "bytes": "BLOB",
    "hot": "STRICT",
    "strict": "STRICT",
}
_POSTGRESQL = {
    **{name: name for name in ("bigint", "integer", "smallint", "boolean", "text", "uuid")},
    "bytes": "bytea",
    "hot": "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, "
    "autovacuum_vacuum_cost_delay = 0)",
    "strict": "",
}


def upgrade() -> None:
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    types = _SQLITE if sqlite else _POSTGRESQL
    for statement in _TABLES.format(**types).split(";"):
        connection.exec_driver_sql(statement)
    for column in _COLUMNS:
        connection.exec_driver_sql(f"ALTER TABLE predictions ADD COLUMN {column.format(**types)}")
    if sqlite:
        insert = _INSERT.format(position="instr", array="json_array")
        connection.exec_driver_sql(
            f"CREATE TRIGGER predictions_outbox AFTER UPDATE OF status ON predictions WHEN {_WHEN} BEGIN {insert}; END"
        )
        return
    insert = _INSERT.format(position="strpos", array="json_build_array")
    connection.exec_driver_sql(
        "CREATE FUNCTION predictions_outbox() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN {insert}; RETURN NULL; END $$"
    )
    connection.exec_driver_sql(
        "CREATE TRIGGER predictions_outbox AFTER UPDATE OF status ON predictions FOR EACH ROW "
        f"WHEN ({_WHEN}) EXECUTE FUNCTION predictions_outbox()"
    )
