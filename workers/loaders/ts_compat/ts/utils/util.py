"""Labels, the classes of a module, and the exception that has a status."""

import inspect
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)


class PredictionException(Exception):  # noqa: N818  (the name that handlers import)
    """Raised by a handler: the request fails with this status and message."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that a module itself defines, by name; of `parent_class` only, if given."""
    defined = [
        cls for _, cls in sorted(vars(module).items()) if inspect.isclass(cls) and cls.__module__ == module.__name__
    ]
    return [cls for cls in defined if parent_class is None or issubclass(cls, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """`index_to_name.json`: index → label, of a list of names the last. None where there is no such file."""
    file = Path(mapping_file_path)
    if not file.is_file():
        logger.info("there is no %s: outputs have no names of classes", file.name)
        return None
    mapping = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise ValueError(f"{file.name} should be an object of index and label")
    if isinstance(names := mapping.get("object_type_names"), list):
        return {str(index): name for index, name in enumerate(names)}
    labels = {index: name[-1] if isinstance(name, list) and name else name for index, name in mapping.items()}
    if wrong := [index for index, name in labels.items() if not isinstance(name, str)]:
        raise ValueError(f"{file.name}: the label of {wrong[0]!r} should be a string, or a list of strings")
    return labels


def map_class_to_label(
    probs: list[Sequence[float]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Iterable[Sequence[int]] | None = None,
) -> list[dict[str, float]]:
    """{label: probability} of each row; `lbl_classes` names the classes that a row's numbers are of, else 0, 1, …"""
    if not isinstance(probs, list):
        raise TypeError(f"probs is {type(probs).__name__}, and should be a list")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError(f"mapping is {type(mapping).__name__}, and should be a dict")
    classes = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {_label(mapping, index): number for index, number in zip(of_row, row, strict=False)}
        for of_row, row in zip(classes, probs, strict=False)
    ]


def _label(mapping: dict[str, str] | None, index: int) -> str:
    return str(index) if mapping is None else mapping[str(index)]


def get_yaml_config(yaml_file_path: str) -> Any:
    import yaml

    with Path(yaml_file_path).open(encoding="utf-8") as stream:
        return yaml.safe_load(stream)
