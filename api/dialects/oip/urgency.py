"""How soon a request is to be computed: Triton's levels and timeouts, as a configuration has them, in our terms.

Triton counts levels from 1, the first, to as many as the model has; 0, and what is no level, is the model's default.
A timeout of the request (microseconds) may only shorten the one that the model's queue has.
"""

from collections.abc import Mapping
from typing import Any

from api.dialects import jobs
from headway.manifest import Manifest

_LAST = 9  # of our priorities


def priority_of(manifest: Manifest, parameters: Mapping[str, Any]) -> int:
    """0, the first, to 9; that of everybody where the model has no levels."""
    batching = _batching(manifest)
    levels = int(batching.get("priority_levels") or 0)
    if not levels:
        return jobs.PRIORITY
    level = _whole(parameters.get("priority"))
    if not 1 <= level <= levels:
        level = int(batching.get("default_priority_level") or (levels + 1) // 2)
    return round((level - 1) * _LAST / max(1, levels - 1))


def queue_timeout_us(manifest: Manifest, parameters: Mapping[str, Any], default: int | None) -> int | None:
    """`default`: of the model; None where it waits for ever, and then it does whatever a request says."""
    policy = _batching(manifest).get("default_queue_policy") or {}
    asked = _whole(parameters.get("timeout"))
    if default is None or not asked or not policy.get("allow_timeout_override"):
        return default
    return min(asked, default)


def _batching(manifest: Manifest) -> Mapping[str, Any]:
    config = manifest.config.get("triton")
    found = config.get("dynamic_batching") if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _whole(value: object) -> int:
    """0 for what is none."""
    return value if type(value) is int and value > 0 else 0
