"""The API process: the data port, the control port and those of dialects in one event loop, and how it stops.

On SIGTERM or SIGINT: `/ready` says 503, callers who wait are answered with the present state, what is in flight is
answered, and after ten seconds at the latest the process is gone. Listening sockets that came from a supervisor stay
open there, so that new connections wait in their backlog for the next process.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator, Mapping

import uvicorn

from api import dialects
from api.app import control_app, data_app
from api.hot import Front
from api.patience import House, Limits
from api.protocol import Protocol
from api.service import Service
from headway import interpreter, stopping
from headway.dialects import is_http, require
from headway.errors import SettingsError, StorageUnavailable
from headway.pulse import Pulse
from headway.settings import Settings, integer
from storage.keys import Keys

log = logging.getLogger(__name__)

#: Between "not ready" and the end of accepting: a balancer has looked at /ready by then, or never will.
_NOTICE_S = 0.5

#: `:predict` calls have this long to end by themselves, then they are answered 503.
_IN_FLIGHT_S = 6.0

#: What is still open then is canceled.
_GRACE_S = 8

#: An event loop that does not turn for so long is stuck.
_DEAF_S = 30.0
#: Connections to the control port.
_OPERATORS = 512
#: Files besides the connections to the data port: those of operators, SQL, Redis, blobs.
_OTHER_FILES = 1024


Spoken = dict[tuple[str, str], socket.socket]  # by dialect and role


class _Config(uvicorn.Config):
    house: House  # these two are for `Protocol`
    front: Front


class _Server(uvicorn.Server):
    """Signals are this module's business: two servers in one process cannot both take them."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        assert isinstance(self.config, _Config)
        watching = asyncio.create_task(self.config.house.watch(self.server_state.connections))  # type: ignore[arg-type]
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Raises HeadwayError where it cannot start."""
    interpreter.yield_often()
    data = _listen(os.environ, "HEADWAY_LISTEN_DATA_FD", settings.host, settings.port)
    control = _listen(os.environ, "HEADWAY_LISTEN_ADMIN_FD", settings.host, settings.admin_port)
    spoken = _listen_dialects(os.environ, settings)
    require(settings.dialects)
    service = Service(settings)
    listening = [data, control, *spoken.values()]
    exposed = [host for host in (each.getsockname()[0] for each in listening) if not _is_loopback(host)]
    if exposed and not settings.bootstrap_key:
        require_keys(service.keys, exposed[0], insecure=settings.insecure)
    service.access.trusting = settings.insecure or not exposed
    interpreter.calm_garbage_collection()
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(serve(service, data, control, spoken, supervised="HEADWAY_LISTEN_DATA_FD" in os.environ))
    _leave_hanging_calls()
    return 0


def _leave_hanging_calls() -> None:
    """The interpreter would wait for a thread whose call to SQL hangs, and the supervisor would have to kill us."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    for thread in others:
        thread.join(1.0)
    if any(thread.is_alive() for thread in others):
        log.warning("a call to the database still hangs; leaving without it")
        logging.shutdown()
        os._exit(0)


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _listen(environ: Mapping[str, str], fd_name: str, host: str, port: int) -> socket.socket:
    if fd_name in environ:
        return socket.socket(fileno=integer(environ, fd_name, -1, 0, 1 << 20))
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((address[0], address[1]), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"cannot listen on port {port} of {host}: {error.strerror}") from error


def _listen_dialects(environ: Mapping[str, str], settings: Settings) -> Spoken:
    """Of every role that is HTTP."""
    given = dict(pair.split("=") for pair in environ.get("HEADWAY_LISTEN_DIALECT_FDS", "").split())
    found: Spoken = {}
    for name, roles in settings.dialects.items():
        for role, port in roles.items():
            if is_http(name, role):
                fd = given.get(f"{name}.{role}")
                found[name, role] = (
                    _listen({}, "", settings.host, port) if fd is None else socket.socket(fileno=int(fd))
                )
    return found


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def require_keys(keys: Keys, host: str, *, insecure: bool) -> None:
    """While nobody has a key, whoever reaches `host` could use this API. Raises SettingsError unless that is wanted."""
    try:
        found = bool(keys.all())
    except StorageUnavailable as error:
        log.warning("the keys cannot be read; until they are, nobody gets in", extra={"error": str(error)})
        return
    if found:
        return
    if not insecure:
        raise SettingsError(
            f"{host} is not a loopback address, and there are no keys, so anybody who reaches it could use this API; "
            "make a key first (`headway keys create`, or HEADWAY_BOOTSTRAP_KEY), listen on 127.0.0.1, "
            "or set HEADWAY_INSECURE=1 (--insecure) where the network is trusted"
        )
    log.warning("INSECURE: listening on %s without keys; anybody who reaches it may use this API", host)


async def serve(
    service: Service, data: socket.socket, control: socket.socket, spoken: Spoken, *, supervised: bool
) -> None:
    """Until a signal, then drains. `supervised`: whoever started this holds the ports, also those not given here."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    stop = asyncio.create_task(stopped.wait())
    living = asyncio.create_task(_live())
    preparing = loop.run_in_executor(None, dialects.prepare, service)
    await asyncio.wait((preparing, stop), return_when=asyncio.FIRST_COMPLETED)
    if preparing.done():
        preparing.result()
    data_limits, control_limits = _limits(service.settings, 1 + sum(map(len, service.settings.dialects.values())))
    servers = [
        _server(data_app(service), data_limits, lifespan="on"),
        _server(control_app(service), control_limits, lifespan="off"),
        *(_server(front, data_limits, lifespan="off") for front in dialects.fronts(service, spoken)),
    ]
    listening = zip(servers, (data, control, *spoken.values()), strict=True)
    tasks = [asyncio.create_task(server.serve(sockets=[each])) for server, each in itertools.islice(listening, 2)]
    # The data port's server starts the service, which is all that dialects have.
    tasks += [asyncio.create_task(_serve_after(service.started, server, each)) for server, each in listening]
    others = dialects.others(service, stopped, shared=supervised, most=data_limits.most)
    tasks += [asyncio.create_task(other) for other in others]
    service.answering = tasks[1:]
    try:
        await asyncio.wait((*tasks, stop), return_when=asyncio.FIRST_COMPLETED)
        if stopped.is_set():
            log.info("draining")
            stopping.limit()
            service.drain(_IN_FLIGHT_S)
            await asyncio.sleep(_NOTICE_S)
    finally:
        stopped.set()
        service.started.set()
        stop.cancel()
        living.cancel()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


async def _serve_after(started: asyncio.Event, server: _Server, listening: socket.socket) -> None:
    await started.wait()
    await server.serve(sockets=[listening])


async def _live() -> None:
    """The loop turns: else this process is ended, by itself or by whoever started it."""
    pulse = Pulse()
    while True:
        pulse.beat()
        stopping.goes_on(_DEAF_S)
        await asyncio.sleep(1.0)


def _limits(settings: Settings, ports: int) -> tuple[Limits, Limits]:
    """Of the data port, or any other of so many ports, and of the control port. As many files may be open as this
    needs, if the system lets us."""
    wanted = ports * settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("the system lets this process open %d files, so it takes fewer connections", most)
    data = min(settings.max_connections, max(most - _OTHER_FILES, most // 2) // ports)
    return tuple(Limits(most=each, read_s=settings.read_timeout_s) for each in (data, min(data, _OPERATORS)))  # type: ignore[return-value]


def _server(front: Front, limits: Limits, *, lifespan: str) -> _Server:
    config = _Config(
        front,
        http=Protocol,
        ws="none",
        lifespan=lifespan,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who a proxy says is calling
        timeout_graceful_shutdown=_GRACE_S,
    )
    config.house = House(limits)
    config.front = front
    return _Server(config)
