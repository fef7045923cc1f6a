"""What operators say of models, on both stores."""

from pathlib import Path

from headway.manifest import parse
from headway.registry import DeviceStats, Route, Stats, Traffic
from headway.versions import Found
from storage.models import Models
from storage.routes import Routes
from storage.workers import Served
from tests.integration.conftest import Store


def found(store: Store, sha256: str = "a") -> Models:
    models = Models(store.database)
    models.register(Found(model="digits", version="1", path=Path("digits/1"), manifest=parse({}), sha256=sha256))
    return models


def test_what_is_said_of_a_model_is_read_back_and_what_was_not_said_has_no_route(store: Store) -> None:
    routes = Routes(store.database)
    assert routes.all() == {}
    traffic = Traffic(versions={"1": 90, "2": 10}, shadow=("3",), sticky="user")
    routes.split("digits", traffic)
    routes.pause("digits", True)
    routes.point("digits", "stable", "1")
    routes.point("digits", "old", None)
    routes.point("embed", "stable", "7")
    assert routes.all() == {
        "digits": Route(traffic=traffic, paused=True, aliases={"stable": "1", "old": None}),
        "embed": Route(aliases={"stable": "7"}),
    }
    routes.split("digits", Traffic())
    routes.pause("digits", False)
    routes.point("digits", "stable", "2")
    assert routes.all()["digits"] == Route(aliases={"stable": "2", "old": None})


def test_a_version_was_warm_until_its_file_changes(store: Store) -> None:
    models = found(store)
    models.place("w1", "cpu", "digits", "1", "ready", memory_bytes=200, instances=2)
    models.place("w1", "cpu", "digits", "1", "unloaded", reason="nobody asks for it")
    (version,) = models.all()
    assert (version.state, version.reason, version.memory_bytes) == ("unloaded", "nobody asks for it", 100)
    assert version.released
    assert models.wish("digits", "1", "unload")
    assert not models.all()[0].released
    assert models.wish("digits", "1", None)
    assert not models.wish("digits", "9", "load")
    found(store, sha256="b")
    (changed,) = models.all()
    assert (changed.loaded_at, changed.memory_bytes, changed.released) == (None, None, False)


def test_what_a_worker_measures_comes_with_its_beat(store: Store) -> None:
    models = found(store)
    models.place("w1", "cpu", "digits", "1", "ready")
    stats = Stats(failed=2, seconds={3: 4}, sizes={32: 1})
    served = Served(model="digits", version="1", ended=9, rate=0.5, stats=stats)
    device = DeviceStats(busy=0.25, memory_bytes=7, memory_budget=8, loads=3, unloads=2)
    assert store.workers.beat("w1", [served], device)
    assert models.all()[0].placements[0].stats == stats
    (one,) = store.workers.devices()
    assert (one.worker_id, one.device, one.stats) == ("w1", "cpu", device)
