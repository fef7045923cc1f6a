"""Requests of the Open Inference Protocol: what is read of good ones, and that of bad ones only a refusal comes."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from api.dialects.oip import generate, messages
from api.dialects.oip.classification import classified
from api.dialects.oip.errors import Refused
from api.dialects.oip.inference import Output, Reply
from api.dialects.oip.requests import Inference, read
from headway import tensors
from headway.manifest import Manifest, Tensor


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]} | changes


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def arrays(inference: Inference) -> list[Any]:
    return [tensors.to_array(one.datatype, one.shape, one.data).tolist() for one in inference.inputs]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [[1, 2.5], [3, 4]]),
        ("FP32", [1, 2.5, 3, 4]),
        ("FP16", [[1, 2.5], [3, 4]]),
        ("BF16", [[1, 2.5], [3, 4]]),
        ("INT8", [[-128, 2], [3, 127]]),
        ("UINT64", [[0, 2], [3, (1 << 64) - 1]]),
        ("BOOL", [[True, False], [False, True]]),
    ],
)
def test_lists_become_the_bytes_of_their_datatype(datatype: str, data: list[Any]) -> None:
    (array,) = arrays(read(body(entry(datatype=datatype, data=data)), None))
    assert array == np.array(data, None if datatype[0] in "BF" else "object").reshape(2, 2).tolist()


def test_binary_tensors_follow_the_json_in_their_order() -> None:
    numbers, words = np.arange(4, dtype=np.float32), np.array([b"x", b"y"], dtype=object)
    first, second = (tensors.from_array(array)[2] for array in (numbers, words))
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
    ]
    head = body(*inputs, parameters={"binary_data_output": True}, id="7")
    inference = read(head + first + second, b"%d" % len(head))
    assert arrays(inference) == [[[0, 1], [2, 3]], [b"x", b"y"]]
    assert (inference.id, inference.binary) == ("7", True)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": 3}',
        b'{"inputs": [{}]}',
        b'{"inputs": [' * 5000,
        body(entry(datatype="FP128")),
        body(entry(datatype=None)),
        body(entry(shape=[2])),
        body(entry(shape=[-1, 4])),
        body(entry(shape=[1 << 62, 1 << 62])),
        body(entry(shape=[1] * 33, data=[1])),
        body(entry(shape=[0, 1 << 40], data=[])),
        body(entry(data=[[1, 2], [3]])),
        body(entry(data=[["x", 2], [3, 4]])),
        body(entry(data=[[None, 2], [3, 4]])),
        body(entry(data={"a": 1})),
        body(entry(datatype="INT8", data=[1, 2, 3, 400])),
        body(entry(datatype="UINT8", data=[1, 2, 3, -4])),
        body(entry(datatype="INT64", data=[1, 2, 3, 1.5])),
        body(entry(datatype="INT64", data=[1, 2, 3, 1 << 70])),
        body(entry(datatype="BOOL", data=[1, 0, 1, 0])),
        body(entry(datatype="BYTES", data=[1, 2, 3, 4])),
        body(entry(datatype="BYTES", shape=[1], data=["\ud800"])),
        body(entry(parameters={"binary_data_size": 16})),
        body(entry(parameters={"shared_memory_region": "x"})),
        body(entry(), outputs=[{"name": "y", "parameters": {"classification": -1}}]),
        body(entry(), outputs=[{"name": "y", "parameters": {"classification": "1"}}]),
        body(entry(), outputs=[{"name": "y", "parameters": {"shared_memory_region": "x"}}]),
        body(entry(), id=7),
        body(entry(), parameters=[]),
    ],
)
def test_what_makes_no_sense_is_refused(bad: bytes) -> None:
    with pytest.raises(Refused):
        read(bad, None)


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"999", b"9" * 400, "٣".encode()])
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    with pytest.raises(Refused):
        read(body(entry()), length)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
some = st.sampled_from
inputs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=4) | json_values,
        "datatype": some([*tensors.DTYPES, "X"]) | json_values,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | json_values,
        "data": json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | json_values})
        | json_values,
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "inputs": st.lists(inputs, max_size=3) | json_values,
        "outputs": json_values,
        "parameters": json_values,
    },
)


@given(request=requests | json_values, after=st.binary(max_size=40), header=st.none() | st.integers(-5, 5))
def test_nothing_but_a_refusal_comes_of_a_bad_request(request: Any, after: bytes, header: int | None) -> None:
    encoded = json.dumps(request).encode()
    try:
        inference = read(encoded + after, None if header is None else b"%d" % (len(encoded) + header))
    except Refused:
        return
    for one in inference.inputs:
        tensors.check_length(one.name, one.datatype, one.shape, len(one.data))


@given(data=st.binary(max_size=200))
def test_nothing_but_a_refusal_comes_of_rubbish(data: bytes) -> None:
    with pytest.raises(Refused):
        read(data, None)


shapes = st.lists(st.integers(-1, 4), max_size=3)
contents = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4),
        "uint_contents": st.lists(st.integers(0, (1 << 32) - 1), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=3), max_size=4),
    },
)


@given(
    given_=st.lists(
        st.tuples(some([*tensors.DTYPES, "X"]), st.lists(st.integers(-1, 4), max_size=3), st.none() | contents),
        max_size=3,
    ),
    raw=st.lists(st.binary(max_size=16), max_size=3),
)
def test_nothing_but_a_refusal_comes_of_a_bad_message(given_: list[Any], raw: list[bytes]) -> None:
    request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=raw)
    for index, (datatype, shape, typed) in enumerate(given_):
        one = request.inputs.add(name=f"i{index}", datatype=datatype, shape=shape)
        if typed is not None:
            one.contents.MergeFrom(service_pb2.InferTensorContents(**typed))
    try:
        inference = messages.inference_of(request)
    except Refused:
        return
    for each in inference.inputs:
        tensors.check_length(each.name, each.datatype, each.shape, len(each.data))


@pytest.mark.parametrize(
    ("datatype", "typed", "message"),
    [
        ("INT8", {"int_contents": [400]}, "no INT8"),
        ("FP16", {"fp32_contents": [1]}, "raw_input_contents only"),
        ("FP32", {"fp64_contents": [1]}, "unexpected explicit tensor data"),
        ("FP32", {"fp32_contents": [1, 2]}, "its shape says 4"),
        ("FP32", None, "unable to find data"),
    ],
)
def test_contents_that_are_not_of_their_datatype_are_refused(datatype: str, typed: Any, message: str) -> None:
    request = service_pb2.ModelInferRequest(model_name="m")
    one = request.inputs.add(name="a", datatype=datatype, shape=[1])
    if typed is not None:
        one.contents.MergeFrom(service_pb2.InferTensorContents(**typed))
    with pytest.raises(Refused, match=message):
        messages.inference_of(request)


def test_a_reply_is_raw_bytes_and_what_was_asked_of_classes() -> None:
    array = np.array([[0.5, 3, 1], [9, 7, 8]], np.float32)
    reply = Reply("m", "1", "7", [Output("y", "FP32", array)], {"headway_job_id": "x", "n": 3, "b": True})
    request = service_pb2.ModelInferRequest(model_name="m")
    plain = messages.reply_of(reply, messages.inference_of(request))
    assert (plain.raw_output_contents[0], list(plain.outputs[0].shape)) == (array.tobytes(), [2, 3])
    assert plain.parameters["headway_job_id"].string_param == "x"
    assert (plain.parameters["n"].int64_param, plain.parameters["b"].bool_param) == (3, True)
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    classes = messages.reply_of(reply, messages.inference_of(request))
    found = tensors.to_array("BYTES", [2, 2], classes.raw_output_contents[0]).tolist()
    assert found == [[b"3.000000:1", b"1.000000:2"], [b"9.000000:0", b"8.000000:2"]]


def test_text_has_no_classes() -> None:
    with pytest.raises(Refused, match="no numbers"):
        classified(Output("y", "BYTES", np.array([b"a"], dtype=object)), 1)


WORDS = Manifest(inputs={"text": Tensor("string"), "numbers": Tensor("int64", (-1, 2))})


def test_generate_fills_shapes_and_leaves_the_rest_as_parameters() -> None:
    found = generate.inference_of(b'{"text": "hi", "numbers": [1, 2, 3, 4], "temperature": 0.5, "id": "7"}', WORDS)
    assert [(one.name, one.shape) for one in found.inputs] == [("text", (1,)), ("numbers", (1, 2, 2))]
    assert (found.id, found.parameters) == ("7", {"temperature": 0.5})
    untyped = generate.inference_of(b'{"input": {"a": [1]}}', Manifest())
    assert arrays(untyped) == [[b'{"a":[1]}']]


@pytest.mark.parametrize(
    "bad", [b"[]", b"{", b'{"text": ["a", "b"]}', b'{"numbers": [1, 2, 3]}', b'{"numbers": [[1, 2]]}']
)
def test_generate_refuses_what_has_no_shape(bad: bytes) -> None:
    with pytest.raises(Refused):
        generate.inference_of(bad, WORDS)


@given(request=json_values)
def test_nothing_but_a_refusal_comes_of_a_bad_generate(request: Any) -> None:
    for manifest in (WORDS, Manifest()):
        sent = json.dumps({"text": request, "numbers": request, "input": request, "id": request}).encode()
        try:
            generate.inference_of(sent, manifest)
        except Refused:
            continue
