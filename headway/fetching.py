"""Inputs that are fetched: `{"url": "https://…"}`, where model.toml says so.

What is such an input is decided here, once for the API, which refuses at once what will never be fetched, and for the
worker, which fetches. The input is stored as it was sent: the bytes belong to the attempt.
"""

import msgspec

from headway.egress import LONGEST_URL

#: No such input is longer as JSON: each character of a URL can be escaped by six.
_LONGEST = 6 * LONGEST_URL + 64


class _Reference(msgspec.Struct, forbid_unknown_fields=True):
    url: str


_decode = msgspec.json.Decoder(_Reference).decode


def url_of(body: bytes) -> str | None:
    """The URL that an input's JSON refers to; None for any other input."""
    if len(body) > _LONGEST or b'"url"' not in body:
        return None
    try:
        return _decode(body).url
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
