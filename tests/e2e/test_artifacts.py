"""Two workers whose folders differ: one version is one set of files, whoever computes it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until
from headway.versions import scan
from storage.engine import embedded_url

MODEL = """
from headway import Model

class Times(Model):
    def predict(self, inputs):
        return [{factor} * number for number in inputs]
"""


class Host:
    """A models folder with `times@1`."""

    def __init__(self, folder: Path) -> None:
        self.models = folder
        (folder / "times" / "1").mkdir(parents=True)

    def multiplies_by(self, factor: int) -> str:
        """The digest of the version from now on."""
        (self.models / "times" / "1" / "model.py").write_text(MODEL.format(factor=factor))
        (found,) = scan(self.models)
        return found.sha256


@pytest.fixture
def hosts(tmp_path: Path, fresh_redis_url: str) -> Iterator[tuple[RunningHeadway, Host, Host]]:
    """A whole system whose worker pins, and a second worker, with a folder of its own, that does not."""
    first, second = Host(tmp_path / "models"), Host(tmp_path / "others")
    first.multiplies_by(2)
    second.multiplies_by(3)
    options = ["--redis-url", fresh_redis_url]
    with RunningHeadway(tmp_path, options=options, environ={"HEADWAY_PIN": "1"}) as up:
        urls = {"HEADWAY_REDIS_URL": fresh_redis_url, "HEADWAY_DATABASE_URL": embedded_url(up.data)}
        with (tmp_path / "second.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "launch", "worker", "--device", "cpu", "--models", str(second.models)],
                env=os.environ | urls | {"HEADWAY_WORKER_ID": "second", "HEADWAY_BLOBS": str(up.data / "blobs")},
                stderr=log,
            )
        try:
            yield up, first, second
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)


def placements(up: RunningHeadway) -> dict[str, dict[str, Any]]:
    """Of times@1: by worker, `first` or `second`."""
    (version,) = httpx.get(f"{up.control_url}/v1/models/times/versions").json()["data"]
    return {
        "second" if one["worker_id"] == "second" else "first": one | {"sha256": version["sha256"]}
        for one in version["placements"]
    }


def answers(up: RunningHeadway) -> set[int]:
    """Of many predictions of 1."""
    url = f"{up.data_url}/v1/models/times:predict"
    return set(httpx.post(url, json={"instances": [1] * 50}, timeout=60).json()["predictions"])


def test_a_version_is_the_same_on_every_host_or_it_is_not_loaded_there(
    hosts: tuple[RunningHeadway, Host, Host],
) -> None:
    up, first, second = hosts

    def shows(host: str, state: str, said: str = "") -> None:
        def shown() -> bool:
            one = placements(up).get(host)
            return one is not None and one["state"] == state and said in (one["reason"] or "")

        wait_until(shown, 30, f"{host} to be {state}: {said}")

    shows("second", "failed", "on other workers")
    assert answers(up) == {2}
    second.multiplies_by(2)
    shows("second", "ready")

    sha256 = first.multiplies_by(5)
    shows("first", "ready", "HEADWAY_PIN takes no others")
    assert answers(up) == {2}
    (first.models / "times" / "model.toml").write_text(f'[artifact]\nsha256 = "{sha256}"')
    shows("first", "ready", "on other workers")
    assert answers(up) == {2}
    second.multiplies_by(5)
    wait_until(lambda: {one["sha256"] for one in placements(up).values()} == {sha256}, 30, "the new files to be taken")
    wait_until(lambda: answers(up) == {5}, 30, "both to have loaded them")
    for host in ("first", "second"):
        shows(host, "ready")
