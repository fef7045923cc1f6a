"""The control plane over HTTP: what operators say of models is so from the next request on."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from headway import broker, quantiles
from headway.errors import ItemCode, ItemError
from headway.manifest import parse
from headway.registry import DeviceStats, Stats
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.versions import Found
from storage.models import Models
from storage.workers import Served
from tests.integration.over_http.test_api_http import UNKNOWN, problem

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, Stack

ECHO = "/v1/models/echo"


def warmed(stack: "Stack") -> Models:
    """Versions 1 and 2 of `echo` have been loaded, 3 has not."""
    models = Models(stack.database)
    manifest = parse({"aliases": {"stable": 1, "gone": 9}, "versions": {"policy": [2]}})
    models.register(Found(model="echo", version="3", path=Path("/nowhere"), manifest=manifest))
    for version in ("1", "2"):
        models.place(stack.worker.id, "cpu", "echo", version, "ready", memory_bytes=100)
    return models


@pytest.fixture
def control(stack: "Stack") -> Iterator[httpx.Client]:
    warmed(stack)
    with httpx.Client(base_url=stack.api.control_url, timeout=30) as client:
        yield client


def versions_of(api: "Api", count: int, **fields: Any) -> Counter[str]:
    return Counter(api.submit(**fields).json()["version"] for _ in range(count))


# Aliases


def test_an_alias_is_moved_made_and_taken_away(control: httpx.Client, api: "Api") -> None:
    moved = control.put(f"{ECHO}/aliases/stable", json={"version": 2})
    assert (moved.status_code, moved.json()) == (
        200,
        {"object": "alias", "model": "echo", "alias": "stable", "version": "2"},
    )
    assert api.submit(alias="stable").json()["version"] == "2"
    control.put(f"{ECHO}/aliases/new", json={"version": "1"})
    assert control.get(ECHO).json()["aliases"] == {"stable": "2", "gone": "9", "new": "1"}
    for alias in ("stable", "new"):
        assert control.delete(f"{ECHO}/aliases/{alias}").status_code == 204
        problem(control.delete(f"{ECHO}/aliases/{alias}"), 404, "alias_not_found")
        problem(api.submit(alias=alias), 404, "alias_not_found")
    control.put(f"{ECHO}/aliases/stable", json={"version": "1"})
    assert api.client.post(f"{ECHO}/aliases/stable:predict", json={"instances": []}).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (f"{ECHO}/aliases/a", {"version": "7"}, (404, "version_not_found")),
        ("/v1/models/nope/aliases/a", {"version": "1"}, (404, "model_not_found")),
        (f"{ECHO}/aliases/A%20b", {"version": "1"}, (422, "validation_failed")),
        (f"{ECHO}/aliases/a", {"version": True}, (422, "validation_failed")),
        (f"{ECHO}/aliases/a", {"version": "1", "weight": 1}, (422, "validation_failed")),
        (f"{ECHO}/aliases/a", {}, (422, "validation_failed")),
        (f"{ECHO}/aliases/a?force=1", {"version": "1"}, (422, "validation_failed")),
    ],
)
def test_an_alias_to_nowhere_is_not_made(
    control: httpx.Client, path: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    problem(control.put(path, json=body), *expected)


# Traffic


def test_traffic_goes_by_weight_by_turns_and_what_names_a_version_where_it_wants(
    control: httpx.Client, api: "Api"
) -> None:
    split = control.put(f"{ECHO}/traffic", json={"versions": {"1": 90, "2": 10}})
    assert (split.status_code, split.json()["now"]) == (200, {"1": 0.9, "2": 0.1})
    assert control.get(f"{ECHO}/traffic").json() == split.json()
    assert versions_of(api, 50) == {"1": 45, "2": 5}
    answer = api.submit().json()
    assert (answer["version"], answer["alias"]) == ("1", None)
    assert versions_of(api, 3, version="2") == {"2": 3}
    batch = api.client.post("/v1/batches?model=echo", content=b'{"input": 1}\n', headers=NDJSON)
    assert batch.json()["version"] == "1"  # as a whole to the heaviest
    assert control.put(f"{ECHO}/traffic", json={"versions": {}}).json()["now"] == {"2": 1.0}
    assert versions_of(api, 3) == {"2": 3}


NDJSON = {"content-type": "application/x-ndjson"}


def test_the_same_user_comes_to_the_same_version(control: httpx.Client, api: "Api") -> None:
    control.put(f"{ECHO}/traffic", json={"versions": {"1": 1, "2": 1}, "sticky": "user"})
    by_user = {user: versions_of(api, 4, metadata={"user": user}) for user in "abcdefgh"}
    assert all(len(versions) == 1 for versions in by_user.values())
    assert len({next(iter(versions)) for versions in by_user.values()}) == 2
    assert versions_of(api, 6, metadata={"who": "a"}) == {"1": 3, "2": 3}
    control.put(f"{ECHO}/traffic", json={"versions": {}})


def test_what_is_not_warm_yet_gets_no_traffic_and_what_failed_none_either(
    control: httpx.Client, stack: "Stack"
) -> None:
    models, api = warmed(stack), stack.api
    control.put(f"{ECHO}/traffic", json={"versions": {"1": 1, "3": 1}})
    assert versions_of(api, 4) == {"1": 4}
    assert control.get(f"{ECHO}/traffic").json()["now"] == {"1": 1.0}
    models.place(stack.worker.id, "cpu", "echo", "3", "ready")
    control.get(ECHO)  # read anew
    assert versions_of(api, 4) == {"1": 2, "3": 2}
    models.place(stack.worker.id, "cpu", "echo", "3", "failed", reason="no")
    control.get(ECHO)
    assert versions_of(api, 4) == {"1": 4}
    control.put(f"{ECHO}/traffic", json={"versions": {}})
    with stack.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM placements WHERE version = '3'")
        connection.exec_driver_sql("UPDATE versions SET loaded_at = NULL WHERE version = '3'")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"versions": {"1": 90, "7": 10}}, "/versions/7"),
        ({"versions": {"1": 0}}, "/versions"),
        ({"versions": {"1": -1}}, "/versions"),
        ({"versions": {"1": "90"}}, "/versions"),
        ({"versions": {"1": 1}, "shadow": ["1"]}, "/shadow/0"),
        ({"versions": {}, "shadow": ["1", 1]}, "/shadow/1"),
        ({"versions": {}, "shadow": ["1", "8"]}, "/shadow/1"),
        ({"versions": {}, "sticky": ""}, "/sticky"),
        ({"versions": {}, "weights": {}}, "/weights"),
        ({}, "/versions"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused_with_its_place(
    control: httpx.Client, body: dict[str, Any], pointer: str
) -> None:
    before = control.get(f"{ECHO}/traffic").json()
    answer = problem(control.put(f"{ECHO}/traffic", json=body), 422, "validation_failed")
    assert answer["errors"][0]["pointer"] == pointer
    assert control.get(f"{ECHO}/traffic").json() == before


# Versions and queues


def test_a_version_is_loaded_and_unloaded_at_a_word(control: httpx.Client, api: "Api") -> None:
    def said(version: str, verb: str) -> Any:
        answer = control.post(f"{ECHO}/versions/{version}/{verb}")
        assert answer.status_code == 202, answer.text
        return answer.json()["wish"]

    assert said("2", "unload") == "unload"
    assert api.submit().json()["version"] == "1"  # the latest that may be used
    assert said("2", "load") is None  # the policy has it loaded anyway
    assert api.submit().json()["version"] == "2"
    assert (said("3", "load"), said("3", "reset")) == ("load", None)
    problem(control.post(f"{ECHO}/versions/7/load"), 404, "version_not_found")
    problem(control.post("/v1/models/nope/versions/1/unload"), 404, "model_not_found")


def test_a_paused_model_takes_what_is_submitted(control: httpx.Client, api: "Api") -> None:
    paused = control.post(f"{ECHO}/queue/pause")
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert api.submit().status_code == 202
    assert control.get(ECHO).json()["paused"] is True
    assert api.client.get(f"{ECHO}/queue").json()["paused"] is True
    assert 'headway_model_paused{model="echo"} 1.0' in control.get("/metrics").text
    assert control.post(f"{ECHO}/queue/resume").json()["paused"] is False
    assert 'headway_model_paused{model="echo"} 0.0' in control.get("/metrics").text


def test_a_change_is_a_line_in_the_log_with_who_made_it(
    new_stack: Callable[..., "Stack"], sqlite_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stack = new_stack(sqlite_url)
    url = f"{stack.api.control_url}{ECHO}"
    httpx.post(f"{url}/queue/pause")
    key = httpx.post(f"{stack.api.control_url}/v1/keys", json={"scopes": ["admin"], "tenant": "ops"}).json()
    with_key = {"authorization": f"Bearer {key['key']}", "x-request-id": "req-7"}
    assert httpx.put(f"{url}/aliases/stable", json={"version": "2"}, headers=with_key).status_code == 200
    assert stack.api.stop() == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if re.match(r'{"time"', line)]
    said = [line for line in lines if line["logger"] == "api.audit"]
    assert [line["message"] for line in said] == [
        "nobody with a key: pause echo",
        f"key {key['prefix']}: alias stable of echo points to version 2",
    ]
    assert (said[1]["tenant"], said[1]["request_id"]) == ("ops", "req-7")


# Many at once


def test_a_purge_cancels_what_is_queued_of_all_tenants_and_whoever_waits_is_told(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    stack = new_stack(sqlite_url)
    with httpx.Client(base_url=stack.api.control_url, timeout=30) as control, ThreadPoolExecutor(1) as pool:
        stack.predictions_of("echo", 1100)
        stack.worker.predictions.insert([new_prediction(model="echo", tenant_id="b", line=broker.line("echo", "2", 0))])
        batch = stack.api.client.post("/v1/batches?model=echo", content=b'{"input": 1}\n', headers=NDJSON).json()
        before = stack.worker.predictions.count_by_status()[Status.QUEUED]
        waiting = pool.submit(stack.api.client.post, f"{ECHO}:predict", json={"instances": [1]})
        wait_until(lambda: stack.worker.predictions.count_by_status()[Status.QUEUED] == before + 1)
        answer = control.post(f"{ECHO}/queue/purge")
        assert (answer.status_code, answer.json()) == (
            200,
            {"object": "purge", "model": "echo", "purged": 1102, "shadows": 0, "has_more": False},
        )
        assert problem(waiting.result(10), 500, "prediction_failed")["predictions"][0]["code"] == "canceled"
        assert control.post(f"{ECHO}/queue/purge").json()["purged"] == 0
        listed = stack.api.client.get("/v1/predictions", params={"batch_id": batch["id"]}).json()["data"]
        assert [item["status"] for item in listed] == ["queued"]
        problem(control.post("/v1/models/nope/queue/purge"), 404, "model_not_found")


def test_what_failed_is_run_again_in_pages_and_its_hints_are_in_redis(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    stack = new_stack(sqlite_url)
    with httpx.Client(base_url=stack.api.control_url, timeout=30) as control:
        ids = [stack.api.submit(n).json()["id"] for n in range(5)]
        stack.worker.run(*ids, answer=lambda body: ItemError(ItemCode.MODEL_ERROR, "no"))
        first = control.post("/v1/predictions/retry?status=failed&model=echo&limit=3").json()
        assert (first["retried"], first["has_more"], first["last_id"]) == (3, True, ids[2])
        rest = (
            f"/v1/predictions/retry?status=failed&code=model_error&since=2020-01-01T00:00:00Z&after={first['last_id']}"
        )
        assert control.post(rest).json() == {"object": "redrive", "retried": 2, "has_more": False, "last_id": None}
        assert stack.worker.queued() == ids
        line, envelopes = broker.line("echo", "2", 5), redis.Redis.from_url(stack.valkey.url)
        wait_until(lambda: envelopes.llen(line) == 2 + len(ids))  # five submitted alone, then 3 and 2 together
        envelopes.close()
        stack.worker.run(*ids)
        assert control.post("/v1/predictions/retry?status=failed").json()["retried"] == 0
        one = stack.api.submit().json()["id"]
        problem(control.post(f"/v1/predictions/{one}/retry"), 409, "not_retryable")
        stack.api.client.post(f"/v1/predictions/{one}/cancel")
        again = control.post(f"/v1/predictions/{one}/retry")
        assert (again.status_code, again.json()["status"]) == (202, "queued")
        problem(control.post(f"/v1/predictions/{UNKNOWN}/retry"), 404, "prediction_not_found")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("", "status"),
        ("status=succeeded", "status"),
        ("status=failed&code=bad_luck", "code"),
        ("status=failed&model=A%20b", "model"),
        ("status=failed&since=yesterday", "since"),
        ("status=failed&until=2026-01-01", "until"),
        ("status=failed&tenant=%C3%9Cber", "tenant"),
        ("status=failed&limit=501", "limit"),
        ("status=failed&dry_run=1", "dry_run"),
    ],
)
def test_a_redrive_that_makes_no_sense_is_refused(control: httpx.Client, query: str, parameter: str) -> None:
    body = problem(control.post(f"/v1/predictions/retry?{query}"), 422, "validation_failed")
    assert body["errors"][0]["parameter"] == parameter
    for after in ("nonsense", UNKNOWN):
        problem(control.post(f"/v1/predictions/retry?status=failed&after={after}"), 400, "invalid_cursor")


def test_devices_and_versions_show_what_workers_have_measured(control: httpx.Client, stack: "Stack") -> None:
    stats = Stats(failed=1, seconds={quantiles.bucket(0.1): 99, quantiles.bucket(2.0): 1})
    device = DeviceStats(busy=0.5, memory_bytes=200, memory_budget=1000, loads=3, unloads=1)
    served = Served(model="echo", version="2", ended=100, rate=2.0, stats=stats)
    assert stack.worker.workers.beat(stack.worker.id, [served], device)
    shown = control.get(f"{ECHO}/versions").json()["data"][1]
    assert (shown["counts"], shown["error_rate"]) == ({"ended": 100, "failed": 1}, 0.01)
    assert (shown["devices"], shown["memory_bytes"], shown["released"]) == (["cpu"], 100, True)
    assert shown["p50_seconds"] == pytest.approx(0.1, rel=0.1)
    assert shown["p99_seconds"] == pytest.approx(0.1, rel=0.1)
    (one,) = control.get("/v1/devices").json()["data"]
    assert (one["device"], one["host"], one["busy"], one["memory_bytes"], one["memory_budget"]) == (
        "cpu",
        "test",
        0.5,
        200,
        1000,
    )
    assert (one["loads"], one["unloads"]) == (3, 1)
    assert {(v["model"], v["version"], v["state"]) for v in one["versions"]} == {
        ("echo", "1", "ready"),
        ("echo", "2", "ready"),
    }
    assert 'headway_placements{model="echo",state="unloaded",version="2"} 0.0' in control.get("/metrics").text
