"""Shadow traffic over HTTP: copies that are compared, and that no client ever sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.comparisons import max_difference
from headway import broker
from headway.errors import ItemCode, ItemError
from headway.manifest import parse
from headway.testing import wait_until
from headway.types import LARGE
from headway.versions import Found
from storage.models import Models
from tests.integration.over_http.test_api_http import problem

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Stack

MODEL = "/v1/models/twin"
SHADOWS = f"{MODEL}/versions/2/shadows"


def registered(stack: "Stack", model: str, **typed: Any) -> None:
    """Versions 1 and 2, both warm; what is `typed` is of the second."""
    models = Models(stack.database)
    for version, toml in (("1", {}), ("2", typed)):
        models.register(Found(model=model, version=version, path=Path("/nowhere"), manifest=parse(toml)))
        models.place(stack.worker.id, "cpu", model, version, "ready")


@pytest.fixture
def control(stack: "Stack") -> Iterator[httpx.Client]:
    """`twin` 1 answers, 2 is its shadow."""
    registered(stack, "twin")
    with httpx.Client(base_url=stack.api.control_url, timeout=30) as client:
        split = client.put(f"{MODEL}/traffic", json={"versions": {"1": 1}, "shadow": [2]})
        assert split.json()["shadow"] == ["2"]
        yield client
        client.put(f"{MODEL}/traffic", json={"versions": {}})
        client.post(f"{MODEL}/queue/purge")


def copies(worker: "PlayedWorker", model: str = "twin") -> list[str]:
    return [hint.id for _, hint in worker.predictions.oldest_queued(broker.line(model, "2", 19), 500)]


def copied(worker: "PlayedWorker", count: int, model: str = "twin") -> list[str]:
    wait_until(lambda: len(copies(worker, model)) == count, 10, f"{count} copies")
    return copies(worker, model)


def outcomes(api: "Api") -> dict[str, float]:
    """Of copies for `brim`."""
    text = httpx.get(f"{api.control_url}/metrics").text
    return {
        outcome: next(
            (
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith(f'headway_api_shadows_total{{model="brim",outcome="{outcome}",version="2"}}')
            ),
            0.0,
        )
        for outcome in ("sent", "skipped")
    }


def submit(api: "Api", input_: Any, model: str = "twin", **fields: Any) -> str:
    answer = api.submit(input_, model=model, **fields)
    assert (answer.status_code, answer.json()["version"]) == (202, "1"), answer.text
    return str(answer.json()["id"])


def run(worker: "PlayedWorker", version: str, id_: str, answer: bytes | ItemError) -> None:
    claim = worker.claim(id_, model="twin", version=version)
    worker.finish(claim, id_, answer=lambda _: answer)


def test_a_copy_is_compared_with_its_original_and_nobody_else_sees_it(
    control: httpx.Client, stack: "Stack", api: "Api", worker: "PlayedWorker"
) -> None:
    original = submit(
        api, [1, 2], metadata={"user": "a"}, webhook="http://127.0.0.1:9999/hook", queue_timeout_seconds=600
    )
    (copy,) = copied(worker, 1)
    row = worker.predictions.read([copy])[copy]
    assert (row.version, row.alias, row.priority, row.line, row.shadow_of) == (
        "2",
        None,
        19,
        broker.line("twin", "2", 19),
        original,
    )
    assert (row.metadata, row.expires_at, row.webhook_status.label) == ({"user": "a"}, None, "none")
    read = f"/v1/predictions/{copy}"
    for method, path in (
        ("GET", read),
        ("GET", f"{read}/events"),
        ("GET", f"{read}/output"),
        ("GET", f"{read}/deliveries"),
        ("POST", f"{read}/cancel"),
        ("POST", f"{read}/retry"),
        ("DELETE", read),
    ):
        problem(api.client.request(method, path), 404, "prediction_not_found")
    problem(control.post(f"{read}/retry"), 404, "prediction_not_found")
    listed = api.client.get("/v1/predictions", params={"model": "twin"}).json()["data"]
    assert copy not in {one["id"] for one in listed}
    assert original in {one["id"] for one in listed}
    assert api.client.get(f"{MODEL}/queue").json()["depth"] == 1

    run(worker, "1", original, b"[1.0, 2.0]")
    run(worker, "2", copy, b"[1.0, 2.5]")
    (one,) = control.get(SHADOWS).json()["data"]
    assert (one["id"], one["shadow_id"], one["equal"], one["max_difference"]) == (original, copy, False, 0.5)
    assert (one["original"]["output"], one["shadow"]["output"]) == ([1.0, 2.0], [1.0, 2.5])
    assert (one["original"]["version"], one["shadow"]["version"], one["shadow"]["status"]) == ("1", "2", "succeeded")

    assert api.client.delete(f"/v1/predictions/{original}").status_code == 204
    assert control.get(SHADOWS).json()["data"] == []
    gone = worker.predictions.read([copy])[copy]
    assert (gone.output, gone.metadata, worker.predictions.read_input(copy, "default")) == (None, {}, None)


def test_a_page_of_copies_has_a_summary(control: httpx.Client, api: "Api", worker: "PlayedWorker") -> None:
    answer = api.client.post(f"{MODEL}:predict", json={"instances": [[1, 1], [2, 2], [3, 3]]}, headers=NO_WAIT)
    assert answer.status_code == 504  # the originals are canceled, their copies are not
    worse, same, unlike = copied(worker, 3)
    run(worker, "2", worse, ItemError(ItemCode.MODEL_ERROR, "no"))
    run(worker, "2", same, b"1")
    run(worker, "2", unlike, b'{"label": "a"}')
    page = control.get(SHADOWS, params={"limit": 2}).json()
    assert ([one["shadow_id"] for one in page["data"]], page["has_more"], page["last_id"]) == (
        [unlike, same],
        True,
        same,
    )
    rest = control.get(SHADOWS, params={"limit": 2, "after": page["last_id"]}).json()
    assert ([one["shadow"]["error"]["code"] for one in rest["data"]], rest["has_more"]) == (["model_error"], False)
    assert rest["data"][0]["original"]["status"] == "canceled"
    assert rest["data"][0]["equal"] is None
    assert rest["summary"] == {
        "compared": 0,
        "equal": 0,
        "max_difference": None,
        "original_failed": 0,
        "shadow_failed": 1,
        "original_predict_seconds": None,
        "shadow_predict_seconds": 0.001,
    }
    problem(control.get(f"{MODEL}/versions/7/shadows"), 404, "version_not_found")
    problem(control.get(SHADOWS, params={"after": "x"}), 400, "invalid_cursor")


NO_WAIT = {"prefer": "wait=0"}


def test_what_a_version_cannot_take_is_not_copied_and_the_original_is_none_the_wiser(
    control: httpx.Client, stack: "Stack", api: "Api", worker: "PlayedWorker"
) -> None:
    brim = "/v1/models/brim"
    registered(stack, "brim", inputs={"x": {"dtype": "float32", "shape": [2]}}, batching={"max_queue": 3})
    control.put(f"{brim}/traffic", json={"versions": {"1": 1}, "shadow": ["2"]})
    for input_ in ("no pair", [1, 2], [3, 4], [5, 6], [7, 8]):
        submit(api, input_, "brim")
    wait_until(lambda: sum(outcomes(api).values()) == 5)
    assert outcomes(api) == {"sent": 3, "skipped": 2}  # one is refused, one is too many
    assert len(copies(worker, "brim")) == 3


def test_some_are_not_copied_at_all(control: httpx.Client, stack: "Stack", api: "Api", worker: "PlayedWorker") -> None:
    assert api.submit(model="twin", version="2").status_code == 202  # it would be compared with itself
    control.post(f"{MODEL}/queue/pause")
    submit(api, 1)
    control.post(f"{MODEL}/queue/resume")
    control.post(f"{MODEL}/versions/2/unload")
    submit(api, 1)
    control.post(f"{MODEL}/versions/2/reset")
    body, ndjson = b'{"input": 1}\n', {"content-type": "application/x-ndjson"}
    assert api.client.post("/v1/batches?model=twin", content=body, headers=ndjson).json()["version"] == "1"
    last = submit(api, 1)
    (copy,) = copied(worker, 1)
    assert worker.predictions.read([copy])[copy].shadow_of == last


def test_a_large_input_is_copied_with_a_blob_of_its_own_that_goes_with_the_original(
    new_stack: Any, sqlite_url: str
) -> None:
    stack: Stack = new_stack(sqlite_url)
    registered(stack, "twin")
    traffic = {"versions": {"1": 1}, "shadow": ["2"]}
    assert httpx.put(f"{stack.api.control_url}{MODEL}/traffic", json=traffic).status_code == 200
    url, raw = f"{MODEL}/predictions", {"content-type": "application/octet-stream"}
    for body, headers in (
        ((b'{"input": "%b"}' % (b"x" * LARGE)), {"content-type": "application/json"}),
        (b"y" * LARGE * 2, raw),
    ):
        original = stack.api.client.post(url, content=body, headers=headers).json()["id"]
        (copy,) = copied(stack.worker, 1)
        input_ = stack.worker.predictions.read_input(copy, "default")
        assert input_ is not None
        assert input_.content_type == (None if headers["content-type"] == "application/json" else raw["content-type"])
        assert stack.blobs.read(copy, "input") == stack.blobs.read(original, "input")
        stack.api.client.post(f"/v1/predictions/{original}/cancel")
        assert stack.api.client.delete(f"/v1/predictions/{original}").status_code == 204
        assert {copy, original} & set(stack.blobs.of_day(stack.blobs.days()[-1])) == set()
        assert copies(stack.worker) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (1, 1.5, 0.5),
        ([1, 2], [1, 2], 0.0),
        ([[1, 2], [3, 4]], [[1, 2], [3, 9]], 5.0),
        ([1, 2], [1, 2, 3], None),
        ([[1], [2, 3]], [[1], [2, 3]], None),
        ({"a": 1}, {"a": 1}, None),
        ("1", "1", None),
        (True, True, None),
        ([], [], None),
        ([1, "a"], [1, "a"], None),
        (None, None, None),
        (1 << 70, 1, None),
    ],
)
def test_only_numbers_of_the_same_form_differ_by_a_number(ours: object, theirs: object, expected: float | None) -> None:
    assert max_difference(ours, theirs) == expected
