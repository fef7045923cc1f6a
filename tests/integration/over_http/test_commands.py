"""`headway submit`, `list`, `cancel` and `retry` as people and scripts run them: processes, pipes and exit codes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headway.running import free_port

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def environ(api: "Api") -> dict[str, str]:
    """A shell in which only the server is set."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")}
    return {**bare, "HEADWAY_URL": api.url}


def run(environ: dict[str, str], *arguments: str, stdin: str = "") -> Done:
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, env=environ, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def printed(done: Done) -> str:
    """What a command that went well has said; it complained of nothing."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def told(done: Done, code: int) -> str:
    """The one line of a command that went wrong."""
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("headway: ")
    return line


@pytest.mark.usefixtures("working")
def test_an_input_is_an_argument_a_file_or_what_comes_in_and_the_output_is_alone_on_stdout(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"from": "a file"}')
    assert printed(run(environ, "submit", "echo", '{"n": 1}', "--wait")) == '{"n": 1}\n'
    assert printed(run(environ, "submit", "echo", "no JSON at all", "--wait")) == '"no JSON at all"\n'
    assert printed(run(environ, "submit", "echo", f"@{file}", "--wait")) == '{"from": "a file"}\n'
    assert printed(run(environ, "submit", "echo", "--wait", stdin="a line\n")) == '"a line"\n'
    assert told(run(environ, "submit", "echo", "bad", "--wait"), 1).endswith("failed: no good [model_error]")


@pytest.mark.usefixtures("idle")
def test_what_is_submitted_is_listed_canceled_and_retried(environ: dict[str, str], api: "Api") -> None:
    options = ["--version", "1", "--priority", "3", "--metadata", "who=me", "--metadata", "sum=1+1=2"]
    options += ["--queue-timeout", "60", "--max-attempts", "2", "--webhook", "http://127.0.0.1:9999/hook"]
    id_ = printed(run(environ, "submit", "echo", "[1]", *options)).strip()
    prediction = api.client.get(f"/v1/predictions/{id_}", params={"include": "input"}).json()
    assert (prediction["input"], prediction["version"], prediction["priority"]) == ([1], "1", 3)
    assert (prediction["metadata"], prediction["max_attempts"]) == ({"who": "me", "sum": "1+1=2"}, 2)
    assert (prediction["webhook_status"], prediction["expires_at"] is None) == ("pending", False)

    assert printed(run(environ, "cancel", id_)) == "canceled\n"
    (line,) = printed(run(environ, "list", "--status", "canceled", "--limit", "1")).splitlines()
    assert line.split("\t")[:3] == [id_, "echo@1", "canceled"]
    assert printed(run(environ, "retry", id_)) == "queued\n"
    listed = printed(run(environ, "list", "--model", "echo", "--version", "1", "--json")).splitlines()
    assert len(listed) <= 20
    first = json.loads(listed[0])
    assert (first["id"], first["status"], first["metadata"]["who"]) == (id_, "queued", "me")
    assert "not_retryable" in told(run(environ, "retry", id_), 2)


def test_a_terminal_sees_a_table_and_is_not_waited_for(environ: dict[str, str], api: "Api") -> None:
    id_ = api.submit(version="1").json()["id"]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "launch"]
    screen = {**environ, "COLUMNS": "150", "TERM": "xterm"}
    list_ = [*command, "list", "--limit", "1"]
    done = subprocess.run(list_, env=screen, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False)
    submit = [*command, "submit", "echo"]
    without_input = subprocess.run(submit, env=screen, stdin=theirs, capture_output=True, timeout=60, check=False)
    assert (without_input.returncode, without_input.stdout) == (2, b"")
    assert without_input.stderr.startswith(b"headway: there is no input")
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")
    assert id_ in drawn
    assert "━┳━" in drawn


def test_what_is_refused_is_one_line_and_two_what_had_no_answer_one(environ: dict[str, str]) -> None:
    assert "model_not_found" in told(run(environ, "submit", "nope", "1"), 2)
    assert "/priority" in told(run(environ, "submit", "echo", "1", "--priority", "12"), 2)
    assert "NAME=VALUE" in told(run(environ, "submit", "echo", "1", "--metadata", "oops"), 2)
    assert "not JSON compliant" in told(run(environ, "submit", "echo", "[NaN]"), 2)
    assert "cannot read nowhere" in told(run(environ, "submit", "echo", "@nowhere"), 2)
    told(run(environ, "submit", "echo", "[" * 100_000), 2)
    assert "prediction_not_found" in told(run(environ, "cancel", "nobody"), 2)
    assert "URL" in told(run(environ, "list", "--url", "localhost:8000"), 2)
    gone = f"http://127.0.0.1:{free_port()}"
    assert f"no answer from {gone}" in told(run(environ, "list", "--url", gone), 1)
    assert "No such option" in run(environ, "submit", "echo", "1", "--what").stderr


def test_asking_needs_no_database_and_no_torch(environ: dict[str, str]) -> None:
    program = (
        "import sys, launch.cli; sys.argv = ['headway', 'list']\n"
        "try: launch.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'celery', 'redis', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, capture_output=True, timeout=60)
