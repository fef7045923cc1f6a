"""The lock on a data folder, between real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from headway.errors import SettingsError
from launch.lock import hold

HOLDER = """
import pathlib, sys
from launch.lock import hold

with hold(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


def start_holder(path: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "1\n"
    return holder


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start_holder(path) as holder:
        with pytest.raises(SettingsError, match=f"process {holder.pid}"), hold(path):
            pass
        holder.communicate("\n", timeout=10)
    assert not path.exists()


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start_holder(path) as holder:
        holder.kill()
    with hold(path):
        assert path.exists()
    assert not path.exists()
