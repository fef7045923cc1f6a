"""What `make bench-minilm` runs: embeddings of texts of mixed lengths, by the model of `examples/models/embed`.

Micro-batches of alike lengths stand beside a bare loop over the sorted texts, which has them all beforehand, and beside
LitServe, which takes them in the order of their arrival. All take 32 at once, and torch its own number of threads.
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.device import nobody
from bench.load import Job, Measured, Questions
from bench.rounds import Contender, Parts, load, parse, parser, play, report, scratch
from bench.sides import ROOT, Side, headway, peer
from examples.sentences import standard_library_sentences

SENTENCES = 1000
#: Sentences of a text, by how many of the texts: many short ones, a few that fill the model's 256 tokens.
LENGTHS = (1, 1, 1, 1, 1, 2, 2, 3, 6, 12)
TOLERANCE = 1e-3  # of a component: what a text is padded to decides how its numbers are rounded
BATCH = 32
BARE_S = 300.0


def main() -> int:
    arguments = parser("MiniLM, mixed lengths: Headway, a bare loop over sorted texts, LitServe.", seconds=120.0)
    arguments.add_argument("--texts", type=int, default=300)
    options = parse(arguments)
    count = 64 if options.quick else options.texts
    with scratch() as folder:
        shutil.copytree(ROOT / "examples" / "models" / "embed", folder / "models" / "mlp")
        inputs = list(texts(count))
        (folder / "texts.json").write_text(json.dumps(inputs), encoding="utf-8")

        def bare(_: Side) -> Parts:
            return {"all at once": bare_loop(folder)}

        bare_loop(folder)  # for what is right
        questions = Questions(inputs, json.loads((folder / "answers.json").read_text(encoding="utf-8")))

        def ours(side: Side) -> Parts:
            return {"all at once": run(side, questions, "submit"), "64 callers": run(side, questions, "ask")}

        def theirs(side: Side) -> Parts:
            measured = run(side, questions, "ask")
            return {"all at once": measured, "64 callers": measured}

        litserve = peer("litserve", options.venvs, "minilm:", batch=BATCH, example="A text.", threads=0)
        sides = [
            Contender("Headway", headway(folder / "models"), ours),
            Contender("bare loop, sorted", nobody, bare),
            Contender("LitServe, 64 callers", litserve, theirs),
        ]
        columns = ("completed_per_s", "p50_ms", "p99_ms", "wrong")
        playing = play(sides, options.rounds, options.only)
        return report("minilm", playing, options, ratios=("completed_per_s",), columns=columns)


def texts(count: int) -> Iterator[str]:
    sentences = standard_library_sentences(SENTENCES)
    drawn = random.Random(0)
    for _ in range(count):
        yield " ".join(drawn.sample(sentences, drawn.choice(LENGTHS)))


def run(side: Side, questions: Questions, kind: str) -> Measured:
    """All of them once."""
    measured = load(
        Job(
            kind="submit" if kind == "submit" else "ask",
            port=side.port,
            dialect=side.dialect,
            questions=questions,
            count=len(questions.inputs),
            seconds=120.0,
            warm_up=4,
            tolerance=TOLERANCE,
            pids=side.pids,
        )
    )
    measured.completed_per_s = measured.completed_per_s or measured.per_s
    return measured


def bare_loop(folder: Path) -> Measured:
    """In a process of its own; it leaves `answers.json`."""
    command = [sys.executable, "-m", "bench.bare_minilm", str(folder / "texts.json"), str(folder / "answers.json")]
    done = subprocess.run([*command, str(BATCH)], cwd=ROOT, capture_output=True, check=True, text=True, timeout=BARE_S)
    per_s = float(done.stdout.split()[-1])
    return Measured(per_s=per_s, completed_per_s=per_s)


if __name__ == "__main__":
    sys.exit(main())
