"""A receiver of webhooks: prints each event that is really Headway's, once.

    python examples/receive_webhooks.py --port 8080 --secret "$(headway webhooks secret)"

and submit with `--webhook http://127.0.0.1:8080/` (`HEADWAY_WEBHOOK_ALLOW=127.0.0.0/8` lets Headway send to this
machine). While the secret changes, give both. What is told once may be sent twice, so remember `webhook-id`.
"""

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from headway.webhooks import WebhookVerificationError, verify

MOST_BYTES = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    secrets: ClassVar[list[str]]
    seen: ClassVar[set[str]] = set()  # in a real receiver: a unique column of your database

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        if length > MOST_BYTES:
            return self.answer(413)
        try:
            event = verify(self.secrets, self.rfile.read(length), dict(self.headers.items()))
        except WebhookVerificationError:
            return self.answer(400)
        if self.headers["webhook-id"] not in self.seen:
            self.seen.add(self.headers["webhook-id"])
            prediction = event["data"]
            print(event["type"], prediction["id"], prediction["output"] or prediction["error"], flush=True)
        return self.answer(204)  # soon: what takes long is done after the answer

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the events of webhooks.")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--secret", action="append", required=True, help="may be given more than once")
    options = parser.parse_args()
    Receiver.secrets = options.secret
    with ThreadingHTTPServer(("127.0.0.1", options.port), Receiver) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
