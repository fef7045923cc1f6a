"""Workers, their beats, and the model versions on them, the same on both stores."""

from pathlib import Path
from typing import Any

from headway.manifest import Batching, Manifest, Tensor
from headway.registry import Placement, Version
from headway.versions import Found
from storage.models import Models
from storage.predictions import Predictions
from storage.workers import Served


def test_a_worker_beats_while_it_is_live_and_never_again(store: Any) -> None:
    workers = store.workers
    assert workers.beat("w1")
    assert workers.beat("w1")
    assert workers.beats() == {"w1": 2}

    assert not workers.mark_dead("w1", beat=1)  # it has beaten since
    assert workers.mark_dead("w1", beat=2)

    assert not workers.mark_dead("w1")
    assert not workers.beat("w1")
    assert not workers.beat("unknown")
    workers.register("w1", "cpu", "host", 1)  # a dead id cannot come back
    assert workers.beats() == {}


def test_a_lease_says_how_long_it_lasts(store: Any) -> None:
    assert store.workers.lease_left("janitor") is None
    assert store.workers.hold_lease("janitor", "one", 10)
    assert 9 < store.workers.lease_left("janitor") <= 10
    assert store.workers.hold_lease("janitor", "one", -1)
    assert -2 < store.workers.lease_left("janitor") <= -1


def test_dead_workers_are_forgotten_once_they_own_nothing(store: Any) -> None:
    store.claimed(store.submitted())
    store.workers.register("w2", "cpu", "host", 2)
    store.workers.mark_dead("w1")
    store.workers.mark_dead("w2")

    store.workers.forget_dead()
    assert store.count("workers") == 1

    store.predictions.give_back_dead()
    store.workers.forget_dead()
    assert store.count("workers") == 0


FOUND = Found(
    model="digits",
    version="1",
    path=Path("/models/digits/1"),
    manifest=Manifest(batching=Batching(max_batch_size=8), aliases={"stable": "1"}, example={"x": [1, None]}),
    framework="torch.export",
    sha256="ab",
)


def test_a_version_is_ready_where_a_live_worker_has_it(store: Any) -> None:
    models = Models(store.database)
    models.register(FOUND)
    (version,) = models.all()
    assert (version.state, version.placements, version.loaded_at) == ("loading", [], None)

    models.place("w1", "cuda:0", "digits", "1", "loading")
    models.place("w1", "cuda:0", "digits", "1", "ready", memory_bytes=5)
    store.workers.beat("w1", [Served(model="digits", version="1", ended=7, rate=1.5)])

    (version,) = models.all()
    (placement,) = version.placements
    assert version == Version(
        model="digits",
        version="1",
        state="ready",
        reason=None,
        framework="torch.export",
        path="/models/digits/1",
        sha256="ab",
        manifest=FOUND.manifest or Manifest(),
        created_at=version.created_at,
        loaded_at=version.loaded_at,
        memory_bytes=5,
        placements=[
            Placement(
                worker_id="w1",
                device="cuda:0",
                state="ready",
                reason=None,
                loaded_at=placement.loaded_at,
                memory_bytes=5,
                ended=7,
                rate=1.5,
            )
        ],
    )
    assert version.loaded_at is not None
    assert placement.loaded_at is not None

    store.workers.mark_dead("w1")
    (version,) = models.all()
    assert (version.state, version.placements) == ("loading", [])
    store.workers.forget_dead()
    assert store.count("placements") == 0


def test_a_broken_version_is_listed_with_its_reason(store: Any) -> None:
    models = Models(store.database)
    models.register(Found(model="broken", version="1", path=Path("/m"), error="no model file"))
    models.register(Found(model="nothing", version="", path=Path("/m"), error="no version folder"))
    models.register(FOUND)
    models.place("w1", "cpu", "digits", "1", "failed", reason="it does not load")

    assert [(v.model, v.state, v.reason) for v in models.all()] == [
        ("broken", "failed", "no model file"),
        ("digits", "failed", "it does not load"),
    ]


def test_what_a_loaded_model_said_is_kept_until_its_folder_changes(store: Any) -> None:
    models = Models(store.database)
    models.register(FOUND)
    said = Manifest(inputs={"x": Tensor("float32", (10, -1))}, outputs={"y": Tensor("int64")})
    models.describe("digits", "1", "torchscript", said)

    models.register(FOUND)
    (version,) = models.all()
    assert (version.manifest, version.framework) == (said, "torchscript")

    models.register(Found(model="digits", version="1", path=Path("/n"), manifest=FOUND.manifest, sha256="cd"))
    (version,) = models.all()
    assert (version.manifest, version.framework, version.path) == (FOUND.manifest, None, "/n")


def test_the_verbs_of_a_worker_that_retired_do_nothing(store: Any) -> None:
    models = Models(store.database)
    models.register(FOUND)
    models.place("w1", "cpu", "digits", "1", "ready")

    store.workers.retire("w1")

    assert not store.workers.beat("w1", [Served(model="digits", version="1", ended=1, rate=0)])
    assert store.workers.claims("w1") == {}
    assert store.count("placements") == 0
    assert Predictions(store.database).give_back_dead().queued == []
