"""More models than a device holds: they take turns, nobody is left out, and nobody keeps another from the device."""

import asyncio
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from headway.running import RunningHeadway, command_line, descendants
from tests.e2e.test_prometheus import metrics_urls, total

MODELS = [f"m{number:02}" for number in range(12)]
ROOM_FOR = 4

SLEEPY = """
import time
from headway import Model

class Sleepy(Model):
    def predict(self, inputs):
        for seconds in inputs:
            time.sleep(seconds)
        return inputs
"""

TOML = '[batching]\nmax_batch_size = 1\nsize = "none"\n[resources]\nmemory = "1GiB"\n'


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHeadway]:
    folder = tmp_path_factory.mktemp("placement")
    for name in MODELS:
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(SLEEPY)
        (version.parent / "model.toml").write_text(TOML)
    with RunningHeadway(folder, environ={"HEADWAY_DEVICE_MEMORY": f"{ROOM_FOR}GiB"}) as running:
        yield running


class Watch:
    """Counts, over and over, how many models are loaded or loading: their processes, and what operators are shown."""

    def __init__(self, running: RunningHeadway) -> None:
        self._running = running
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.processes: list[int] = []
        self.shown: list[int] = []

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._running.data_url, timeout=30) as client:
            while not self._enough.wait(0.2):
                words = [word for pid in descendants(self._running.process.pid) for word in command_line(pid)]
                self.processes.append(len({word for word in words if word[:3] in MODELS and "@1#" in word}))
                models = client.get("/v1/models").json()["data"]
                places = [place for one in models for row in one["versions"] for place in row["placements"]]
                self.shown.append(sum(place["state"] in ("ready", "loading") for place in places))


async def ask_all(url: str, seconds: float, count: int) -> dict[str, float]:
    """So many predictions for each model, all at once; the seconds until its last was answered."""
    began = time.monotonic()
    ended: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=url, timeout=90, limits=httpx.Limits(max_connections=None)) as client:

        async def ask(model: str) -> None:
            path = f"/v1/models/{model}/predictions"
            answers = [await client.post(path, json={"input": seconds}) for _ in range(count)]
            for answer in answers:
                assert answer.status_code == 202, answer.text
                done = await client.get(answer.headers["location"], headers={"Prefer": "wait=60"})
                assert done.json()["status"] == "succeeded", done.text
            ended[model] = time.monotonic() - began

        await asyncio.gather(*(ask(model) for model in MODELS))
    return ended


def test_twelve_models_where_four_fit_all_answer_and_none_starves(headway: RunningHeadway) -> None:
    def counted() -> tuple[float, float]:
        pages = [httpx.get(url).text for url in metrics_urls(headway)]
        return total(pages, "headway_model_loads_total{"), total(pages, "headway_model_unloads_total{")

    assert counted() == (ROOM_FOR, 0)  # those that fit were loaded at the start
    with Watch(headway) as watch:
        first = asyncio.run(ask_all(headway.data_url, 0.0, 1))
        after_first = counted()
        second = asyncio.run(ask_all(headway.data_url, 0.05, 4))
        after_second = counted()
    for name, ended in (("one", first), ("some work", second)):
        waits = sorted(ended.values())
        print(f"{name} for each: answered after {waits[0]:.1f} to {waits[-1]:.1f} s")
    print(f"loads and unloads: {after_first}, then {after_second}; most at once: {max(watch.processes)}")

    assert max(watch.processes) == max(watch.shown) == ROOM_FOR
    assert after_first[0] >= len(MODELS)
    for loads, unloads in (after_first, after_second):
        assert loads - unloads <= ROOM_FOR
    assert after_second[0] >= after_first[0] + len(MODELS) - ROOM_FOR
    # Three turns of four, if nobody comes twice before somebody else; twice that on a busy machine.
    assert after_second[0] <= 2 * 2 * len(MODELS)
    assert max(second.values()) <= 4 * max(first.values()) + 4


def test_a_flood_for_one_model_keeps_no_other_from_the_device(headway: RunningHeadway) -> None:
    flooded, other = MODELS[0], MODELS[1]
    with httpx.Client(base_url=headway.data_url, timeout=60) as client:
        for model in (flooded, other):
            assert client.post(f"/v1/models/{model}:predict", json={"instances": [0.0]}).status_code == 200
        for _ in range(80):
            assert client.post(f"/v1/models/{flooded}/predictions", json={"input": 0.05}).status_code == 202
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert client.post(f"/v1/models/{other}:predict", json={"instances": [0.01]}).status_code == 200
            took.append(time.monotonic() - began)
        left = client.get(f"/v1/models/{flooded}/queue").json()["depth"]
    print(f"beside a flood: median {sorted(took)[10] * 1000:.0f} ms, most {max(took) * 1000:.0f} ms, {left} were left")
    assert left > 20
    assert sorted(took)[10] < 0.2
