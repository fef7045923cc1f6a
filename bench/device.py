"""What `make bench-device` runs: a simulated accelerator (5 ms a call, 0.05 ms an item, no processor), kept busy.

Queued work stands beside a bare loop over full batches, callers who wait beside the same model in mosec, LitServe,
BentoML and Ray Serve; with micro-batches of 32 and of 128 at most.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import device_model
from bench.load import Dialect, Measured
from bench.queued import drain
from bench.rounds import Contender, Parts, parse, parser, play, report, scratch
from bench.sides import Side, headway, peer
from bench.sync import ask

PEERS = {"mosec": "mosec", "LitServe": "litserve", "BentoML": "bentoml", "Ray Serve": "ray"}
#: Of what is queued: some four seconds of the bare loop.
QUEUED_S = 4.0


def main() -> int:
    arguments = parser("A simulated accelerator: queued work beside a bare loop, callers who wait beside peers.")
    arguments.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="the largest micro-batch")
    arguments.add_argument("--callers", type=int, nargs="+", default=[64, 256])
    options = parse(arguments)
    return max(compare(batch, options) for batch in options.batches)


def compare(batch: int, options: argparse.Namespace) -> int:
    questions = device_model.questions()
    queued = int(device_model.full_per_s(batch) * min(QUEUED_S, options.seconds))

    def waiting(side: Side) -> Parts:
        return {f"{callers} callers": ask(side, questions, callers, options.seconds) for callers in options.callers}

    def ours(side: Side) -> Parts:
        return {"queued": drain(side, questions, queued), **waiting(side)}

    def bare(side: Side) -> Parts:
        per_s = device_model.bare_per_s(batch, options.seconds)
        return {"queued": Measured(per_s=per_s, completed_per_s=per_s)}

    with scratch() as folder:
        device_model.write(folder / "models", batch)
        served = f"device:{device_model.CALL_MS},{device_model.ITEM_MS}"
        sides = [Contender("Headway", headway(folder / "models"), ours), Contender("bare loop", nobody, bare)]
        sides += [
            Contender(title, peer(name, options.venvs, served, batch=batch), waiting) for title, name in PEERS.items()
        ]
        print(f"micro-batches of {batch} at most", flush=True)
        return report(f"device_{batch}", play(sides, options.rounds, options.only), options)


@contextlib.contextmanager
def nobody(_: Path) -> Iterator[Side]:
    """What is measured without a server."""
    yield Side(0, Dialect(ask=""), [])


if __name__ == "__main__":
    sys.exit(main())
