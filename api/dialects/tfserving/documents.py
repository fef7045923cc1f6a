"""JSON as TF Serving reads and writes it: NaN and infinite numbers in it, arrays in one line, and its own words for
what is no JSON.

What is quoted in an error is cut after the token that makes it 256 characters long.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from api.dialects.tfserving.errors import Refused, invalid

_INDENT = 4
_MOST_QUOTED = 256

#: What Python's reader says → what RapidJSON does.
_WORDS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Expecting ':'", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\", "Invalid escape character in string."),
)
_decode = msgspec.json.Decoder().decode
_reader = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def parse(body: bytes) -> dict[str, Any]:
    """What comes behind the object is not looked at. Raises Refused."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):  # it may be one of ours for all that: NaN, a tail
        value = _parse(body)
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {quoted(value)} Is not object")
    return value


def _parse(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_json("Invalid encoding in string.", error.start) from error
    space = _SPACE.match(text)
    start = space.end() if space is not None else 0
    if start == len(text):
        raise _no_json("The document is empty.", start)
    try:
        value, _ = _reader.raw_decode(text, start)
    except json.JSONDecodeError as error:
        said = next((words for begins, words in _WORDS if error.msg.startswith(begins)), "Invalid value.")
        if error.msg.startswith("Expecting ','"):
            said = _missing_comma(text[: error.pos])
        raise _no_json(said, len(text[: error.pos].encode("utf-8", "surrogatepass"))) from error
    except RecursionError as error:
        raise _no_json("Terminate parsing due to Handler error.", 0) from error
    return value


def _missing_comma(text: str) -> str:
    """Of an object or of an array, whichever was not closed before the end of `text`."""
    opened = []
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if found[0] in "[{":
            opened.append(found[0])
        elif found[0] in "]}" and opened:
            opened.pop()
    if opened[-1:] == ["["]:
        return "Missing a comma or ] after an array element."
    return "Missing a comma or } after an object member."


def _no_json(said: str, offset: int) -> Refused:
    return invalid(f"JSON Parse error: {said} at offset: {offset}")


def kind_of(value: object) -> str:
    """As an error names it."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    if isinstance(value, dict):
        return "Object"
    return "Array" if isinstance(value, list) else "String" if isinstance(value, str) else "Number"


def quoted(value: object) -> str:
    """As an error shows it."""
    shown, length = [], 0
    for piece in pieces(value, 0, _shortest):
        shown.append(piece)
        length += len(piece)
        if length >= _MOST_QUOTED:
            break
    return "".join(shown)


def written(value: object, level: int) -> str:
    """Within `level` objects and arrays."""
    return "".join(pieces(value, level, double))


def string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def double(value: float) -> str:
    """Six digits where they are enough, else seventeen; a whole number ends in .0."""
    return _decimal(value, f"{value:.6g}", lambda text: float(text) == value, 17)


def single(value: float) -> str:
    """Of a float32: as `double`, with nine digits where six are not enough."""
    return _decimal(value, f"{value:.6g}", lambda text: bool(np.float32(text) == np.float32(value)), 9)


def _decimal(value: float, text: str, is_all: Any, digits: int) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if not is_all(text):
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _shortest(value: float) -> str:
    return repr(value).replace("e+", "e") if math.isfinite(value) else double(value)


def pieces(value: object, level: int, number: Any) -> Iterator[str]:
    """Token by token: an array in one line, an object's members in one each. `number` writes those with a fraction."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        yield "{"
        inner = "\n" + " " * _INDENT * (level + 1)
        for index, (name, member) in enumerate(value.items()):
            yield f"{',' if index else ''}{inner}{string(str(name))}"
            before = ": "
            for piece in pieces(member, level + 1, number):
                yield before + piece
                before = ""
        yield ("\n" + " " * _INDENT * level if value else "") + "}"
    elif isinstance(value, list):
        yield "["
        for index, member in enumerate(value):
            before = ", " if index else ""
            for piece in pieces(member, level + 1, number):
                yield before + piece
                before = ""
        yield "]"
    elif isinstance(value, bool) or value is None:
        yield "null" if value is None else "true" if value else "false"
    elif isinstance(value, int):
        yield str(value)
    elif isinstance(value, float):
        yield number(value)
    elif isinstance(value, bytes):
        yield string(value.decode("utf-8", "replace"))
    else:
        yield string(str(value))
