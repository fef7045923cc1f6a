"""The parts of a multipart body."""

from email.parser import BytesHeaderParser
from typing import NamedTuple

from headway.model import InvalidInput


class Part(NamedTuple):
    """`type` is empty where the part says none, `file` None where it is no file."""

    name: str
    type: str
    file: str | None
    body: bytes


def parts(content_type: str, body: bytes) -> list[Part]:
    """In their order. Raises InvalidInput."""
    header = BytesHeaderParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace"))
    boundary = header.get_boundary()
    if not boundary:
        raise InvalidInput("the multipart body has no boundary")
    fence = b"\r\n--" + boundary.encode("utf-8", "replace")
    _, *pieces = (b"\r\n" + body).split(fence)
    found: list[Part] = []
    for piece in pieces:
        if piece.startswith(b"--"):
            return found
        head, separator, value = piece.partition(b"\r\n\r\n")
        about = BytesHeaderParser().parsebytes(head.lstrip(b" \t").removeprefix(b"\r\n") + b"\r\n\r\n")
        name = about.get_param("name", header="content-disposition")
        file = about.get_param("filename", header="content-disposition")
        if not separator or name is None:
            raise InvalidInput("a part of the multipart body has no name")
        kind = about.get_content_type() if "content-type" in about else ""
        found.append(Part(_text(name), kind, None if file is None else _text(file), value))
    raise InvalidInput("the multipart body ends too early")


def _text(parameter: str | tuple[str | None, str | None, str]) -> str:
    return str(parameter[2] if isinstance(parameter, tuple) else parameter)
