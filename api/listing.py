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
    "batch_id": {"type": "string", "format": "uuid"},
    "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _USUAL},
    "after": {"type": "string", "format": "uuid", "description": "The `last_id` of the page before."},
}
_ALLOWED = {name: schema.get("enum") for name, schema in PARAMETERS.items()}


async def list_predictions(service: Service, call: Call) -> Answer:
    """A page. With a filter it may be short, or empty, though there are more: `has_more` tells."""
    asked = query_parameters(call.query, _ALLOWED)
    limit, after = limit_of(asked), cursor_of(asked)
    batch_id = asked.get("batch_id")
    if batch_id is not None and not _CURSOR.fullmatch(batch_id):
        raise Problem.invalid("`batch_id` is the id of a batch.", parameter="batch_id")
    page = await service.threads.run(
        lambda: service.predictions.page(
            call.tenant,
            status=_STATUSES.get(asked.get("status", "")),
            model=name_of(asked, "model"),
            version=name_of(asked, "version"),
            batch_id=batch_id,
            after=after,
            limit=limit,
        )
    )
    public_url = service.settings.public_url
    last_id = page.after if page.after is not None else page.rows[-1].id if page.rows else None
    rows = [msgspec.Raw(prediction_json(row, public_url, listed=True)) for row in page.rows]
    return listed(rows, last_id, page.after is not None, f"{public_url}/v1/predictions", asked)


def listed(rows: list[msgspec.Raw], last_id: str | None, more: bool, path: str, asked: dict[str, str]) -> Answer:
    """A page of a list, with the link to the next one."""
    answer = json_answer({"object": "list", "data": rows, "has_more": more, "last_id": last_id})
    if not more or last_id is None:
        return answer
    link = f'<{path}?{urllib.parse.urlencode({**asked, "after": last_id})}>; rel="next"'
    return answer._replace(headers=(*answer.headers, (b"link", link.encode())))


def cursor_of(asked: dict[str, str]) -> str | None:
    """Raises Problem invalid_cursor."""
    after = asked.get("after")
    if after is not None and not _CURSOR.fullmatch(after):
        raise Problem("invalid_cursor", "`after` is no id that a list gave as its `last_id`.")
    return after


def limit_of(asked: dict[str, str]) -> int:
    """Rows of a page. Raises Problem."""
    text = asked.get("limit")
    if text is None:
        return _USUAL
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MOST:
        raise Problem.invalid(f"`limit` may be 1 to {_MOST}.", parameter="limit")
    return int(text)


def name_of(asked: dict[str, str], parameter: str) -> str | None:
    """Of a model, version or alias. Raises Problem."""
    name = asked.get(parameter)
    if name is not None and not NAME.fullmatch(name):
        raise Problem.invalid(f"A {parameter} is named by {NAME_RULE}.", parameter=parameter)
    return name
