"""`model.py`, or the class that `[model] entry` names."""

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from headway.manifest import Graph, Manifest, Tensor
from headway.model import Context, Model
from workers.loaders import LoadedModel, Unloadable


class PythonModel:
    """A model author's class, loaded."""

    framework = "python"

    def __init__(self, model: Model, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._predict: Any = model.predict
        self._takes_context = _takes_context(model)

    def predict(self, inputs: list[Any], context: Context) -> object:
        answer: object = self._predict(inputs, context) if self._takes_context else self._predict(inputs)
        return answer


def load(manifest: Manifest, context: Context) -> LoadedModel:
    read_sources_only(context.path)
    cls: Any = _entry(manifest.entry) if manifest.entry else _only_model(_import_file(context.path / "model.py"))
    if not issubclass(cls, Model):
        from workers.loaders import weights  # it is torch's, so torch has been imported

        return weights.load(cls, manifest, context)
    if manifest.graph != Graph():
        raise Unloadable("[graph] is for graphs and weights: model.py calls torch.compile and its like itself")
    if inspect.iscoroutinefunction(cls.predict):
        raise Unloadable(
            f"{cls.__name__}.predict is async, and should be a plain function: it has a process of its own"
        )
    model = cls()
    model.load(context)
    return PythonModel(model, manifest.inputs, manifest.outputs)


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles what stands in the file: a `__pycache__` beside it may say something else, and no digest is of it."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def read_sources_only(folder: Path) -> None:
    """From now on modules of the version folder are imported from their sources alone."""
    find = importlib.machinery.FileFinder.path_hook(
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (_Source, importlib.machinery.SOURCE_SUFFIXES),
    )

    def hook(path: str) -> Any:
        if not Path(path).is_relative_to(folder):
            raise ImportError("not of the model", path=path)
        return find(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


def _import_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("model", file, loader=_Source("model", str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module  # as after an import: dataclasses and pickles in there look themselves up
    spec.loader.exec_module(module)
    return module


def _only_model(module: ModuleType) -> type[Model]:
    """The one Model class that the file defines and no other in it builds on."""
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Model) and value.__module__ == module.__name__
    ]
    leaves = [cls for cls in defined if not any(other is not cls and issubclass(other, cls) for other in defined)]
    if len(leaves) == 1:
        return leaves[0]
    if not leaves:
        raise Unloadable("model.py defines no subclass of headway.Model")
    names = " and ".join(cls.__name__ for cls in leaves)
    raise Unloadable(f'model.py defines {names}: say which one, [model] entry = "model:{leaves[0].__name__}"')


def _entry(entry: str) -> Any:
    """A class of ours, or of torch's for weights alone."""
    module, _, name = entry.partition(":")
    cls = getattr(importlib.import_module(module), name, None)
    torch = sys.modules.get("torch")
    if isinstance(cls, type) and (issubclass(cls, Model) or (torch and issubclass(cls, torch.nn.Module))):
        return cls
    raise Unloadable(f"[model] entry: {entry} is no subclass of headway.Model, nor of torch.nn.Module")


def _takes_context(model: Model) -> bool:
    try:
        inspect.signature(model.predict).bind([], None)
    except TypeError:
        return False
    return True
