"""A TCP proxy that misbehaves when told to: in front of Redis or PostgreSQL, in the event loop of the run."""

import asyncio
import contextlib
from pathlib import Path


class Proxy:
    """Forwards to a unix socket. While it is stalled nothing passes, in any direction, and nothing is lost."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.delay_s = 0.0
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._passing.set()
        self.cut()

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        for writer in self._writers:
            writer.transport.abort()
        return len(self._writers)

    def stall(self) -> None:
        self._passing.clear()

    def heal(self) -> None:
        self._passing.set()
        self.delay_s = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._passing.wait()
            up_reader, up_writer = await asyncio.open_unix_connection(str(self._upstream))
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(up_writer)
        tasks = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump(up_reader, writer)),
        ]
        _, other = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in other:  # neither protocol goes on with one direction only
            task.cancel()
        for each in (writer, up_writer):
            each.close()  # what was written to it is still sent
            self._writers.discard(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the latter: uvloop's word for a transport that was aborted
            while data := await reader.read(65_536):
                await self._passing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
