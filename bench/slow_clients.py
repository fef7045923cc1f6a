"""Slow connections: a third silent, a third in their head, a third in their body, a byte a second, opened again as they
are closed. A process of its own, so that it slows down nobody who measures.

    python -m bench.slow_clients PORT --count N --seconds S

prints one JSON object (`Seen`).
"""

import argparse
import asyncio
import contextlib
import sys

import msgspec
import uvloop

#: A connection that is still open then is counted as left open.
GIVE_UP_S = 60.0


class Seen(msgspec.Struct):
    opened: int = 0
    longest_s: float = 0.0
    left_open: int = 0


class SlowClients:
    def __init__(self, port: int, count: int) -> None:
        self.seen = Seen()
        self._port = port
        self._count = count
        head = b"POST /v1/models/device/predictions HTTP/1.1\r\nHost: localhost\r\n"
        body = head + b"Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
        self._beginnings = (b"", head[:-10], body)

    async def run(self, seconds: float) -> None:
        """Until `seconds` have passed and the last are closed."""
        end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*[self._again_and_again(number, end) for number in range(self._count)])

    async def _again_and_again(self, number: int, end: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(number / self._count * 3)
        while loop.time() < end:
            await self._once(self._beginnings[number % 3])

    async def _once(self, beginning: bytes) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        began = loop.time()
        self.seen.opened += 1
        writer.write(beginning)
        closed = asyncio.ensure_future(reader.read())
        with contextlib.suppress(OSError):
            while not closed.done() and loop.time() - began < GIVE_UP_S:
                await asyncio.wait((closed,), timeout=1.0)
                if beginning and not closed.done() and not writer.transport.is_closing():
                    writer.write(b"x")
        self.seen.left_open += not closed.done()
        self.seen.longest_s = max(self.seen.longest_s, loop.time() - began)
        closed.cancel()
        writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Slow connections, and how long each was left open, as JSON.")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    clients = SlowClients(options.port, options.count)
    uvloop.run(clients.run(options.seconds))
    sys.stdout.write(msgspec.json.encode(clients.seen).decode() + "\n")


if __name__ == "__main__":
    main()
