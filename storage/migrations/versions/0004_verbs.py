"""What the verbs of a client need: keys of idempotency, timeouts, progress, a log of transitions, deletion.

`log` has the transitions that the row's own times do not tell: `[status,time],…` without the outer brackets, up to and
with the last one that is out of the ordinary (an attempt was lost, a cancel was asked for, an explicit retry). The
ordinary way, claimed and ended, writes nothing to it. Times have sixteen digits until the year 2286.

A deleted row keeps its id and its status until retention ends, so that its address says 410 and not 404, and its key,
so that a late repetition of its submission does not run it again.

The trigger's `record` gains what the model last said of its progress.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_COLUMNS = (
    "idempotency_key {text}",
    "idempotency_digest {text}",      # of the route and the body's bytes, hex
    "queue_timeout_us {bigint}",      # counted anew from an explicit retry
    "execution_timeout_us {bigint}",
    "progress {text}",                # JSON {fraction, message}
    "log {text}",
    "traceparent {text}",
    "deleted_at {bigint}",
)  # fmt: skip

_INDEX = """
CREATE UNIQUE INDEX predictions_idempotency ON predictions (tenant_id, idempotency_key)
WHERE idempotency_key IS NOT NULL
"""

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
        NEW.created_at, NEW.started_at, NEW.completed_at, NEW.expires_at, NEW.predict_us, NEW.batch_size, 1,
        NEW.progress),
    CASE WHEN length(NEW.output) <= 65536 THEN NEW.output END)
"""

_SQLITE = {"bigint": "INTEGER", "text": "TEXT"}
_POSTGRESQL = {"bigint": "bigint", "text": "text"}


def upgrade() -> None:
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    for column in _COLUMNS:
        types = _SQLITE if sqlite else _POSTGRESQL
        connection.exec_driver_sql(f"ALTER TABLE predictions ADD COLUMN {column.format(**types)}")
    connection.exec_driver_sql(_INDEX)
    if sqlite:
        insert = _INSERT.format(position="instr", array="json_array")
        connection.exec_driver_sql("DROP TRIGGER predictions_outbox")
        connection.exec_driver_sql(
            f"CREATE TRIGGER predictions_outbox AFTER UPDATE OF status ON predictions WHEN {_WHEN} BEGIN {insert}; END"
        )
        return
    insert = _INSERT.format(position="strpos", array="json_build_array")
    connection.exec_driver_sql(
        "CREATE OR REPLACE FUNCTION predictions_outbox() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$ BEGIN {insert}; RETURN NULL; END $$"
    )
