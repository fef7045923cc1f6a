"""What `torch.export.load` may do while it reads a `model.pt2`: everything but run what stands in the file.

Left to itself it unpickles weights, constants and sample inputs where the archive says so, evaluates expressions for
lengths as Python, and links compiled code. A program that computes tensors needs none of it. (That a graph calls
operators on tensors and nothing else, torch verifies itself.)
"""

import ast
import contextlib
import os
import pickle
import re
from collections.abc import Iterator
from typing import Any, NoReturn
from unittest import mock

import sympy
from torch.utils._sympy import functions

from workers.loaders import Unloadable

try:
    from torch.export.pt2_archive import _package
except ImportError:  # before 2.8 an archive could not hold compiled code
    _package = None  # type: ignore[assignment]

_TRUST = "if you trust whoever made it, say [artifact] trust = true in model.toml"

#: Of a symbol, or a number as text.
_NAME = re.compile(r"[A-Za-z_]\w*|[-+]?[0-9]+(\.[0-9]*)?(e[-+]?[0-9]+)?")
#: What an expression for a shape may call, beside torch's own functions of sympy.
_CALLS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "floor", "ceiling",
    "log", "sqrt", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair", "Tuple",
    "Equality", "Unequality", "StrictLessThan", "StrictGreaterThan", "LessThan", "GreaterThan", "Infinity", "NegativeInfinity",
    "IntInfinity", "NegativeIntInfinity",
}  # fmt: skip
_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.Tuple, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


@contextlib.contextmanager
def no_code() -> Iterator[None]:
    """In the device process, which does nothing else meanwhile. Raises Unloadable for what would run code."""
    refused: list[str] = []  # torch catches errors, and tries another way

    def refuse(what: str) -> NoReturn:
        refused.append(what)
        raise Unloadable(f"model.pt2 {what}: {_TRUST}")

    def unpickle(*_: object, **__: object) -> NoReturn:
        refuse("has parts that are pickles")

    class Unpickler(pickle.Unpickler):
        def __init__(self, *_: object, **__: object) -> None:
            unpickle()

    def link(*_: object, **__: object) -> NoReturn:
        refuse("has compiled code")

    def sympify(expression: Any, *args: Any, **options: Any) -> Any:
        if isinstance(expression, str) and not _is_harmless(expression):
            refuse(f"has {expression[:80]!r} where a length should be")
        return original_sympify(expression, *args, **options)

    original_sympify = sympy.sympify
    with contextlib.ExitStack() as guards:
        guards.enter_context(mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}))
        guards.enter_context(mock.patch.object(pickle, "load", unpickle))
        guards.enter_context(mock.patch.object(pickle, "loads", unpickle))
        guards.enter_context(mock.patch.object(pickle, "Unpickler", Unpickler))
        if _package is not None:
            guards.enter_context(mock.patch.object(_package, "_load_aoti", link))
        guards.enter_context(mock.patch.object(sympy, "sympify", sympify))
        try:
            yield
        except Exception as error:
            if refused or isinstance(error, pickle.UnpicklingError):
                why = refused[0] if refused else "has parts that are pickles"
                raise Unloadable(f"model.pt2 {why}: {_TRUST}") from None
            raise
        if refused:
            raise Unloadable(f"model.pt2 {refused[0]}: {_TRUST}")


def _is_harmless(expression: str) -> bool:
    """Arithmetic on symbols and numbers."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names: set[int] = set()  # of strings that name a symbol
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name) and (node.func.id in _CALLS or node.func.id in _OF_TORCH)
            if not known:
                return False
            if isinstance(node.func, ast.Name) and node.func.id in ("Symbol", "Integer", "Float"):
                names.update(id(argument) for argument in node.args[:1])
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            return False
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float):
            is_name = isinstance(node.value, str) and _NAME.fullmatch(node.value) is not None
            if not (is_name and id(node) in names):
                return False
    return True


_OF_TORCH = {
    name
    for name, value in vars(functions).items()
    if isinstance(value, type) and issubclass(value, sympy.Basic) and value.__module__ == functions.__name__
}
