"""How much of its device's memory a worker may fill with models, and what one will probably take."""

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)

#: What is left to drivers, to fragments and to who else looks at the device.
_SHARE = 0.92
#: What a process takes on a GPU beside its tensors: its context, and kernels of libraries.
CONTEXT_BYTES = 512 * 1024 * 1024


def budget(device: str, wanted: int | None) -> int | None:
    """Bytes. What the operator says; else most of a GPU's; else None: as much as there is."""
    if wanted is not None or not device.startswith("cuda"):
        return wanted
    total = _of_gpu(int(device.partition(":")[2] or 0))
    return None if total is None else int(total * _SHARE)


def resident(pid: int | None) -> int | None:
    """Bytes of main memory that a process holds; None where it has ended, or this is no Linux."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGESIZE")


def _of_gpu(index: int) -> int | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index)] if visible is None else [name for name in visible.split(",") if name]
    name = names[0] if visible is None else names[index] if index < len(names) else None
    if name is None:
        return None
    command = ["nvidia-smi", f"--id={name}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = answer.stdout.strip()
    if not text.isdecimal():
        log.warning("nvidia-smi does not say how much memory %s has: HEADWAY_DEVICE_MEMORY can", name)
        return None
    return int(text) * 1024 * 1024


def guess(version_folder: Path) -> int:
    """What a version takes that was never loaded: its files, for lack of anything better."""
    total = 0
    for folder, _, files in os.walk(version_folder):
        for file in files:
            try:
                total += os.stat(os.path.join(folder, file)).st_size
            except OSError:
                continue
    return total
