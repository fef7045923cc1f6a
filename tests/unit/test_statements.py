"""The SQL files and how their statements are made ready for the drivers."""

import re

import pytest
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

from storage import migrate
from storage.statements import MOST_ROWS, Dialect, filled, parts, statements, with_rows


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
def test_parts_cover_every_row_once_and_are_few_and_of_few_sizes(count: int) -> None:
    cuts = parts(count)
    assert [n for cut in cuts for n in range(cut.start, cut.stop)] == list(range(count))
    assert len(cuts) <= count // MOST_ROWS + 2
    assert {cut.stop - cut.start for cut in cuts} <= {*range(1, 9), *range(16, MOST_ROWS + 1, 8)}


def test_a_statement_is_given_as_many_rows_as_asked() -> None:
    text = with_rows("insert_inputs", 3)
    assert "VALUES (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?)\nON CONFLICT" in text
    assert "VALUES (?, ?), (?, ?))\nUPDATE" in with_rows("finish", 2)


def test_what_is_null_in_all_rows_is_written_out_and_all_else_is_bound() -> None:
    text, values = filled("insert_inputs", [("a", b"1", None, None), ("b", b"2", None, 7)])
    assert "VALUES (?, ?, NULL, ?), (?, ?, NULL, ?)\nON CONFLICT" in text
    assert values == ("a", b"1", None, "b", b"2", 7)
    assert sum(isinstance(value, bytearray) for value in values) == 2


def test_the_schema_that_the_code_needs_is_alembics_newest() -> None:
    assert migrate.head() == ScriptDirectory.from_config(migrate._config()).get_current_head()
