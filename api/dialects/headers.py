"""Of a request's headers, those that a model may be shown."""

from api.exchange import Call

#: Names of headers that are the connection's, a proxy's, a browser's or ours, or that nobody may store.
_ORDINARY = frozenset(
    b"host user-agent accept accept-encoding accept-language accept-charset connection keep-alive content-length"
    b" content-type content-encoding transfer-encoding te trailer upgrade expect date via forwarded x-forwarded-for"
    b" x-forwarded-host x-forwarded-proto x-forwarded-port x-real-ip origin referer dnt pragma cache-control priority"
    b" authorization proxy-authorization proxy-connection cookie x-api-key x-request-id x-correlation-id"
    b" traceparent tracestate baggage prefer idempotency-key".split()
)
_PREFIXES = (b"sec-", b"x-headway-")


def theirs(call: Call) -> dict[str, str]:
    """What a client has said to the model, by lower-case name."""
    return {
        name.decode("latin-1"): value.decode("utf-8", "surrogateescape")
        for name, value in call.headers.items()
        if name not in _ORDINARY and not name.startswith(_PREFIXES)
    }
