"""/ui: the operator's page and what it is made of, and the stream it lives on.

The page and its files hold nothing of the system, so they are open; what they show comes by the stream and its
buttons, which need the key of an operator like everything else on this port.
"""

import functools
import hashlib
from importlib import resources

from api.answers import Answer, Headers, Streamed
from api.exchange import Call, etag_matches, query_parameters
from api.problems import Problem
from api.service import Service

#: Nothing but our own files runs or is asked, nothing may frame the page, and no form goes anywhere.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFETY: Headers = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)

_STREAM: Headers = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


async def page(service: Service, call: Call) -> Answer:
    """The page."""
    return _file(call, "page.html", b"text/html; charset=utf-8")


async def style(service: Service, call: Call) -> Answer:
    """How it looks."""
    return _file(call, "page.css", b"text/css; charset=utf-8")


async def script(service: Service, call: Call) -> Answer:
    """What makes it live."""
    return _file(call, "page.js", b"text/javascript; charset=utf-8")


async def elements(service: Service, call: Call) -> Answer:
    """What the script builds with."""
    return _file(call, "elements.js", b"text/javascript; charset=utf-8")


async def events(service: Service, call: Call) -> Streamed:
    """A snapshot of the whole system every second: the event `overview`."""
    query_parameters(call.query, {})
    if service.overview.stopped:
        raise Problem.unavailable("This process is stopping.")
    return Streamed(_STREAM, service.overview.watch)


def _file(call: Call, name: str, type_: bytes) -> Answer:
    body, tag = _read(name)
    headers = ((b"content-type", type_), (b"etag", b'"%b"' % tag), *_SAFETY)
    if etag_matches(call.headers.get(b"if-none-match", b""), tag):
        return Answer(304, b"", headers[1:])
    return Answer(200, body, headers)


@functools.cache
def _read(name: str) -> tuple[bytes, bytes]:
    """(content, tag): it changes with the installed version only."""
    body = resources.files("api").joinpath("ui", name).read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:32].encode()
