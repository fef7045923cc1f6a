"""What a deliverer is compared with: the same bodies, signed and posted by many callers who remember nothing.

python -m bench.bare_posts httpx|httpcore PORT --bodies FILE --secret SECRET --callers N
"""

import argparse
import asyncio
import datetime
from pathlib import Path

import httpx
from standardwebhooks import Webhook

from headway.clock import new_id


async def post_all(url: str, bodies: list[bytes], secret: str, callers: int) -> None:
    """By httpx. Raises httpx.HTTPError at the first that is not taken."""
    left = iter(bodies)
    signer = Webhook(secret)
    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=20) as client:

        async def caller() -> None:
            for body in left:
                id_, at = new_id(), datetime.datetime.now(datetime.UTC)
                headers = {
                    "content-type": "application/json",
                    "webhook-id": id_,
                    "webhook-timestamp": str(int(at.timestamp())),
                    "webhook-signature": signer.sign(id_, at, body.decode()),
                }
                (await client.post(url, headers=headers, content=body)).raise_for_status()

        await asyncio.gather(*(caller() for _ in range(callers)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}/hook"
    asyncio.run(post_all(url, options.bodies.read_bytes().splitlines(), options.secret, options.callers))
