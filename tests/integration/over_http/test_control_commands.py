"""`headway models …` and `headway retry --status` as operators run them."""

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from headway.errors import ItemCode, ItemError
from headway.running import free_port
from launch.cli import main
from tests.integration.over_http.test_api_control import versions_of, warmed

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Stack


class Shell:
    """Commands run in this process: each in one of its own would take half a second."""

    def __init__(self, environ: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._environ = environ
        self._captured = captured

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        self._environ.setattr(sys, "argv", ["headway", *arguments])
        self._captured.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._captured.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def printed(self, *arguments: str) -> str:
        """By a command that went well and complained of nothing."""
        code, out, err = self.run(*arguments)
        assert (code, err) == (0, "")
        return out

    def told(self, code: int, *arguments: str) -> str:
        """The one line of a command that went wrong."""
        ended, out, err = self.run(*arguments)
        assert (ended, out) == (code, "")
        (line,) = err.splitlines()
        assert line.startswith("headway: ")
        return line


@pytest.fixture
def shell(stack: "Stack", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """One in which only the control plane is set."""
    warmed(stack)
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWAY_ADMIN_URL", stack.api.control_url)
    return Shell(monkeypatch, capsys)


def test_a_model_is_operated_from_the_shell(shell: Shell, api: "Api") -> None:
    assert shell.printed("models", "traffic", "echo", "1=90", "2=10", "--shadow", "3", "--sticky", "user") == (
        "echo: 1 90%, 2 10%; shadow 3; sticky by user\n"
    )
    lines = [line.split("\t") for line in shell.printed("models", "list").splitlines()]
    echo = {line[0].removeprefix("echo@"): line for line in lines}
    assert [echo[version][1:3] for version in "123"] == [["ready", "90%"], ["ready", "10%"], ["loading", "shadow"]]
    assert echo["1"][-1] == "stable"
    assert shell.printed("models", "traffic", "echo", "--latest") == "echo: 2 100%\n"
    assert versions_of(api, 2) == {"2": 2}

    assert shell.printed("models", "alias", "echo", "stable", "2") == "echo stable: 2\n"
    assert json.loads(shell.printed("models", "list", "echo", "--json"))["aliases"]["stable"] == "2"
    assert shell.printed("models", "alias", "echo", "stable", "--delete") == "echo has no alias stable\n"

    assert shell.printed("models", "unload", "echo", "1") == "echo 1: ready, wish: unload\n"
    assert shell.printed("models", "reset", "echo", "1") == "echo 1: ready\n"
    assert shell.printed("models", "load", "echo", "3") == "echo 3: loading, wish: load\n"
    assert shell.printed("models", "pause", "echo").startswith("echo: paused, ")
    assert shell.printed("models", "resume", "echo").startswith("echo: running, ")
    shell.printed("models", "purge", "echo")
    assert shell.printed("models", "purge", "echo", "--yes") == "echo: 0 canceled\n"


def test_all_that_failed_is_run_again(shell: Shell, api: "Api", worker: "PlayedWorker") -> None:
    ids = [api.submit(n).json()["id"] for n in range(3)]
    worker.run(*ids, answer=lambda _: ItemError(ItemCode.MODEL_ERROR, "no"))
    retry = ("retry", "--status", "failed", "--model", "echo", "--code", "model_error")
    assert shell.printed(*retry) == "3 queued again\n"
    assert shell.printed(*retry) == "0 queued again\n"
    worker.run(*ids)


def test_what_operators_get_wrong_is_one_line(shell: Shell) -> None:
    assert "version_not_found" in shell.told(2, "models", "load", "echo", "7")
    assert "/versions/7" in shell.told(2, "models", "traffic", "echo", "7=1")
    assert "VERSION=WEIGHT" in shell.told(2, "models", "traffic", "echo", "1")
    assert "--delete" in shell.told(2, "models", "alias", "echo", "stable")
    assert "--latest" in shell.told(2, "models", "traffic", "echo", "1=1", "--latest")
    assert "--status" in shell.told(2, "retry")
    assert "since" in shell.told(2, "retry", "--status", "failed", "--since", "now")
    gone = f"http://127.0.0.1:{free_port()}"
    assert f"no answer from {gone}" in shell.told(1, "models", "list", "--admin-url", gone)
