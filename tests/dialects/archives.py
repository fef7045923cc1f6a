"""The model archives that both are given, packed by TorchServe's own torch-model-archiver."""

import subprocess
import sys
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent / "models" / "torchserve"

#: Archive → what torch-model-archiver is told beside its name: handler, and files by option.
_ARCHIVES = {
    "echo": {"handler": "echo.py"},
    "scores": {"handler": "scores.py", "serialized-file": "net.pt"},
    "base": {"handler": "base.py", "serialized-file": "net.pt"},
    "function": {"handler": "function.py"},
    "batched": {"handler": "echo.py", "config-file": "batch.yaml"},
    "broken": {"handler": "broken.py"},
}
#: A second version of an archive.
_SECOND = "echo", "2.0"


def build(folder: Path, python: Path = Path(sys.executable)) -> None:
    """Into an empty folder, `NAME.mar` each, with the archiver of a Python."""
    net = folder / "net.pt"
    _save(net)
    for name, options in _ARCHIVES.items():
        _pack(folder, python, name, options, net)
    second, version = _SECOND
    apart = folder / "second"
    apart.mkdir()
    _pack(apart, python, second, _ARCHIVES[second], net, version)
    (apart / f"{second}.mar").rename(folder / f"{second}_{version[0]}.mar")
    apart.rmdir()
    net.unlink()


def _pack(folder: Path, python: Path, name: str, options: dict[str, str], net: Path, version: str = "1.0") -> None:
    command = [str(python), "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    for option, file in options.items():
        command += [f"--{option}", str(net if file == net.name else _SOURCES / file)]
    subprocess.run([*command, "--export-path", str(folder)], check=True, capture_output=True, timeout=120)


def _save(file: Path) -> None:
    """A TorchScript module with weights that are written here: 3 features to 2 scores."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        layer = torch.nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 0.5, -1.0], [-0.5, 1.0, 0.25]]))
            layer.bias.copy_(torch.tensor([0.0, 0.125]))
        torch.jit.script(layer.eval()).save(str(file))  # type: ignore[no-untyped-call]
