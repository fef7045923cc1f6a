"""A method's parameters and its answer, as pydantic models: read from annotations, shown as JSON schema.

An array is a `tensor` of the schema and nested lists in JSON, a path is a `file` and comes as a part of a form. A
parameter that may only be given by position is the request's whole body (`root`).
"""

import inspect
import io
import json
import mimetypes
import os
import pathlib
import sys
import tempfile
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Union

import numpy as np
import pydantic
from pydantic_core import PydanticCustomError, core_schema

from workers.loaders.bentoml_sdk.exceptions import Unsupported

JSON = "application/json"
_ITERATORS = (AsyncGenerator, AsyncIterator, Generator, Iterator)


class Upload(NamedTuple):
    """A file of a form."""

    name: str
    type: str
    body: bytes


class DType(NamedTuple):
    """Of an array's numbers, as numpy or torch names it."""

    dtype: str


class Shape(NamedTuple):
    """That an array is brought into."""

    dimensions: tuple[int, ...]


class ContentType(NamedTuple):
    """The media type of a file, or of an answer."""

    content_type: str


class _Tensor:
    """An array of numpy or torch within a pydantic model."""

    def __init__(self, form: str, dtype: str | None, shape: tuple[int, ...] | None) -> None:
        self._form, self._dtype, self._shape = form, dtype, shape

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            self._validate,
            core_schema.any_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(self._listed),
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        said: dict[str, Any] = handler(schema)
        said |= {"type": "tensor", "format": self._form}
        if self._dtype is not None:
            said["dtype"] = self._dtype
        if self._shape is not None:
            said |= {"shape": list(self._shape), "dim": int(np.prod(self._shape))}
        return said

    def _validate(self, value: Any) -> Any:
        if self._form == "numpy-array":
            if isinstance(value, np.ndarray):
                return value
            array = np.array(value, dtype=self._dtype)
            return array if self._shape is None else array.reshape(self._shape)
        import torch

        if isinstance(value, torch.Tensor):
            return value
        tensor = torch.tensor(value, dtype=None if self._dtype is None else getattr(torch, self._dtype))
        return tensor if self._shape is None else tensor.reshape(self._shape)

    @staticmethod
    def _listed(value: Any) -> Any:
        return value.tolist()


class _File:
    """A file, given as a path, within a pydantic model. It lies in the folder of the request that is being parsed."""

    def __init__(self, content_type: str | None, *, image: bool) -> None:
        self._content_type, self._image = content_type, image

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._validate, core_schema.any_schema())

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        said: dict[str, Any] = handler(schema)
        if self._image:
            return said | {"type": "file", "format": "image", "pil": True}
        kind = "binary" if self._content_type is None else self._content_type.partition("/")[0]
        said |= {"type": "file", "format": kind}
        return said if self._content_type is None else said | {"content_type": self._content_type}

    def _validate(self, value: Any) -> Any:
        if self._image:
            return self._picture(value)
        if isinstance(value, pathlib.PurePath):
            return pathlib.Path(value)
        if isinstance(value, str | bytes):
            value = Upload("", "", value.encode() if isinstance(value, str) else value)
        if not isinstance(value, Upload):
            raise PydanticCustomError("path_type", "Invalid file type")
        suffix = os.path.basename(value.name.replace("\0", "").replace("\\", "/"))
        with tempfile.NamedTemporaryFile(suffix=suffix[-100:], dir=folder.name, delete=False) as file:
            file.write(value.body)
        return pathlib.Path(file.name)

    def _picture(self, value: Any) -> Any:
        from PIL import Image

        body = value.body if isinstance(value, Upload) else value
        return Image.open(io.BytesIO(body)) if isinstance(body, bytes) else body


class _Folder:
    """Where the files of the requests of a call lie."""

    name = tempfile.gettempdir()


folder = _Folder()


def _patched(annotation: Any, marks: Sequence[Any] = ()) -> Any:
    """The annotation with what pydantic does not know replaced by what it does. Raises Unsupported."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner, *extra = arguments
        patched = _patched(inner, extra)
        kept = tuple(one for one in extra if not isinstance(one, DType | Shape | ContentType))
        return Annotated[(patched, *kept)] if kept else patched
    if origin is np.ndarray:  # numpy.typing's NDArray
        annotation, arguments = np.ndarray, ()
    if isinstance(annotation, type):
        dtype = next((mark.dtype for mark in marks if isinstance(mark, DType)), None)
        shape = next((tuple(mark.dimensions) for mark in marks if isinstance(mark, Shape)), None)
        of = f"{annotation.__module__}.{annotation.__qualname__}"
        if annotation is np.ndarray or of == "torch.Tensor":
            form = "numpy-array" if annotation is np.ndarray else "torch-tensor"
            return Annotated[Any, _Tensor(form, dtype, shape)]
        if of.startswith(("pandas.", "tensorflow.")):
            raise Unsupported(f"{of} is not taken: a parameter is JSON, an array of numpy or torch, or a file")
        if issubclass(annotation, pathlib.PurePath) or of == "PIL.Image.Image":
            media = next((mark.content_type for mark in marks if isinstance(mark, ContentType)), None)
            return Annotated[Any, _File(media, image=of == "PIL.Image.Image")]
    if not arguments or origin is None or origin is typing.Literal:
        return annotation
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_patched, arguments))]  # noqa: UP007  (of a tuple)
    if all(_patched(one) is one for one in arguments):
        return annotation
    return origin[tuple(map(_patched, arguments))]


def _is_file(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return any(isinstance(mark, _File) for mark in annotation.__metadata__)
    return any(map(_is_file, typing.get_args(annotation)))


class Input:
    """What a method takes."""

    def __init__(self, func: Callable[..., Any], skip: str | None) -> None:
        """`skip`: a parameter that is the context. Raises Unsupported."""
        hints = _hints(func)
        fields: dict[str, Any] = {}
        roots: list[tuple[Any, Any]] = []
        parameters = list(inspect.signature(func).parameters.values())[1:]
        for parameter in parameters:
            if parameter.name == skip:
                continue
            annotation = _patched(hints.get(parameter.name, Any))
            default = ... if parameter.default is parameter.empty else parameter.default
            name = parameter.name
            if parameter.kind is parameter.VAR_KEYWORD:
                name, annotation = "kwargs", dict[str, Any]
            elif parameter.kind is parameter.VAR_POSITIONAL:
                name, annotation = "args", types.GenericAlias(list, (annotation,))
            if parameter.kind is parameter.POSITIONAL_ONLY:
                roots.append((annotation, default))
            else:
                fields[name] = (annotation, default)
        if roots and (fields or len(roots) > 1):
            raise Unsupported(f"{func.__name__} has a parameter by position only, which then has to be its only one")
        self.root = bool(roots)
        self._whole = False  # the body is a model of the author's
        if not roots:
            self._model = pydantic.create_model("Input", **fields)
        elif _is_model(roots[0][0]):
            self._model, self._whole = roots[0][0], True
        else:
            self._model = pydantic.create_model(f"{_name(roots[0][0], hints)}IODescriptor", root=roots[0])
        self.files = [name for name, field in fields.items() if _is_file(field[0])]
        self._lists = {name for name in self.files if typing.get_origin(fields[name][0]) is list}
        self.schema = _schema(self._model) if self._whole or not roots else _adapted(roots[0][0])
        if self.root:
            self.schema["root_input"] = True

    def of_json(self, body: bytes) -> dict[str, Any]:
        """Arguments by name; of a root, one by the name "". Raises ValidationError, ValueError."""
        if self._whole:
            return {"": self._model.model_validate_json(body or b"{}")}
        if not self.root:
            return self._arguments(self._model.model_validate_json(body or b"{}"))
        parsed: Any = body or b"{}"
        if self.schema.get("type") not in ("string", "file"):
            parsed = json.loads(body or b"{}")
        return self.of_value(parsed)

    def of_value(self, value: Any) -> dict[str, Any]:
        """Of the whole of a root."""
        return {"": self._model.model_validate({"root": value}).root}

    def of_form(self, fields: Sequence[tuple[str, Upload | str]]) -> dict[str, Any]:
        """Of a form: files where there should be some, and JSON or text elsewhere. Raises as `of_json`."""
        data: dict[str, Any] = {}
        for name, value in fields:
            if name in self._lists:
                data.setdefault(name, []).append(value)
            elif name in self.files:
                data.setdefault(name, value)
            else:
                text = value.body if isinstance(value, Upload) else value
                try:
                    data[name] = json.loads(text)
                except ValueError:
                    data[name] = text
        if self._whole:
            return {"": self._model.model_validate(data)}
        return self.of_value(data) if self.root else self._arguments(self._model.model_validate(data))

    def _arguments(self, model: pydantic.BaseModel) -> dict[str, Any]:
        return {name: getattr(model, name) for name in type(model).model_fields}


class Output:
    """What a method answers."""

    def __init__(self, func: Callable[..., Any]) -> None:
        """Raises Unsupported."""
        annotation = _hints(func).get("return", Any)
        media = None
        if typing.get_origin(annotation) in _ITERATORS:
            annotation = typing.get_args(annotation)[0]
        if typing.get_origin(annotation) is Annotated:
            media = next((one.content_type for one in annotation.__metadata__ if isinstance(one, ContentType)), None)
        patched = _patched(annotation)
        self._whole = _is_model(patched)
        name = f"{_name(annotation, {})}IODescriptor"
        if self._whole:
            self._model: type[pydantic.BaseModel] = pydantic.create_model(name, __base__=patched)
            self.schema = _schema(self._model)
        else:
            self._model = pydantic.create_model(name, root=(patched, ...))
            self.schema = _adapted(patched)
        if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
            self.schema |= {"is_stream": True}
            media = media or "text/event-stream"
        if media is not None:
            self.schema["media_type"] = media
        self.media_type = media or _media_type(self.schema)

    def rendered(self, value: Any) -> Any:
        """What JSON can hold, or a str, bytes or path as it is. Raises ValidationError for what is not as annotated."""
        if isinstance(value, pathlib.PurePath):
            return value
        if self._whole:
            return value.model_dump(mode="json")
        model = self._model.model_validate({"root": value})
        plain = model.model_dump()["root"]
        return plain if isinstance(plain, str | bytes) else model.model_dump(mode="json")["root"]

    def file(self, path: pathlib.PurePath) -> tuple[bytes, dict[str, str]]:
        """A path's content, and the headers that go with it. Raises OSError."""
        type_ = mimetypes.guess_type(path)[0] or self.media_type
        how = "inline" if type_.startswith("image") else "attachment"
        name = path.name.replace('"', "").encode("latin-1", "replace").decode("latin-1")
        body = pathlib.Path(path).read_bytes()
        return body, {"content-type": type_, "content-disposition": f'{how}; filename="{name}"'}


def _media_type(schema: Mapping[str, Any]) -> str:
    match schema.get("type"):
        case "string":
            return "text/plain"
        case "file":
            kind = schema.get("format")
            usual = f"{kind}/*" if kind in ("image", "audio", "video") else "application/octet-stream"
            return str(schema.get("content_type", usual))
    return JSON


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(func, vars(sys.modules[func.__module__]), include_extras=True)
    except Exception as error:
        raise Unsupported(f"the annotations of {func.__name__} cannot be read: {error}") from error


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def _name(annotation: Any, hints: Mapping[str, Any]) -> str:
    return getattr(annotation, "__name__", "")


def _adapted(annotation: Any) -> dict[str, Any]:
    """Of what is no model."""
    return pydantic.TypeAdapter(annotation).json_schema()


def _schema(model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Of a model, with those in it written out."""
    schema = model.model_json_schema()
    if not schema.get("properties"):
        return schema
    defs = schema.pop("$defs", {})
    return _written_out(schema, defs, frozenset())


def _written_out(schema: dict[str, Any], defs: dict[str, Any], within: frozenset[str]) -> dict[str, Any]:
    """Without references; of alternatives the first. A model within itself (`within`) is any object."""
    for key in ("allOf", "anyOf"):
        if key in schema:
            schema = {**{name: value for name, value in schema.items() if name != key}, **schema[key][0]}
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return rest | ({"type": "object"} if name in within else _written_out(defs[name], defs, within | {name}))
    if schema.get("type") == "object" and "properties" in schema:
        inner = {key: _written_out(value, defs, within) for key, value in schema["properties"].items()}
        return schema | {"properties": inner}
    if schema.get("type") == "array" and "items" in schema:
        return schema | {"items": _written_out(schema["items"], defs, within)}
    return schema
