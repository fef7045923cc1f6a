"""`headway up`: which parts the whole system on one machine is made of, and when it may call itself ready.

Its rules: parts are told everything by environment, so that argv holds no secret; the listening sockets belong to
the supervisor, so that connections wait while an API process is replaced.
"""

import asyncio
import contextlib
import functools
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from headway import dialects, properties
from headway.dialects import Ports, is_http
from headway.errors import SettingsError, StorageUnavailable
from headway.keys import DEFAULT_TENANT
from headway.registry import Version
from headway.settings import bootstrap_key, duration, size, webhook_secret
from headway.tfserving import setup
from headway.tfserving.setup import Files, Setup
from headway.versions import scan
from launch import addresses, devices, flower, lock
from launch.crew import Crew
from launch.embedded import EmbeddedValkey
from launch.supervisor import Part, Supervisor
from storage.deliveries import Secrets
from storage.engine import Database, embedded_url
from storage.keys import Keys
from storage.migrate import upgrade
from storage.models import Models
from storage.workers import Workers

log = logging.getLogger(__name__)

#: `ready` waits no longer than this for models to load; what loads later is served then.
LOADING_S = 60.0

#: With or without `_FILE`, the API's alone: models have no business with it.
_BOOTSTRAP_KEY = "HEADWAY_BOOTSTRAP_KEY"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `headway up` was told."""

    models: Path
    data: Path
    devices: str
    host: str
    port: int
    admin_port: int
    api_processes: int  # behind the one port; the nth of them has its control plane at `admin_port` + n
    flower_port: int  # 0: no Flower
    metrics_port: int  # of the first worker's /metrics, the others follow; 0: free ones
    redis_url: str | None  # None: a Valkey of our own
    database_url: str | None  # None: SQLite in `data`
    blobs: str | None  # None: a folder in `data`
    device_memory: str | None  # None: what each device has
    dialects: Ports
    tfserving: Files
    insecure: bool


class _Sockets(NamedTuple):
    """What one API process listens on."""

    data: socket.socket
    control: socket.socket
    dialects: Mapping[tuple[str, str], socket.socket]  # by dialect and role; those that are HTTP

    @property
    def all(self) -> list[socket.socket]:
        return [self.data, self.control, *self.dialects.values()]


def run(options: Options) -> int:
    """Until SIGINT or SIGTERM; returns the exit code. Raises HeadwayError where it cannot start."""
    if not options.models.is_dir():
        raise SettingsError(f"there is no models folder at {options.models}; `headway init NAME` makes one")
    dialects.require(options.dialects)
    said = setup.read(options.tfserving, options.models)
    if "torchserve" in options.dialects:
        properties.read(options.models, os.environ.get(properties.VARIABLE, "").strip(), os.environ)  # said now
    options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(lock.hold(options.data / "lock"))
        _refuse_exposure(options)
        if options.device_memory:
            size(
                {"HEADWAY_DEVICE_MEMORY": options.device_memory}, "HEADWAY_DEVICE_MEMORY"
            )  # said now, not by each worker
        return asyncio.run(_System(options, said, cleanup).run())


class _System:
    """Everything the parts share, and the parts."""

    def __init__(self, options: Options, said: Setup, cleanup: contextlib.ExitStack) -> None:
        """`said`: what TF Serving's files say now."""
        self._options = options
        self._setup = said
        self._devices = devices.choose(options.devices, os.environ)
        control_host = options.host if addresses.is_loopback(options.host) else "127.0.0.1"
        self._sockets = _sockets(options, control_host, cleanup)
        if options.flower_port:
            addresses.listen(options.host, options.flower_port).close()  # only to say at once that it is taken
        self._dialects = _settled_ports(options, self._sockets[0], cleanup)
        self._data_url = addresses.url(options.host, self._sockets[0].data.getsockname()[1])
        self._control_urls = [addresses.url(control_host, each.control.getsockname()[1]) for each in self._sockets]

        database_url = _database_url(options)
        upgrade(database_url)
        self._database = Database.open(database_url)
        cleanup.callback(self._database.close)
        if Secrets(self._database, webhook_secret(os.environ)).ensure(DEFAULT_TENANT):
            where = f" --database-url {database_url}" if database_url.startswith("sqlite") else ""  # no password in it
            log.info("webhooks are signed; `headway webhooks secret%s` shows the secret", where)
        self._valkey = None if options.redis_url else EmbeddedValkey.prepare(options.data)
        if self._valkey is not None:
            cleanup.callback(self._valkey.remove)
        self._environ = self._environment(database_url)
        self._silent_s = max(15.0, duration(os.environ, "HEADWAY_SILENT", 20))  # those that end take ten seconds
        self._crew = Crew(options.data / "workers.json")
        self._crew.bury_predecessors(Workers(self._database))
        cleanup.callback(self._crew.disband)

    async def run(self) -> int:
        valkey = [Part(name="valkey", argv=self._valkey.argv, ready=self._valkey.answers)] if self._valkey else []
        watching = [self._utility()]
        if self._options.flower_port:
            watching.append(self._part("flower"))
        apis = [self._api(n) for n in range(len(self._sockets))]
        serving = [*apis, *(self._worker(n, device) for n, device in enumerate(self._devices))]
        return await Supervisor([valkey, watching, serving], before_drain=self._stop_listening).run(self._announce)

    def _environment(self, database_url: str) -> dict[str, str]:
        options = self._options
        redis_url = self._valkey.url if self._valkey is not None else options.redis_url
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(_BOOTSTRAP_KEY)},
            "PYTHONSAFEPATH": "1",  # a folder called `api` where the user happens to stand is not ours
            "HEADWAY_REDIS_URL": redis_url or "",
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_MODELS": str(options.models.resolve()),
            "HEADWAY_BLOBS": options.blobs or str(options.data.resolve() / "blobs"),
            "HEADWAY_HOST": options.host,
            "HEADWAY_PORT": str(self._sockets[0].data.getsockname()[1]),
            "HEADWAY_ADMIN_PORT": str(self._sockets[0].control.getsockname()[1]),
            "HEADWAY_FLOWER_PORT": str(options.flower_port),
            "HEADWAY_DEVICE_MEMORY": options.device_memory or "",
            "HEADWAY_DIALECTS": dialects.written(self._dialects),
            **options.tfserving.environ(),
            "HEADWAY_INSECURE": "1" if options.insecure else "",
        }

    def _part(self, name: str) -> Part:
        return Part(name=name, argv=_command(name), environ=self._environ)

    def _api(self, nth: int) -> Part:
        sockets = self._sockets[nth]
        spoken = " ".join(f"{name}.{role}={each.fileno()}" for (name, role), each in sockets.dialects.items())
        return Part(
            name="api" if nth == 0 else f"api {nth + 1}",
            argv=_command("api"),
            environ={
                **self._environ,
                **{name: value for name, value in os.environ.items() if name.startswith(_BOOTSTRAP_KEY)},
                "HEADWAY_LISTEN_DATA_FD": str(sockets.data.fileno()),
                "HEADWAY_LISTEN_ADMIN_FD": str(sockets.control.fileno()),
                "HEADWAY_LISTEN_DIALECT_FDS": spoken,
            },
            pass_fds=tuple(each.fileno() for each in sockets.all),
            pulse=True,
            silent_s=self._silent_s,
            ready=self._accepts_predictions if nth == 0 else functools.partial(_answers, self._control_urls[nth]),
        )

    def _utility(self) -> Part:
        environ = self._watched(len(self._devices))
        return Part(name="utility", argv=_command("utility"), environ=environ, pulse=True, silent_s=self._silent_s)

    def _watched(self, nth: int) -> dict[str, str]:
        """The environment of a part with a /metrics of its own."""
        base = self._options.metrics_port
        return {
            **self._environ,
            "HEADWAY_METRICS_HOST": "127.0.0.1",
            "HEADWAY_METRICS_PORT": str(base + nth if base else 0),
        }

    def _worker(self, nth: int, device: str) -> Part:
        return Part(
            name=f"worker {device}",
            argv=_command("worker", "--device", device),
            environ=self._watched(nth),
            fresh=functools.partial(self._new_worker, device),
            died=self._mark_dead,
            pulse=True,
            silent_s=self._silent_s,
        )

    def _new_worker(self, device: str) -> dict[str, str]:
        return {"HEADWAY_WORKER_ID": self._crew.sign_on(device)}

    def _mark_dead(self, fresh: Mapping[str, str]) -> None:
        """Its claims are given back now, and not when its heartbeat is missed."""
        Workers(self._database).mark_dead(fresh["HEADWAY_WORKER_ID"])

    def _accepts_predictions(self) -> bool:
        return _status(self._data_url, "/ready") == 200

    async def _announce(self) -> None:
        """The one line on stdout, once every version is loaded or known to be broken."""
        give_up = time.monotonic() + LOADING_S
        found = await asyncio.to_thread(scan, self._options.models, self._setup)  # once: it hashes every model file
        loadable = [
            (each.model, each.version)
            for each in found
            if each.error is None and each.wanted and each.manifest is not None and not each.manifest.steps
        ]
        while (loading := await asyncio.to_thread(self._unsettled, loadable)) and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # what is waited for happens in SQL, where nobody can set an Event
        port = self._options.flower_port
        flower_url = addresses.url(self._options.host, port) if port else "off"
        line = f"ready data={self._data_url} control={self._control_urls[0]} flower={flower_url}"
        for name, roles in self._dialects.items():
            for role, number in roles.items():
                line += f" {name}.{role}={addresses.url(self._options.host, number)}"
        if loading:
            line += f" loading={','.join(loading)}"
        print(line, flush=True)

    def _unsettled(self, loadable: list[tuple[str, str]]) -> list[str]:
        """Those of the (model, version) pairs that are neither ready nor failed yet."""
        try:
            versions = {(version.model, version.version): version for version in Models(self._database).all()}
        except StorageUnavailable:
            versions = {}
        return [
            f"{model}@{version}" for model, version in loadable if not self._settled(versions.get((model, version)))
        ]

    def _settled(self, version: Version | None) -> bool:
        """Placements of earlier workers do not count: their processes are gone."""
        if version is None:
            return False
        ours = [placement.state for placement in version.placements if placement.worker_id in self._crew.ids]
        settled = {"ready", "failed", "unloaded"}  # unloaded: there is no room before somebody asks for it
        return not settled.isdisjoint(ours) or version.state == "failed"

    def _stop_listening(self) -> None:
        """Our copies of the sockets: with them open, clients would wait for an API that will not come back."""
        for each in self._sockets:
            for listening in each.all:
                listening.close()


def _sockets(options: Options, control_host: str, cleanup: contextlib.ExitStack) -> list[_Sockets]:
    """Of each API process: an accept queue of its own behind the one data port, and a control port of its own."""
    shared = options.api_processes > 1
    sockets: list[_Sockets] = []
    for nth in range(options.api_processes):
        port = sockets[0].data.getsockname()[1] if sockets else options.port
        data = cleanup.enter_context(addresses.listen(options.host, port, shared=shared))
        control_port = options.admin_port and options.admin_port + nth
        control = cleanup.enter_context(addresses.listen(control_host, control_port))
        spoken = {
            (name, role): cleanup.enter_context(addresses.listen(options.host, port, shared=shared))
            for (name, role), port in _spoken(options, sockets).items()
        }
        sockets.append(_Sockets(data, control, spoken))
    return sockets


def _spoken(options: Options, sockets: list[_Sockets]) -> dict[tuple[str, str], int]:
    """Ports of what is HTTP, by dialect and role; those that the first process took are the others' too."""
    if sockets:
        return {key: each.getsockname()[1] for key, each in sockets[0].dialects.items()}
    return {
        (name, role): port
        for name, roles in options.dialects.items()
        for role, port in roles.items()
        if is_http(name, role)
    }


def _settled_ports(options: Options, first: _Sockets, cleanup: contextlib.ExitStack) -> Ports:
    """Every dialect's ports, the free ones found. What is no HTTP listens by itself, at a port that is kept for it."""

    def port_of(name: str, role: str, port: int) -> int:
        if is_http(name, role):
            return int(first.dialects[name, role].getsockname()[1])
        kept = cleanup.enter_context(addresses.reserve(options.host, port))
        return int(kept.getsockname()[1])

    return {
        name: {role: port_of(name, role, port) for role, port in roles.items()}
        for name, roles in options.dialects.items()
    }


def _answers(control_url: str) -> bool:
    """Whether there is an API process, whoever may use it: the data port would be answered by any of them."""
    return _status(control_url, "/metrics") is not None


def _status(url: str, path: str) -> int | None:
    address = urlsplit(url)
    try:
        with contextlib.closing(HTTPConnection(address.hostname or "", address.port, timeout=2)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status
    except (OSError, HTTPException):
        return None


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "launch", *words]


def _database_url(options: Options) -> str:
    return options.database_url or embedded_url(options.data)


def _has_keys(database_url: str) -> bool:
    upgrade(database_url)
    with contextlib.closing(Database.open(database_url)) as database:
        return bool(Keys(database).all())


def _refuse_exposure(options: Options) -> None:
    """Beyond loopback there must be a key, or a loud word. Raises SettingsError, StorageUnavailable."""
    has_bootstrap_key = bool(bootstrap_key(os.environ))  # what is wrong with it is said now
    if addresses.is_loopback(options.host):
        return
    if not has_bootstrap_key and not _has_keys(_database_url(options)):
        if not options.insecure:
            raise SettingsError(
                f"there are no keys, so everyone who reaches {options.host} could use it; make one "
                "(`headway keys create`, or HEADWAY_BOOTSTRAP_KEY), listen on 127.0.0.1, "
                "or say --insecure if that is what you want"
            )
        log.warning("INSECURE: listening on %s without keys; everyone who reaches it can use it", options.host)
    if options.flower_port:
        flower.check_access(options.host, os.environ)
