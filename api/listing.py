"""A tenant's predictions, page by page, newest first."""

import re
import urllib.parse
from typing import Any

import msgspec

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.problems import Problem
from api.service import Service
from headway.manifest import NAME, NAME_RULE
from headway.rendering import prediction_json
from headway.states import Status

_USUAL, _MOST = 20, 100
_CURSOR = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATUSES = {status.label: status for status in Status}
#: Parameter → its schema.
PARAMETERS: dict[str, dict[str, Any]] = {
    "status": {"type": "string", "enum": list(_STATUSES)},
    "model": {"type": "string", "pattern": f"^{NAME.pattern}$"},
    "version": {"type": "string", "pattern": f"^{NAME.pattern}$"},
    "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _USUAL},
    "after": {"type": "string", "format": "uuid", "description": "The `last_id` of the page before."},
}
_ALLOWED = {name: schema.get("enum") for name, schema in PARAMETERS.items()}


async def list_predictions(service: Service, call: Call) -> Answer:
    """A page. With a filter it may be short, or empty, though there are more: `has_more` tells."""
    asked = query_parameters(call.query, _ALLOWED)
    limit = _limit(asked.get("limit"))
    after = asked.get("after")
    if after is not None and not _CURSOR.fullmatch(after):
        raise Problem("invalid_cursor", "`after` is no id that a list gave as its `last_id`.")
    page = await service.threads.run(
        lambda: service.predictions.page(
            call.tenant,
            status=_STATUSES.get(asked.get("status", "")),
            model=_name(asked, "model"),
            version=_name(asked, "version"),
            after=after,
            limit=limit,
        )
    )
    public_url = service.settings.public_url
    last_id = page.after if page.after is not None else page.rows[-1].id if page.rows else None
    body: dict[str, Any] = {
        "object": "list",
        "data": [msgspec.Raw(prediction_json(row, public_url, listed=True)) for row in page.rows],
        "has_more": page.after is not None,
        "last_id": last_id,
    }
    answer = json_answer(body)
    if page.after is None:
        return answer
    query = urllib.parse.urlencode({**asked, "after": page.after})
    link = f'<{public_url}/v1/predictions?{query}>; rel="next"'
    return answer._replace(headers=(*answer.headers, (b"link", link.encode())))


def _limit(text: str | None) -> int:
    if text is None:
        return _USUAL
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MOST:
        raise Problem.invalid(f"`limit` may be 1 to {_MOST}.", parameter="limit")
    return int(text)


def _name(asked: dict[str, str], parameter: str) -> str | None:
    name = asked.get(parameter)
    if name is not None and not NAME.fullmatch(name):
        raise Problem.invalid(f"A {parameter} is named by {NAME_RULE}.", parameter=parameter)
    return name
