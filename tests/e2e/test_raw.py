"""Inputs and outputs that are no JSON, or large, with real processes: a photograph, and fifty megabytes of numbers."""

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from PIL import Image

from headway import npy
from headway.running import RunningHeadway
from headway.testing import wait_until

#: What a photograph mostly shows: decoded by the model, which is told what it is.
COLOUR = """
import io
import numpy as np
from PIL import Image
from headway import Model

class Colour(Model):
    def predict(self, inputs, context):
        return [self.one(data, item.content_type) for data, item in zip(inputs, context.items)]

    def one(self, data, content_type):
        if not isinstance(data, bytes):
            return ValueError(f"an image is wanted, not {type(data).__name__}")
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float).reshape(-1, 3)
        return {"label": ["red", "green", "blue"][int(pixels.mean(axis=0).argmax())], "type": content_type}
"""

NEGATIVE = """
from headway import Model

class Negative(Model):
    def predict(self, inputs):
        return [-array for array in inputs]
"""

SIZE = """
from headway import Model

class Size(Model):
    def predict(self, inputs, context):
        return [[len(data), item.content_type] if isinstance(data, bytes) else data
                for data, item in zip(inputs, context.items)]
"""


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[RunningHeadway]:
    folder = tmp_path_factory.mktemp("raw")
    for name, code in {"colour": COLOUR, "negative": NEGATIVE, "size": SIZE}.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code)
    (folder / "models" / "size" / "model.toml").write_text(
        "[model]\nfetch_urls = true\nfetch_max_bytes = 1000\nfetch_timeout_s = 5\n"
    )
    environ = {"HEADWAY_MAX_BODY_BYTES": str(64 << 20), "HEADWAY_FETCH_ALLOW": "127.0.0.0/8"}
    with RunningHeadway(folder, options=["--redis-url", redis_url], environ=environ) as running:
        yield running


def jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 200), colour).save(file, "JPEG")
    return file.getvalue()


def test_a_photograph_that_is_posted_by_curl_is_classified(headway: RunningHeadway, tmp_path: Path) -> None:
    path = f"{headway.data_url}/v1/models/colour/predictions?priority=1"
    (tmp_path / "photo.jpg").write_bytes(jpeg((20, 180, 40)))
    if (curl := shutil.which("curl")) is not None:
        command = [curl, "-s", "--data-binary", f"@{tmp_path / 'photo.jpg'}", "-H", "Content-Type: image/jpeg"]
        answer = subprocess.run([*command, "-H", "Prefer: wait=30", path], capture_output=True, check=True).stdout
        answered: Any = httpx.Response(200, content=answer).json()
    else:
        answered = httpx.post(
            path, content=jpeg((20, 180, 40)), headers={"content-type": "image/jpeg", "prefer": "wait=30"}
        ).json()
    assert (answered["status"], answered["priority"]) == ("succeeded", 1)
    assert answered["output"] == {"label": "green", "type": "image/jpeg"}
    with httpx.Client(base_url=headway.data_url) as client:
        shown = client.get(f"{answered['urls']['get']}?include=input").json()
        assert (shown["input"], shown["input_type"]) == (None, "image/jpeg")


def memory(client: "redis.Redis") -> int:
    return sum(client.memory_usage(key) or 0 for key in client.scan_iter())


def test_fifty_megabytes_of_numbers_go_in_and_come_out_and_redis_and_sql_hold_none_of_it(
    headway: RunningHeadway, redis_url: str
) -> None:
    array = np.random.default_rng(0).standard_normal(13_000_000).astype(np.float32)
    with (
        httpx.Client(base_url=headway.data_url, timeout=100) as client,
        redis.Redis.from_url(redis_url) as broker,
    ):
        before = memory(broker)
        sent = client.post(
            "/v1/models/negative/predictions",
            content=npy.dump(array),
            headers={"content-type": "application/x-npy", "prefer": "wait=60"},
        )
        assert sent.status_code in (200, 202), sent.text
        path = sent.headers["location"]
        shown = wait_until(lambda: (one := client.get(path).json())["status"] == "succeeded" and one, 60, "its end")
        assert (shown["output"], shown["output_omitted"]) == (None, True)
        assert memory(broker) - before < 1_000_000
        assert headway.database.stat().st_size < 10_000_000

        out = client.get(shown["urls"]["output"], headers={"accept": "application/x-npy"})
        assert out.headers["content-type"] == "application/x-npy"
        assert int(out.headers["content-length"]) == len(out.content)
        assert np.array_equal(npy.load(out.content), -array)
        assert client.get(shown["urls"]["output"], headers={"accept": "application/json"}).status_code == 406

        blobs = headway.data / "blobs"
        assert sum(file.stat().st_size for file in blobs.rglob("*") if file.is_file()) > 100_000_000
        assert client.delete(path).status_code == 204
        wait_until(lambda: not any(file.is_file() for file in blobs.rglob("*")), 20, "the blobs to go")


def test_an_input_behind_a_url_is_fetched_and_one_that_cannot_be_fails_alone(headway: RunningHeadway) -> None:
    import http.server
    import threading

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("location", "http://127.0.0.1:9/")
                self.end_headers()
                return
            body = b"x" * (5_000 if self.path == "/large" else 10)
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    inputs = [{"url": f"{base}/small"}, {"url": f"{base}/large"}, {"url": f"{base}/away"}, {"url": 7}, "plain"]
    try:
        with httpx.Client(base_url=headway.data_url, timeout=60) as client:
            path = "/v1/models/size/predictions"
            found = [
                client.post(path, json={"input": input_}, headers={"prefer": "wait=30"}).json() for input_ in inputs
            ]
            private = client.post(path, json={"input": {"url": "https://169.254.169.254/latest"}})
    finally:
        server.shutdown()
        server.server_close()
    assert [one["status"] for one in found] == ["succeeded", "failed", "failed", "succeeded", "succeeded"]
    assert [found[0]["output"], found[3]["output"], found[4]["output"]] == [[10, "image/png"], {"url": 7}, "plain"]
    assert {one["error"]["code"] for one in found[1:3]} == {"invalid_input"}
    assert (private.status_code, private.json()["errors"][0]["pointer"]) == (422, "/input/url")
