"""The events of predictions whose model reports, through `headway up`, over connections that are cut."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

TELLER = """
import threading
from headway import Model

class Teller(Model):
    def predict(self, inputs, context):
        for number in range(max(inputs)):
            for most, item in zip(inputs, context.items, strict=True):
                if number < most:
                    item.emit(f"part {number}")
                    item.progress((number + 1) / most, f"{number + 1} of {most}")
            threading.Event().wait(0.01)
        return [f"{most} parts" for most in inputs]
"""

WORDS = 300


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]


class Follower:
    """Comes back with the last id that it has in full."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.events: list[Event] = []
        self.cuts = 0

    def follow(self, most: int | None = None) -> int:
        """Reads so many bytes at most, or to the end; the status, 0 where the connection broke."""
        headers = {"last-event-id": self.events[-1].id} if self.events else {}
        body = b""
        status = 0
        try:
            with httpx.stream("GET", self._url, headers=headers, timeout=30) as response:
                for piece in response.iter_raw(1):
                    body += piece
                    if most is not None and len(body) >= most:
                        self.cuts += 1
                        break
                status = response.status_code
        except httpx.TransportError:
            self.cuts += 1
        blocks = body.split(b"\n\n")[:-1]
        self.events += [_event(block.decode()) for block in blocks if block.startswith(b"id: ")]
        return status


def _event(block: str) -> Event:
    fields = dict(line.split(": ", 1) for line in block.splitlines())
    return Event(fields["id"], fields["event"], json.loads(fields["data"]))


def _replaced(headway: RunningHeadway, part: str) -> None:
    killed = headway.pid_of(part)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: headway.pid_of(part) != killed, 20, f"another {part}")


def test_a_client_cut_off_twenty_times_sees_every_event_once_whatever_is_killed_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "teller" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(TELLER)
    chance = random.Random(20)
    with RunningHeadway(tmp_path) as headway:
        create = f"{headway.data_url}/v1/models/teller/predictions"
        mate = httpx.post(create, json={"input": WORDS // 2}).json()
        prediction = httpx.post(create, json={"input": WORDS}).json()
        url = headway.data_url + prediction["urls"]["events"]
        follower = Follower(url)
        while follower.cuts < 20:
            assert follower.follow(chance.randrange(1, 3000)) in (0, 200)
            if follower.cuts in (6, 14):
                _replaced(headway, "api" if follower.cuts == 6 else "teller@1")
        wait_until(lambda: follower.follow() == 204, 60, "the end")
        whole = Follower(url)
        assert whole.follow() == 200
        assert follower.events == whole.events
        assert len({event.id for event in whole.events}) == len(whole.events)
        last = whole.events[-1].data
        assert (last["status"], last["prediction"]["output"]) == ("succeeded", f"{WORDS} parts")
        said = [event.data["output"] for event in whole.events if event.kind == "output"]
        assert said[-WORDS:] == [f"part {number}" for number in range(WORDS)]
        assert [event for event in whole.events if event.kind == "progress"][-1].data["fraction"] == 1.0
        other = Follower(headway.data_url + mate["urls"]["events"])
        assert other.follow() == 200
        assert other.events[-1].data["prediction"]["output"] == f"{WORDS // 2} parts"
    print(f"{len(whole.events)} events, each once, over {follower.cuts} cuts, a killed API and a killed device process")
