"""What `make bench-polls` runs: callers who read predictions, ended ones and waiting ones, one GET after another.

Beside it a FastAPI + plain Celery's route that asks Redis's result backend.
"""

import sys

from bench import mlp
from bench.load import Job
from bench.queued import paused
from bench.rounds import Contender, Parts, load, parse, parser, play, report, scratch
from bench.sides import Side, headway, plain_celery


def main() -> int:
    arguments = parser("Reads a second of predictions that have ended, and of such that wait.")
    arguments.add_argument("--callers", type=int, nargs="+", default=[1, 64])
    options = parse(arguments)
    with scratch() as folder:
        artifact = mlp.write(folder / "models")
        questions = mlp.questions(artifact)

        def read(side: Side, callers: int, waiting: bool) -> Parts:
            job = Job(
                kind="poll",
                port=side.port,
                dialect=side.dialect,
                questions=questions,
                callers=callers,
                seconds=options.seconds,
                waiting=waiting,
                pids=side.pids,
            )
            return {f"{'waiting' if waiting else 'ended'}, {callers} callers": load(job)}

        def both(side: Side) -> Parts:
            parts: Parts = {}
            for callers in options.callers:
                parts |= read(side, callers, waiting=False)
            if side.system is not None:
                with paused(side, questions):
                    for callers in options.callers:
                        parts |= read(side, callers, waiting=True)
            return parts

        sides = [
            Contender("Headway", headway(folder / "models"), both),
            Contender("Headway, PostgreSQL", headway(folder / "models", postgresql=True), both),
            Contender("FastAPI + plain Celery", plain_celery(artifact), both),
        ]
        return report("polls", play(sides, options.rounds, options.only), options)


if __name__ == "__main__":
    sys.exit(main())
