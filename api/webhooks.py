"""A prediction's webhook: whether it may be called, what was delivered, and sending it again."""

import re
from collections.abc import Mapping
from typing import Any

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.ownership import id_of, own
from api.problems import Problem
from api.service import Service
from headway.egress import UrlRefused
from headway.rendering import time_of
from headway.webhooks import WebhookStatus
from storage.deliveries import Delivery

#: A webhook-id: whose it is, and of which revision.
_DELIVERY = re.compile(r"[0-9a-z-]{1,80}")


def receiver(service: Service, url: str, where: Mapping[str, str]) -> str:
    """The URL in its plain form; `where` it came from.

    Raises Problem webhook_url_rejected, which says how the operator could allow it.
    """
    try:
        return service.egress.checked_url(url)
    except UrlRefused as refused:
        detail = str(refused)
        raise Problem("webhook_url_rejected", detail, errors=[{**where, "detail": detail}]) from refused


async def list_deliveries(service: Service, call: Call) -> Answer:
    """200 with every event of a prediction and the attempts to deliver it, oldest first."""
    query_parameters(call.query, {})
    id_ = id_of(call)
    await own(service, call, id_)
    return await deliveries_of(service, call, id_)


async def deliveries_of(service: Service, call: Call, id_: str) -> Answer:
    """Of a prediction, or of a batch."""
    rows = await service.threads.run(lambda: service.deliveries.of(id_, call.tenant))
    return json_answer({"object": "list", "data": [_body(one) for one in rows], "has_more": False})


async def redeliver(service: Service, call: Call) -> Answer:
    """202 and the delivery, which is due now; one that is under way stays as it is."""
    query_parameters(call.query, {})
    id_ = call.params["id"]
    if not _DELIVERY.fullmatch(id_):
        raise Problem.of("delivery_not_found")
    one = await service.threads.run(lambda: service.deliveries.redeliver(id_, call.tenant))
    if one is None:
        raise Problem("delivery_not_found", "There is no delivery of this id.")
    return json_answer(_body(one), 202)


def _body(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.id,
        "object": "delivery",
        "batch_id" if one.event.startswith("batch.") else "prediction_id": one.subject_id,
        "type": one.event,
        "url": one.url,
        "status": one.status.label,
        "created_at": time_of(one.at),
        "next_attempt_at": time_of(one.due_at) if one.status is WebhookStatus.PENDING else None,
        "attempts": [
            {"at": time_of(each.at), "seconds": each.seconds, "status_code": each.status_code, "error": each.error}
            for each in one.log
        ],
    }
