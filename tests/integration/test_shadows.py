"""Copies on their way into SQL, on both stores, where something is in their way."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from api.registry import ModelView
from api.shadows import Shadows
from headway import broker
from headway.errors import BlobsUnavailable, StorageUnavailable
from headway.registry import Route, Traffic
from headway.testing import new_prediction
from headway.types import LARGE, NewPrediction
from storage.predictions import Predictions
from storage.tenants import Tenants
from tests.integration.conftest import Store
from tests.unit.test_api_views import version


class Copying:
    """`Shadows` of `digits`, whose second version shadows; what it does with the outside is noted."""

    def __init__(self, store: Store, predictions: Predictions | None = None) -> None:
        rows = [msgspec.structs.replace(version(name), model="digits") for name in "12"]
        view = ModelView.of("digits", rows, Route(traffic=Traffic(shadow=("2",))))
        self.blobs: set[str] = set()
        self.hinted: list[tuple[str, int]] = []
        self.broken = False
        self.shadows = Shadows(
            predictions or store.predictions,
            Tenants(store.database),
            SimpleNamespace(views={"digits": view}),  # type: ignore[arg-type]
            SimpleNamespace(make_way=self._make_way),  # type: ignore[arg-type]
            SimpleNamespace(hint=lambda line, made, count: self.hinted.append((line, count))),  # type: ignore[arg-type]
            write=self._write,
            forget=self._forget,
        )
        self._done = asyncio.Event()

    async def _write(self, id_: str, body: bytes) -> None:
        if self.broken:
            raise BlobsUnavailable("away")
        self.blobs.add(id_)

    async def _forget(self, id_: str) -> None:
        self.blobs.discard(id_)

    async def _make_way(self, began: float) -> None:
        self._done.set()

    async def group(self, *originals: NewPrediction) -> None:
        """Copies them, and waits until that is over."""
        self._done.clear()
        for original in originals:
            self.shadows.copy(original, original.body, None)
        task = asyncio.create_task(self.shadows.run())
        await asyncio.wait_for(self._done.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(store: Store, told: Callable[[Copying], Any], predictions: Predictions | None = None) -> Copying:
    async def within() -> Copying:
        copying = Copying(store, predictions)
        try:
            await told(copying)
        finally:
            copying.shadows.close()
        return copying

    return asyncio.run(within())


def originals(store: Store, count: int, **fields: Any) -> list[NewPrediction]:
    rows = [new_prediction(**fields) for _ in range(count)]
    store.predictions.insert(rows)
    return rows


def test_a_copy_of_what_was_deleted_meanwhile_leaves_nothing(store: Store) -> None:
    gone, kept = originals(store, 2, body=b"x" * (LARGE + 1))
    store.predictions.cancel(gone.id, "default")
    store.predictions.delete(gone.id, "default")
    copying = run(store, lambda copying: copying.group(gone, kept))
    (of_gone,), (of_kept,) = store.predictions.shadows_of(gone.id), store.predictions.shadows_of(kept.id)
    rows = store.predictions.read([of_gone, of_kept])
    assert (rows[of_gone].deleted_at is None, rows[of_kept].deleted_at is None) == (False, True)
    assert store.predictions.read_input(of_gone, "default") is None
    assert copying.blobs == {of_kept}
    assert copying.hinted == [(broker.line("digits", "2", 19), 1)]


def test_what_goes_wrong_with_one_group_is_over_with_it(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    class Away(Predictions):
        def insert(self, *rows: Any, **named: Any) -> Any:
            raise StorageUnavailable("away")

    large, small = originals(store, 1, body=b"x" * (LARGE + 1))[0], originals(store, 1)[0]

    async def told(copying: Copying) -> None:
        copying.broken = True
        await copying.group(large)
        copying.broken = False
        await copying.group(small)

    assert run(store, told).hinted == [(broker.line("digits", "2", 19), 1)]
    assert store.predictions.shadows_of(large.id) == []
    run(store, lambda copying: copying.group(large), Away(store.database))
    assert [record.message for record in caplog.records if record.name == "api.shadows"] == [
        "shadows could not be stored: away",
        "shadows could not be stored: away",
    ]


def test_more_than_may_wait_is_not_kept_in_memory(store: Store) -> None:
    async def told(copying: Copying) -> None:
        for _ in range(40):
            copying.shadows.copy(row, row.body, None)
        assert len(copying.shadows._waiting) == 32

    (row,) = originals(store, 1, body=b"x" * (1 << 20))
    run(store, told)
