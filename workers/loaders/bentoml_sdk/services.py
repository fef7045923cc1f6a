"""@bentoml.service, and what a method may ask of the request that it is called for."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from workers.loaders.bentoml_sdk.exceptions import Unsupported
from workers.loaders.bentoml_sdk.methods import Method


class Service:
    """A class whose methods are called from outside. To call it is to make an instance of it."""

    def __init__(self, inner: type, name: str | None = None, **config: Any) -> None:
        self.inner = inner
        self.name = name or inner.__name__
        self.config = config
        self.apis: dict[str, Method] = {}
        for attribute in dir(inner):
            value = getattr(inner, attribute)
            if isinstance(value, Method):
                self.apis[value.name] = value
        for name in ("mounted_apps", "middlewares"):
            if getattr(inner, f"__bentoml_{name}__", None):
                raise Unsupported("apps that are mounted into a service are not served: only its APIs are")

    def __call__(self) -> Any:
        return self.inner()

    def __getattr__(self, name: str) -> Any:
        if name in ("mount_asgi_app", "add_asgi_middleware", "mount_wsgi_app"):
            raise Unsupported(f"{name} is not there: only the APIs of a service are served")
        raise AttributeError(name)

    @property
    def timeout_s(self) -> float | None:
        """That a caller waits for an answer, where the service says so."""
        traffic = self.config.get("traffic") or {}
        timeout = traffic.get("timeout") if isinstance(traffic, Mapping) else None
        return float(timeout) if isinstance(timeout, int | float) and timeout > 0 else None


def service(inner: Any = None, /, **config: Any) -> Any:
    """The decorator, with or without a configuration. What it says of CPUs, GPUs and workers, Headway's own decide."""
    if inner is None:
        return lambda inner: service(inner, **config)
    if isinstance(inner, str) or "runners" in config:
        raise Unsupported(
            "bentoml.Service with runners is of BentoML before 1.2: write a class of @bentoml.service with @bentoml.api"
        )
    return Service(inner, **config)


class Response:
    """What a method may set of its reply."""

    def __init__(self) -> None:
        self.status_code = 200
        self.headers: dict[str, str] = {}

    @property
    def metadata(self) -> dict[str, str]:
        return self.headers

    def set_cookie(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Unsupported("cookies are not set: a reply may have headers and a status")


class Request:
    """What a method may know of its request: the headers that are no server's, proxy's or credential."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers


class Context:
    """Of one request."""

    def __init__(self, request_id: str, headers: Mapping[str, str]) -> None:
        self.request_id = request_id
        self.request = Request(headers)
        self.response = Response()
        self.state: dict[str, Any] = {}


def on_startup(func: Callable[..., Any]) -> Callable[..., Any]:
    func.__bentoml_startup_hook__ = True  # type: ignore[attr-defined]
    return func


def importing() -> contextlib.AbstractContextManager[None]:
    """Around imports of what only the server has: here it has to be there, and what is missing is named."""
    return contextlib.nullcontext()


def unheeded(func: Callable[..., Any]) -> Callable[..., Any]:
    """Hooks of deployments and of shutdowns: a process that has a model is ended, and not asked."""
    return func


def missing(name: str) -> NoReturn:
    raise Unsupported(f"bentoml.{name} is not there: a service of Headway's is one class with APIs and tasks")
