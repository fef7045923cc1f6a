"""Flags, environment and secret files, as the commands read them."""

import os
import subprocess
import sys
from pathlib import Path


def migrate(*argv: str, **environ: str) -> int:
    """Its exit code; the database it makes tells which setting it took."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    command = [sys.executable, "-m", "launch", "migrate", *argv]
    return subprocess.run(command, env={**clean, **environ}, timeout=60, check=False).returncode


def test_a_flag_wins_over_the_environment(tmp_path: Path) -> None:
    flag, environment = tmp_path / "flag.db", tmp_path / "environment.db"
    assert migrate("--database-url", f"sqlite:///{flag}", HEADWAY_DATABASE_URL=f"sqlite:///{environment}") == 0
    assert flag.exists()
    assert not environment.exists()


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    database = tmp_path / "headway.db"
    secret = tmp_path / "secret"
    secret.write_text(f"sqlite:///{database}\n")
    assert migrate(HEADWAY_DATABASE_URL_FILE=str(secret)) == 0
    assert database.exists()


def test_what_the_operator_got_wrong_is_exit_code_2(tmp_path: Path) -> None:
    assert migrate(HEADWAY_DATABASE_URL_FILE=str(tmp_path / "missing")) == 2
