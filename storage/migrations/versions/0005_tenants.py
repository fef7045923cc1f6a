"""Tenants, as fair service knows them; and how often a key may call.

A tenant's class names its lines, so it never changes once it is given: rows and hints carry the line's name. The
default tenant is of class 0, whose lines are called what they were called before there were classes.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

_TENANTS = """
CREATE TABLE tenants (
    tenant_id text PRIMARY KEY,
    class {integer} NOT NULL,
    weight {real} NOT NULL DEFAULT 1  -- its share of a line's service, beside the others'
) {strict}
"""


def upgrade() -> None:
    connection = op.get_bind()
    sqlite = connection.dialect.name == "sqlite"
    real = "REAL" if sqlite else "double precision"
    connection.exec_driver_sql(
        _TENANTS.format(integer="INTEGER" if sqlite else "integer", real=real, strict="STRICT" if sqlite else "")
    )
    connection.exec_driver_sql("INSERT INTO tenants (tenant_id, class) VALUES ('default', 0)")
    connection.exec_driver_sql(
        f"ALTER TABLE keys ADD COLUMN rate {real}"
    )  # requests a second; null: as many as it likes
