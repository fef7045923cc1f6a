"""The real Triton and TorchServe beside ours: the same requests to both, and every difference.

    python -m tests.dialects build [SYSTEM …]     their virtual environments
    python -m tests.dialects record [SYSTEM …]    ask the real servers, and write down what they say
    python -m tests.dialects compare [SYSTEM …]   ask ours the same, and hold it against what is written down

`compare` exits 1 where anything differs that `expected.toml` does not explain.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.dialects import building, comparing, ours, recording

SYSTEMS = ("triton", "torchserve")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dialects", description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("build", "record", "compare"))
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", default=[], help=", ".join(SYSTEMS))
    asked = parser.parse_args()
    systems = asked.systems or list(SYSTEMS)
    with tempfile.TemporaryDirectory(prefix="dialects-") as folder:
        if asked.verb == "compare":
            return compare(systems, Path(folder))
        for system in systems:
            if asked.verb == "build":
                building.build(system)
            else:
                record(system, Path(folder) / system)
    return 0


def record(system: str, folder: Path) -> None:
    folder.mkdir()
    made = recording.record(system, folder)
    recording.file(system).write_text(made.json(), encoding="utf-8")
    print(f"{system}: {len(made.cases)} cases of {made.server}, in {recording.file(system)}")


def compare(systems: list[str], folder: Path) -> int:
    """1 where anything differs that is not meant to."""
    failed = 0
    with ours.running(folder) as running:
        for system in systems:
            theirs = recording.recorded(system).cases
            verdict = comparing.judge(system, theirs, running.ask(system, theirs))
            print(comparing.report(system, verdict), flush=True)
            failed |= bool(verdict.unexpected or verdict.stale)
    return failed


if __name__ == "__main__":
    sys.exit(main())
