"""/ready says of each part what is known of it, and is 200 as long as submissions are accepted."""

from typing import Any

from headway.testing import wait_until
from storage.workers import Workers


def test_ready_names_every_part_and_what_is_wrong(stack: Any) -> None:
    def ready() -> dict[str, Any]:
        answer = stack.api.client.get("/ready")
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    workers = Workers(stack.database)
    workers.register("beating", "cpu", "host", 1)
    body = ready()
    assert body["status"] == "degraded"  # nobody reconciles
    assert body["checks"] | {"models": {}} == {
        "sql": "up",
        "schema": "current",
        "broker": "up",
        "workers": body["checks"]["workers"],
        "utility": {"state": "down", "last_seen_s": None},
        "models": {},
    }
    assert body["checks"]["workers"]["live"] >= 1
    assert set(body["checks"]["models"].values()) <= {"ready", "loading", "failed", "unloaded"}

    workers.hold_lease("janitor", "one", 10)
    workers.beat("beating")
    body = ready()
    assert body["checks"]["utility"]["state"] == "up"
    assert body["checks"]["utility"]["last_seen_s"] < 5
    failed = "failed" in body["checks"]["models"].values()
    assert body["status"] == ("degraded" if failed else "ready")

    workers.hold_lease("janitor", "one", -1)
    wait_until(lambda: ready()["checks"]["utility"]["state"] == "down", 5, "the end of the lease to be seen")
