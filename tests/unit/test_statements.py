"""The SQL files and how their statements are made ready for the drivers."""

import re

import pytest
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

from storage import migrate
from storage.statements import MOST_ROWS, Dialect, parts, statements, with_rows


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_every_statement_is_one_statement_without_comments(dialect: Dialect) -> None:
    for name, text in statements(dialect).items():
        assert text, name
        assert ";" not in text, name
        assert "--" not in text, name


def test_parameters_are_spelled_as_psycopg_wants_them() -> None:
    sql = statements("postgresql")
    assert "id = ANY(%(ids)s::uuid[])" in sql["read"]
    assert "id::text" in sql["read"]
    assert "%(outputs)b::bytea[]" in sql["finish"]
    assert not any(re.search(r"(?<!:):[a-z]", text.replace("::", "")) for text in sql.values())


def test_markers_are_written_out_and_never_bound() -> None:
    for dialect in ("sqlite", "postgresql"):
        for text in statements(dialect).values():
            assert not re.search(r"(queued|failed|status)\s*=\s*[:%?]", text)


@given(st.integers(0, 1000))
def test_parts_are_powers_of_two_that_cover_every_row_once(count: int) -> None:
    cuts = parts(count)
    assert [n for cut in cuts for n in range(cut.start, cut.stop)] == list(range(count))
    assert {cut.stop - cut.start for cut in cuts} <= {1 << n for n in range(MOST_ROWS.bit_length())}


def test_a_statement_is_given_as_many_rows_as_asked() -> None:
    text = with_rows("insert_inputs", 3)
    assert "VALUES (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?)\nON CONFLICT" in text
    assert "VALUES (?, ?), (?, ?))\nUPDATE" in with_rows("finish", 2)


def test_the_schema_that_the_code_needs_is_alembics_newest() -> None:
    assert migrate.head() == ScriptDirectory.from_config(migrate._config()).get_current_head()
