"""What `make bench-scale` runs: queued work on 1, 2, 4 and 8 simulated devices, and submissions through 1 and 2 API
processes.

A device takes 50 ms a call and 0.5 ms an item, ten times as long as in `bench-device`, so that eight of them are still
what bounds and not two cores. Beside it four of the quick ones, which are not.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench import device_model, mlp
from bench.device import nobody
from bench.load import Job, Measured
from bench.queued import drain
from bench.rounds import Contender, Parts, load, parse, parser, play, report, scratch
from bench.sides import ROOT, Side, headway

BATCH = 32
CALL_MS, ITEM_MS = 50.0, 0.5
API_PROCESSES = "--api-processes"


def main() -> int:
    arguments = parser("More devices, more API processes.", rounds=3, seconds=8.0)
    arguments.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parse(arguments)
    with scratch() as folder:
        device_model.write(folder / "slow", BATCH, CALL_MS, ITEM_MS)
        device_model.write(folder / "quick", BATCH)
        code = devices("scale_devices", folder / "slow", options, options.devices, CALL_MS, ITEM_MS)
        code |= devices(
            "scale_quick_devices", folder / "quick", options, [1, 4], device_model.CALL_MS, device_model.ITEM_MS
        )
        return code | fronts(folder, options)


def devices(
    name: str, models: Path, options: argparse.Namespace, counts: list[int], call_ms: float, item_ms: float
) -> int:
    """`per_s` is for each device, and the ratio that of one: 1 where nothing is lost."""
    questions = device_model.questions()
    full = device_model.full_per_s(BATCH, call_ms, item_ms)

    def draining(count: int) -> Callable[[Side], Parts]:
        # The quick ones end 19,000 a second where nothing bounds them: as much is queued as two cores end meanwhile.
        much = min(int(full * count * options.seconds), 30_000)
        return lambda side: {"queued": scaled(drain(side, questions, much), count)}

    def bare(side: Side) -> Parts:
        per_s = device_model.bare_per_s(BATCH, min(options.seconds, 4.0), call_ms, item_ms)
        return {"queued": Measured(per_s=per_s, completed_per_s=per_s)}

    sides = [Contender(title(count), headway(models, "--devices", names(count)), draining(count)) for count in counts]
    print(f"devices of {call_ms:g} ms and {item_ms:g} ms an item, micro-batches of {BATCH} at most", flush=True)
    playing = play([*sides, Contender("bare loop", nobody, bare)], options.rounds, options.only)
    columns = ("completed_per_s", "per_s", "all_processor_us", "wrong")
    return report(name, playing, options, ours=title(counts[0]), columns=columns, inverse=True)


def names(count: int) -> str:
    """What `--devices` takes. No GPU need be there: the model never asks for it."""
    return ",".join(f"cuda:{number}" for number in range(count))


def title(count: int) -> str:
    return "Headway, one device" if count == 1 else f"Headway, {count} devices"


def scaled(measured: Measured, count: int) -> Measured:
    """`per_s` for each device."""
    measured.per_s /= count
    return measured


def fronts(folder: Path, options: argparse.Namespace) -> int:
    artifact = mlp.write(folder / "models")
    questions = mlp.questions(artifact)

    def submitting(side: Side) -> Parts:
        job = Job(
            kind="submit",
            port=side.port,
            dialect=side.dialect,
            questions=questions,
            count=10_000,
            seconds=options.seconds,
            pids=side.pids,
        )
        return {"submitted": load(job)}

    sides = [Contender("Headway", headway(folder / "models"), submitting)]
    if can_have_many():
        sides.append(Contender("Headway, 2 APIs", headway(folder / "models", API_PROCESSES, "2"), submitting))
    else:
        print(f"`headway up` has no {API_PROCESSES}: one API process only")
    columns = ("per_s", "completed_per_s", "p50_ms", "p99_ms", "all_processor_us", "wrong")
    playing = play(sides, options.rounds, options.only)
    return report("scale_apis", playing, options, columns=columns, ratios=("per_s", "completed_per_s"))


def can_have_many() -> bool:
    shown = subprocess.run(
        [sys.executable, "-m", "launch", "up", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return API_PROCESSES in shown.stdout


if __name__ == "__main__":
    sys.exit(main())
