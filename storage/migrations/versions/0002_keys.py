"""API keys.

A revoked key keeps its row: with any row in this table, nobody gets in without a key, so the last revocation must not
open the door. Times are microseconds since 1970.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

_KEYS = """
CREATE TABLE keys (
    id text PRIMARY KEY,
    name text NOT NULL,
    tenant_id text NOT NULL,
    scopes text NOT NULL,         -- separated by spaces
    prefix text NOT NULL,         -- the first characters, to tell keys apart
    digest text NOT NULL UNIQUE,  -- SHA-256 of the key, hexadecimal
    created_at {bigint} NOT NULL,
    revoked_at {bigint}
) {strict}
"""


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    text = _KEYS.format(bigint="integer" if sqlite else "bigint", strict="STRICT" if sqlite else "")
    op.get_bind().exec_driver_sql(text)
