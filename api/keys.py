"""API keys on the control plane. Operators manage the keys of every tenant."""

import contextlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.ownership import id_of
from api.problems import Problem
from api.requests import read_body
from api.service import Service
from headway.clock import rfc3339
from headway.errors import SettingsError, StorageUnavailable
from headway.keys import (
    GREATEST_RATE,
    LEAST_RATE,
    SCOPES,
    USUAL,
    Key,
    Scope,
    checked_scopes,
    checked_tenant,
    new_token,
)
from headway.rendering import optional_time
from headway.tenants import GREATEST_WEIGHT, LEAST_WEIGHT


class KeyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of a create."""

    name: Annotated[str, Meta(max_length=200)] = ""
    tenant: str | None = None  # the caller's own
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=len(SCOPES))] = USUAL
    rate: Annotated[float, Meta(ge=LEAST_RATE, le=GREATEST_RATE)] | None = None
    weight: Annotated[float, Meta(ge=LEAST_WEIGHT, le=GREATEST_WEIGHT)] | None = None  # of the tenant, from now on


_decoder = msgspec.json.Decoder(KeyBody)


async def create_key(service: Service, call: Call) -> Answer:
    """201 with the key itself, which nobody can see again."""
    query_parameters(call.query, {})
    body = await read_body(call, service.settings.max_body_bytes, _decoder)
    try:
        tenant = checked_tenant(call.tenant if body.tenant is None else body.tenant)
    except SettingsError as error:
        raise Problem.invalid(f"{error}.", pointer="/tenant") from error
    if "\0" in body.name:
        raise Problem.invalid("NUL characters cannot be stored.", pointer="/name")
    scopes = checked_scopes(body.scopes)
    token = new_token()
    if (weight := body.weight) is not None:
        await service.threads.run(lambda: service.tenants.weigh(tenant, weight))
    key = await service.threads.run(
        lambda: service.keys.add(token, tenant_id=tenant, scopes=scopes, name=body.name, rate=body.rate)
    )
    with contextlib.suppress(StorageUnavailable):  # the key is made, and must be shown now or never
        await service.access.refresh()
    made = json_answer({**_shown(key), "key": token}, 201)
    return made._replace(headers=((b"content-type", b"application/json"), (b"cache-control", b"no-store")))


async def list_keys(service: Service, call: Call) -> Answer:
    """Oldest first, revoked ones too."""
    query_parameters(call.query, {})
    keys = await service.threads.run(service.keys.all)
    return json_answer({"object": "list", "data": [_shown(key) for key in keys]})


async def revoke_key(service: Service, call: Call) -> Answer:
    """204, also when it was revoked before. This process refuses it from now on, others within seconds."""
    query_parameters(call.query, {})
    id_ = id_of(call, "not_found")
    if not await service.threads.run(lambda: service.keys.revoke(id_)):
        raise Problem("not_found", "There is no key of this id.")
    await service.access.refresh()
    return Answer(204, b"", ())


def _shown(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "object": "key",
        "name": key.name,
        "tenant": key.tenant_id,
        "scopes": key.scopes,
        "prefix": key.prefix,
        "rate": key.rate,
        "weight": key.weight,
        "created_at": rfc3339(key.created_at),
        "revoked_at": optional_time(key.revoked_at),
    }
