"""What the steps' models make of an ensemble: whether it takes requests, or why not.

No worker has an ensemble. Its state is that of its steps, worked out anew whenever the registry is read; what is wrong
with it is said as Triton says it. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from headway.manifest import Manifest, Step, Tensor
from headway.registry import Version
from headway.triton.mapping import data_type_of, within

Shape = tuple[int, ...]


class _View(Protocol):
    @property
    def versions(self) -> Mapping[str, Version]: ...
    @property
    def latest(self) -> str: ...


class _Broken(Exception):  # noqa: N818
    """Why it cannot be served."""


class _Circle(_Broken):
    """All on the way back to where it began are broken by it."""


def judged(views: Mapping[str, _View]) -> dict[str, list[Version]]:
    """All versions of those models that have ensembles among them, with their states."""
    judge = _Judge(views)
    return {
        name: [judge.row(row) for row in view.versions.values()]
        for name, view in views.items()
        if any(row.manifest.steps for row in view.versions.values())
    }


class _Judge:
    def __init__(self, views: Mapping[str, _View]) -> None:
        self._views = views
        self._known: dict[tuple[str, str], Version] = {}
        self._path: list[str] = []  # of ensembles within one another

    def row(self, row: Version) -> Version:
        if not row.manifest.steps or row.state == "failed":  # its folder is
            return row
        key = row.model, row.version
        if key not in self._known:
            self._path.append(row.model)
            try:
                self._known[key] = self._of_steps(row, self._steps(row))
            except _Circle as circle:
                if len(self._path) > 1:
                    raise
                self._known[key] = msgspec.structs.replace(row, state="failed", reason=str(circle))
            except _Broken as broken:
                self._known[key] = msgspec.structs.replace(row, state="failed", reason=str(broken))
            finally:
                self._path.pop()
        return self._known[key]

    def _steps(self, ensemble: Version) -> list[Version]:
        """The version of each step. Raises _Broken."""
        name = ensemble.model
        unknown = {step.model for step in ensemble.manifest.steps} - self._views.keys()
        if unknown:
            listed = ", ".join(sorted(unknown))
            raise _Broken(f"ensemble {name} contains models that are not available or ambiguous: {listed}")
        rows = []
        for step in ensemble.manifest.steps:
            view = self._views[step.model]
            if step.model in self._path:
                first = self._path[self._path.index(step.model)]
                raise _Circle(f"circular dependency between ensembles: {first} -> ... -> {name} -> {step.model}")
            version = view.latest if step.version is None else step.version
            if version not in view.versions:
                raise _Broken(
                    f"ensemble '{name}' depends on '{step.model}' whose required version {version} is not loaded."
                )
            row = self.row(view.versions[version])
            if row.state == "failed":
                raise _Broken(
                    f"ensemble '{name}' depends on '{step.model}' which has no loaded version. Model '{step.model}' "
                    f"loading failed with error: version {row.version} is at UNAVAILABLE state: {row.reason};"
                )
            rows.append(row)
        return rows

    def _of_steps(self, ensemble: Version, steps: list[Version]) -> Version:
        """Raises _Broken."""
        _check(ensemble, steps)
        if ensemble.wish == "unload" or any(row.wish == "unload" for row in steps):
            return msgspec.structs.replace(ensemble, state="unloaded", reason="unloaded", wish="unload")
        for state in ("loading", "unloaded"):
            if waits := next((row for row in steps if row.state == state), None):
                return msgspec.structs.replace(
                    ensemble, state=waits.state, reason=waits.reason and f"{waits.model}: {waits.reason}"
                )
        return msgspec.structs.replace(ensemble, state="ready", reason=None, loaded_at=_latest(steps))


def _latest(rows: Iterable[Version]) -> int | None:
    return max((row.loaded_at or 0 for row in rows), default=0) or None


class _Tensor(msgspec.Struct, frozen=True):
    """What a model takes one of the ensemble's tensors to be."""

    model: str
    dtype: str
    shape: Shape  # of a request
    batched: bool


def _check(ensemble: Version, steps: list[Version]) -> None:
    """Raises _Broken where a step's model and the ensemble do not fit one another. What none declares is not known."""
    name, manifest = ensemble.model, ensemble.manifest
    said: dict[str, _Tensor] = {}
    seen = within(manifest)  # by its steps, where it reshapes
    for tensor, declared in (*seen.inputs.items(), *seen.outputs.items()):
        said[tensor] = _tensor(name, manifest, declared)
    for step, row in zip(manifest.steps, steps, strict=True):
        if not row.manifest.inputs:
            continue
        _check_rows(name, manifest, row)
        _check_names(name, step, row)
        for names, of_model in ((step.inputs, row.manifest.inputs), (step.outputs, row.manifest.outputs)):
            for inner, tensor in names.items():
                found = _tensor(step.model, row.manifest, of_model[inner])
                before = said.setdefault(tensor, found)
                _check_alike(name, tensor, before, found)


def _tensor(model: str, manifest: Manifest, tensor: Tensor) -> _Tensor:
    shape = (-1, *tensor.shape) if manifest.items == "stacked" else tensor.shape
    return _Tensor(model, tensor.dtype, shape, manifest.items != "alone")


def _check_rows(name: str, ensemble: Manifest, row: Version) -> None:
    most, inner = ensemble.batching.max_batch_cost, row.manifest.batching.max_batch_cost
    if most and inner and row.manifest.items == "joined" and inner < most:
        raise _Broken(
            f"ensemble {name} allows maximum batch size {most}, but it contains model {row.model} which only allows "
            f"maximum batch size to be {inner}"
        )


def _check_names(name: str, step: Step, row: Version) -> None:
    manifest = row.manifest
    for inner, tensor in step.inputs.items():
        if inner not in manifest.inputs:
            raise _Broken(
                f"in ensemble {name}, ensemble tensor {tensor} is mapping to non-existing input {inner} in model "
                f"{row.model}"
            )
    for inner, declared in manifest.inputs.items():
        if inner not in step.inputs and not declared.optional:
            raise _Broken(
                f"in ensemble {name}, input {inner} in model {row.model} is not mapped to any ensemble tensors"
            )
    for inner, tensor in step.outputs.items():
        if inner not in manifest.outputs:
            raise _Broken(
                f"in ensemble {name}, ensemble tensor {tensor} is mapped from non-existing output {inner} in model "
                f"{row.model}"
            )


def _check_alike(name: str, tensor: str, one: _Tensor, other: _Tensor) -> None:
    if one.dtype != other.dtype:
        raise _Broken(
            f"in ensemble {name}, ensemble tensor {tensor}: inconsistent data type: {data_type_of(one.dtype)} is "
            f"inferred from model {one.model} while {data_type_of(other.dtype)} is inferred from model {other.model}"
        )
    forms = [(one.shape, other.shape)]
    if one.batched != other.batched:  # the rows of one may be a length of the other
        forms.append((one.shape[1:], other.shape) if one.batched else (one.shape, other.shape[1:]))
    if not any(_alike(*form) for form in forms):
        raise _Broken(
            f"in ensemble {name}, ensemble tensor {tensor}: inconsistent shape: {_listed(one.shape)} is inferred from "
            f"model {one.model} while {_listed(other.shape)} is inferred from model {other.model}"
        )


def _alike(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _listed(shape: Shape) -> str:
    return f"[{','.join(map(str, shape))}]"
