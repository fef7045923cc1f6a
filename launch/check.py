"""`headway check models/NAME`: what a worker would do with the model, once, without a server.

The rule: it says "works" only of a model that was loaded in a real device process and answered its example, alone and
as a full batch.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headway import signature
from headway.manifest import Manifest, Tensor
from headway.types import Outcome
from headway.versions import Found, scan_model
from workers.executor import DeviceHung, DeviceLost, Executor, Loaded, LoadFailed

_UNTRIED = "loads; with [model] example = … in model.toml it would be run too"


class _Broken(Exception):  # noqa: N818
    """The version does not work; the message says why."""


def run(model_folder: Path, device: str, console: Console) -> int:
    """Checks every version that would be served. 0 if all of them work, else 1."""
    folder = model_folder.resolve()
    if not folder.is_dir():
        console.print(f"[red]✗[/] there is no folder {escape(str(model_folder))}")
        return 1
    return max(_check(found, device, console) for found in scan_model(folder) if found.wanted)


def _check(found: Found, device: str, console: Console) -> int:
    title = f"{found.model}@{found.version}" if found.version else found.model
    try:
        if found.error is not None or found.manifest is None:
            raise _Broken(found.error)
        if found.manifest.steps:
            models = ", ".join(dict.fromkeys(step.model for step in found.manifest.steps))
            console.print(f"[green]✓[/] {escape(title)} is an ensemble of {escape(models)}: check these")
            return 0
        with console.status(f"{title}: loading on {device}"):
            executor = Executor(
                model=found.model, version=found.version, path=found.path, manifest=found.manifest, device=device
            )
            loaded = executor.load()
        try:
            console.print(_facts(title, device, found, found.manifest, loaded))
            ran = _run_example(executor, found.manifest, loaded, console)
        finally:
            executor.close()
    except (_Broken, LoadFailed, DeviceLost, DeviceHung) as error:
        console.print(f"[red]✗[/] {escape(title)}: {escape(str(error))}")
        return 1
    for note in found.manifest.config.get("notes", ()) if found.manifest.backend is not None else ():
        console.print(f"[yellow]![/] {escape(title)}: {escape(note)}")
    verdict = "works" if ran else "loads" if found.manifest.backend is not None else _UNTRIED
    console.print(f"[green]✓[/] {escape(title)} {escape(verdict)}")
    return 0


def _facts(title: str, device: str, found: Found, manifest: Manifest, loaded: Loaded) -> Table:
    table = Table(title=escape(title), show_header=False, title_justify="left")
    table.add_row("framework", loaded.framework)
    table.add_row("sha256", found.sha256)
    table.add_row("device", device)
    table.add_row("loaded in", f"{loaded.seconds:.2f} s, warm-up included")
    if loaded.memory_bytes is not None:
        table.add_row("memory", f"{loaded.memory_bytes / 2**20:,.0f} MiB")
    table.add_row("inputs", _tensors(loaded.inputs) or "any JSON value")
    if loaded.outputs:
        table.add_row("outputs", _tensors(loaded.outputs))
    batching = manifest.batching
    table.add_row("batching", f"up to {batching.max_batch_size}, within {batching.max_wait_ms:g} ms")
    return table


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    return "\n".join(escape(f"{name}: {tensor.dtype} {list(tensor.shape)}") for name, tensor in tensors.items())


def _run_example(executor: Executor, manifest: Manifest, loaded: Loaded, console: Console) -> bool:
    """Alone and as a full batch. False if there is no example. Raises _Broken."""
    example = signature.example(loaded.inputs, manifest)
    if example is None or loaded.framework == "triton-python":  # zeros are nothing that its clients send
        return False
    body = msgspec.json.encode(example)
    table = Table("batch", "predict", "an item", "round trip", "output")
    for size in sorted({1, manifest.batching.max_batch_size}):
        began = time.perf_counter()
        executor.submit(size, [(f"check-{index}", body) for index in range(size)])
        outcomes = executor.receive().outcomes
        took_ms = (time.perf_counter() - began) * 1e3
        output = _common_output(outcomes, size, own=manifest.example is not None)
        predict_ms = outcomes[0].predict_us / 1e3
        table.add_row(str(size), f"{predict_ms:.2f} ms", f"{predict_ms / size:.3f} ms", f"{took_ms:.2f} ms", output)
    console.print(table)
    return True


def _common_output(outcomes: list[Outcome], size: int, *, own: bool) -> str:
    failed = next((outcome.error for outcome in outcomes if outcome.error is not None), None)
    if failed is not None:
        hint = "" if own else "; it was tried with zeros: [model] example = … names an input that works"
        raise _Broken(f"a batch of {size} fails: {failed.code}: {failed.message}{hint}")
    if outcomes[0].batch_size != size:
        raise _Broken(f"a batch of {size} only works in parts; the log above says why")
    output, type_ = outcomes[0].output, outcomes[0].output_type
    assert output is not None
    if type_ is not None:
        return escape(f"{len(output):,} bytes of {type_}")
    return escape(_describe(msgspec.json.decode(output)))


def _describe(value: Any) -> str:
    """The form of a JSON value: `{"label": string, "scores": [10 × number]}`."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return f"[{len(value)} × {_describe(value[0])}]" if value else "[]"
        case _:
            return "{" + ", ".join(f'"{key}": {_describe(part)}' for key, part in value.items()) + "}"
