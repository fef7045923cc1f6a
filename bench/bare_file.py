"""The loop that somebody would write who has a file and a model: read, compute in batches, write.

python -m bench.bare_file MODEL.pt2 FILE OUTPUT
"""

import itertools
import json
import sys
from pathlib import Path

import torch

BATCH = 64


def main(artifact: str, file: str, output: str) -> None:
    model = torch.export.load(Path(artifact)).module()
    with open(file) as lines, open(output, "w") as results, torch.inference_mode():
        while rows := [json.loads(line) for line in itertools.islice(lines, BATCH)]:
            answers = model(torch.tensor([row["input"] for row in rows])).tolist()
            for row, answer in zip(rows, answers, strict=True):
                results.write(json.dumps({"custom_id": row["custom_id"], "output": answer}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
