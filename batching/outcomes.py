"""Runs a model over one micro-batch and gives every item its own outcome.

The rule: an output or an error reaches exactly the item it belongs to, and no item pays for another. So a call that
raises, or whose answer has another length than its inputs, is split in halves until the guilty items stand alone;
nothing is ever guessed from an answer of the wrong length. Every call decodes its items anew, since a model may have
changed the values it was given before it raised. No clock, client or framework in here; torch is recognised by what
the model has imported.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from headway import npy
from headway.errors import InputRefused, ItemCode, ItemError, ItemFailed
from headway.model import MESSAGE_CHARACTERS, InvalidInput
from headway.types import LARGE, Outcome

logger = logging.getLogger(__name__)

Predict = Callable[[list[str], list[Any]], object]  # (ids, inputs) → what the model answered


T = TypeVar("T")

#: The media type of outputs that are bytes.
BYTES = "application/octet-stream"
#: What is JSON, or is not, without a look inside.
_PLAIN = {dict, list, str, int, float, bool, type(None)}


class Raw(NamedTuple):
    """An output that is no JSON, with its media type. A loader may answer one."""

    type: str
    body: bytes


class Fatal(Exception):  # noqa: N818
    """Raised out of `settle`: the process cannot go on, and nothing is known of any item."""


class _OutputInvalid(ValueError):  # noqa: N818
    """An answer that cannot be stored as JSON, or is not one answer per item."""


def settle(
    items: Sequence[tuple[str, T]],
    *,
    decode: Callable[[T], Any],
    predict: Predict,
    clock_ns: Callable[[], int],
    on_too_many: Callable[[int], None] = lambda count: None,
    canceled: Callable[[str], bool] = lambda id_: False,
) -> list[Outcome]:
    """One outcome per (id, input as `decode` takes it), in the order given.

    What `decode` raises for an item fails that one alone, with `invalid_input`. Exceptions of `predict` become
    outcomes; only `Fatal` passes through. `on_too_many(count)`: a call of several did not fit into memory.
    `canceled(id)`, asked before each call: nobody wants it computed any more.
    """
    outcomes: dict[int, Outcome] = {}
    ranges = [range(len(items))]
    while ranges:
        part = ranges.pop()
        inputs, ready = [], []
        for index in part:
            if index in outcomes:
                continue  # refused when it was decoded for a larger part
            id_, body = items[index]
            if canceled(id_):
                outcomes[index] = Outcome(id=id_, canceled=True)
                continue
            try:
                inputs.append(decode(body))
                ready.append(index)
            except Exception as error:
                outcomes[index] = Outcome(id=id_, error=_refused(error))
        if not ready:
            continue
        ids = [items[index][0] for index in ready]
        began = clock_ns()
        answer, failure = _call(predict, ids, inputs)
        spent_us = (clock_ns() - began) // 1000
        if failure is None:
            for index, result in zip(ready, _all_encoded(answer), strict=True):
                outcomes[index] = _outcome(items[index][0], result, spent_us, len(ready))
        elif len(ready) == 1:
            outcomes[ready[0]] = _outcome(ids[0], failure, spent_us, 1)
        else:
            if failure.code is ItemCode.OUT_OF_MEMORY:
                on_too_many(len(ready))
            logger.info("a micro-batch of %d is split: %s", len(ready), failure.message)
            middle = part.start + len(part) // 2
            ranges += [range(middle, part.stop), range(part.start, middle)]
    return [outcomes[index] for index in range(len(items))]


def _call(predict: Predict, ids: list[str], inputs: list[Any]) -> tuple[list[Any], ItemError | None]:
    """The answers, one per input, or what went wrong.

    The exception itself does not leave this function: its traceback would keep the failed call's tensors in memory
    while the halves run.
    """
    count = len(inputs)
    try:
        answer = predict(ids, inputs)
        return rows(answer, count), None
    except Fatal:
        raise
    except (Exception, SystemExit) as error:
        if count == 1 and not isinstance(error, InvalidInput):
            logger.warning("prediction %s failed", ids[0], exc_info=True)
        failure = item_error(error)
    if failure.code is ItemCode.OUT_OF_MEMORY:
        _release_memory()
    return [], failure


def rows(answer: object, count: int) -> list[Any]:
    """The answer as `count` outputs. Raises _OutputInvalid."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(answer, torch.Tensor):
        answer = to_numpy(answer)  # one copy from the device instead of one an item
    if isinstance(answer, np.ndarray) and answer.ndim == 0:
        raise _OutputInvalid("predict returned an array without a batch dimension")
    if not isinstance(answer, Sequence | np.ndarray) or isinstance(answer, str | bytes | bytearray):
        raise _OutputInvalid(f"predict returned {type(answer).__name__}, and should return a list")
    found = list(answer)  # rows of an array are views; a Sequence of the model's own may be anything
    if len(found) != count:
        raise _OutputInvalid(f"predict returned {len(found)} outputs for {count} inputs")
    return found


def _all_encoded(outputs: list[Any]) -> Iterable[bytes | Raw | ItemError]:
    """What `_encoded` says of each. JSON of a whole call is written by one C loop, where none of it is in doubt."""
    kinds = set(map(type, outputs)) if len(outputs) > 1 else {object}
    arrays = kinds == {np.ndarray}
    if arrays and all(npy.storable(array) and array.nbytes <= LARGE for array in outputs):
        values = [array.tolist() for array in outputs]
    elif all(kind in _PLAIN or issubclass(kind, np.number | np.bool_) for kind in kinds):
        values = outputs
    else:
        return map(_encoded, outputs)
    try:
        lines = _encoder.encode_lines(values)
    except Exception:
        return map(_encoded, outputs)
    each = lines.split(b"\n")  # JSON that the model has written itself may have breaks of its own
    each.pop()
    if b"null" in lines or len(each) != len(outputs) or (arrays and max(map(len, each)) > LARGE):
        return map(_encoded, outputs)
    return each


def _encoded(output: object) -> bytes | Raw | ItemError:
    """The output's JSON, or itself where it is bytes or a large array; or why there is none of them."""
    if isinstance(output, BaseException):
        if not isinstance(output, InvalidInput | ItemFailed | _OutputInvalid):
            logger.warning("the model returned an exception for an item", exc_info=output)
        return item_error(output)
    try:
        if type(output) in _PLAIN:
            return encode(output)
        if isinstance(output, Raw):
            return output
        if isinstance(output, bytes | bytearray | memoryview):
            return Raw(BYTES, bytes(output))
        array = _array(output)
        if array is None:
            return encode(output)
        # One that is large, itself or as JSON, stays an array.
        encoded = encode(array) if array.nbytes <= LARGE else b""
        return encoded if 0 < len(encoded) <= LARGE else _dumped(array)
    except Exception as error:
        return item_error(error)


def _array(output: object) -> np.ndarray[Any, Any] | None:
    """The output as an array that can be stored as one, if it is one."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(output, torch.Tensor):
        output = to_numpy(output)
    return output if isinstance(output, np.ndarray) and npy.storable(output) else None


def array_of(output: object) -> np.ndarray[Any, Any]:
    """A part of an output as an array; what is neither number nor text becomes objects. Raises ValueError."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(output, torch.Tensor):
        return to_numpy(output)
    return output if isinstance(output, np.ndarray) else np.asarray(output)


def invalid(why: str) -> Exception:
    """What a model's answer becomes that cannot be stored."""
    return _OutputInvalid(why)


def _dumped(array: np.ndarray[Any, Any]) -> Raw:
    """Whatever its size, an array holds what JSON could hold. Raises _OutputInvalid."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _OutputInvalid("the output contains NaN or an infinite number")
    return Raw(npy.MEDIA_TYPE, npy.dump(array))


def _outcome(id_: str, result: bytes | Raw | ItemError, predict_us: int, batch_size: int) -> Outcome:
    if isinstance(result, ItemError):
        return Outcome(id=id_, error=result, predict_us=predict_us, batch_size=batch_size)
    if isinstance(result, Raw):
        return Outcome(
            id=id_, output=result.body, output_type=result.type, predict_us=predict_us, batch_size=batch_size
        )
    return Outcome(id=id_, output=result, predict_us=predict_us, batch_size=batch_size)


def encode(output: object) -> bytes:
    """JSON of a model's output: JSON values with numpy and torch ones anywhere inside. Raises ValueError."""
    try:
        encoded = _encoder.encode(output)
        # NaN and the infinities are written as null: only where a null stands is there anything to look for.
        finite = b"null" not in encoded or _finite(msgspec.to_builtins(output, str_keys=True, enc_hook=_builtin))
    except (TypeError, ValueError, OverflowError, RecursionError, RuntimeError) as error:
        raise _OutputInvalid(f"the output is no JSON value: {_text(error)}") from error
    if not finite:
        raise _OutputInvalid("the output contains NaN or an infinite number")
    return encoded


def _builtin(value: object) -> Any:
    """What msgspec does not know, as something that it does."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        item = value.item()
        if not isinstance(item, np.generic):
            return item
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return to_numpy(value).tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encoder = msgspec.json.Encoder(enc_hook=_builtin)


def to_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """A torch tensor from wherever it is. numpy has no bfloat16; float32 holds all of its values."""
    tensor = tensor.detach().to("cpu")
    if tensor.dtype is sys.modules["torch"].bfloat16:
        tensor = tensor.float()
    array: np.ndarray[Any, Any] = tensor.resolve_conj().resolve_neg().numpy()
    return array


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_finite, value))
    return True


def item_error(error: BaseException) -> ItemError:
    """What a client is told about an exception: its type and text, cut."""
    if isinstance(error, InvalidInput):
        return ItemError(ItemCode.INVALID_INPUT, storable(_text(error) or "the model refused the input"))
    if isinstance(error, ItemFailed):
        return ItemError(error.code, storable(_text(error), None if error.whole else MESSAGE_CHARACTERS))
    if isinstance(error, _OutputInvalid):
        return ItemError(ItemCode.OUTPUT_INVALID, storable(_text(error)))
    code = ItemCode.OUT_OF_MEMORY if _out_of_memory(error) else ItemCode.MODEL_ERROR
    return ItemError(code, describe(error))


def describe(error: BaseException) -> str:
    """`Type: text`, cut at MESSAGE_CHARACTERS, without what a database cannot store."""
    text = _text(error)
    name = type(error).__name__
    return storable(f"{name}: {text}" if text else name)


def _refused(error: Exception) -> ItemError:
    if isinstance(error, InputRefused):
        return ItemError(ItemCode.INVALID_INPUT, storable(f"{error.pointer or 'the input'} {error.detail}"))
    if _out_of_memory(error):
        return ItemError(ItemCode.OUT_OF_MEMORY, describe(error))
    return ItemError(ItemCode.INVALID_INPUT, storable(_text(error) or type(error).__name__))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a model's exception class may be as broken as the model
        return ""


def storable(text: str, most: int | None = MESSAGE_CHARACTERS) -> str:
    """The text, cut at so many characters, without what a database cannot store."""
    text = text[:most].encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\ufffd")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    # On the CPU torch has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in _text(error)
    )


def _release_memory() -> None:
    """Gives cached blocks back to the device, so that a half can have them in one piece."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
