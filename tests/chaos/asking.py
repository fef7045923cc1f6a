"""HTTP/1.1 as cheap as it gets, for hundreds of callers at once in one event loop.

httpx's pool compares every waiting request with every connection, which takes the whole loop as soon as a server stops
answering, and with it the proxies and receivers of a run.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unanswered(Exception):  # noqa: N818
    """Nobody knows what became of the request; the message says why."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """To one server, on as many connections as there are requests at once."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._host, self._port = host, port
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
        """`body`: sent as it is where it is bytes, else as JSON. Raises Unanswered."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}", f"content-length: {len(content)}"]
        if body is not None:
            kind = "application/x-ndjson" if isinstance(body, bytes) else "application/json"
            lines.append(f"content-type: {kind}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + content
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await self._connection()
                writer.write(request)
                await writer.drain()
                answer = await self._answer(reader)
        except (OSError, asyncio.IncompleteReadError, RuntimeError, ValueError) as error:
            raise Unanswered(type(error).__name__) from error
        else:
            if answer.headers.get("connection") != "close":
                self._idle.append((reader, writer))
                writer = None
            return answer
        finally:
            if writer is not None:
                with contextlib.suppress(RuntimeError):
                    writer.transport.abort()

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection(self._host, self._port)

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await self._chunks(reader))
        length = 0 if status in (204, 304) else int(headers["content-length"])
        return Answer(status, headers, await reader.readexactly(length))

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while length := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(length + 2))[:-2]
        await reader.readexactly(2)
        return body
