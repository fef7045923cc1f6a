"""The clients with inputs and outputs that are no JSON, one suite for both."""

import io
from typing import Any

import numpy as np
import pytest

from headway import npy
from headway.client import ApiError
from headway.types import Outcome
from storage.running import Finished
from tests.integration.over_http.conftest import PlayedWorker, Stack


@pytest.mark.parametrize("as_array", [False, True])
def test_bytes_and_arrays_are_sent_as_they_are_with_the_other_fields_beside_them(
    client: Any, worker: PlayedWorker, idle: None, as_array: bool
) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    sent, kind = (array, "application/x-npy") if as_array else (b"\xff\xd8", "image/jpeg")
    fields = {"priority": 1, "metadata": {"from": "a camera, at dusk"}, "queue_timeout_seconds": 60.5}
    job = client.submit("echo", sent, content_type=kind, **fields)
    assert (job.prediction.priority, job.prediction.metadata) == (1, {"from": "a camera, at dusk"})
    body, content_type, _ = worker.predictions.read_input(job.id, "default") or (b"", None, None)
    assert content_type == kind
    if as_array:
        np.testing.assert_array_equal(np.load(io.BytesIO(body), allow_pickle=False), array)
    else:
        assert body == sent
    assert client.submit("echo", b"plain").status == "queued"
    for value in ("text", {"a": 1}):
        with pytest.raises(TypeError, match="cannot be sent as image/png"):
            client.submit("echo", value, content_type="image/png")
    with pytest.raises(TypeError, match="cannot be sent as application/x-npy"):
        client.submit("echo", ["text"], content_type="application/x-npy")


def test_an_output_is_given_as_it_is_wherever_it_lies(
    client: Any, stack: Stack, worker: PlayedWorker, idle: None
) -> None:
    array = np.arange(6, dtype=np.float32)
    stored = {"application/x-npy": npy.dump(array), "application/octet-stream": b"\x00\x01"}
    for kind, body in stored.items():
        job = client.submit("echo", 1)
        claim = worker.claim(job.id)
        stack.blobs.write(job.id, claim, body)
        outcome = Outcome(id=job.id, output_type=kind, output_bytes=len(body))
        worker.notify(worker.predictions.finish([Finished(claim=claim, outcomes=[outcome], settled=True)]))
        result = job.result(timeout=20)
        if kind == "application/x-npy":
            np.testing.assert_array_equal(result, array)
        else:
            assert result == body
        assert job.refresh().output_omitted
    with pytest.raises(ApiError) as refused:
        client.output(job.id, as_array=True)
    assert refused.value.code == "not_acceptable"
    job = client.submit("echo", [1, 2])
    with pytest.raises(ApiError) as waiting:
        client.output(job.id)
    assert waiting.value.code == "not_terminal"
    worker.run(job.id)
    assert client.output(job.id) == [1, 2]
    np.testing.assert_array_equal(client.output(job.id, as_array=True), [1, 2])
