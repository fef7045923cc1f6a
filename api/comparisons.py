"""What the shadows of a version answered beside their originals, page by page, newest first."""

import statistics
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.listing import cursor_of, limit_of
from api.service import Service
from api.versions import existing, fresh
from headway.clock import rfc3339
from headway.states import Status
from headway.types import Prediction

#: Outputs up to so many bytes are shown; larger ones are compared all the same, unless they lie in the blob store.
_MOST_SHOWN = 64 * 1024
_PATIENCE_S = 20.0


async def list_shadows(service: Service, call: Call) -> Answer:
    """200 with a page and a summary of it. It may be short though there are more: `has_more` tells."""
    asked = query_parameters(call.query, {"limit": None, "after": None})
    limit, after = limit_of(asked), cursor_of(asked)
    view = await fresh(service, call)
    version = existing(view, call.params["version"]).version

    def page() -> dict[str, Any]:
        pairs, last = service.predictions.shadows(view.name, version, after=after, limit=limit)
        compared = [_compared(shadow, original) for shadow, original in pairs]
        return {
            "object": "list",
            "data": compared,
            "summary": _summary(compared),
            "has_more": last is not None,
            "last_id": last or (pairs[-1][0].id if pairs else None),
        }

    return json_answer(await service.threads.run(page, patience_s=_PATIENCE_S))


def _compared(shadow: Prediction, original: Prediction | None) -> dict[str, Any]:
    equal, difference = (None, None) if original is None else _outputs_compared(original, shadow)
    return {
        "id": shadow.shadow_of,
        "shadow_id": shadow.id,
        "created_at": rfc3339(shadow.created_at),
        "original": _side(original),
        "shadow": _side(shadow),
        "equal": equal,
        "max_difference": difference,
    }


def _side(row: Prediction | None) -> dict[str, Any] | None:
    if row is None:
        return None
    shown = row.output if row.output is not None and len(row.output) <= _MOST_SHOWN else None
    return {
        "version": row.version,
        "status": row.status.label,
        "output": None if shown is None else msgspec.Raw(shown),
        "output_omitted": shown is None and row.status is Status.SUCCEEDED,
        "error": None if row.error is None else {"code": row.error.code, "message": row.error.message},
        "predict_seconds": None if row.predict_us is None else row.predict_us / 1e6,
    }


def _outputs_compared(original: Prediction, shadow: Prediction) -> tuple[bool | None, float | None]:
    """(whether they are equal, how far apart their numbers are at most); None where that cannot be said here."""
    if original.output is None or shadow.output is None:
        return None, None
    ours, theirs = msgspec.json.decode(original.output), msgspec.json.decode(shadow.output)
    return ours == theirs, max_difference(ours, theirs)


def max_difference(ours: Any, theirs: Any) -> float | None:
    """Of two numbers, or arrays of numbers of the same shape; None of all else."""
    try:
        arrays = [np.asarray(value) for value in (ours, theirs)]
    except (ValueError, OverflowError):  # rows of unequal lengths
        return None
    if (
        arrays[0].shape != arrays[1].shape
        or not arrays[0].size
        or any(array.dtype.kind not in "iuf" for array in arrays)
    ):
        return None
    return float(np.abs(arrays[0].astype(np.float64) - arrays[1].astype(np.float64)).max())


def _summary(compared: list[dict[str, Any]]) -> dict[str, Any]:
    sides = {name: [one[name] for one in compared if one[name] is not None] for name in ("original", "shadow")}
    differences = [one["max_difference"] for one in compared if one["max_difference"] is not None]
    return {
        "compared": sum(one["equal"] is not None for one in compared),
        "equal": sum(one["equal"] is True for one in compared),
        "max_difference": max(differences, default=None),
        **{f"{name}_failed": sum(side["status"] == "failed" for side in of) for name, of in sides.items()},
        **{f"{name}_predict_seconds": _median(side["predict_seconds"] for side in of) for name, of in sides.items()},
    }


def _median(seconds: Iterable[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return statistics.median(known) if known else None
