"""Webhooks as clients of the API meet them."""

from typing import Any

import pytest

from headway.clock import new_id


def test_a_prediction_says_how_its_webhook_stands(api: Any) -> None:
    without = api.submit()
    with_one = api.submit(webhook="http://127.0.0.1:9999/hook", webhook_events=["started", "completed"])

    assert without.json()["webhook_status"] == "none"
    assert with_one.status_code == 202
    assert with_one.json()["webhook_status"] == "pending"
    assert api.client.get(with_one.headers["location"]).json()["webhook_status"] == "pending"


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "https://169.254.169.254/latest", "https://example.com:22/", "ftp://x/", "", "https://a b/"],
)
def test_a_url_that_must_not_be_called_is_422_and_stores_nothing(api: Any, url: str) -> None:
    answer = api.submit(webhook=url)

    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "webhook_url_rejected"
    assert problem["errors"][0]["pointer"] == "/webhook"
    if url.startswith("http") and " " not in url and not url.endswith(":22/"):
        assert "HEADWAY_WEBHOOK_ALLOW=" in problem["detail"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"webhook": 1}, "/webhook"),
        ({"webhook": "https://example.com/" + "a" * 3000}, "/webhook"),
        ({"webhook": "https://example.com/", "webhook_events": ["progress"]}, "/webhook_events/0"),
        ({"webhook": "https://example.com/", "webhook_events": []}, "/webhook_events"),
        ({"webhook_events": ["completed"]}, "/webhook_events"),
    ],
)
def test_what_does_not_fit_is_422_and_says_where(api: Any, fields: dict[str, Any], pointer: str) -> None:
    answer = api.submit(**fields)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith(pointer.rsplit("/0", 1)[0])


def test_deliveries_are_listed_and_sent_again(api: Any, worker: Any) -> None:
    id_ = api.submit(webhook="http://127.0.0.1:9999/hook").json()["id"]
    assert api.client.get(f"/v1/predictions/{id_}/deliveries").json()["data"] == []
    worker.run(id_)

    (delivery,) = api.client.get(f"/v1/predictions/{id_}/deliveries").json()["data"]
    again = api.client.post(f"/v1/deliveries/{delivery['id']}/redeliver")

    assert delivery["type"] == "prediction.succeeded"
    assert delivery["status"] == "pending"
    assert delivery["attempts"] == []
    assert delivery["prediction_id"] == id_
    assert again.status_code == 202
    assert again.json()["id"] == delivery["id"]
    assert again.json()["next_attempt_at"] >= delivery["next_attempt_at"]


def test_what_is_not_there_is_404(api: Any) -> None:
    for id_ in (new_id(), "x", new_id().upper()):
        assert api.client.get(f"/v1/predictions/{id_}/deliveries").json()["code"] == "prediction_not_found"
        assert api.client.post(f"/v1/deliveries/{id_}/redeliver").json()["code"] == "delivery_not_found"
    assert api.client.get(f"/v1/deliveries/{new_id()}/redeliver").status_code == 405


def test_the_operations_are_documented(api: Any) -> None:
    document = api.client.get("/openapi.json").json()

    assert {"/v1/predictions/{id}/deliveries", "/v1/deliveries/{id}/redeliver"} <= document["paths"].keys()
    fields = document["components"]["schemas"]["CreateBody"]["properties"]
    assert {"webhook", "webhook_events"} <= fields.keys()
