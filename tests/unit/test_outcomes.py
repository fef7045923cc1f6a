"""Outputs and errors find their way back to items, whatever the model does."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching import outcomes
from batching.outcomes import Fatal
from headway.errors import InputRefused, ItemCode
from headway.model import InvalidInput
from headway.types import LARGE, Outcome

OK, RAISES, RETURNS, REFUSES, SHORTENS, LENGTHENS, NAN, WRONG_TYPE, MEMORY, UNDECODABLE = KINDS = (
    "ok", "raises", "returns an exception", "refuses", "shortens", "lengthens", "nan", "wrong type", "memory",
    "undecodable",
)  # fmt: skip

CODES = {
    RAISES: ItemCode.MODEL_ERROR,
    RETURNS: ItemCode.MODEL_ERROR,
    REFUSES: ItemCode.INVALID_INPUT,
    SHORTENS: ItemCode.OUTPUT_INVALID,
    LENGTHENS: ItemCode.OUTPUT_INVALID,
    NAN: ItemCode.OUTPUT_INVALID,
    WRONG_TYPE: ItemCode.OUTPUT_INVALID,
    MEMORY: ItemCode.OUT_OF_MEMORY,
    UNDECODABLE: ItemCode.INVALID_INPUT,
}


def settle(items: Sequence[tuple[str, bytes]], predict: Any) -> list[Outcome]:
    def decode(body: bytes) -> Any:
        value = msgspec.json.decode(body)
        if value == {"kind": UNDECODABLE}:
            raise InputRefused("/x", "is missing")
        return value

    return outcomes.settle(items, decode=decode, predict=predict, clock_ns=itertools.count(0, 1_000_000).__next__)


class Model:
    """Does to each item what the item says, and spoils the inputs it was given before it raises."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, ids: list[str], inputs: list[Any]) -> list[Any]:
        self.calls.append(len(inputs))
        kinds = [value.pop("kind") for value in inputs]
        inputs.clear()
        if RAISES in kinds:
            raise KeyError("bad item")
        if REFUSES in kinds:
            raise InvalidInput("too dark")
        if MEMORY in kinds:
            raise MemoryError("no room")
        outputs = [self.output(kind, id_) for kind, id_ in zip(kinds, ids, strict=True)]
        if SHORTENS in kinds:
            return outputs[1:]
        return outputs + [outputs[0]] * kinds.count(LENGTHENS)

    @staticmethod
    def output(kind: str, id_: str) -> Any:
        return {RETURNS: ValueError("bad"), NAN: [math.nan], WRONG_TYPE: object()}.get(kind, {"mine": id_})


def items_of(kinds: Sequence[str]) -> list[tuple[str, bytes]]:
    return [(f"id-{index}", msgspec.json.encode({"kind": kind})) for index, kind in enumerate(kinds)]


@given(st.lists(st.sampled_from([OK] * 6 + list(KINDS)), max_size=40))
@settings(max_examples=300)
def test_every_item_gets_its_own_outcome_and_pays_for_no_other(kinds: list[str]) -> None:
    model = Model()
    settled = settle(items_of(kinds), model.predict)
    assert [outcome.id for outcome in settled] == [f"id-{index}" for index in range(len(kinds))]
    for kind, outcome in zip(kinds, settled, strict=True):
        if kind == OK:
            assert outcome.error is None
            assert msgspec.json.decode(outcome.output or b"") == {"mine": outcome.id}
        else:
            assert outcome.output is None
            assert outcome.error is not None
            assert outcome.error.code is CODES[kind]


def test_one_bad_item_among_32_costs_at_most_ten_more_calls() -> None:
    for bad in range(32):
        model = Model()
        settled = settle(items_of([RAISES if index == bad else OK for index in range(32)]), model.predict)
        assert [outcome.error is not None for outcome in settled] == [index == bad for index in range(32)]
        assert len(model.calls) <= 11


def test_an_undisturbed_batch_is_one_call_and_says_its_size_and_time() -> None:
    model = Model()
    settled = settle(items_of([OK] * 5), model.predict)
    assert model.calls == [5]
    assert {(outcome.batch_size, outcome.predict_us) for outcome in settled} == {(5, 1000)}


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    def predict(ids: list[str], inputs: list[Any]) -> list[str]:
        if len(inputs) > 8:
            raise MemoryError
        return ids

    settled = settle(items_of([OK] * 32), predict)
    assert {outcome.batch_size for outcome in settled} == {8}
    assert all(outcome.error is None for outcome in settled)


@pytest.mark.parametrize("answer", [None, "ab", b"bc", {"a": 1, "b": 2}, 3.5, iter(["a", "b"]), np.float32(1)])
def test_an_answer_that_is_no_list_fails_the_items_and_not_the_process(answer: Any) -> None:
    settled = settle(items_of([OK, OK]), lambda ids, inputs: answer)
    assert {outcome.error.code for outcome in settled if outcome.error} == {ItemCode.OUTPUT_INVALID}


def test_rows_of_one_array_are_the_outputs() -> None:
    settled = settle(items_of([OK] * 3), lambda ids, inputs: np.arange(6).reshape(3, 2))
    assert [outcome.output for outcome in settled] == [b"[0,1]", b"[2,3]", b"[4,5]"]


def test_sys_exit_in_a_model_is_an_error_of_the_item() -> None:
    def predict(ids: list[str], inputs: list[Any]) -> list[Any]:
        raise SystemExit(3)

    (outcome,) = settle(items_of([OK]), predict)
    assert outcome.error is not None
    assert outcome.error.message == "SystemExit: 3"


def test_what_ends_the_process_is_not_caught() -> None:
    def predict(ids: list[str], inputs: list[Any]) -> list[Any]:
        raise Fatal("gone")

    with pytest.raises(Fatal):
        settle(items_of([OK, OK]), predict)


class Mute(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 600), "ValueError: " + "x" * 488),
        (ValueError("a\0\ud800"), "ValueError: a\ufffd?"),
        (Mute(), "Mute"),
        (InvalidInput("too dark"), "too dark"),
    ],
)
def test_a_client_is_told_the_type_and_text_cut_and_storable(raised: Exception, message: str) -> None:
    assert outcomes.item_error(raised).message == message


@pytest.mark.parametrize(
    ("output", "json"),
    [
        (None, b"null"),
        (np.float32(0.5), b"0.5"),
        (np.bool_(True), b"true"),
        (np.array([[1, 2]], dtype=np.uint8), b"[[1,2]]"),
        (np.array(["a"]), b'["a"]'),
        ({"a": [np.int64(3), (1.5, None)], "null": "null"}, b'{"a":[3,[1.5,null]],"null":"null"}'),
        (np.array([None, 1.0], dtype=object), b"[null,1.0]"),
        (2**64, b"18446744073709551616"),
    ],
)
def test_outputs_are_written_as_json(output: Any, json: bytes) -> None:
    assert outcomes.encode(output) == json


@pytest.mark.parametrize(
    "output",
    [
        math.nan,
        -math.inf,
        [1.0, [math.inf]],
        {"a": (None, math.nan)},
        [np.float64("nan")],
        np.float16("inf"),
        np.array([1, np.nan], dtype=np.float32),
        {"deep": [np.array([[1.0], [-np.inf]])]},
        np.array([None, math.nan], dtype=object),
        1j,
        np.array([1j]),
        np.longdouble(1),
        object(),
        lambda: 1,
        ValueError,
        [ValueError("nested")],
        "\ud800",
        {(1, 2): 3},
    ],
)
def test_outputs_that_are_no_finite_json_are_invalid(output: Any) -> None:
    settled = settle(items_of([OK, OK]), lambda ids, inputs: [output, "fine"])
    assert settled[0].error is not None
    assert settled[0].error.code is ItemCode.OUTPUT_INVALID
    assert settled[1].output == b'"fine"'


def test_an_output_that_contains_itself_is_invalid() -> None:
    loop: list[Any] = []
    loop.append(loop)
    (outcome,) = settle(items_of([OK]), lambda ids, inputs: [loop])
    assert outcome.error is not None
    assert outcome.error.code is ItemCode.OUTPUT_INVALID


def test_what_is_canceled_is_not_computed_and_not_computed_again_when_its_batch_is_split() -> None:
    items = items_of([OK, OK, RAISES, OK])
    canceled = {"id-0"}
    seen: list[list[str]] = []

    def predict(ids: list[str], inputs: list[Any]) -> list[Any]:
        seen.append(ids)
        canceled.add("id-3")
        if {"kind": RAISES} in inputs:
            raise KeyError("bad item")
        return ids

    settled = outcomes.settle(
        items,
        decode=msgspec.json.decode,
        predict=predict,
        clock_ns=itertools.count().__next__,
        canceled=canceled.__contains__,
    )
    assert seen == [["id-1", "id-2", "id-3"], ["id-1"], ["id-2"]]
    assert [one.canceled for one in settled] == [True, False, False, True]
    assert settled[2].error is not None


@pytest.mark.parametrize(
    "outputs",
    [
        [{"a": 1.5}, [None], "two\nlines", True, 3, 0.1, [{}]],
        [[math.inf], [1.0], "null"],
        [["good"], {"bad": object()}, {"count": np.int64(3), "scores": np.arange(3)}],
        [{"raw": msgspec.Raw(b'{"x":\n1}')}, 2],
        [{1: "a"}, {(2, 3): "b"}],
        np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
        np.array([[1.0, math.nan], [2.0, 3.0]]),
        np.array([0.1, 0.2], np.float16),
        np.array([True, False]),
        np.array([1j, 2j]),
        np.array([b"ab", b"cd"]),
        np.zeros((2, 1, 3)),
        np.full((2, LARGE // 8), 1 / 3),
        [np.zeros(3), np.zeros(0), np.zeros(LARGE), np.array(["a"])],
        [np.zeros(3), [1]],
    ],
)
def test_outputs_of_one_call_are_written_as_each_would_be_alone(outputs: Any) -> None:
    def answered(rows: Any) -> list[tuple[Any, ...]]:
        settled = settle(items_of([OK] * len(rows)), lambda ids, inputs: rows)
        return [(one.output, one.output_type, one.error) for one in settled]

    assert answered(outputs) == [answered(outputs[at : at + 1])[0] for at in range(len(outputs))]
