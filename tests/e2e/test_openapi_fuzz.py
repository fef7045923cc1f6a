"""Schemathesis against a running Headway: whatever OpenAPI allows or forbids, no answer is a surprise.

Every phase of it: examples, boundary values, random requests, and sequences that follow the links from a submission to
its prediction. `make fuzz` runs it with more examples.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headway.keys import new_token
from headway.running import RunningHeadway

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))  # an operation and phase
SEED = os.environ.get("FUZZ_SEED", "1")

MODEL = """
from headway import Model


class Echo(Model):
    def predict(self, inputs):
        return inputs
"""

CONFIG = """
hooks = "openapi_hooks"

[parameters]
"query.model" = "echo"
"path.model" = "echo"
"path.version" = "1"
"path.alias" = "stable"
"path.code" = "forbidden"
"""

#: What OpenAPI cannot say (`webhook_events` needs a `webhook`) is refused rightly.
LEFT_OUT = "positive_data_acceptance"


@pytest.mark.timeout(900)
def test_whatever_is_asked_the_answer_is_documented_and_never_a_5xx(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "echo"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(MODEL)
    (folder / "model.toml").write_text("[aliases]\nstable = 1\n")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    key = new_token()
    environ = {"HEADWAY_BOOTSTRAP_KEY": key, "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"}
    with RunningHeadway(tmp_path, environ=environ) as headway:
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{headway.data_url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--seed", SEED, "--max-examples", str(EXAMPLES)),
            *("--exclude-checks", LEFT_OUT, "--continue-on-failure", "--request-timeout", "70", "--no-color"),
        ]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        run = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=800, check=False
        )

    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    generated = re.search(r"(\d+) generated", run.stdout)
    assert generated is not None
    print(f"{generated[1]} requests, none answered otherwise than documented")
    assert int(generated[1]) > 15 * EXAMPLES
    log = headway.log.read_text()
    assert '"level": "error"' not in log
    assert "Traceback" not in log
