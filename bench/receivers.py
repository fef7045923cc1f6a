"""Receivers of webhooks that cost next to nothing, in a process of their own.

    python -m bench.receivers --healthy N [--silent N]

prints one line of JSON with their ports once they listen: each healthy one answers 204 at once, a silent one never.
For every line on its standard input it prints what has come since the last one (`Seen`); it ends when that ends.
"""

import argparse
import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Ports(msgspec.Struct):
    healthy: list[int]
    silent: list[int]


class Seen(msgspec.Struct):
    """By the healthy ones."""

    count: int
    distinct: int  # by webhook-id
    first: float  # `time.monotonic`, one clock for all processes of a machine
    last: float


class Counting:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.ids: set[bytes] = set()
        self.seen = Seen(0, 0, 0.0, 0.0)

    def note(self, head: bytes) -> None:
        seen = self.seen
        seen.last = time.monotonic()
        seen.first = seen.first or seen.last
        seen.count += 1
        at = head.find(b"webhook-id:")
        self.ids.add(head[at : head.find(b"\r\n", at)])


class Receiver(asyncio.Protocol):
    def __init__(self, counting: Counting | None) -> None:
        self.counting = counting
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        if self.counting is None:
            return
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            at = head.find(b"content-length:") + 15
            size = end + 4 + int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
            if len(self.received) < size:
                return
            self.received = self.received[size:]
            self.counting.note(head)
            self.transport.write(ANSWER)


async def run(healthy: int, silent: int) -> None:
    loop = asyncio.get_running_loop()
    counting = Counting()

    async def listen(counting: Counting | None) -> int:
        server = await loop.create_server(lambda: Receiver(counting), "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    ports = Ports([await listen(counting) for _ in range(healthy)], [await listen(None) for _ in range(silent)])
    print(msgspec.json.encode(ports).decode(), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        counting.seen.distinct = len(counting.ids)
        print(msgspec.json.encode(counting.seen).decode(), flush=True)
        counting.reset()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--healthy", type=int, default=1)
    parser.add_argument("--silent", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(run(options.healthy, options.silent))
