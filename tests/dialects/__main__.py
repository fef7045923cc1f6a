"""The real servers beside ours: the same requests to both, and every difference.

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

SYSTEMS = ("triton", "triton_streams", "torchserve", "kserve", "mlserver", "bentoml", "bentoml_tasks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dialects", description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("build", "record", "compare"))
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", default=[], help=", ".join(SYSTEMS))
    asked = parser.parse_args()
    systems = asked.systems or list(SYSTEMS)
    with tempfile.TemporaryDirectory(prefix="dialects-") as folder:
        match asked.verb:
            case "build":
                for system in dict.fromkeys(system.partition("_")[0] for system in systems):
                    building.build(system)
            case "record":
                for system in systems:
                    record(system, Path(folder) / system)
            case _:
                held = [compare(system, Path(folder) / system) for system in systems]
                return 0 if all(held) else 1
    return 0


def record(system: str, folder: Path) -> None:
    folder.mkdir()
    made = recording.record(system, folder)
    recording.file(system).write_text(made.json(), encoding="utf-8")
    print(f"{system}: {len(made.cases)} cases of {made.server}, in {recording.file(system)}")


def compare(system: str, folder: Path) -> bool:
    """Whether nothing differs that is not meant to."""
    folder.mkdir()
    theirs = recording.recorded(system).cases
    with ours.running([system], folder) as running:
        verdict = comparing.judge(system, theirs, running.ask(system, theirs))
    print(comparing.report(system, verdict), flush=True)
    return not verdict.unexpected and not verdict.stale


if __name__ == "__main__":
    sys.exit(main())
