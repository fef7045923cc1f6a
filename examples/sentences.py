"""Real English sentences that every Python brings along: the docstrings of its standard library."""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SEED = 0

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
#: A capital, words, a full stop; no code, prompts, lists or markup.
_PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()\-]{18,600}[.!?]")


def standard_library_sentences(count: int) -> list[str]:
    """`count` different sentences of all lengths, the same ones every time with the same Python."""
    found = sorted(set(_sentences(Path(sysconfig.get_paths()["stdlib"]))))
    return random.Random(SEED).sample(found, count)


def _sentences(library: Path) -> Iterator[str]:
    for file in sorted(library.glob("*.py")) + sorted(library.glob("email/*.py")):
        for docstring in _docstrings(file):
            for paragraph in docstring.split("\n\n"):
                for sentence in _SENTENCE.split(" ".join(paragraph.split())):
                    if _PROSE.fullmatch(sentence) and sentence.count(" ") >= 3:
                        yield sentence


def _docstrings(file: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
