"""Everything the API process owns, opened and closed together: storage, the committer, the publisher, who waits."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from api.access import Access
from api.beats import Beats
from api.capacity import Capacity
from api.overview import Overview
from api.places import Places
from api.publisher import Publisher
from api.reading import Reader
from api.registry import Registry
from api.reporting import ReportReader
from api.shadows import Shadows
from api.submitter import Submitter
from api.tenants import Classes
from api.threads import Threads
from api.waiting import Waiting
from headway import properties
from headway.egress import INPUT, Egress
from headway.errors import BlobsUnavailable, StorageUnavailable
from headway.properties import Properties
from headway.settings import Settings
from storage.batches import Batches
from storage.blobs import INPUT as INPUT_BLOB
from storage.blobs import Blobs
from storage.deliveries import Deliveries
from storage.engine import Database
from storage.keys import Keys
from storage.models import Models
from storage.predictions import Predictions
from storage.routes import Routes
from storage.tenants import Tenants
from storage.workers import Workers

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A store may be far away, and what it is given large.
_BLOBS_PATIENCE_S = 60.0


class Service:
    """What endpoints reach for. `start` and `stop` run in the event loop that serves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.torchserve = Properties()
        if "torchserve" in settings.dialects:
            self.torchserve = properties.read(settings.models, settings.torchserve_config, os.environ)
        self.database = Database.open(settings.database_url)
        self.predictions = Predictions(self.database)
        self.workers = Workers(self.database)
        self.deliveries = Deliveries(self.database)
        self.batches = Batches(self.database)
        self.uploads = Threads("uploads", 2)  # for what batches bring
        self.egress = Egress(settings.webhook_allow)
        self.fetch_egress = Egress(settings.fetch_allow, INPUT)
        self.blobs = Blobs(settings.blobs)
        self.threads = Threads("storage", 4)  # for what is neither a submission nor a read of predictions
        self._blob_threads = Threads("blobs", 8)
        self.models = Models(self.database)
        self.routes = Routes(self.database)
        self.registry = Registry(self.models, self.routes)
        self.tenants = Tenants(self.database)
        self.classes = Classes(self.tenants, self.threads)
        self.places = Places(self.predictions, self.tenants, self.registry)
        self.keys = Keys(self.database)
        self.beats = Beats(self.workers)
        self.access = Access(self.keys, bootstrap_key=settings.bootstrap_key)
        self.draining = False
        self.started = asyncio.Event()
        self.publisher: Publisher
        self.submitter: Submitter
        self.capacity: Capacity
        self.shadows: Shadows
        self.reader: Reader
        self.waiting: Waiting
        self.reports: ReportReader
        self.overview: Overview
        self.answering: list[asyncio.Task[None]] = []  # at other ports than the one that starts and stops this
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.reader = Reader(self.predictions)
        self.publisher = Publisher(self.settings.redis_url)
        self.submitter = Submitter(self.predictions, self.publisher)
        self.capacity = Capacity(self.predictions, self.tenants, self.registry, self.submitter)
        self.shadows = Shadows(
            self.predictions,
            self.tenants,
            self.registry,
            self.submitter,
            self.publisher,
            write=lambda id_, body: self.in_blobs(lambda: self.blobs.write(id_, INPUT_BLOB, body)),
            forget=self.forget_blobs,
        )
        self.waiting = Waiting(self.settings.redis_url, self.reader)
        self.reports = ReportReader(self.settings.redis_url)
        self.overview = Overview(self)
        with contextlib.suppress(StorageUnavailable):  # then nobody gets in until `access.run` has read the keys
            await self.access.refresh()
        for duty in (
            self.access.run,
            self.registry.run,
            self.beats.run,
            self.submitter.run,
            self.shadows.run,
            self.publisher.run,
            self.waiting.listen,
            self.waiting.sweep,
        ):
            self._tasks.append(asyncio.create_task(_supervised(duty), name=duty.__qualname__))
        self.started.set()

    async def in_blobs(self, call: Callable[[], T]) -> T:
        """A call to the blob store, off the loop. Raises what it raises, and BlobsUnavailable when it is late."""
        try:
            return await self._blob_threads.run(call, patience_s=_BLOBS_PATIENCE_S)
        except StorageUnavailable as late:
            raise BlobsUnavailable(str(late)) from late

    async def forget_blobs(self, id_: str) -> None:
        """What cannot be removed now is swept away later."""
        try:
            await self.in_blobs(lambda: self.blobs.forget(id_))
        except BlobsUnavailable as error:
            log.warning("blobs stay for a while: %s", error, extra={"prediction_id": id_})

    def drain(self, within_s: float) -> None:
        """Not ready from now on; callers who wait are answered early, `:predict` calls have `within_s` seconds.

        Operators' pages are let go, and come back to the process that follows.
        """
        self.draining = True
        self.waiting.release(within_s)
        self.overview.stop()

    async def stop(self) -> None:
        """After the last answer, at whichever port."""
        if self.answering:
            await asyncio.wait(self.answering)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.submitter.close()
        self.capacity.close()
        self.shadows.close()
        self.places.close()
        self.reader.close()
        self.registry.close()
        self.access.close()
        self.beats.close()
        self.overview.close()
        self.threads.close()
        self.uploads.close()
        self._blob_threads.close()
        await self.publisher.close()
        await self.reports.close()
        self.database.close()


async def _supervised(duty: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A duty without which callers would hang is begun again, whatever ended it."""
    while True:
        try:
            await duty()
        except Exception:
            log.exception("a task of the API ended and is started again", extra={"task": duty.__qualname__})
            await asyncio.sleep(0.1)
