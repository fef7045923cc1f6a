"""Between steps and httpx: what is the same whether one blocks or awaits."""

import os
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from headway import __version__
from headway.client.steps import Answer, Lost, Send
from headway.errors import SettingsError
from headway.settings import secret

_CONNECT_S = 10.0


def options(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """Of an httpx client. Raises SettingsError."""
    url = base_url or os.environ.get("HEADWAY_URL") or "http://127.0.0.1:8000"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"the server's URL is {url[:80]!r}, and should be like http://127.0.0.1:8000")
    key = api_key or secret(os.environ, "HEADWAY_API_KEY", "")
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("the API key has characters that no key has")
    headers = {"user-agent": f"headway/{__version__}", **({"authorization": f"Bearer {key}"} if key else {})}
    # The authorities' certificates are loaded where they are needed: it is the slow part of making a client. Without
    # them a context trusts nobody.
    verify = True if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {"base_url": url, "headers": headers, "verify": verify}


def request(http: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    silence_s = send.silence_s
    timeout = httpx.Timeout(silence_s, connect=min(silence_s, _CONNECT_S), pool=send.left_s)
    return http.build_request(
        send.method, send.path, params=dict(send.query), headers=dict(send.headers), content=send.body, timeout=timeout
    )


def answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers, body)


def lost(error: httpx.TransportError, http: httpx.Client | httpx.AsyncClient) -> Lost:
    reason = str(error) or type(error).__name__
    return Lost(f"no answer from {str(http.base_url).rstrip('/')}: {reason}")
