"""PostgreSQL's databases for tests: who is done with one leaves it as new to the next.

To make a database takes a tenth of a second and eleven megabytes, and to empty one two milliseconds.
"""

from typing import Any

import psycopg
from psycopg import sql

from headway.clock import new_id

#: What has grown larger, or is no longer what the template is, is not lent again.
_LARGE_BYTES = 40_000_000
_SHAPE = """
SELECT md5(string_agg(part, E'\\n' ORDER BY part)) FROM (
    SELECT concat_ws(' ', relname, relkind, relacl, reloptions) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', c.relname, a.attname, a.atttypid, a.attnotnull, a.attisdropped)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'
    UNION ALL SELECT concat_ws(' ', s.setconfig, d.datconnlimit) FROM pg_database d
        LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE d.datname = current_database()
) parts(part)
"""


class Databases:
    """Copies of the database `template`, which nobody else connects to any more."""

    def __init__(self, server: Any, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        with self._connect(template) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            self._rows = {name: self._rows_of(connection, name) for (name,) in tables}  # JSON, by table
            self._shape = self._shape_of(connection)

    def lend(self) -> str:
        """The name of one that is as new."""
        return self._free.pop() if self._free else create(self._server, self._template)

    def take_back(self, name: str) -> None:
        """Whoever is still connected is thrown out."""
        with self._connect(name) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            if size is None or size[0] > _LARGE_BYTES or self._shape_of(connection) != self._shape:
                return
            with connection.transaction():
                connection.execute("SET LOCAL session_replication_role = replica")  # no triggers
                for name_of, rows in self._rows.items():
                    table = sql.Identifier(name_of)
                    connection.execute(sql.SQL("DELETE FROM {}").format(table))
                    insert = (
                        "INSERT INTO {0} OVERRIDING SYSTEM VALUE SELECT * FROM json_populate_recordset(NULL::{0}, %s)"
                    )
                    connection.execute(sql.SQL(insert).format(table), [rows])
                connection.execute("SELECT setval(c.oid, 1, false) FROM pg_class c WHERE c.relkind = 'S'")
        self._free.append(name)

    def _connect(self, name: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(self._server.get_uri(name), autocommit=True)

    @staticmethod
    def _rows_of(connection: "psycopg.Connection[Any]", table: str) -> str:
        rows = sql.SQL("SELECT coalesce(json_agg(t), '[]')::text FROM {} t").format(sql.Identifier(table))
        found = connection.execute(rows).fetchone()
        assert found is not None
        return str(found[0])

    @staticmethod
    def _shape_of(connection: "psycopg.Connection[Any]") -> Any:
        found = connection.execute(_SHAPE).fetchone()
        assert found is not None
        return found[0]


def create(server: Any, template: str) -> str:
    """The name of a new database. It goes when the server goes."""
    name = f"test_{new_id()}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        new = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(new.format(sql.Identifier(name), sql.Identifier(template)))
    return name
