"""The real Triton and TorchServe beside ours: the same requests to both, and every difference.

python -m tests.dialects build [SYSTEM …]     their virtual environments
python -m tests.dialects record [SYSTEM …]    ask the real servers, and write down what they say
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.dialects import building, recording

SYSTEMS = ("triton", "torchserve")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dialects", description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("build", "record"))
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", default=[], help=", ".join(SYSTEMS))
    asked = parser.parse_args()
    for system in asked.systems or SYSTEMS:
        if asked.verb == "build":
            building.build(system)
        else:
            with tempfile.TemporaryDirectory(prefix=f"{system}-") as folder:
                made = recording.record(system, Path(folder))
            recording.file(system).write_text(made.json(), encoding="utf-8")
            print(f"{system}: {len(made.cases)} cases of {made.server}, in {recording.file(system)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
