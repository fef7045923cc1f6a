"""What a method has answered, or raised, as the output or the error of its prediction."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from batching.outcomes import BYTES, Raw, encode
from headway import envelopes
from headway.errors import ItemCode, ItemFailed
from workers.loaders.bentoml_sdk import exceptions
from workers.loaders.bentoml_sdk.requests import Request

logger = logging.getLogger(__name__)

_UNEXPECTED = "An unexpected error has occurred, please check the server log."
#: Characters of a piece that is told as text, and bytes of a longer one that are told at a time.
_MOST_TEXT = 16 * 1024
_MOST_PIECE = 128 * 1024
#: Bytes of what is told about a request that is not as it should be.
_MOST_TOLD = 8_000


def emitted(request: Request, part: Any) -> str | bytes:
    """A piece, which whoever waits is sent at once. Raises ValidationError for what is not as annotated."""
    written = part if isinstance(part, str | bytes) else json.dumps(request.method.output.rendered(part))
    if isinstance(written, str) and len(written) <= _MOST_TEXT:
        request.item.emit(written)
        return written
    body = written if isinstance(written, bytes) else written.encode()
    for at in range(0, len(body), _MOST_PIECE):
        message = envelopes.Response(200, "", {}, body[at : at + _MOST_PIECE])
        request.item.emit(Raw(envelopes.RESPONSE, envelopes.pack_response(message)))
    return written


def joined(parts: list[str | bytes]) -> str | bytes:
    """What a generator has yielded, one behind the other."""
    if all(isinstance(part, str) for part in parts):
        return "".join(map(str, parts))
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def reply(request: Request, answer: Any) -> Any:
    """Raises ValidationError for what is not as annotated, and what writing raises."""
    output, asked = request.method.output, request.context.response
    rendered = answer if request.method.is_stream else output.rendered(answer)
    headers: dict[str, str] = {}
    if isinstance(rendered, os.PathLike):
        rendered, headers = output.file(Path(rendered))
    if not headers and asked.status_code == 200 and not asked.headers and _is_storable(rendered, output.schema):
        return Raw(BYTES, rendered) if isinstance(rendered, bytes) else rendered
    if isinstance(rendered, bytes):
        body = rendered
    else:
        body = rendered.encode() if isinstance(rendered, str) else json.dumps(rendered).encode()
    headers = {"content-type": output.media_type, **headers, **{str(k): str(v) for k, v in asked.headers.items()}}
    return Raw(envelopes.RESPONSE, envelopes.pack_response(envelopes.Response(asked.status_code, "", headers, body)))


def _is_storable(rendered: Any, schema: Mapping[str, Any]) -> bool:
    """Whether JSON holds it: what is infinite goes out as Python writes it. In arrays pydantic has made it null."""
    if isinstance(rendered, str | bytes) or schema.get("type") == "tensor":
        return True
    try:
        encode(rendered)
    except ValueError:
        return False
    return True


def told(error: Exception) -> Exception:
    """In the words that BentoML's clients match on."""
    if isinstance(error, pydantic.ValidationError):
        return _refused(400, _validation(error))
    if isinstance(error, exceptions.BentoMLException):
        status = int(error.error_code)
        if status in (401, 403):
            return _refused(status, {"error": "Authorization error"})
        if status < 500:
            return _refused(status, [{"error": str(error)}])
        if status > 500:
            logger.warning("a method raised %s: %s", type(error).__name__, error)
            return _refused(
                status, {"error": _UNEXPECTED}, ItemCode.UNAVAILABLE if status == 503 else ItemCode.MODEL_ERROR
            )
    return error


def _validation(error: pydantic.ValidationError) -> dict[str, Any]:
    """As much of it as may be told."""
    said: dict[str, Any] = {"error": f"{error.error_count()} validation error for {error.title}"}
    detail: list[Any] = []
    for one in error.errors(include_context=False, include_input=False):
        if len(json.dumps([*detail, one])) > _MOST_TOLD:
            break
        detail.append(one)
    return {**said, "detail": detail}


def _refused(status: int, said: Any, code: ItemCode = ItemCode.INVALID_INPUT) -> ItemFailed:
    text = json.dumps(said, ensure_ascii=False)
    if len(text) > 2 * _MOST_TOLD:
        text = json.dumps({"error": "what was refused is too long to be told"})
    return ItemFailed(code, envelopes.refusal(status, text), whole=True)
