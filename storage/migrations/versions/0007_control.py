"""What operators say of models while they run, what workers measure, and shadows.

A route and its aliases stand in for `model.toml`, which cannot be changed from here. A shadow is a prediction like any
other, of which nobody is told: the copy of another, for a version that is to be compared.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

_TABLES = """
CREATE TABLE routes (
    model {text} PRIMARY KEY,
    traffic {text},               -- JSON: `headway.registry.Traffic`, null: to the latest version
    paused {smallint} NOT NULL DEFAULT 0
) {strict};
CREATE TABLE aliases (
    model {text} NOT NULL,
    alias {text} NOT NULL,
    version {text},               -- null: taken away
    PRIMARY KEY (model, alias)
) {strict}
"""

_COLUMNS = (
    ("versions", "wish {text}"),             # an operator's: load or unload; null: as the policy has it
    ("versions", "wished_at {bigint}"),      # when that was last said
    ("versions", "memory_bytes {bigint}"),   # what one instance took on a device when it was last loaded
    ("placements", "stats {text}"),          # JSON: `headway.registry.Stats`
    ("workers", "stats {text}"),             # JSON: `headway.registry.DeviceStats`
    ("predictions", "shadow_of {uuid}"),
)  # fmt: skip

_INDEXES = """
CREATE INDEX predictions_shadows ON predictions (model, version, id) WHERE shadow_of IS NOT NULL;
CREATE INDEX predictions_shadow_of ON predictions (shadow_of) WHERE shadow_of IS NOT NULL
"""

_SQLITE = {
    **dict.fromkeys(("bigint", "smallint"), "INTEGER"),
    **dict.fromkeys(("text", "uuid"), "TEXT"),
    "strict": "STRICT",
}
_POSTGRESQL = {name: name for name in ("bigint", "smallint", "text", "uuid")} | {"strict": ""}


def upgrade() -> None:
    connection = op.get_bind()
    types = _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
    for statement in _TABLES.format(**types).split(";"):
        connection.exec_driver_sql(statement)
    for table, column in _COLUMNS:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column.format(**types)}")
    for statement in _INDEXES.split(";"):
        connection.exec_driver_sql(statement)
