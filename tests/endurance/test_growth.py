"""Fifty thousand predictions in one life of each process: none of them grows."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from headway.running import RunningHeadway
from tests.endurance.slope import Slope, slope
from tests.receiver import Receiver
from workers import memory

#: MB for 10,000 predictions.
MOST = 1.0
#: The first part of the way is warm-up: pools fill, code and buffers come in.
WARM_UP = 0.3
SAMPLES = 40
CALLERS = 24

ECHO = """
from headway import Model

class Echo(Model):
    kept = []

    def predict(self, inputs):
        self.kept += [bytes(LEAK) for _ in inputs] if LEAK else []
        return inputs
"""


def grown(folder: Path, predictions: int, leak_bytes: int = 0) -> dict[str, Slope]:
    """MB a 10,000 predictions, by process."""
    version = folder / "models" / "echo" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(ECHO.replace("LEAK", str(leak_bytes)))
    receiver = Receiver()
    environ = {"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"}
    held: dict[str, list[tuple[float, float]]] = {part: [] for part in ("api", "worker", "echo@1", "utility")}
    try:
        with RunningHeadway(folder, environ=environ) as headway:
            pids = {part: headway.pid_of(part) for part in held}
            began = time.monotonic()
            asyncio.run(_submit(headway.data_url, receiver.url, predictions, pids, held))
            print(f"\n{predictions} predictions in {time.monotonic() - began:.0f} s, {len(receiver.got)} webhooks")
            assert {part: headway.pid_of(part) for part in held} == pids, "one life of each process"
    finally:
        receiver.close()
    slopes = {}
    for part, points in held.items():
        after = [(done, size) for done, size in points if done >= WARM_UP * predictions]
        found = slope([(done / 10_000, size) for done, size in after])
        slopes[part] = found
        print(
            f"  {part:8} {points[0][1]:6.1f} → {after[0][1]:6.1f} → {points[-1][1]:6.1f} MB, after warm-up "
            f"{found.slope:+.2f} MB a 10,000 (95 %: {found.low:+.2f} … {found.high:+.2f})"
        )
    return slopes


async def _submit(
    url: str, hook: str, predictions: int, pids: dict[str, int], held: dict[str, list[tuple[float, float]]]
) -> None:
    """One in twenty has a receiver. A caller waits for each of its predictions, so that no queue builds up."""
    host, port = url.removeprefix("http://").split(":")
    left = iter(range(predictions))
    done = 0

    def note() -> None:
        for part, pid in pids.items():
            held[part].append((done, (memory.resident(pid) or 0) / 1e6))

    async def call() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in left:
            hooked = {"webhook": hook} if number % 20 == 0 else {}
            body = msgspec.json.encode({"input": number, **hooked})
            head = (
                f"POST /v1/models/echo/predictions HTTP/1.1\r\nHost: {host}:{port}\r\nPrefer: wait=60\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = next(
                int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
            done += 1
            if done % max(1, predictions // SAMPLES) == 0:
                note()
        writer.close()

    note()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    note()


@pytest.mark.timeout(3600)
def test_no_process_grows_over_fifty_thousand_predictions(tmp_path: Path, sized: Callable[[int], int]) -> None:
    slopes = grown(tmp_path, max(5_000, sized(50_000)))
    assert {part: found for part, found in slopes.items() if found.slope > MOST} == {}


@pytest.mark.timeout(3600)
def test_a_planted_leak_fails_the_gate(tmp_path: Path, sized: Callable[[int], int]) -> None:
    """300 bytes for each prediction, in the model: 3 MB a 10,000."""
    slopes = grown(tmp_path, max(10_000, sized(20_000)), leak_bytes=300)
    assert slopes["echo@1"].low > MOST
    assert slopes["worker"].slope < slopes["echo@1"].slope
