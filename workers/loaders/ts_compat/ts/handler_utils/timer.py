"""`@timed`: how long a step of a handler took, as a metric, where the model's YAML says `handler: {profile: true}`."""

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        settings = None if context is None else (context.model_yaml_config or {}).get("handler")
        if context is None or not (isinstance(settings, dict) and settings.get("profile")):
            return func(self, *args, **kwargs)
        began = time.perf_counter()
        result = func(self, *args, **kwargs)
        context.metrics.add_time(f"ts_handler_{func.__name__}", (time.perf_counter() - began) * 1e3)
        return result

    return measured
