"""Aliases as operators point them. Their word stands before that of `model.toml`, until they take it back."""

from typing import Annotated

import msgspec
from msgspec import Meta

from api import audit
from api.answers import Answer, json_answer
from api.exchange import Call, query_parameters
from api.problems import Problem
from api.requests import read_body
from api.service import Service
from api.versions import existing, fresh
from headway.manifest import ALIAS, ALIAS_RULE


class AliasBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of a PUT."""

    version: Annotated[str, Meta(max_length=64)] | int


_decoder = msgspec.json.Decoder(AliasBody)


async def put_alias(service: Service, call: Call) -> Answer:
    """200. Submissions by this alias go to the version from now on, those of other API processes within a second."""
    query_parameters(call.query, {})
    alias = _name(call)
    body = await read_body(call, service.settings.max_body_bytes, _decoder)
    view = await fresh(service, call)
    version = existing(view, str(body.version)).version
    await service.threads.run(lambda: service.routes.point(view.name, alias, version))
    audit.changed(call, f"alias {alias} of {view.name} points to version {version}", model=view.name, version=version)
    await service.registry.refresh()
    return json_answer({"object": "alias", "model": view.name, "alias": alias, "version": version})


async def delete_alias(service: Service, call: Call) -> Answer:
    """204. One that `model.toml` declares is hidden until it is pointed anew."""
    query_parameters(call.query, {})
    alias = _name(call)
    view = await fresh(service, call)
    if alias not in view.aliases:
        raise Problem("alias_not_found", f"The model {view.name!r} has no alias {alias!r}.")
    if alias in view.declared_aliases:
        await service.threads.run(lambda: service.routes.point(view.name, alias, None))
    else:
        await service.threads.run(lambda: service.routes.forget(view.name, alias))
    audit.changed(call, f"alias {alias} of {view.name} is taken away", model=view.name)
    await service.registry.refresh()
    return Answer(204, b"", ())


def _name(call: Call) -> str:
    alias = call.params["alias"]
    if not ALIAS.fullmatch(alias):
        raise Problem.invalid(f"An alias is named by {ALIAS_RULE}.", parameter="alias")
    return alias
