"""What the API tells operators: the whole system's series, read while they are asked for, and traces in its log."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from headway.testing import wait_until
from storage.migrate import upgrade

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, Stack

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.fixture
def stack(new_stack: Callable[..., "Stack"], database_url: str) -> "Stack":
    return new_stack(database_url)


def samples(api: "Api") -> dict[str, float]:
    """Name and labels, as they stand in the answer → value."""
    lines = httpx.get(f"{api.control_url}/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def of_line(name: str, priority: str) -> str:
    return f'{name}{{model="echo",priority="{priority}",version="2"}}'


def test_the_backlog_is_read_at_the_scrape(stack: "Stack") -> None:
    for priority in (5, 5, 0):
        assert stack.api.submit(1, priority=priority).status_code == 202
    seen = samples(stack.api)
    assert seen[of_line("headway_backlog_predictions", "3-6")] == 2
    assert seen[of_line("headway_backlog_predictions", "0-2")] == 1
    assert seen[of_line("headway_backlog_predictions", "7-9")] == 0
    assert 0 < seen[of_line("headway_backlog_oldest_age_seconds", "3-6")] < 30
    assert seen[of_line("headway_backlog_oldest_age_seconds", "7-9")] == 0
    assert (seen["headway_workers"], seen["headway_sql_up"], seen["headway_broker_up"]) == (1, 1, 1)
    stack.worker.run(*stack.worker.queued())
    assert samples(stack.api)[of_line("headway_backlog_predictions", "3-6")] == 0


def test_what_receivers_are_owed_is_read_at_the_scrape(stack: "Stack") -> None:
    seen = samples(stack.api)
    assert (seen["headway_webhooks_pending"], seen["headway_webhooks_oldest_due_age_seconds"]) == (0, 0)
    for name in "abb":
        assert stack.api.submit(1, webhook=f"https://{name}.example/").status_code == 202
    assert samples(stack.api)["headway_webhooks_pending"] == 0
    stack.worker.run(*stack.worker.queued())
    seen = samples(stack.api)
    assert seen["headway_webhooks_pending"] == 3
    assert 0 < seen["headway_webhooks_oldest_due_age_seconds"] < 30


def test_without_sql_or_redis_the_scrape_says_so(
    new_stack: Callable[..., "Stack"], second_postgres_server: Any
) -> None:
    url = second_postgres_server.get_uri("operators")
    with psycopg.connect(second_postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE operators")
    upgrade(url)
    stack = new_stack(url)
    stack.valkey.stop()
    wait_until(lambda: samples(stack.api)["headway_broker_up"] == 0, 10, "the API to miss Redis")
    with psycopg.connect(second_postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER DATABASE operators CONNECTION LIMIT 0")
        connection.execute("ALTER DATABASE operators ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'operators'")
    try:
        seen = samples(stack.api)
    finally:
        with psycopg.connect(second_postgres_server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER DATABASE operators ALLOW_CONNECTIONS true")
            connection.execute("ALTER DATABASE operators CONNECTION LIMIT -1")
    assert seen["headway_sql_up"] == 0
    assert not [name for name in seen if name.startswith(("headway_backlog", "headway_workers"))]
    assert "headway_api_accepted_total" in seen


def test_a_sampled_trace_is_in_the_log_beside_its_prediction(
    new_stack: Callable[..., "Stack"], sqlite_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stack = new_stack(sqlite_url)
    url = "/v1/models/echo/predictions"
    sampled = stack.api.client.post(
        url, json={"input": 1}, headers={"traceparent": f"00-{TRACE}-01", "x-request-id": "req-1"}
    ).json()["id"]
    for other in (f"00-{TRACE}-00", "nonsense", f"00-{'0' * 32}-{'1' * 16}-01"):
        assert stack.api.client.post(url, json={"input": 1}, headers={"traceparent": other}).status_code == 202
    assert stack.api.stop() == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if re.match(r'{"time"', line)]
    traced = [line for line in lines if "traceparent" in line]
    assert [(one["prediction_id"], one["request_id"], one["traceparent"]) for one in traced] == [
        (sampled, "req-1", f"00-{TRACE}-01")
    ]
