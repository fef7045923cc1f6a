"""`headway up` for a team: beyond loopback, with a key from a file that nobody but the API sees."""

from pathlib import Path

import httpx
import pytest

from headway.keys import new_token
from headway.running import RunningHeadway, command_line, descendants

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")

MODEL = """
from headway import Model

class Double(Model):
    def predict(self, inputs):
        return [2 * number for number in inputs]
"""


def test_with_a_bootstrap_key_it_serves_every_address_and_no_stranger(tmp_path: Path) -> None:
    version = tmp_path / "models" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    token, file = new_token(), tmp_path / "bootstrap key"
    file.write_text(token)
    environ = {"HEADWAY_BOOTSTRAP_KEY_FILE": str(file)}
    with RunningHeadway(tmp_path, options=("--host", "0.0.0.0"), environ=environ) as up:
        predict, body = f"{up.data_url}/v1/models/double:predict", {"instances": [1, 2]}
        assert httpx.post(predict, json=body).status_code == 401
        with_key = {"authorization": f"Bearer {token}"}
        assert httpx.post(predict, json=body, headers=with_key, timeout=60).json() == {"predictions": [2, 4]}
        assert httpx.get(f"{up.control_url}/metrics").status_code == 401
        assert httpx.get(f"{up.control_url}/v1/keys", headers=with_key).status_code == 200
        told = [pid for pid in descendants(up.process.pid) if str(file).encode() in _environ(pid)]
        assert [command_line(pid)[-1] for pid in told] == ["api"]


def _environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
