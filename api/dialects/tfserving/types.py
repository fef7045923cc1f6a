"""TensorFlow's types of elements, beside those of `model.toml` and of the Open Inference Protocol."""

from typing import NamedTuple

from headway import tensors


class Type(NamedTuple):
    """`name` as in metadata, `number` as in messages, `word` as in errors; `in_json`: REST takes and gives it."""

    name: str
    number: int
    word: str
    dtype: str  # of model.toml
    in_json: bool = True

    @property
    def datatype(self) -> str:
        """Of `headway.tensors`."""
        return tensors.DATATYPES[self.dtype]


TYPES = (
    Type("DT_FLOAT", 1, "float", "float32"),
    Type("DT_DOUBLE", 2, "double", "float64"),
    Type("DT_INT32", 3, "int32", "int32"),
    Type("DT_UINT8", 4, "uint8", "uint8"),
    Type("DT_INT16", 5, "int16", "int16"),
    Type("DT_INT8", 6, "int8", "int8"),
    Type("DT_STRING", 7, "string", "string"),
    Type("DT_INT64", 9, "int64", "int64"),
    Type("DT_BOOL", 10, "bool", "bool"),
    Type("DT_BFLOAT16", 14, "bfloat16", "bfloat16", in_json=False),
    Type("DT_UINT16", 17, "uint16", "uint16", in_json=False),
    Type("DT_HALF", 19, "half", "float16", in_json=False),
    Type("DT_UINT32", 22, "uint32", "uint32"),
    Type("DT_UINT64", 23, "uint64", "uint64"),
)
BY_NAME = {one.name: one for one in TYPES}
BY_NUMBER = {one.number: one for one in TYPES}
BY_DTYPE = {one.dtype: one for one in TYPES}
BY_DATATYPE = {one.datatype: one for one in TYPES}
