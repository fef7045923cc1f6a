"""A zoo of webhook receivers: one server a temper, each on a port of its own, all in one event loop.

Every POST that was read to its end is written down before it is answered, with what the answer was to be.
"""

import asyncio
import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Mapping

from headway.webhooks import WebhookVerificationError, verify
from tests.chaos.history import Writer

#: Those that take a delivery within the schedule. `endless` says 200 and never stops talking.
REACHABLE = ("good", "flaky", "slow", "busy", "endless")
#: Nobody ever takes one here; `honeypot` is where a redirect leads, and is not to be reached at all.
UNREACHABLE = ("redirect", "gone", "stalled", "garbage", "dead")

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_ENDLESS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = b"1000\r\n" + b"x" * 4096 + b"\r\n"


class Zoo:
    """Start it in the loop that it is to run in."""

    def __init__(self, log: Writer, secret: str, on_end: Callable[[str], None], seed: int) -> None:
        """`on_end`: told the id of a prediction of whose end a receiver has heard."""
        self._log = log
        self._secret = secret
        self._on_end = on_end
        self._random = random.Random(seed)
        self._servers: list[asyncio.Server] = []
        self._ports: dict[str, int] = {}

    async def start(self) -> None:
        for temper in (*REACHABLE, *UNREACHABLE, "honeypot"):
            server = await asyncio.start_server(
                lambda reader, writer, temper=temper: self._serve(temper, reader, writer),  # type: ignore[misc]
                "127.0.0.1",
                0,
                backlog=256,
            )
            self._ports[temper] = server.sockets[0].getsockname()[1]
            if temper == "dead":
                server.close()
            else:
                self._servers.append(server)

    def url(self, temper: str) -> str:
        return f"http://127.0.0.1:{self._ports[temper]}/{temper}"

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def _serve(self, temper: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever hangs up in the middle has been killed: it comes again.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(temper, headers, body, reader, writer):
                    break
        writer.transport.abort()

    async def _answer(
        self,
        temper: str,
        headers: Mapping[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection goes on."""
        mood = self._random.random()
        answer = {
            "flaky": (500 if mood < 0.25 else 0 if mood < 0.4 else 200),
            "busy": (429 if mood < 0.4 else 200),
            "redirect": 302,
            "gone": 410,
            "stalled": 0,
            "garbage": 0,
        }.get(temper, 200)
        self._note(temper, headers, body, answer)
        match temper, answer:
            case ("slow", _):
                await asyncio.sleep(1.0)
                writer.write(_OK)
            case ("endless", _):
                writer.write(_ENDLESS)
                while not writer.is_closing():
                    writer.write(_CHUNK)
                    await asyncio.wait_for(writer.drain(), 5)
                return False
            case ("stalled", _):
                await reader.read()  # until the other side has had enough
                return False
            case ("garbage", _):
                writer.write(b"\x00\x01NO HTTP AT ALL\r\n\r\n")
                return False
            case ("redirect", _):
                where = f"http://127.0.0.1:{self._ports['honeypot']}/"
                writer.write(f"HTTP/1.1 302 Found\r\nlocation: {where}\r\ncontent-length: 0\r\n\r\n".encode())
            case (_, 0):
                return False
            case (_, 200):
                writer.write(_OK)
            case (_, status):
                again = "retry-after: 1\r\n" if status == 429 else ""
                writer.write(f"HTTP/1.1 {status} No\r\n{again}content-length: 0\r\n\r\n".encode())
        await writer.drain()
        return True

    def _note(self, temper: str, headers: Mapping[str, str], body: bytes, answer: int) -> None:
        """`answer`: 0 for none."""
        try:
            verify(self._secret, body, headers)
            signed = True
        except WebhookVerificationError:
            signed = False
        try:
            event = json.loads(body)
            data = event["data"]
        except (ValueError, KeyError, TypeError):
            event, data = {}, {}
        self._log(
            receiver=temper,
            webhook_id=headers.get("webhook-id"),
            signed=signed,
            answer=answer,
            sha256=hashlib.sha256(body).hexdigest(),
            event=event.get("type"),
            id=data.get("id"),
            status=data.get("status"),
            revision=data.get("revision"),
            attempt=data.get("attempt"),
            output=data.get("output"),
            error=(data.get("error") or {}).get("code"),
        )
        if event.get("type", "").startswith("prediction.") and event["type"] != "prediction.started":
            self._on_end(str(data.get("id")))
