"""What `make bench` runs: predictions that are submitted now and asked for later, of Headway on both stores and of
what else one would take: FastAPI + plain Celery, Ray Serve's async inference on Celery, BentoML's tasks.
See bench/README.md.

Beside them stands a FastAPI route that answers 202 and stores nothing: what a front costs at least.
"""

import argparse
import sys
from collections.abc import Callable

from bench import mlp
from bench.load import Job, Questions
from bench.rounds import Contender, Parts, load, parse, parser, play, report, scratch
from bench.sides import Side, headway, nothing, peer, plain_celery

#: Submissions a round, at most, so that each is measured for some seconds and none for minutes.
COUNTS = {"Headway": 10_000, "plain": 1_500, "nothing": 10_000, "ray": 500, "bentoml": 1_000}


def main() -> int:
    arguments = parser("Durable predictions: Headway, plain Celery, Ray Serve, BentoML.", seconds=8.0)
    arguments.add_argument("--callers", type=int, default=64, help="concurrent callers who submit")
    arguments.add_argument("--waits", type=float, default=3.0, help="seconds of one caller who submits and waits")
    options = parse(arguments)
    with scratch() as folder:
        artifact = mlp.write(folder / "models")
        questions = mlp.questions(artifact)

        def measure(kind: str, waits: bool = False) -> Callable[[Side], Parts]:
            count = COUNTS[kind] if not options.quick else COUNTS[kind] // 4
            return lambda side: both(side, questions, count, options, waits)

        models, model = folder / "models", f"mlp:{artifact}"
        sides = [
            Contender("Headway", headway(models), measure("Headway", waits=True)),
            Contender("Headway, PostgreSQL", headway(models, postgresql=True), measure("Headway", waits=True)),
            Contender("FastAPI + plain Celery", plain_celery(artifact), measure("plain", waits=True)),
            Contender("FastAPI that stores nothing", nothing, measure("nothing")),
            Contender("BentoML tasks", peer("bentoml tasks", options.venvs, model), measure("bentoml")),
            Contender("Ray Serve async", peer("ray async", options.venvs, model), measure("ray")),
        ]
        playing = play(sides, options.rounds, options.only)
        columns = ("per_s", "completed_per_s", "p50_ms", "p99_ms", "all_processor_us", "generator_us", "wrong")
        return report("durable", playing, options, columns=columns, ratios=("per_s", "completed_per_s"))


def both(side: Side, questions: Questions, count: int, options: argparse.Namespace, waits: bool) -> Parts:
    job = Job(
        kind="submit",
        port=side.port,
        dialect=side.dialect,
        questions=questions,
        callers=options.callers,
        count=count,
        seconds=options.seconds,
        pids=side.pids,
    )
    parts = {"submitted": load(job)}
    if waits:
        asking = Job(
            kind="ask",
            port=side.port,
            dialect=side.dialect,
            questions=questions,
            callers=1,
            seconds=min(options.waits, options.seconds),
            pids=side.pids,
        )
        parts["one caller who waits"] = load(asking)
    return parts


if __name__ == "__main__":
    sys.exit(main())
