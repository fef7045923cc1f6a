"""docs/three-gpu-hosts.md keeps its word: its units start what there is, its Redis user may do all that is needed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from headway.running import RunningHeadway
from headway.testing import wait_until

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "three-gpu-hosts.md").read_text()
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))

ECHO = """
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return inputs
"""


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


@pytest.fixture
def user_url(fresh_redis_url: str) -> Iterator[str]:
    """The session's Valkey as the user of the page."""
    (rules,) = re.findall(r"^user headway (.*)$", PAGE, re.M)
    with redis.Redis.from_url(fresh_redis_url) as client:
        client.execute_command("ACL", "SETUSER", "headway", "reset", *rules.replace("PASSWORD", "pw").split())
        client.acl_log_reset()
        yield re.sub(r"^unix://[^@]*@", "unix://headway:pw@", fresh_redis_url)
        client.acl_deluser("headway")


def test_the_redis_user_of_the_page_may_do_all_that_is_needed(
    user_url: str, fresh_redis_url: str, tmp_path: Path
) -> None:
    version = tmp_path / "models" / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(ECHO)
    with RunningHeadway(tmp_path, flower=True, options=["--redis-url", user_url]) as running:
        url = f"{running.data_url}/v1/models/echo:predict"
        assert httpx.post(url, json={"instances": [1, 2]}, timeout=30).json() == {"predictions": [1, 2]}
        flower = running.flower_url
        wait_until(lambda: httpx.get(f"{flower}/api/tasks").json(), 20, "the hints in Flower")
        wait_until(lambda: httpx.get(f"{flower}/api/workers?refresh=1", timeout=20).json(), 20, "the worker in Flower")
    with redis.Redis.from_url(fresh_redis_url) as client:
        refused = [(entry["reason"], entry["object"]) for entry in client.acl_log()]
        assert [entry for entry in refused if entry[0] != "auth"] == []
        with redis.Redis.from_url(user_url) as theirs, pytest.raises(redis.exceptions.NoPermissionError):
            theirs.flushall()
