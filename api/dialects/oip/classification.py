"""The classification extension: the largest of an output, as text, instead of the tensor."""

import numpy as np

from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Output


def classified(output: Output, count: int) -> Output:
    """The `count` largest of each row as "value:index", or "value:index:label"; of one dimension, all is a row.

    Raises Refused.
    """
    array = output.array
    if array.dtype.kind not in "iufb":
        raise Refused(Code.INVALID_ARG, f"output '{output.name}' holds no numbers, so it has no classes")
    rows = array.reshape(len(array) if array.ndim > 1 else 1, -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(order.shape, dtype=object)
    for row, indexes in enumerate(order):
        texts[row] = [f"{rows[row, index]:f}:{index}{_label(output, index)}".encode() for index in indexes]
    return Output(output.name, "BYTES", texts if array.ndim > 1 else texts[0])


def _label(output: Output, index: int) -> str:
    return f":{output.labels[index]}" if index < len(output.labels) else ""
