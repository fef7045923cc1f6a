"""The model archives that both are given, packed by TorchServe's own torch-model-archiver."""

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent / "models" / "torchserve"

#: Archive → what torch-model-archiver is told beside its name: handler, and files by option.
_ARCHIVES = {
    "echo": {"handler": "echo.py"},
    "scores": {"handler": "scores.py", "serialized-file": "net.pt"},
    "base": {"handler": "base.py", "serialized-file": "net.pt"},
    "function": {"handler": "function.py"},
    "together": {"handler": "echo.py", "config-file": "batch.yaml"},
    "broken": {"handler": "broken.py"},
}
ALL = tuple(_ARCHIVES)
QUICK = tuple(name for name, options in _ARCHIVES.items() if "serialized-file" not in options)  # no torch in them
#: A second version of an archive.
_SECOND = "echo", "2.0"


def build(folder: Path, python: Path = Path(sys.executable), only: Collection[str] = ALL) -> None:
    """`NAME.mar` each into a folder, with the archiver of a Python; of the second version, `NAME_2.mar`."""
    net, apart = folder / "net.pt", folder / "second"
    named = {name: options for name, options in _ARCHIVES.items() if name in only}
    if any(net.name in options.values() for options in named.values()):
        _save(net)
    apart.mkdir()
    second, version = _SECOND
    runs = [_options(folder, name, options, net) for name, options in named.items()]
    runs.append(_options(apart, second, _ARCHIVES[second], net, version))
    subprocess.run([python, "-c", _PACK, json.dumps(runs)], check=True, capture_output=True, timeout=120)
    (apart / f"{second}.mar").rename(folder / f"{second}_{version[0]}.mar")
    apart.rmdir()
    net.unlink(missing_ok=True)


#: One process for all of them.
_PACK = """
import json, sys
from model_archiver.model_packaging import generate_model_archive

for options in json.loads(sys.argv[1]):
    sys.argv[1:] = options
    generate_model_archive()
"""


def _options(folder: Path, name: str, options: dict[str, str], net: Path, version: str = "1.0") -> list[str]:
    made = ["--model-name", name, "--version", version, "--export-path", str(folder)]
    for option, file in options.items():
        made += [f"--{option}", str(net if file == net.name else _SOURCES / file)]
    return made


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
