"""docs/three-gpu-hosts.md keeps its word: its units start what there is, and its names are those of the files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "three-gpu-hosts.md").read_text()
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def test_the_page_points_at_files_that_are_there() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", PAGE))
    assert {"deploy/valkey/users.acl", "deploy/postgres/roles.sql"} <= named
    assert [name for name in named if not list(ROOT.glob(f"{name}*"))] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_there_is_and_gives_it_its_secrets_by_file(unit: Path) -> None:
    text = unit.read_text()
    (command,) = re.findall(r"^ExecStart=/opt/headway/.venv/bin/headway (.*)$", text, re.M)
    words = command.replace("%i", "0").split()
    # The parser refuses an option that does not exist before it shows any help.
    subprocess.run([sys.executable, "-m", "launch", *words, "--help"], check=True, capture_output=True)
    loaded = set(re.findall(r"^LoadCredential=(\w+):/etc/headway/secrets/\1$", text, re.M))
    assert loaded == set(re.findall(r"^Environment=\w+_FILE=%d/(\w+)$", text, re.M))
    assert loaded == {name for name in loaded if f"secrets/{name}`" in PAGE}
    if "Type=oneshot" not in text:
        assert int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)[0]) > 15
