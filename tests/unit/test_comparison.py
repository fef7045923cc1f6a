"""Every proof that docs/comparison.md names is there to be run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def rows() -> list[list[str]]:
    lines = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_says_no_or_names_a_test_that_is_there(row: list[str]) -> None:
    _, ours, proof, *_ = row
    assert ours in ("yes", "no")
    assert (ours == "yes") == bool(proof)
    if proof:
        file, _, name = proof.strip("`").partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert name in tests if name else any(one.startswith("test_") for one in tests)
