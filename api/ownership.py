"""Whose prediction it is. Another tenant's is answered exactly as one that never was."""

import re

from api.exchange import Call
from api.problems import Problem
from api.service import Service
from headway.types import Prediction

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def id_of(call: Call, code: str = "prediction_not_found") -> str:
    """Raises Problem of this code for what is no id."""
    id_ = call.params["id"].lower()
    if not _ID.fullmatch(id_):
        raise Problem.of(code)
    return id_


async def own(service: Service, call: Call, id_: str) -> Prediction:
    """The caller's prediction. Raises Problem: prediction_not_found, prediction_purged."""
    return there(call.tenant, await service.reader.read(id_))


def there(tenant: str, row: Prediction | None) -> Prediction:
    """A row that a tenant may see; a shadow is nobody's. Raises Problem like `own`."""
    if row is None or row.tenant_id != tenant or row.shadow_of is not None:
        raise not_found()
    if row.deleted_at is not None:
        raise Problem("prediction_purged", "This prediction was deleted.")
    return row


def not_found() -> Problem:
    return Problem("prediction_not_found", "There is no prediction of this id.")
