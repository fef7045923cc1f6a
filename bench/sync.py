"""What `make bench-sync` runs: callers who ask and wait, at 1, 64 and 256 of them, of Headway and of its peers.

All serve the same small classifier, on one processor core, in batches of 64 at most and with 10 ms of patience where
they have such a setting. Headway stores every acceptance and every result on the disk; the others store nothing.
"""

import sys

from bench import mlp
from bench.load import Job, Measured, Questions
from bench.rounds import Contender, Parts, load, parse, parser, play, report, scratch
from bench.sides import Side, headway, peer

PEERS = {
    "mosec": "mosec",
    "FastAPI + AsyncBatcher": "fastapi",
    "Flask + gunicorn": "flask",
    "LitServe": "litserve",
    "BentoML": "bentoml",
    "Ray Serve": "ray",
}


def main() -> int:
    arguments = parser("Sync requests: Headway and its peers.", seconds=4.0)
    arguments.add_argument("--callers", type=int, nargs="+", default=[1, 64, 256])
    options = parse(arguments)
    with scratch() as folder:
        artifact = mlp.write(folder / "models")
        questions = mlp.questions(artifact)

        def measure(side: Side) -> Parts:
            return {f"{callers} callers": ask(side, questions, callers, options.seconds) for callers in options.callers}

        sides = [Contender("Headway", headway(folder / "models"), measure)]
        sides += [
            Contender(title, peer(name, options.venvs, f"mlp:{artifact}"), measure) for title, name in PEERS.items()
        ]
        return report("sync", play(sides, options.rounds, options.only), options)


def ask(side: Side, questions: Questions, callers: int, seconds: float) -> Measured:
    job = Job(
        kind="ask",
        port=side.port,
        dialect=side.dialect,
        questions=questions,
        callers=callers,
        seconds=seconds,
        warm_up=max(64, 2 * callers),
        pids=side.pids,
    )
    return load(job)


if __name__ == "__main__":
    sys.exit(main())
