"""Builds the peers' virtual environments: one each, of the exact versions in `bench/peers/NAME/requirements.txt`.

    python -m bench.build_peers [--venvs FOLDER] [NAME …]

One that is there and has what its requirements say is left as it is. Torch comes first, so that nothing pulls another.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from bench.sides import PEERS, VENVS

TORCH = "torch==2.13.0"
LIMIT_S = 1800.0


def main() -> int:
    names = sorted(path.parent.name for path in PEERS.glob("*/requirements.txt"))
    parser = argparse.ArgumentParser(description="The peers' virtual environments.")
    parser.add_argument("--venvs", type=Path, default=VENVS)
    parser.add_argument("--torch", default=TORCH, help="another build of it, or what pip should find first")
    parser.add_argument("names", nargs="*", metavar="NAME", default=names, help=", ".join(names))
    options = parser.parse_args()
    failed = []
    for name in options.names:
        try:
            build(name, options.venvs / name, options.torch)
        except (subprocess.SubprocessError, OSError) as error:
            failed.append(name)
            print(f"{name}: {error}")
    return 1 if failed else 0


def build(name: str, folder: Path, torch: str) -> None:
    """Raises CalledProcessError where something cannot be installed."""
    requirements = PEERS / name / "requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"{name}: is there")
        return
    print(f"{name}: building {folder} …", flush=True)
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, torch], check=True, timeout=LIMIT_S)
    subprocess.run([*pip, "--requirement", str(requirements)], check=True, timeout=LIMIT_S)
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
