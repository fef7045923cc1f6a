"""The real servers' virtual environments: one each, of the exact versions in `requirements/SYSTEM.txt`.

One that is there and has what its requirements say is left as it is. `HEADWAY_SERVERS` names another folder for them.
"""

import os
import subprocess
import venv
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_LIMIT_S = 1800.0


def folder(system: str) -> Path:
    """Where the virtual environment of a system is, or will be."""
    return Path(os.environ.get("HEADWAY_SERVERS") or _HERE.parent.parent / ".headway" / "servers") / system


def build(system: str) -> None:
    """Raises CalledProcessError where something cannot be installed."""
    wanted = (_HERE / "requirements" / f"{system}.txt").read_text(encoding="utf-8")
    home = folder(system)
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"{system}: is there")
        return
    print(f"{system}: building {home} …", flush=True)
    if not (home / "bin" / "python").exists():
        venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = [line for line in wanted.splitlines() if line.startswith("torch==")]
    if torch:  # first, so that nothing pulls another build of it
        subprocess.run([*pip, *torch], check=True, timeout=_LIMIT_S)
    subprocess.run([*pip, "--requirement", str(_HERE / "requirements" / f"{system}.txt")], check=True, timeout=_LIMIT_S)
    stamp.write_text(wanted, encoding="utf-8")
