"""Which devices this machine has, found without importing torch (seconds, and half a gigabyte in the supervisor).

A GPU is named by its place on the PCI bus, which is how nvidia-smi counts and how the device processes are pinned.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from headway.errors import SettingsError

_DEVICE = re.compile(r"cpu|mps|cuda:(0|[1-9]\d*)")
_SMI_LINE = re.compile(r"GPU (?P<index>\d+): .*\(UUID: (?P<uuid>[^)]+)\)")


def choose(wanted: str, environ: Mapping[str, str]) -> list[str]:
    """The devices of `auto`, or of a list such as `cuda:0,cuda:1`. Never empty. Raises SettingsError."""
    if wanted.strip() == "auto":
        return visible(installed(), environ.get("CUDA_VISIBLE_DEVICES")) or ["cpu"]
    devices = [device.strip() for device in wanted.split(",")]
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise SettingsError(f"{device!r} is no device; there are auto, cpu, mps and cuda:0, cuda:1, …")
    if len(set(devices)) < len(devices):
        raise SettingsError(f"{wanted!r} names a device twice; for several instances see [resources] in model.toml")
    return devices


def installed() -> list[str]:
    """The UUID of every NVIDIA GPU, in PCI order."""
    if shutil.which("nvidia-smi"):
        return _ask_nvidia_smi()
    return _read_proc(Path("/proc/driver/nvidia/gpus"))


def visible(uuids: list[str], cuda_visible_devices: str | None) -> list[str]:
    """`cuda:N` of each that CUDA_VISIBLE_DEVICES leaves, in its order; all where it is not set.

    As in CUDA, an entry is an index or the beginning of a UUID, and the first that fits nothing ends the list.
    """
    if cuda_visible_devices is None:
        return [f"cuda:{index}" for index in range(len(uuids))]
    devices: list[str] = []
    for entry in cuda_visible_devices.split(","):
        index = _index(entry.strip(), uuids)
        if index is None:
            break
        devices.append(f"cuda:{index}")
    return devices


def _index(entry: str, uuids: list[str]) -> int | None:
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    fitting = [index for index, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _ask_nvidia_smi() -> list[str]:
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_nvidia_smi(answer.stdout)


def parse_nvidia_smi(text: str) -> list[str]:
    """The UUIDs in the output of `nvidia-smi -L`. Its indented lines are MIG slices of the GPU above them."""
    return [match["uuid"] for line in text.splitlines() if (match := _SMI_LINE.match(line))]


def _read_proc(gpus: Path) -> list[str]:
    uuids = []
    for information in sorted(gpus.glob("*/information")):  # the folders are named by PCI address
        match = re.search(r"^GPU UUID:\s*(\S+)", information.read_text(encoding="utf-8"), re.MULTILINE)
        uuids.append(match[1] if match else information.parent.name)
    return uuids
