"""The control plane over HTTP: what operators say of models is so from the next request on."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from headway.manifest import Found, parse
from storage.models import Models
from tests.integration.over_http.test_api_http import problem

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
