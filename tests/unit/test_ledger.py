"""What a `headway batch` finds when it is started again."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import SettingsError
from launch.ledger import File, Ledger, results

REQUEST = {"model": "m"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.ndjson"
    path.write_bytes(b'{"input": 1}\n' * 300_000)
    return path


def of(file: Path) -> File:
    return File.of(file, piped=False)


def line(number: int, size: int = 1) -> bytes:
    return b'{"line":%d,"output":"%s"}\n' % (number, b"x" * size)


def test_the_key_and_the_batch_are_found_again(file: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = Ledger(state, of(file), REQUEST)
    assert not state.exists()
    first.note()
    again = Ledger(state, of(file), REQUEST)
    assert (again.key, again.batch_id) == (first.key, None)
    again.note("b1")
    again.note()
    assert (Ledger(state, of(file), REQUEST).key, Ledger(state, of(file), REQUEST).batch_id) == (first.key, "b1")
    assert Ledger(tmp_path / "another", of(file), REQUEST).key != first.key


def test_another_file_or_request_is_not_taken_for_the_one_that_was_begun(file: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    Ledger(state, of(file), REQUEST).note()
    with pytest.raises(SettingsError, match=r"begun with --model m: remove .*state"):
        Ledger(state, of(file), {"model": "m", "priority": "1"})

    before, stat = file.read_bytes(), file.stat()
    for content in (before + b"\n", b" " + before[1:], before[:-2] + b" \n"):
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(SettingsError, match="not what it was"):
            Ledger(state, of(file), REQUEST)
    file.write_bytes(before)
    with pytest.raises(SettingsError, match="not what it was"):
        Ledger(state, of(file), REQUEST)  # written since, and who knows where
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Ledger(state, of(file), REQUEST)

    state.write_text("notes of mine")
    with pytest.raises(SettingsError, match="not written by"):
        Ledger(state, of(file), REQUEST)


def test_what_came_through_a_pipe_is_known_by_its_content_alone(file: Path, tmp_path: Path) -> None:
    Ledger(tmp_path / "state", File.of(file, piped=True), REQUEST).note()
    os.utime(file, (1, 1))
    Ledger(tmp_path / "state", File.of(file, piped=True), REQUEST)


@pytest.mark.parametrize("size", [1, 65_000, 70_000, 600_000])
def test_results_go_on_after_the_last_whole_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "out"
    whole = line(1) + line(2) + line(4, size)
    for torn in (b"", line(5)[:-1], line(5, size)[:-3], b"{"):
        path.write_bytes(whole + torn)
        with results(path) as kept:
            assert kept.after == 4
            kept.write(line(5))
            assert kept.after == 5  # a connection that breaks now is begun anew behind it
        assert path.read_bytes() == whole + line(5)


@given(st.integers(0, len(line(1) * 3)))
def test_wherever_a_kill_has_cut_it_no_line_is_lost_or_doubled(cut: int) -> None:
    path = Path(tempfile.gettempdir()) / f"headway-ledger-{os.getpid()}"
    everything = line(1) + line(2) + line(3)
    path.write_bytes(everything[:cut])
    try:
        with results(path) as kept:
            kept.write(b"".join(line(number) for number in range(kept.after + 1, 4)))
        assert path.read_bytes() == everything
    finally:
        path.unlink()


def test_results_are_written_by_one_process_at_a_time_and_only_over_results(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with results(path) as kept:
        assert kept.after == 0
        with pytest.raises(SettingsError, match="another `headway batch`"), results(path):
            pass
    path.write_text("a diary\n")
    with pytest.raises(SettingsError, match="something else than results"), results(path):
        pass
    with pytest.raises(SettingsError, match="cannot write"), results(tmp_path / "nowhere" / "out"):
        pass
