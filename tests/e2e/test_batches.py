"""A batch's file with real processes: whatever is killed on the way, each line comes out once, in order and right."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

LINES = 8_000
ROOT = Path(__file__).resolve().parent.parent.parent

#: Its outputs tell the line; some lines fail.
DOUBLE = """
import time
from headway import Model

class Double(Model):
    def predict(self, inputs):
        time.sleep(0.01)
        return [ValueError("no") if number % 1000 == 7 else 2 * number for number in inputs]
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def headway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningHeadway]:
    folder = tmp_path / "models" / "double"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(DOUBLE)
    (folder / "model.toml").write_text("[batching]\nmax_batch_size = 64\n")
    options = [] if request.param == "sqlite" else ["--database-url", request.getfixturevalue("empty_postgres_url")]
    environ = {"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"}
    with RunningHeadway(tmp_path, options=options, environ=environ) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def file_of(count: int) -> bytes:
    return b"".join(b'{"custom_id":"c%d","input":%d}\n' % (n, n) for n in range(1, count + 1))


def kill(headway: RunningHeadway, part: str) -> int:
    """Its process id."""
    pid = headway.pid_of(part)
    os.kill(pid, signal.SIGKILL)
    return pid


class Following:
    """Reads the results of a batch on a thread, and goes on wherever a connection breaks."""

    def __init__(self, url: str, batch: Any) -> None:
        self.lines: list[Any] = []
        self._url = url
        self._batch = batch
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=httpx.Timeout(30, connect=5)) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    self._read(client)
                    if client.get(self._batch["urls"]["get"]).json()["status"] == "completed":
                        return self._read(client)

    def _read(self, client: httpx.Client) -> None:
        after = self.lines[-1]["line"] if self.lines else 0
        with client.stream("GET", f"{self._batch['urls']['results']}?after={after}") as stream:
            rest = b""
            for piece in stream.iter_bytes():
                *whole, rest = (rest + piece).split(b"\n")
                self.lines += [json.loads(line) for line in whole if line]

    def join(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive(), f"{len(self.lines)} lines so far"


def answers(url: str) -> bool:
    """Whether a POST is."""
    try:
        return httpx.post(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.timeout(240)
def test_every_line_comes_out_once_in_order_and_right_whatever_is_killed(
    headway: RunningHeadway, receiver: Receiver
) -> None:
    with httpx.Client(base_url=headway.data_url, timeout=60) as client:
        path = f"/v1/batches?model=double&webhook={receiver.url}/ended"
        batch = client.post(path, content=file_of(LINES), headers={"content-type": "application/x-ndjson"}).json()
    following = Following(headway.data_url, batch)
    queue = f"{headway.control_url}/v1/models/double/queue"
    for parts, share in ((["utility"], 0.05), (["worker", "api"], 0.2), (["double@1"], 0.5)):
        wait_until(lambda share=share: len(following.lines) >= share * LINES, 60, f"{share:.0%} of the lines")  # type: ignore[misc]
        if "worker" in parts:  # so that nobody has read all of it before the API is killed
            httpx.post(f"{queue}/pause").raise_for_status()
        killed = {part: kill(headway, part) for part in parts}
        if "worker" in parts:
            wait_until(lambda: answers(f"{queue}/resume"), 30, "the API to be back")
        for part, pid in killed.items():
            wait_until(lambda part=part, pid=pid: headway.pid_of(part) != pid, 20, f"another {part}")  # type: ignore[misc]
    following.join()

    assert [one["line"] for one in following.lines] == list(range(1, LINES + 1))
    for number, one in enumerate(following.lines, 1):
        assert one["custom_id"] == f"c{number}"
        if number % 1000 == 7:
            assert one["error"]["code"] == "model_error"
        else:
            assert one["output"] == 2 * number
    (told,) = wait_until(lambda: receiver.got, 20, "the webhook")
    with httpx.Client(base_url=headway.data_url) as client:
        done = client.get(batch["urls"]["get"]).json()
        sent = f"{batch['urls']['get']}/deliveries"
        (delivery,) = wait_until(
            lambda: [one for one in client.get(sent).json()["data"] if one["status"] == "succeeded"], 10, "the delivery"
        )
    assert (told.event["type"], told.event["data"]) == ("batch.completed", done)
    assert (delivery["id"], delivery["batch_id"]) == (told.id, batch["id"])
    counts = {"total": LINES, "completed": LINES - LINES // 1000, "failed": LINES // 1000, "canceled": 0, "expired": 0}
    assert done["request_counts"] == counts


@pytest.mark.timeout(240)
def test_an_upload_that_the_api_died_under_is_completed_by_sending_the_file_again(headway: RunningHeadway) -> None:
    halfway = threading.Event()
    dead = threading.Event()
    body = file_of(4_000)

    def slowly() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        halfway.set()
        dead.wait(30)
        yield body[len(body) // 2 :]

    def killer() -> None:
        halfway.wait(30)
        kill(headway, "api")
        dead.set()

    headers = {"content-type": "application/x-ndjson", "idempotency-key": "one file"}
    threading.Thread(target=killer).start()
    with httpx.Client(base_url=headway.data_url, timeout=60) as client:
        with pytest.raises(httpx.TransportError):
            client.post("/v1/batches?model=double", content=slowly(), headers=headers)
        batch = client.post("/v1/batches?model=double", content=body, headers=headers).json()
        assert batch["request_counts"]["total"] == 4_000
        assert len(client.get("/v1/batches").json()["data"]) == 1
    following = Following(headway.data_url, batch)
    following.join()
    assert [one["line"] for one in following.lines] == list(range(1, 4_001))


def test_interactive_predictions_share_micro_batches_with_a_batch_and_do_not_wait_behind_it(
    headway: RunningHeadway,
) -> None:
    with httpx.Client(base_url=headway.data_url, timeout=60) as client:
        headers = {"content-type": "application/x-ndjson"}
        batch = client.post("/v1/batches?model=double", content=file_of(40_000), headers=headers).json()
        wait_until(
            lambda: client.get(batch["urls"]["get"]).json()["request_counts"]["completed"], 20, "the batch to run"
        )
        sizes = []
        for number in range(1, 6):
            one = client.post(
                "/v1/models/double/predictions", json={"input": number}, headers={"Prefer": "wait=30"}
            ).json()
            assert one["output"] == 2 * number
            sizes.append(one["metrics"]["batch_size"])
        assert client.get(batch["urls"]["get"]).json()["status"] == "in_progress"
        assert max(sizes) > 1  # it filled the places that one left
        assert client.post(batch["urls"]["cancel"]).status_code == 202
        done = wait_until(
            lambda: (found := client.get(batch["urls"]["get"]).json())["status"] == "canceled" and found,
            30,
            "the cancel",
        )
    counts = done["request_counts"]
    assert counts["canceled"] > 0
    assert sum(counts[key] for key in ("completed", "failed", "canceled")) == counts["total"] == 40_000


@pytest.mark.timeout(240)
@pytest.mark.parametrize("headway", ["sqlite"], indirect=True)
def test_the_command_goes_on_after_whatever_ended_it(headway: RunningHeadway, tmp_path: Path) -> None:
    file, results = tmp_path / "in.ndjson", tmp_path / "in.results.ndjson"
    file.write_bytes(file_of(LINES))
    command = [sys.executable, "-m", "launch", "batch", str(file), "--model", "double"]
    environ = {**os.environ, "HEADWAY_URL": headway.data_url}

    def begun() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def written() -> int:
        return results.read_bytes().count(b"\n") if results.exists() else 0

    first = begun()
    with httpx.Client(base_url=headway.data_url) as client:
        wait_until(lambda: client.get("/v1/batches").json()["data"], 30, "the upload to begin")
    for share in (0, 0.2, 0.4):
        wait_until(lambda share=share: written() >= share * LINES, 60, f"{share:.0%} of the results")  # type: ignore[misc]
        first.kill()
        first.wait()
        first = begun()
    wait_until(lambda: written() >= 0.6 * LINES, 60, "more results")
    kill(headway, "api")
    assert first.wait(120) == 3  # some lines failed

    got = [json.loads(line) for line in results.read_bytes().splitlines()]
    assert [one["line"] for one in got] == list(range(1, LINES + 1))
    assert sum("error" in one for one in got) == LINES // 1000
    assert len(httpx.get(f"{headway.data_url}/v1/batches").json()["data"]) == 1
    assert begun().wait(60) == 3  # and again: nothing is left to do
    assert results.read_bytes().count(b"\n") == LINES


@pytest.mark.timeout(240)
@pytest.mark.parametrize("headway", ["sqlite"], indirect=True)
def test_the_command_reads_a_pipe_says_what_is_wrong_and_stops_at_once(headway: RunningHeadway, tmp_path: Path) -> None:
    environ = {**os.environ, "HEADWAY_URL": headway.data_url}
    output = tmp_path / "out"
    command = [sys.executable, "-m", "launch", "batch"]

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
        """(exit code, what it said at last)"""
        words = [*command, *arguments]
        done = subprocess.run(words, cwd=ROOT, env=environ, input=stdin, capture_output=True, timeout=60, check=False)
        return done.returncode, (done.stdout or done.stderr).decode()

    to = ("--output", str(output))
    assert run("-", "--model", "double")[0] == 2
    code, said = run("-", "--model", "nobody", *to, stdin=file_of(2))
    assert (code, "model_not_found" in said, list(tmp_path.glob("out*"))) == (2, True, [])
    code, said = run("-", "--model", "double", *to, stdin=file_of(2))
    assert (code, "2 lines, 2 succeeded" in said) == (0, True)
    assert run("-", "--model", "double", *to, stdin=file_of(2))[0] == 0
    code, said = run("-", "--model", "double", *to, stdin=file_of(3))
    assert (code, "not what it was" in said) == (2, True)
    assert [json.loads(line)["output"] for line in output.read_bytes().splitlines()] == [2, 4]

    file = tmp_path / "in.ndjson"
    file.write_bytes(file_of(LINES))
    words = [*command, str(file), "--model", "double"]
    queue = f"{headway.control_url}/v1/models/double/queue"
    httpx.post(f"{queue}/pause").raise_for_status()  # so that it cannot end before it is canceled
    with subprocess.Popen(words, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as begun:
        assert begun.stderr is not None
        id_ = begun.stderr.readline().split()[-1]
        begun.send_signal(signal.SIGINT)
        said = begun.stderr.read()
    assert (begun.returncode, f"headway cancel {id_}" in said) == (130, True)
    cancel = [sys.executable, "-m", "launch", "cancel", id_]
    assert subprocess.run(cancel, cwd=ROOT, env=environ, capture_output=True, timeout=60, check=True).stdout
    httpx.post(f"{queue}/resume").raise_for_status()
    code, said = run(str(file), "--model", "double")
    assert (code, " canceled" in said) == (3, True)
    results = tmp_path / "in.results.ndjson"
    assert [json.loads(line)["line"] for line in results.read_bytes().splitlines()] == list(range(1, LINES + 1))
