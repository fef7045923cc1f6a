"""@bentoml.api and @bentoml.task: a method of a service that is called from outside."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pydantic.fields
from pydantic_core import PydanticUndefined

from workers.loaders.bentoml_sdk.descriptors import Input, Output
from workers.loaders.bentoml_sdk.exceptions import Unsupported


class Method:
    """On the class it is this; on an instance, the function bound to it."""

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        is_task: bool,
        route: str | None = None,
        name: str | None = None,
        input_spec: Any = None,
        output_spec: Any = None,
        batchable: bool = False,
        batch_dim: int | tuple[int, int] = 0,
        max_batch_size: int = 100,
        max_latency_ms: int = 60_000,
    ) -> None:
        """Raises Unsupported, ValueError."""
        if func.__name__.startswith("__"):
            raise ValueError(f"{func.__name__} cannot be an API: its name begins with __")
        if input_spec is not None or output_spec is not None:
            raise Unsupported("input_spec and output_spec are not taken: annotate the method's parameters instead")
        if route is not None and not route.startswith("/"):
            raise ValueError(f"the route {route!r} should begin with a slash")
        self.func = func
        self.name = func.__name__  # whatever `name` says, as BentoML has it
        self.route = route or f"/{self.name}"
        self.is_task = is_task
        self.batchable = batchable
        self.batch_dim = batch_dim if isinstance(batch_dim, tuple) else (batch_dim, batch_dim)
        self.max_batch_size = max_batch_size
        self.is_stream = inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func)
        if is_task and self.is_stream:
            raise ValueError(f"{self.name} is a task, and cannot answer piece by piece")
        self.is_async = inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)
        names = list(inspect.signature(func).parameters)[1:]
        self.context = next((one for one in ("ctx", "context") if one in names and _is_context(func, one)), None)
        self.input = Input(func, self.context)
        self.output = Output(func)
        if batchable and len(names) - (self.context is not None) != 1:
            raise Unsupported(f"{self.name} is batchable, and takes more than the one argument that is joined")

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return self.bound(instance)

    def bound(self, instance: Any) -> Callable[..., Any]:
        """With defaults that stand in a `Field`."""
        defaults = {
            name: parameter.default
            for name, parameter in list(inspect.signature(self.func).parameters.items())[1:]
            if isinstance(parameter.default, pydantic.fields.FieldInfo)
            and parameter.default.get_default(call_default_factory=False) is not PydanticUndefined
        }
        if not defaults:
            return functools.partial(self.func, instance)

        @functools.wraps(self.func)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(self.func).bind_partial(instance, *args, **kwargs).arguments
            missing = {name: field.get_default() for name, field in defaults.items() if name not in given}
            return self.func(instance, *args, **{**kwargs, **missing})

        return call


def _is_context(func: Callable[..., Any], name: str) -> bool:
    annotation = inspect.signature(func).parameters[name].annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return annotation is inspect.Parameter.empty or text.rpartition(".")[2] == "Context"


def _decorator(is_task: bool) -> Callable[..., Any]:
    def decorate(func: Callable[..., Any] | None = None, **options: Any) -> Any:
        if func is not None:
            return Method(func, is_task=is_task, **options)
        return lambda func: Method(func, is_task=is_task, **options)

    return decorate


api = _decorator(False)
task = _decorator(True)
