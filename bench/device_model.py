"""A simulated accelerator: 5 ms a call and 0.05 ms an item, one call at a time, no processor; answers its inputs.

The bare loop calls it with full batches one after another: no queue, no network, nothing stored.
"""

import random
import time
from pathlib import Path

from bench.load import Questions

CALL_MS, ITEM_MS = 5.0, 0.05

MODEL = """\
import time

from headway import Model


class Device(Model):
    def predict(self, inputs):
        time.sleep({call_s} + {item_s} * len(inputs))
        return inputs
"""
TOML = """\
[batching]
max_batch_size = {batch}
max_queue = 10000000
"""


def write(models: Path, batch: int, call_ms: float = CALL_MS, item_ms: float = ITEM_MS) -> None:
    """As `models/mlp`, so that every bench asks by one path."""
    version = models / "mlp" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL.format(call_s=call_ms / 1000, item_s=item_ms / 1000), encoding="utf-8")
    (version.parent / "model.toml").write_text(TOML.format(batch=batch), encoding="utf-8")


def questions(count: int = 64) -> Questions:
    drawn = random.Random(0)
    inputs = [[round(drawn.random(), 4) for _ in range(10)] for _ in range(count)]
    return Questions(inputs, inputs)


def full_per_s(batch: int, call_ms: float = CALL_MS, item_ms: float = ITEM_MS) -> float:
    """Items a second in full batches, by the numbers."""
    return batch / (call_ms + item_ms * batch) * 1000


def bare_per_s(batch: int, seconds: float, call_ms: float = CALL_MS, item_ms: float = ITEM_MS) -> float:
    """Items a second of the bare loop, with the same sleeps: what they oversleep counts for both."""
    began = time.perf_counter()
    done = 0
    while time.perf_counter() - began < seconds:
        time.sleep((call_ms + item_ms * batch) / 1000)
        done += batch
    return done / (time.perf_counter() - began)
