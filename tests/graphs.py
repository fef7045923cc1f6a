"""ONNX files without the package that writes them: their messages by hand."""


def message(*fields: tuple[int, int | bytes | str]) -> bytes:
    """Protobuf: (field number, value) each; text and bytes have a length, numbers are varints."""

    def varint(value: int) -> bytes:
        return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])

    made = b""
    for number, value in fields:
        if isinstance(value, int):
            made += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            made += varint(number << 3 | 2) + varint(len(content)) + content
    return made


def doubling() -> bytes:
    """An ONNX model: y = x + x, for float32 x of shape [n, 2]."""

    def value(name: str) -> bytes:
        shape = message((1, message((2, "n"))), (1, message((1, 2))))
        return message((1, name), (2, message((1, message((1, 1), (2, shape))))))

    node = message((1, "x"), (1, "x"), (2, "y"), (4, "Add"))
    graph = message((1, node), (2, "g"), (11, value("x")), (12, value("y")))
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))
