"""What is asked of Triton, and of ours in its dialect, in this order: requests that are good, and that are not."""

import json
import struct
from typing import Any

from tests.dialects.exchanges import Body, Case, Request

#: Ensembles that cannot be loaded.
BROKEN_ENSEMBLES = (
    "of_nobody", "of_no_version", "of_broken", "too_wide", "unknown_input", "unknown_output", "unmapped_input",
    "other_type", "other_shape", "ring", "circle", "written_twice", "unused",
)  # fmt: skip

#: Not loaded at the start. These cannot be.
UNLOADED = ("broken", "ring_back", *BROKEN_ENSEMBLES)

_JSON = {"Content-Type": "application/json"}


def one(name: str, path: str, method: str = "GET", body: Body = None, **headers: str) -> Case:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(name, [Request(path, method, body, named)])


def infer(model: str, body: Body, version: str = "", **headers: str) -> Request:
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    return Request(path, "POST", body, {key.replace("_", "-"): value for key, value in headers.items()})


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **parameters: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if data is not None:
        made["data"] = data
    if parameters:
        made["parameters"] = parameters
    return made


def asks(*inputs: dict[str, Any], **more: Any) -> Body:
    return {"json": {"inputs": list(inputs)} | more}


def binary(tail: bytes, *inputs: dict[str, Any], **more: Any) -> Body:
    return {"json": {"inputs": list(inputs)} | more, "hex": tail.hex(" ", 4)}


def sized(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    return tensor(name, datatype, shape, binary_data_size=size)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def strings(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


A = tensor("INPUT0", "FP32", [1, 4], [1, 2, 3, 4])
B = tensor("INPUT1", "FP32", [1, 4], [10, 20, 30, 40.5])
A8 = sized("INPUT0", "FP32", [1, 4], 16)
B8 = sized("INPUT1", "FP32", [1, 4], 16)
AB = floats(1, 2, 3, 4, 10, 20, 30, 40.5)


def number(value: int, rows: int = 1) -> dict[str, Any]:
    return tensor("N", "INT32", [rows, 1], [value] * rows)


def added(name: str, body: Body, version: str = "", **headers: str) -> Case:
    return Case(name, [infer("add_sub", body, version, **headers)])


#: The least and the most of each.
TYPES = [
    tensor(name, "BYTES" if name == "STRING" else name, [2], data)
    for name, data in (
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65535]),
        ("UINT32", [0, 4294967295]),
        ("UINT64", [0, 18446744073709551615]),
        ("INT8", [-128, 127]),
        ("INT16", [-32768, 32767]),
        ("INT32", [-2147483648, 2147483647]),
        ("INT64", [-9223372036854775808, 9223372036854775807]),
        ("FP32", [0.5, -3.25e38]),
        ("FP64", [0.1, 1e300]),
        ("STRING", ["a", '"']),
    )
]


HEALTH = [
    one("live", "/v2/health/live"),
    one("ready", "/v2/health/ready"),
    one("live by POST", "/v2/health/live", "POST"),
    one("health of nothing", "/v2/health"),
    one("server metadata", "/v2"),
    one("server metadata with a slash", "/v2/"),
    one("server metadata by POST", "/v2", "POST"),
    one("the root", "/"),
    one("an unknown path", "/v3"),
    one("an unknown path below v2", "/v2/nothing"),
    one("all models", "/v2/models"),
]

METADATA = [
    one("model metadata with a batch dimension", "/v2/models/add_sub"),
    one("model metadata without a batch dimension", "/v2/models/text"),
    one("model metadata of a version", "/v2/models/versions/versions/1"),
    one("model metadata of the latest version", "/v2/models/versions"),
    one("model metadata of many inputs", "/v2/models/identity"),
    one("metadata of an unknown model", "/v2/models/nothing"),
    one("metadata of an unknown version", "/v2/models/versions/versions/7"),
    one("metadata of a version that is not served", "/v2/models/versions/versions/2"),
    one("metadata of a version that is no number", "/v2/models/versions/versions/one"),
    one("metadata of a model that is not loaded", "/v2/models/broken"),
    one("metadata by POST", "/v2/models/add_sub", "POST"),
    one("ready model", "/v2/models/add_sub/ready"),
    one("ready version", "/v2/models/versions/versions/3/ready"),
    one("ready of an unknown model", "/v2/models/nothing/ready"),
    one("ready of an unknown version", "/v2/models/versions/versions/7/ready"),
    one("ready of a version that is no number", "/v2/models/versions/versions/one/ready"),
    one("ready of a model that is not loaded", "/v2/models/broken/ready"),
    one("config", "/v2/models/add_sub/config"),
    one("config with parameters, without a batch dimension", "/v2/models/text/config"),
    one("config with dynamic batching", "/v2/models/text_classification/config"),
    one("config with a policy of versions", "/v2/models/versions/config"),
    one("config of a version", "/v2/models/versions/versions/1/config"),
    one("config of an unknown model", "/v2/models/nothing/config"),
    one("config of an unknown version", "/v2/models/versions/versions/7/config"),
    one("an unknown path below a model", "/v2/models/add_sub/nothing"),
]

JSON_TENSORS = [
    added("infer", asks(A, B)),
    added("infer with an id", asks(A, B, id="my-id")),
    added("infer with a content type", asks(A, B), **_JSON),
    added("infer with another content type", asks(A, B), Content_Type="text/plain"),
    added("infer with nested data", asks(tensor("INPUT0", "FP32", [1, 4], [[1, 2, 3, 4]]), B)),
    added("infer with the inputs in another order", asks(B, A)),
    added(
        "infer two rows",
        asks(tensor("INPUT0", "FP32", [2, 4], list(range(8))), tensor("INPUT1", "FP32", [2, 4], [1] * 8)),
    ),
    added("infer one output", asks(A, B, outputs=[{"name": "OUTPUT1"}])),
    added("infer outputs in another order", asks(A, B, outputs=[{"name": "OUTPUT1"}, {"name": "OUTPUT0"}])),
    added("infer no outputs", asks(A, B, outputs=[])),
    added("infer of a version", asks(A, B), "1"),
    added("infer with parameters", asks(A, B, parameters={"priority": 1, "mine": "x"})),
    added("infer with an unknown key", asks(A, B, extra=1)),
    Case("infer of the latest version", [infer("versions", asks(number(0)))]),
    Case("infer of an older version", [infer("versions", asks(number(0)), "1")]),
    Case("infer texts", [infer("text", asks(tensor("TEXT", "BYTES", [2], ["hello", "wörld"])))]),
    Case("infer an empty text", [infer("text", asks(tensor("TEXT", "BYTES", [1], [""])))]),
    Case("infer no text", [infer("text", asks(tensor("TEXT", "BYTES", [0], [])))]),
    Case("infer every datatype", [infer("types", asks(*TYPES))]),
    Case("infer FP16", [infer("half", asks(tensor("FP16", "FP16", [2], [0.5, -2])))]),
    Case("infer one of the optional inputs", [infer("identity", asks(tensor("STRING", "BYTES", [2], ["a", '"'])))]),
    Case(
        "infer two of the optional inputs",
        [infer("identity", asks(tensor("INT8", "INT8", [1], [1]), tensor("FP64", "FP64", [1], [1.5])))],
    ),
    Case(
        "infer the processing of many tutorials",
        [infer("normalise", asks(tensor("INPUT", "FP32", [1, 4], [1, 2, 3, 4])))],
    ),
    Case(
        "infer the classification of many tutorials",
        [infer("text_classification", asks(tensor("INPUT__0", "INT64", [1, 512], [3] * 500 + [7] * 12)))],
    ),
    Case(
        "infer the three best classes",
        [
            infer(
                "text_classification",
                asks(
                    tensor("INPUT__0", "INT64", [1, 512], [3] * 200 + [7] * 190 + [1] * 122),
                    outputs=[{"name": "OUTPUT__0", "parameters": {"classification": 3}}],
                ),
            )
        ],
    ),
]

BAD = [
    added("an unknown input", asks(A, B, tensor("INPUT9", "FP32", [1, 4], [1, 2, 3, 4]))),
    added("a missing input", asks(A)),
    added("an input twice", asks(A, A, B)),
    added("an unknown output", asks(A, B, outputs=[{"name": "OUTPUT9"}])),
    added("a wrong datatype", asks(tensor("INPUT0", "INT64", [1, 4], [1, 2, 3, 4]), B)),
    added("an unknown datatype", asks(tensor("INPUT0", "FP33", [1, 4], [1, 2, 3, 4]), B)),
    added("a wrong shape", asks(tensor("INPUT0", "FP32", [1, 3], [1, 2, 3]), B)),
    added("a shape without the batch dimension", asks(tensor("INPUT0", "FP32", [4], [1, 2, 3, 4]), B)),
    added("a negative shape", asks(tensor("INPUT0", "FP32", [-1, 4], [1, 2, 3, 4]), B)),
    added("batch dimensions that differ", asks(tensor("INPUT0", "FP32", [2, 4], [1] * 8), B)),
    added(
        "a batch that is too large",
        asks(tensor("INPUT0", "FP32", [9, 4], [1] * 36), tensor("INPUT1", "FP32", [9, 4], [1] * 36)),
    ),
    added("fewer numbers than the shape says", asks(tensor("INPUT0", "FP32", [1, 4], [1, 2, 3]), B)),
    added("more numbers than the shape says", asks(tensor("INPUT0", "FP32", [1, 4], [1, 2, 3, 4, 5]), B)),
    added("a string among numbers", asks(tensor("INPUT0", "FP32", [1, 4], [1, 2, "3", 4]), B)),
    added("null among numbers", asks(tensor("INPUT0", "FP32", [1, 4], [1, 2, None, 4]), B)),
    added("no data", asks({"name": "INPUT0", "datatype": "FP32", "shape": [1, 4]}, B)),
    added("no shape", asks({"name": "INPUT0", "datatype": "FP32", "data": [1, 2, 3, 4]}, B)),
    added("no datatype", asks({"name": "INPUT0", "shape": [1, 4], "data": [1, 2, 3, 4]}, B)),
    added("no name", asks({"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}, B)),
    added("no inputs", {"json": {}}),
    added("an empty list of inputs", {"json": {"inputs": []}}),
    added("inputs that are no list", {"json": {"inputs": {}}}),
    added("an id that is a number", asks(A, B, id=7)),
    added("a list", {"json": []}),
    added("broken JSON", {"text": '{"inputs": ['}),
    added("no JSON", {"text": "hello"}),
    added("an unknown version", asks(A, B), "7"),
    added("a version that is no number", asks(A, B), "one"),
    one("infer by GET", "/v2/models/add_sub/infer"),
    one("infer by PUT", "/v2/models/add_sub/infer", "PUT", asks(A, B)),
    Case("infer of an unknown model", [infer("nothing", asks(A, B))]),
    Case("infer of a model that is not loaded", [infer("broken", asks(number(1)))]),
    Case("a fraction among integers", [infer("refuses", asks(tensor("N", "INT32", [1, 1], [1.5])))]),
    Case("an integer that is too large", [infer("refuses", asks(tensor("N", "INT32", [1, 1], [1 << 31])))]),
    Case("a number among strings", [infer("text", asks(tensor("TEXT", "BYTES", [1], [7])))]),
    Case("no optional input at all", [infer("identity", asks())]),
    Case(
        "a sequence that is too short",
        [infer("text_classification", asks(tensor("INPUT__0", "INT64", [1, 511], [3] * 511)))],
    ),
]

BINARY = [
    added("binary in", binary(AB, A8, B8)),
    added("binary in and out", binary(AB, A8, B8, parameters={"binary_data_output": True})),
    added("JSON in, binary out", asks(A, B, parameters={"binary_data_output": True})),
    added(
        "one output binary, the other not",
        asks(A, B, outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]),
    ),
    added(
        "binary out, but for one output",
        asks(
            A,
            B,
            parameters={"binary_data_output": True},
            outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}],
        ),
    ),
    added("one input binary, the other not", binary(floats(1, 2, 3, 4), A8, B)),
    added("binary as clients send it", binary(AB, A8, B8), Content_Type="application/octet-stream"),
    Case(
        "binary texts",
        [
            infer(
                "text",
                binary(
                    strings("hello", "wörld"),
                    sized("TEXT", "BYTES", [2], len(strings("hello", "wörld"))),
                    parameters={"binary_data_output": True},
                ),
            )
        ],
    ),
    Case(
        "binary FP16",
        [
            infer(
                "half",
                binary(
                    struct.pack("<2e", 0.5, -2),
                    sized("FP16", "FP16", [2], 4),
                    parameters={"binary_data_output": True},
                ),
            )
        ],
    ),
    Case("every datatype, binary out", [infer("types", asks(*TYPES, parameters={"binary_data_output": True}))]),
    Case(
        "BOOL and INT64 binary, among others",
        [
            infer(
                "types",
                binary(
                    b"\1\0" + struct.pack("<2q", -1, 1 << 62),
                    *(
                        sized(one["name"], one["datatype"], [2], 2 if one["name"] == "BOOL" else 16)
                        if one["name"] in ("BOOL", "INT64")
                        else one
                        for one in TYPES
                    ),
                ),
            )
        ],
    ),
    added("binary that is too short", binary(AB[:-4], A8, B8)),
    added("binary that is too long", binary(AB + b"\0\0\0\0", A8, B8)),
    added("a binary size that is not the shape's", binary(AB, sized("INPUT0", "FP32", [1, 4], 12), B8)),
    added("binary and data at once", binary(AB, A | {"parameters": {"binary_data_size": 16}}, B8)),
    Case("binary strings cut short", [infer("text", binary(b"\x05\0\0\0he", sized("TEXT", "BYTES", [1], 6)))]),
    Case(
        "fewer binary strings than the shape says",
        [infer("text", binary(strings("a"), sized("TEXT", "BYTES", [2], 5)))],
    ),
    added("a JSON length that is too large", {"json": {"inputs": [A, B]}}, Inference_Header_Content_Length="100000"),
    added("a JSON length that is no number", {"json": {"inputs": [A, B]}}, Inference_Header_Content_Length="many"),
    added("a JSON length that is negative", {"json": {"inputs": [A, B]}}, Inference_Header_Content_Length="-1"),
]

OUTCOMES = [
    *(
        Case(f"a refusal with {what}", [infer("refuses", asks(number(-code)))])
        for code, what in enumerate(
            (
                "no code",
                "UNKNOWN",
                "INTERNAL",
                "NOT_FOUND",
                "INVALID_ARG",
                "UNAVAILABLE",
                "UNSUPPORTED",
                "ALREADY_EXISTS",
                "CANCELLED",
            ),
            1,
        )
    ),
    Case("a refusal beside an answer", [infer("refuses", asks(number(-5))), infer("refuses", asks(number(4)))]),
    Case("a refusal of a request with an id", [infer("refuses", asks(number(-5), id="mine"))]),
    Case("an exception", [infer("raises", asks(number(-1)))]),
    Case("an exception beside an innocent", [infer("raises", asks(number(-1))), infer("raises", asks(number(4)))]),
    Case("a TritonModelException", [infer("raises", asks(number(101)))]),
    Case("a list of another length", [infer("raises", asks(number(100)))]),
    Case("an output that is not in the configuration", [infer("raises", asks(number(102)))]),
    Case("an output of another type", [infer("raises", asks(number(103)))]),
    Case("an output of another shape", [infer("raises", asks(number(104)))]),
    Case("a response without outputs", [infer("raises", asks(number(105)))]),
    Case("the next request after all of these", [infer("raises", asks(number(4)))]),
    Case("four requests together", [infer("batched", asks(number(1))) for _ in range(4)]),
    Case("rows are what is counted", [infer("batched", asks(number(1, 2))), infer("batched", asks(number(1, 2)))]),
    Case("a request as large as a batch", [infer("batched", asks(number(1, 8)))]),
]

STATISTICS = [
    Case("a request that is counted", [infer("versions", asks(number(0, 3)), "1")]),
    one("statistics", "/v2/models/versions/versions/1/stats"),
    one("statistics of all versions", "/v2/models/versions/stats"),
    one("statistics of an unknown model", "/v2/models/nothing/stats"),
    one("statistics of an unknown version", "/v2/models/versions/versions/7/stats"),
    one("statistics of refusals", "/v2/models/refuses/stats"),
]

REPOSITORY = [
    one("index", "/v2/repository/index", "POST"),
    one("index with an empty object", "/v2/repository/index", "POST", {"json": {}}),
    one("index of what is ready", "/v2/repository/index", "POST", {"json": {"ready": True}}),
    one("index by GET", "/v2/repository/index"),
    one("index with broken JSON", "/v2/repository/index", "POST", {"text": "{"}),
    one("load of what is loaded", "/v2/repository/models/text/load", "POST"),
    one("load with an empty object", "/v2/repository/models/text/load", "POST", {"json": {}}),
    one("load of an unknown model", "/v2/repository/models/nothing/load", "POST"),
    one("load of a model that fails", "/v2/repository/models/broken/load", "POST"),
    one("infer of a model that failed", "/v2/models/broken/infer", "POST", asks(number(1))),
    one("load by GET", "/v2/repository/models/text/load"),
    one(
        "load with another configuration",
        "/v2/repository/models/normalise/load",
        "POST",
        {
            "json": {
                "parameters": {
                    "config": json.dumps(
                        {
                            "backend": "python",
                            "max_batch_size": 2,
                            "input": [{"name": "INPUT", "data_type": "TYPE_FP32", "dims": [-1]}],
                            "output": [{"name": "OUTPUT", "data_type": "TYPE_FP64", "dims": [-1]}],
                            "instance_group": [{"kind": "KIND_CPU"}],
                        }
                    )
                }
            }
        },
    ),
    one("metadata under another configuration", "/v2/models/normalise"),
    one(
        "load with a configuration that is none",
        "/v2/repository/models/text/load",
        "POST",
        {"json": {"parameters": {"config": "{"}}},
    ),
    one("unload", "/v2/repository/models/add_sub/unload", "POST"),
    one("ready after the unload", "/v2/models/add_sub/ready"),
    one("metadata after the unload", "/v2/models/add_sub"),
    added("infer after the unload", asks(A, B)),
    one("index after the unload", "/v2/repository/index", "POST", {"json": {"ready": True}}),
    one("unload again", "/v2/repository/models/add_sub/unload", "POST"),
    one("unload of an unknown model", "/v2/repository/models/nothing/unload", "POST"),
    one("load again", "/v2/repository/models/add_sub/load", "POST"),
    added("infer after the load", asks(A, B)),
]

X = tensor("X", "FP32", [1, 4], [1, 2, 3, 4])
Y = tensor("Y", "FP32", [1, 4], [10, 20, 30, 40])


def ensemble(name: str, model: str, *inputs: dict[str, Any], version: str = "", **more: Any) -> Case:
    return Case(name, [infer(model, asks(*inputs, **more), version)])


ENSEMBLES = [
    one("metadata of an ensemble", "/v2/models/chain"),
    one("configuration of an ensemble", "/v2/models/chain/config"),
    one("ready of an ensemble", "/v2/models/chain/ready"),
    ensemble("an ensemble of two steps", "chain", X, Y),
    ensemble("an ensemble's request with an id", "chain", X, Y, id="mine"),
    ensemble("one output of an ensemble", "chain", X, Y, outputs=[{"name": "D"}]),
    ensemble("a tensor between the steps", "chain", X, Y, outputs=[{"name": "a"}]),
    ensemble("an ensemble of a version", "chain", X, Y, version="1"),
    ensemble("an ensemble of an unknown version", "chain", X, Y, version="7"),
    ensemble("an ensemble's missing input", "chain", X),
    ensemble("an ensemble's input of another type", "chain", X | {"datatype": "FP64"}, Y),
    ensemble("an ensemble's input of another shape", "chain", X | {"shape": [1, 3], "data": [1, 2, 3]}, Y),
    ensemble("rows of an ensemble", "chain", *[one | {"shape": [3, 4], "data": list(range(12))} for one in (X, Y)]),
    ensemble(
        "more rows than an ensemble takes", "chain", *[one | {"shape": [9, 4], "data": [1] * 36} for one in (X, Y)]
    ),
    ensemble("steps in another order, and one's output shown", "backwards", X, Y),
    ensemble("an ensemble within an ensemble", "nested", X, Y),
    ensemble("steps of two versions", "of_versions", number(0)),
    ensemble("both steps succeed", "fails", number(3)),
    ensemble("a step refuses", "fails", number(-5)),
    ensemble("a step refuses with another code", "fails", number(-4)),
    ensemble("a step refuses a request with an id", "fails", number(-5), id="mine"),
    ensemble("a step within an ensemble refuses", "fails_within", number(-7)),
    ensemble("a step answers with a tensor of another shape", "lacks", number(104)),
    ensemble("a step answers with a tensor of another type", "lacks", number(103)),
    ensemble("a step answers without outputs", "lacks", number(105)),
    ensemble("text through an ensemble", "texts", tensor("T", "BYTES", [2], ["hello", "wörld"])),
    ensemble("no text through an ensemble", "texts", tensor("T", "BYTES", [0], [])),
    ensemble("some of an ensemble's optional inputs", "may_lack", tensor("I", "INT8", [2], [1, 2])),
    ensemble(
        "an optional input's output that is asked for",
        "may_lack",
        tensor("I", "INT8", [2], [1, 2]),
        outputs=[{"name": "FO"}],
    ),
    ensemble("an ensemble that reshapes", "forms", X | {"shape": [1, 2, 2]}, Y),
    ensemble("an ensemble that reshapes, in the inner shape", "forms", X, Y),
    ensemble("an input that is an output", "through", X, Y),
    ensemble(
        "classes of an ensemble",
        "labelled",
        X,
        Y | {"data": [1, 9, 3, 2]},
        outputs=[{"name": "S", "parameters": {"classification": 2}}],
    ),
    ensemble("binary out of an ensemble", "chain", X, Y, parameters={"binary_data_output": True}),
    *[
        one(f"load of an ensemble: {name.replace('_', ' ')}", f"/v2/repository/models/{name}/load", "POST")
        for name in BROKEN_ENSEMBLES
    ],
    ensemble("infer of an ensemble that failed", "too_wide", X, Y),
    one("unload of an ensemble", "/v2/repository/models/nested/unload", "POST"),
    one("ready of an ensemble that is unloaded", "/v2/models/nested/ready"),
    one("ready of its steps", "/v2/models/chain/ready"),
    one("load of an ensemble", "/v2/repository/models/nested/load", "POST"),
    one("unload of a model of ensembles", "/v2/repository/models/text/unload", "POST"),
    one("ready of an ensemble without its model", "/v2/models/texts/ready"),
    ensemble("infer of an ensemble without its model", "texts", tensor("T", "BYTES", [1], ["a"])),
    one("load of the model of ensembles", "/v2/repository/models/text/load", "POST"),
    one("ready of an ensemble with its model again", "/v2/models/texts/ready"),
]

#: Nobody knows what a server is like after these.
LAST = [
    added("an empty body", None),
    added("raw bytes for a model of two inputs", {"hex": AB.hex()}, Inference_Header_Content_Length="0"),
    Case(
        "raw bytes for a model of one input",
        [infer("normalise", {"hex": floats(1, 2).hex()}, Inference_Header_Content_Length="0")],
    ),
]

CASES = [*HEALTH, *METADATA, *JSON_TENSORS, *BAD, *BINARY, *OUTCOMES, *STATISTICS, *ENSEMBLES, *REPOSITORY, *LAST]
