"""A models folder that changes while everything runs: what is new, changed, broken and gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until

MODEL = """
import time
from headway import Model

class Echo(Model):
    def load(self, context):
        time.sleep({load_s})
    def predict(self, inputs):
        return [["{says}", value] for value in inputs]
"""


class World:
    def __init__(self, headway: RunningHeadway) -> None:
        self.models = headway.folder / "models"
        self.http = httpx.Client(base_url=headway.data_url, timeout=30)

    def put(self, model: str, version: str, says: str, load_s: float = 0.0) -> None:
        put(self.models, model, version, says, load_s)

    def answers(self, model: str, **body: object) -> list[str]:
        """[version, what it says]"""
        answer = self.http.post(
            f"/v1/models/{model}/predictions", json={"input": 1, **body}, headers={"Prefer": "wait=30"}
        ).json()
        assert answer["status"] == "succeeded", answer
        return [answer["version"], answer["output"][0]]

    def version(self, model: str, version: str) -> dict[str, Any]:
        listed = self.http.get(f"/v1/models/{model}/versions").json().get("data", [])
        return next((one for one in listed if one["version"] == version), {"state": None, "reason": None})

    def until(self, model: str, version: str, state: str, reason: str = "") -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            one = self.version(model, version)
            return one if one["state"] == state and reason in (one["reason"] or "") else None

        return wait_until(there, 20, f"{model}@{version} to be {state}") or {}


def put(models: Path, model: str, version: str, says: str, load_s: float = 0.0) -> None:
    folder = models / model / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL.format(says=says, load_s=load_s))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("changing")
    put(folder / "models", "echo", "1", "one")
    put(folder / "models", "named", "1", "one")
    put(folder / "models", "named", "2", "two")
    with RunningHeadway(folder) as headway:
        made = World(headway)
        yield made
        made.http.close()


def test_a_model_that_comes_later_is_served_and_one_that_goes_is_refused_with_the_reason(world: World) -> None:
    world.put("late", "1", "here")
    world.until("late", "1", "ready")
    assert world.answers("late") == ["1", "here"]
    (world.models / "late").rename(world.models / ".late")
    world.until("late", "1", "failed", "its folder is gone")
    refused = world.http.post("/v1/models/late/predictions", json={"input": 1})
    assert (refused.status_code, "gone" in refused.json()["detail"]) == (503, True)
    (world.models / ".late").rename(world.models / "late")
    world.until("late", "1", "ready")
    assert world.answers("late") == ["1", "here"]


def test_changed_files_are_loaded_beside_the_old_ones_which_answer_until_then(world: World) -> None:
    world.put("swapped", "1", "old")
    world.until("swapped", "1", "ready")
    before = world.version("swapped", "1")["sha256"]
    world.put("swapped", "1", "new", load_s=1.0)
    said: list[str] = []
    while not said or said[-1] == "old":
        said.append(world.answers("swapped")[1])
    assert len(said) > 3, "nobody was answered while the new form was loaded"
    assert said[-1] == "new"
    assert world.version("swapped", "1")["sha256"] != before


def test_a_new_version_that_does_not_load_changes_nothing_until_it_is_mended(world: World) -> None:
    folder = world.models / "echo" / "2"
    folder.mkdir()
    (folder / "model.py").write_text("raise ImportError('no such thing')")
    world.until("echo", "2", "failed", "no such thing")
    assert world.answers("echo") == ["1", "one"]
    assert world.version("echo", "1")["state"] == "ready"
    world.put("echo", "2", "two")
    world.until("echo", "2", "ready")
    assert world.answers("echo") == ["2", "two"]
    world.until("echo", "1", "unloaded", "nobody asks")


def test_a_broken_model_toml_leaves_what_serves(world: World) -> None:
    toml = world.models / "echo" / "model.toml"
    toml.write_text("[batching\n")

    def reasons() -> list[str]:
        places = [place for version in "12" for place in world.version("echo", version).get("placements", [])]
        return [place["reason"] or "" for place in places if place["state"] == "ready"]

    wait_until(lambda: any("not valid TOML" in reason for reason in reasons()), 20, "it to be said")
    assert world.answers("echo")[0] in ("1", "2")
    toml.write_text("[batching]\nmax_batch_size = 4\n")
    wait_until(
        lambda: any(
            one["batching"]["max_batch_size"] == 4 and one["state"] == "ready"
            for one in world.http.get("/v1/models/echo/versions").json()["data"]
        ),
        20,
        "the manifest to be heeded",
    )
    wait_until(lambda: not any(reasons()), 10, "nothing to be said any more")
    assert world.answers("echo")[0] in ("1", "2")


def test_a_version_that_is_not_kept_is_loaded_for_who_asks_and_leaves_afterwards(world: World) -> None:
    assert world.version("named", "1")["state"] == "unloaded"
    assert world.answers("named") == ["2", "two"]
    assert world.answers("named", version="1") == ["1", "one"]
    assert world.version("named", "1")["state"] == "ready"
    assert world.answers("named") == ["2", "two"]
    world.until("named", "1", "unloaded", "nobody asks")
