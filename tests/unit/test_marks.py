"""When a hint counts as lost."""

from workers.marks import Marks


def test_nothing_is_due_before_the_line_was_watched_long_enough() -> None:
    marks = Marks(patience_s=10)
    for second in range(0, 10, 2):
        marks.note("line", float(second), mark=1000 + second)
        assert marks.due("line", second + 1.0) is None


def test_rows_before_the_mark_of_ten_seconds_ago_are_due() -> None:
    marks = Marks(patience_s=10)
    for second in range(0, 21, 2):
        marks.note("line", float(second), mark=1000 + second)
    assert marks.due("line", 20.0) == 1010


def test_a_gap_in_watching_uses_the_last_mark_before_it() -> None:
    marks = Marks(patience_s=10)
    marks.note("line", 0.0, mark=7)
    marks.note("line", 500.0, mark=900)
    assert marks.due("line", 500.0) == 7
    assert marks.due("line", 511.0) == 900


def test_after_a_recovery_the_line_is_watched_anew() -> None:
    marks = Marks(patience_s=10)
    marks.note("line", 0.0, mark=7)
    marks.forget("line")
    marks.note("line", 20.0, mark=8)
    assert marks.due("line", 29.0) is None
    assert marks.due("line", 30.0) == 8
