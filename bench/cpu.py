"""What `make bench-cpu` runs: microseconds of processor time that each process spends on a prediction.

That is what remains steady on a machine that others keep busy, so it is what to compare two versions by: run it on the
one, then on the other, then again.
"""

import argparse
import functools
import statistics
import sys

from rich.table import Table

from bench import device_model, mlp
from bench.load import Job, Questions
from bench.rounds import Contender, Parts, console, load, parse, parser, play, scratch, write
from bench.sides import Side, headway

#: Kinds of load: how many callers, and whether they wait.
LOADS = {
    "submit, 64 callers": (64, False),
    "wait, 64 callers": (64, True),
    "wait, 256 callers": (256, True),
    "wait, 1 caller": (1, True),
}
PROCESSES = ("api", "worker", "device", "valkey", "utility", "up")


def main() -> int:
    arguments = parser("Processor time of each process for each prediction.", rounds=3, seconds=5.0)
    arguments.add_argument("--count", type=int, default=8000, help="predictions of each kind, at most")
    arguments.add_argument("--postgresql", action="store_true")
    options = parse(arguments)
    with scratch() as folder:
        artifact = mlp.write(folder / "mlp")
        device_model.write(folder / "device", 32)
        asked = {"mlp": mlp.questions(artifact), "device": device_model.questions()}
        sides = [
            Contender(
                title,
                headway(folder / name, postgresql=options.postgresql),
                functools.partial(all_of, questions=asked[name], options=options),
            )
            for title, name in (("classifier", "mlp"), ("simulated device", "device"))
        ]
        playing = play(sides, options.rounds, options.only)
    content: dict[str, object] = {}
    for one in playing:
        table = Table("", *PROCESSES, "all", "load", "a second", title=f"{one.name}: CPU µs each", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for part in LOADS:
            rounds = [parts[part] for parts in one.rounds]
            if not rounds:
                continue
            cells = [statistics.median(r.processor_us.get(process, 0.0) for r in rounds) for process in PROCESSES]
            cells += [statistics.median(r.all_processor_us for r in rounds)]
            cells += [statistics.median(r.generator_us for r in rounds), statistics.median(r.per_s for r in rounds)]
            table.add_row(part, *(f"{cell:,.0f}" for cell in cells))
            content[f"{one.name}, {part}"] = dict(zip([*PROCESSES, "all", "load", "per_s"], cells, strict=True))
        console.print(table)
    write("cpu", {"options": vars(options), "medians_us": content})
    return 0 if all(one.rounds for one in playing) else 1


def all_of(side: Side, questions: Questions, options: argparse.Namespace) -> Parts:
    return {
        name: load(
            Job(
                kind="ask" if waiting else "submit",
                port=side.port,
                dialect=side.dialect,
                questions=questions,
                callers=callers,
                count=options.count,
                seconds=options.seconds,
                warm_up=300,
                pids=side.pids,
                judge_all=False,
            )
        )
        for name, (callers, waiting) in LOADS.items()
    }


if __name__ == "__main__":
    sys.exit(main())
