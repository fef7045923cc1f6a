"""What is too much: a full queue, a key that calls too often. And where in its line a prediction stands."""

import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headway.keys import new_token
from headway.manifest import parse
from headway.testing import wait_until
from headway.versions import Found
from storage.keys import Keys
from storage.models import Models
from storage.tenants import Tenants
from storage.workers import Served, Workers

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Stack


def register(stack: "Stack", name: str, max_queue: int, versions: tuple[str, ...] = ("1",)) -> None:
    for version in versions:
        manifest = parse({"batching": {"max_queue": max_queue}})
        Models(stack.database).register(Found(model=name, version=version, path=Path("/nowhere"), manifest=manifest))


def drains(stack: "Stack", model: str, rate: float) -> None:
    """As if workers had ended so many a second lately, and the API knew."""
    workers = Workers(stack.database)
    Models(stack.database).place(stack.worker.id, "cpu", model, "1", "ready")
    workers.beat(stack.worker.id, [Served(model=model, version="1", ended=0, rate=rate)])
    known = f"/v1/models/{model}/queue"
    wait_until(lambda: stack.api.client.get(known).json()["drain_rate"] == rate, 5, "the rate to be known")


def full(response: httpx.Response) -> int:
    """Retry-After of a refusal for a full queue."""
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    return int(response.headers["retry-after"])


def test_a_full_queue_refuses_and_stores_nothing_until_there_is_room(stack: "Stack") -> None:
    register(stack, "small", 5, ("1", "2"))
    submit = stack.api.submit
    accepted = [submit(n, "small", version=1 + n % 2) for n in range(5)]
    assert [response.status_code for response in accepted] == [202] * 5
    assert full(submit(5, "small")) == 60  # nobody serves it
    predict = stack.api.client.post("/v1/models/small:predict", json={"instances": [1]})
    assert full(predict) == 60
    assert stack.api.client.get("/v1/models/small/queue").json()["depth"] == 5
    assert submit(1, "echo").status_code == 202  # another model's queue is not full

    stack.worker.claim(accepted[0].json()["id"], model="small", version="1")
    wait_until(lambda: submit(6, "small").status_code == 202, 1, "another to be accepted")
    full(submit(7, "small"))
    assert stack.api.client.get("/v1/models/small/queue").json()["depth"] == 5


def test_a_call_with_more_instances_than_there_is_room_for_is_refused_as_a_whole(stack: "Stack") -> None:
    register(stack, "narrow", 3)
    stack.api.submit(1, "narrow")
    full(stack.api.client.post("/v1/models/narrow:predict", json={"instances": [1, 2, 3]}))
    assert stack.api.client.get("/v1/models/narrow/queue").json()["depth"] == 1
    waited = stack.api.client.post(
        "/v1/models/narrow:predict", json={"instances": [1, 2]}, headers={"Prefer": "wait=0"}
    )
    assert waited.status_code == 504


def test_callers_at_once_are_accepted_up_to_the_limit_and_not_beyond(stack: "Stack") -> None:
    register(stack, "crowded", 40)
    with ThreadPoolExecutor(16) as callers:
        answers = callers.map(lambda n: stack.api.submit(n, "crowded").status_code, range(100))
        assert Counter(answers) == {202: 40, 429: 60}
    assert stack.api.client.get("/v1/models/crowded/queue").json()["depth"] == 40


def test_the_way_back_is_as_long_as_a_tenth_of_the_queue_takes(stack: "Stack") -> None:
    register(stack, "busy", 100)
    drains(stack, "busy", 4)
    stack.predictions_of("busy", 100)
    assert full(stack.api.submit(1, "busy")) == math.ceil(10 / 4)


def test_a_repeated_submission_is_answered_however_full_the_queue(stack: "Stack") -> None:
    register(stack, "again", 1)

    def send(value: int) -> httpx.Response:
        return stack.api.client.post(
            "/v1/models/again/predictions", json={"input": value}, headers={"Idempotency-Key": "once"}
        )

    first = send(1)
    assert first.status_code == 202
    full(stack.api.submit(2, "again"))
    replayed = send(1)
    assert (replayed.status_code, replayed.json()["id"]) == (202, first.json()["id"])
    assert replayed.headers["idempotency-replayed"] == "true"
    assert send(2).status_code == 422


def test_refusals_are_counted_by_reason(stack: "Stack") -> None:
    register(stack, "none", 1)
    stack.api.submit(1, "none")

    def refused() -> float:
        text = httpx.get(f"{stack.api.control_url}/metrics").text
        return float(text.partition('headway_refused_total{reason="queue_full"} ')[2].split()[0])

    before = refused()
    for _ in range(3):
        full(stack.api.submit(1, "none"))
    assert refused() == before + 3


def test_a_place_in_the_line_counts_those_ahead_and_is_null_once_it_is_taken(stack: "Stack") -> None:
    register(stack, "line", 1000)
    stack.predictions_of("line", 7)
    urgent = stack.api.submit(1, "line", priority=0)
    stack.api.submit(1, "line", priority=9)
    last = stack.api.submit(1, "line", priority=6)

    def place(response: httpx.Response) -> Any:
        return stack.api.client.get(response.headers["location"]).json()["queue"]

    assert place(last) == {"position": 8, "eta_seconds": None}  # nobody serves it
    assert place(urgent) == {"position": 0, "eta_seconds": None}

    drains(stack, "line", 2)
    assert place(last) == {"position": 8, "eta_seconds": 4.5}
    stack.worker.claim(last.json()["id"], model="line", version="1")
    assert place(last) is None
    stack.worker.claim(urgent.json()["id"], model="line", version="1")
    later = stack.api.submit(1, "line", priority=6)
    wait_until(lambda: place(later) == {"position": 7, "eta_seconds": 4.0}, 5, "a new look at the line")


def test_nobody_is_told_a_place_beyond_ten_thousand(stack: "Stack") -> None:
    register(stack, "long", 1_000_000)
    stack.predictions_of("long", 10_002)
    last = stack.api.submit(1, "long")
    near = stack.api.submit(1, "long", priority=0)

    def place(response: httpx.Response) -> Any:
        return stack.api.client.get(response.headers["location"]).json()["queue"]

    assert place(last) == {"position": None, "eta_seconds": None}
    assert place(near)["position"] == 0


@pytest.fixture
def keyed(new_stack: Callable[..., "Stack"], sqlite_url: str) -> "Stack":
    return new_stack(sqlite_url, HEADWAY_BOOTSTRAP_KEY=new_token())


def test_a_key_that_calls_too_often_is_told_when_it_may_again(keyed: "Stack") -> None:
    tokens = {rate: new_token() for rate in (2.0, None)}
    for rate, token in tokens.items():
        Keys(keyed.database).add(token, tenant_id="acme", scopes=("predict", "read"), name="", rate=rate)

    def call(rate: float | None, method: str = "GET", path: str = "/v1/models") -> httpx.Response:
        return keyed.api.client.request(method, path, headers={"Authorization": f"Bearer {tokens[rate]}"})

    wait_until(lambda: call(None).status_code == 200, 5, "the keys to be read")
    assert [call(2.0).status_code for _ in range(2)] == [200, 200]
    for method, path in (("POST", "/v1/models/echo/predictions"), ("GET", "/v1/models"), ("DELETE", "/v1/nothing")):
        refused = call(2.0, method, path)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited"), path
        assert refused.headers["retry-after"] == "1"
    assert {call(None).status_code for _ in range(20)} == {200}
    assert keyed.api.client.get("/health").status_code == 200
    wait_until(lambda: call(2.0).status_code == 200, 5, "the bucket to fill")


def test_each_tenants_rows_go_to_lines_of_its_class(keyed: "Stack") -> None:
    tenants, ids = Tenants(keyed.database), {}
    for tenant in ("acme", "zeta"):
        token = new_token()
        Keys(keyed.database).add(token, tenant_id=tenant, scopes=("predict", "read"), name="")
        headers = {"Authorization": f"Bearer {token}"}

        def submit(headers: dict[str, str] = headers) -> httpx.Response:
            return keyed.api.client.post("/v1/models/echo/predictions", json={"input": 1}, headers=headers)

        wait_until(lambda submit=submit: submit().status_code == 202, 5, "the key to be read")  # type: ignore[misc]
        ids[tenant] = submit().json()["id"]
    rows = keyed.worker.predictions.read(list(ids.values()))
    lines = {tenant: rows[id_].line for tenant, id_ in ids.items()}
    assert lines == {tenant: f"headway:echo@2:1.{tenants.admit(tenant)}" for tenant in lines}
    assert len(set(lines.values())) == 2


def test_a_model_says_how_long_is_waited_for_it_where_a_request_does_not(stack: "Stack") -> None:
    manifest = parse({"limits": {"queue_timeout_s": 20}})
    Models(stack.database).register(Found(model="brief", version="1", path=Path("/nowhere"), manifest=manifest))

    def seconds(**said: float) -> float:
        client = stack.api.client
        body = client.post("/v1/models/brief/predictions", json={"input": 1, **said}).json()
        expires, created = (datetime.fromisoformat(body[key]) for key in ("expires_at", "created_at"))
        return (expires - created).total_seconds()

    assert seconds() == pytest.approx(20, abs=1)
    assert seconds(queue_timeout_seconds=60) == pytest.approx(60, abs=1)
    unanswered = {"json": {"instances": [1]}, "headers": {"prefer": "wait=0"}}
    (member,) = stack.api.client.post("/v1/models/brief:predict", **unanswered).json()["predictions"]  # type: ignore[arg-type]
    assert stack.api.client.get(f"/v1/predictions/{member['id']}").json()["expires_at"] is not None
