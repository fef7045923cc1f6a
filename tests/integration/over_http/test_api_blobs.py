"""What lies in the blob store, as clients of the API meet it: beside the rows, and where a row has lost it."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.clock import new_id
from headway.testing import wait_until
from headway.types import Outcome
from storage.running import Finished
from tests.integration.over_http.conftest import Api, Stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    """One whose bodies may be large."""
    made = Stack(f"sqlite:///{folder}/headway.db", HEADWAY_MAX_BODY_BYTES="2000000")
    yield made
    made.close()


def npy(array: "np.ndarray[Any, Any]") -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


Stored = Callable[[str | None, bytes], str]


@pytest.fixture
def stored(stack: Stack, idle: None) -> Stored:
    """Makes a prediction that a worker has finished with an output in the blob store."""
    return lambda type_, body: finished(stack, str(stack.api.submit().json()["id"]), type_, body)


def finished(stack: Stack, id_: str, type_: str | None, body: bytes) -> str:
    claim = stack.worker.claim(id_)
    stack.blobs.write(id_, claim, body)
    outcome = Outcome(id=id_, output_type=type_, output_bytes=len(body), predict_us=1)
    stack.worker.notify(stack.worker.predictions.finish([Finished(claim=claim, outcomes=[outcome], settled=True)]))
    return id_


def test_of_a_submission_that_made_no_row_no_blob_is_left(stack: Stack, api: Api) -> None:
    headers = {"idempotency-key": new_id(), "content-type": "image/png"}
    large = b"x" * 400_000

    def post(body: bytes, **query: str) -> Any:
        return api.client.post("/v1/models/echo/predictions", content=body, headers=headers, params=query)

    first, again = post(large, priority="1"), post(large, priority="1")
    assert (first.json()["id"], again.headers["idempotency-replayed"]) == (again.json()["id"], "true")
    assert [post(large + b"x", priority="1").status_code, post(large).status_code] == [422, 422]
    assert [id_ for day in stack.blobs.days() for id_ in stack.blobs.of_day(day)] == [first.json()["id"]]


def test_json_of_the_blob_store_is_shown_within_bounds_and_given_whole(api: Api, stored: Stored) -> None:
    shown, apart = (b'"' + b"x" * length + b'"' for length in (300_000, 8 * 1024 * 1024))
    for body, inline in ((shown, True), (apart, False)):
        id_ = stored(None, body)
        read = api.client.get(f"/v1/predictions/{id_}").json()
        assert read["output"] == (json.loads(body) if inline else None)
        assert read.get("output_omitted") == (None if inline else True)
        assert api.client.get(f"/v1/predictions/{id_}/output").content == body
        listed = api.client.get("/v1/predictions?limit=1").json()["data"][0]
        assert (listed["id"], "output" in listed, "output_omitted" in listed) == (id_, False, False)


def test_a_blob_that_is_gone_is_not_there_and_a_store_that_is_away_is_503(
    api: Api, stack: Stack, folder: Path, stored: Stored
) -> None:
    id_ = stored("application/octet-stream", b"x")
    stack.blobs.forget(id_)
    assert api.client.get(f"/v1/predictions/{id_}/output").json()["code"] == "prediction_purged"
    id_ = stored(None, b'"%b"' % (b"x" * 300_000))
    place = folder / "blobs"
    hidden = place.rename(folder / "elsewhere")
    place.write_text("no folder")
    try:
        assert api.client.get(f"/v1/predictions/{id_}").status_code == 503
        assert api.client.get(f"/v1/predictions/{id_}/output").status_code == 503
        away = api.client.post("/v1/models/echo/predictions", json={"input": "x" * 300_000})
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert api.submit().status_code == 202  # what is small needs no store
    finally:
        place.unlink()
        hidden.rename(place)
    assert api.client.get(f"/v1/predictions/{id_}/output").status_code == 200


@pytest.mark.parametrize(
    ("type_", "body", "status"),
    [
        ("application/x-npy", npy(np.array([1.5, 2.5])), 200),
        (None, b"[1.5,2.5]", 200),
        ("application/octet-stream", b"\x00", 406),
        (None, b'"' + b"x" * 8 * 1024 * 1024 + b'"', 406),
    ],
    ids=["array", "json", "bytes", "large"],
)
def test_predict_gives_what_json_can_hold(
    stack: Stack, api: Api, idle: None, type_: str | None, body: bytes, status: int
) -> None:
    def work() -> None:
        (id_,) = wait_until(stack.worker.queued)
        finished(stack, id_, type_, body)

    thread = threading.Thread(target=work)
    thread.start()
    answer = api.client.post("/v1/models/echo:predict", json={"instances": [1]})
    thread.join(20)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json() == {"predictions": [[1.5, 2.5]]}
    else:
        assert answer.json()["code"] == "not_acceptable"
        assert answer.json()["predictions"][0]["code"] == "output_omitted"
