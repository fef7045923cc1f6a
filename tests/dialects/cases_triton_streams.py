"""What is asked of Triton, and of ours, of models that answer a request as often as they like (decoupled)."""

import base64
from typing import Any

from tests.dialects.exchanges import GRPC, Case, Request

_EMPTY_FINAL = {"triton_enable_empty_final_response": {"bool_param": True}}


def texts(*values: str) -> dict[str, Any]:
    return {"bytes_contents": [base64.b64encode(value.encode()).decode() for value in values]}


def message(model: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_name": model, "inputs": list(inputs)} | more


def numbers(*values: int) -> dict[str, Any]:
    return {"name": "IN", "datatype": "INT32", "shape": [len(values)], "contents": {"int_contents": list(values)}}


def how(said: str) -> dict[str, Any]:
    return {"name": "HOW", "datatype": "BYTES", "shape": [1], "contents": texts(said)}


def counts(said: str, *values: int, **more: Any) -> dict[str, Any]:
    return message("counts", numbers(*(values or (7, 8, 9))), how(said), **more)


def words(said: str, *, most: int | None = None, **more: Any) -> dict[str, Any]:
    inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "contents": texts(said)}]
    if most is not None:
        inputs.append({"name": "MOST", "datatype": "INT32", "shape": [1, 1], "contents": {"int_contents": [most]}})
    return message("words", *inputs, **more)


def stream(name: str, *messages: dict[str, Any]) -> Case:
    return Case(name, [Request("ModelStreamInfer", "POST", {"json": list(messages)}, port=GRPC)])


def unary(name: str, asked: dict[str, Any]) -> Case:
    return Case(name, [Request("ModelInfer", "POST", {"json": asked}, port=GRPC)])


def post(name: str, path: str, asked: dict[str, Any]) -> Case:
    return Case(name, [Request(f"/v2/models/{path}", "POST", {"json": asked})])


def generate(name: str, said: str, *values: int, verb: str = "generate_stream") -> Case:
    return post(name, f"counts/{verb}", {"IN": list(values), "HOW": said})


EMPTY_FINAL = {"parameters": _EMPTY_FINAL}

STREAMS = [
    stream("a response for each number", counts("each")),
    stream("a response for each number, with an id", counts("each", id="mine")),
    stream("a response for each number, and the empty final one", counts("each", **EMPTY_FINAL)),
    stream("the final flag on the last response", counts("last")),
    stream("the final flag on the last response, and the empty final one asked for", counts("last", **EMPTY_FINAL)),
    stream("from a thread, after execute", counts("thread")),
    stream("no response at all", message("counts", {**numbers(), "shape": [0]}, how("each"))),
    stream(
        "no response at all, and the empty final one",
        message("counts", {**numbers(), "shape": [0]}, how("each"), id="none", **EMPTY_FINAL),
    ),
    stream("two outputs", counts("both")),
    stream("one of two outputs", counts("both", outputs=[{"name": "TEXT"}])),
    stream("an output that a response lacks", counts("last", outputs=[{"name": "TEXT"}])),
    stream("an output that nobody knows", counts("last", outputs=[{"name": "NOTHING"}])),
    stream("a response without outputs", counts("empty")),
    stream("a response without outputs, and the empty final one", counts("empty", **EMPTY_FINAL)),
    stream("an output that is not in the configuration of a stream", counts("undeclared")),
    stream("an error at the end", counts("fails", id="mine")),
    stream("an error between", counts("fails between")),
    stream("an error between, and the empty final one", counts("fails between", **EMPTY_FINAL)),
    stream("execute raises", counts("raises")),
    stream("execute raises, and the empty final one", counts("raises", id="mine", **EMPTY_FINAL)),
    stream("execute raises after a response", counts("raises after one")),
    stream("execute returns a list", counts("returns")),
    stream("what raises in the model", counts("mistakes")),
    stream("a response after the end", counts("after the end", 5)),
    stream("what that raised", counts("said then")),
    stream("whether it is decoupled", counts("policy")),
    stream("several requests of a stream", counts("each", 1, 2, id="a"), counts("each", 3, 4, id="b")),
    stream(
        "several requests of a stream, and the empty final ones",
        counts("last", 1, id="a", **EMPTY_FINAL),
        counts("each", 2, id="b", **EMPTY_FINAL),
    ),
    stream("of a version", counts("each", model_version="1")),
    stream("of an unknown version", counts("each", model_version="7", id="mine")),
    stream("of an unknown model", message("nothing", numbers(1), id="mine")),
    stream("a missing input", message("counts", numbers(1), id="mine")),
    stream("a wrong datatype", message("counts", {**numbers(1), "datatype": "FP32"}, how("each"))),
    stream("an error, and then a request that is good", message("nothing", numbers(1)), counts("each", 1)),
    stream("words", words("one two three")),
    stream("as many words", words("one two three", most=2)),
    stream("a batch that is too large", {**words("one"), "inputs": [
        {"name": "TEXT", "datatype": "BYTES", "shape": [5, 1], "contents": texts(*"abcde")}]}),
    stream("a coroutine", message("awaits", numbers(1, 2, 3), **EMPTY_FINAL)),
    stream("a model that is not decoupled", message("plain", how("returns"), id="mine")),
    stream("a model that is not decoupled, and the empty final one", message("plain", how("returns"), **EMPTY_FINAL)),
    stream("a response sender of a model that is not decoupled", message("plain", how("sends"))),
    stream("what a response after the end raised", message("plain", how("said"))),
    stream("two responses of a model that is not decoupled", message("plain", how("twice"))),
    stream("what the second response raised", message("plain", how("said"))),
    stream("the final flag after the response of a model that is not decoupled", message("plain", how("final after"))),
    stream("the final flag before the response of a model that is not decoupled", message("plain", how("final first"))),
    stream("what the final flag before raised", message("plain", how("said"))),
]  # fmt: skip

OTHERS = [
    unary("ModelInfer of a decoupled model", counts("last", 1)),
    unary("ModelInfer of a model that is not decoupled", message("plain", how("sends"))),
    unary("ModelInfer of a decoupled model that lacks an input", message("counts", numbers(1))),
    post(
        "infer of a decoupled model",
        "counts/infer",
        {
            "inputs": [
                {"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]},
                {"name": "HOW", "datatype": "BYTES", "shape": [1], "data": ["last"]},
            ]
        },
    ),
    post("infer of a decoupled model that lacks its inputs", "counts/infer", {"inputs": []}),
    post(
        "infer of a response sender",
        "plain/infer",
        {"inputs": [{"name": "HOW", "datatype": "BYTES", "shape": [1], "data": ["sends"]}]},
    ),
    Case("metadata of a decoupled model", [Request("/v2/models/counts")]),
    Case("configuration of a decoupled model", [Request("/v2/models/counts/config")]),
    generate("generate_stream", "each", 1, 2),
    generate("generate_stream with the final flag on the last response", "last", 1, 2),
    generate("generate_stream of one response", "last", 1),
    generate("generate_stream of no response", "each"),
    generate("generate_stream of an empty response", "empty", 1),
    generate("generate_stream with an error at the end", "fails", 1),
    generate("generate_stream with an error first", "fails"),
    generate("generate_stream with an error between", "fails between", 1, 2),
    generate("generate_stream of two outputs", "both", 1),
    generate("generate_stream of an output of several values", "both", 1, 2),
    generate("generate_stream of what raises", "raises", 1),
    post("generate_stream that lacks an input", "counts/generate_stream", {"IN": [1]}),
    post("generate_stream of an unknown model", "nothing/generate_stream", {"IN": [1]}),
    post("generate_stream of a model that is not decoupled", "plain/generate_stream", {"HOW": "returns"}),
    post("generate_stream with an id", "counts/generate_stream", {"IN": [1], "HOW": "last", "id": "mine"}),
    post("generate_stream of words", "words/generate_stream", {"TEXT": "one two"}),
    post("generate_stream of words, as many", "words/generate_stream", {"TEXT": "one two", "MOST": 1}),
    generate("generate of one response", "last", 1, verb="generate"),
    generate("generate of one response and the end", "each", 1, verb="generate"),
    generate("generate of two responses", "each", 1, 2, verb="generate"),
    generate("generate of no response", "each", verb="generate"),
    generate("generate of an error", "fails", verb="generate"),
    generate("generate of a response and an error", "fails", 1, verb="generate"),
    generate("generate of what raises", "raises", 1, verb="generate"),
    post("generate of a model that is not decoupled", "plain/generate", {"HOW": "sends"}),
]

CASES = [*STREAMS, *OTHERS]
