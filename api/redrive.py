"""Explicit retries by operators: of any prediction, and of all that ended without success, page by page."""

import datetime
import time

from api import audit
from api.answers import Answer, json_answer
from api.changes import retried
from api.exchange import Call, query_parameters
from api.listing import cursor_of, name_of
from api.ownership import id_of, not_found
from api.problems import Problem
from api.service import Service
from headway import broker
from headway.errors import ItemCode, SettingsError
from headway.keys import checked_tenant
from headway.states import Status
from headway.types import Hint

_STATUSES = {status.label: status for status in (Status.FAILED, Status.EXPIRED, Status.CANCELED)}
_ALLOWED = {
    "status": tuple(_STATUSES),
    "code": tuple(ItemCode),
    **dict.fromkeys(("model", "version", "tenant", "since", "until", "after", "limit")),
}
#: Predictions of a page, and how long one is looked for, seconds.
_MOST = 500
_LONGEST_S = 5.0
_PATIENCE_S = 10.0
#: Predictions in an envelope of a version that is not registered any more.
_FEW = 32


async def retry_one(service: Service, call: Call) -> Answer:
    """202: queued again under its id, last in its line, whoever's it is."""
    query_parameters(call.query, {})
    id_ = id_of(call)
    tenant = await service.threads.run(lambda: service.predictions.tenant_of(id_))
    if tenant is None:
        raise not_found()
    answer = await retried(service, id_, tenant)
    audit.changed(call, f"retry {id_}", prediction_id=id_)
    return answer


async def retry_all(service: Service, call: Call) -> Answer:
    """200 and how many of the next ones are queued again; go on with `after` = `last_id` while there are more."""
    asked = query_parameters(call.query, _ALLOWED)
    if "status" not in asked:
        raise Problem.invalid(f"Say which: `status` may be {', '.join(_STATUSES)}.", parameter="status")
    status, limit, after = _STATUSES[asked["status"]], _limit(asked), await _after(service, asked)
    tenant, model, version = _tenant(asked), name_of(asked, "model"), name_of(asked, "version")
    since, until = _moment(asked, "since"), _moment(asked, "until")
    began, count = time.monotonic(), 0
    while True:
        page = await service.threads.run(
            lambda after=after, limit=limit - count: service.predictions.redrive(  # type: ignore[misc]
                status,
                tenant_id=tenant,
                model=model,
                version=version,
                code=asked.get("code"),
                since=since,
                until=until,
                after=after,
                limit=limit,
            ),
            patience_s=_PATIENCE_S,
        )
        _publish(service, page.queued)
        count += len(page.queued)
        after = page.last
        if after is None or count >= limit or time.monotonic() - began > _LONGEST_S:
            break
    filters = " ".join(f"{name}={value}" for name, value in asked.items() if name not in ("after", "limit"))
    if count:
        audit.changed(call, f"retry {count} predictions: {filters}", count=count)
    last_id = None if after is None else after[1]
    return json_answer({"object": "redrive", "retried": count, "has_more": after is not None, "last_id": last_id})


def _publish(service: Service, queued: list[tuple[str, int, Hint]]) -> None:
    by_line: dict[str, list[tuple[int, Hint]]] = {}
    for line, priority, hint in queued:
        by_line.setdefault(line, []).append((priority, hint))
    for line, hints in by_line.items():
        model, version, *_ = broker.parse_line(line)
        view = service.registry.views.get(model)
        target = None if view is None else view.targets.get(version)
        at_most = _FEW if target is None else target.at_most
        service.publisher.hint(line, broker.envelopes(line, hints, at_most=at_most), len(hints))


async def _after(service: Service, asked: dict[str, str]) -> tuple[str, str] | None:
    """(tenant, id) of the last one of the page before."""
    id_ = cursor_of(asked)
    if id_ is None:
        return None
    tenant = await service.threads.run(lambda: service.predictions.tenant_of(id_))
    if tenant is None:
        raise Problem("invalid_cursor", "The prediction that `after` names is gone; begin anew.")
    return tenant, id_


def _limit(asked: dict[str, str]) -> int:
    text = asked.get("limit", str(_MOST))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MOST:
        raise Problem.invalid(f"`limit` may be 1 to {_MOST}.", parameter="limit")
    return int(text)


def _tenant(asked: dict[str, str]) -> str | None:
    if "tenant" not in asked:
        return None
    try:
        return checked_tenant(asked["tenant"])
    except SettingsError as error:
        raise Problem.invalid(f"{error}.", parameter="tenant") from error


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _moment(asked: dict[str, str], parameter: str) -> int | None:
    """Microseconds."""
    text = asked.get(parameter)
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Problem.invalid(f"`{parameter}` is a time like 2026-01-31T09:30:00Z.", parameter=parameter)
    return max(0, (moment - _EPOCH) // datetime.timedelta(microseconds=1))
