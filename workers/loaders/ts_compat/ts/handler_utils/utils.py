"""Classes by name, and parts of a reply while the rest is computed."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """`package.module.Class`. Raises ImportError."""
    module, _, name = class_name.rpartition(".")
    path = ".".join(part for part in (module_prefix, module) if part)
    if not name or not path:
        raise ImportError(f"{class_name!r} names no class of a module")
    found = getattr(importlib.import_module(path), name, None)
    if found is None:
        raise ImportError(f"there is no {name} in {path}")
    return found


def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Any
) -> None:
    """A part of each request's reply, in the order of the call."""
    context.emit(ret)
