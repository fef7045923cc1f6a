"""What a GPU does with micro-batches, by the settings of `[graph]` in model.toml: `make bench-gpu`.

A device process is driven as a worker drives it, two calls in flight, without HTTP and SQL. Beside it the same module
in a bare loop over tensors that lie on the device already: what is between them is decoding, copies and encoding.
Numbers are absolute. Where there is no CUDA device it says so and ends with 0.

    python bench/gpu.py [--seconds 5] [--rounds 5]
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
import torch
from torch import Tensor, nn

from headway import npy
from headway.manifest import Manifest, parse
from workers.executor import Executor

RESULTS = Path(__file__).parent / "results" / "gpu.json"
DEVICE = "cuda:0"
WIDTH, LAYERS, BATCH = 1024, 24, 64

SETTINGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "buckets": {"buckets": [1, 16, 64]},
    "CUDA graphs": {"cuda_graphs": True},
    "compiled": {"compile": True},
    "compiled, CUDA graphs": {"compile": True, "cuda_graphs": True},
}


class Deep(nn.Module):
    """Many small kernels, as in most models at small batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(LAYERS)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def write(folder: Path) -> None:
    """`folder/1/model.pt2`."""
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Deep().eval(), (torch.zeros(2, WIDTH),), dynamic_shapes={"x": {0: batch}})
    (folder / "1").mkdir(parents=True)
    torch.export.save(program, folder / "1" / "model.pt2")


def with_settings(graph: dict[str, object]) -> Manifest:
    return parse({"batching": {"max_batch_size": BATCH}, "graph": graph})


def driven(executor: Executor, seconds: float, batch: int, *, as_json: bool) -> float:
    """Predictions a second."""
    row = torch.rand(WIDTH, generator=torch.Generator().manual_seed(0))
    body = msgspec.json.encode(row.tolist()) if as_json else npy.dump(row.numpy())
    items = [(f"{number:036d}", body) for number in range(batch)]
    types = {} if as_json else {id_: npy.MEDIA_TYPE for id_, _ in items}
    numbers = count(1)
    executor.submit(next(numbers), items, types)
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds or not done:
        executor.submit(next(numbers), items, types)
        reply = executor.receive()
        wrong = [one.error for one in reply.outcomes if one.error is not None]
        if wrong:
            raise RuntimeError(wrong[0].message)
        done += batch
    executor.receive()
    return done / took


def bare(seconds: float, batch: int) -> float:
    """Predictions a second of the module alone."""
    module, x = Deep().eval().to(DEVICE), torch.rand(batch, WIDTH, device=DEVICE)
    with torch.inference_mode():
        for _ in range(10):
            module(x)
        torch.cuda.synchronize()
        began, done = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds:
            module(x)
            torch.cuda.synchronize()
            done += batch
    return done / took


def main() -> int:
    parser = argparse.ArgumentParser(description="Micro-batches on a GPU.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so there is nothing to measure.")
        return 0
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "deep")
        write(folder)
        for setting, graph in SETTINGS.items():
            executor = Executor(
                model="deep", version="1", path=folder / "1", manifest=with_settings(graph), device=DEVICE
            )
            print(f"{setting}: loaded in {executor.load().seconds:.1f} s", flush=True)
            try:
                measured[setting] = {
                    f"{kind}, batch {batch}": statistics.median(
                        driven(executor, options.seconds, batch, as_json=kind == "JSON") for _ in range(options.rounds)
                    )
                    for kind in ("JSON", "npy")
                    for batch in (1, 50, BATCH)  # 50: to be filled up
                }
            finally:
                executor.close()
    measured["bare loop"] = {
        f"on the device, batch {batch}": statistics.median(bare(options.seconds, batch) for _ in range(options.rounds))
        for batch in (1, 50, BATCH)
    }
    for setting, numbers in measured.items():
        for what, rate in numbers.items():
            print(f"{setting:24} {what:28} {rate:12,.0f}/s")
    RESULTS.parent.mkdir(exist_ok=True)
    about = {"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "python": platform.python_version()}
    RESULTS.write_text(json.dumps({**about, "predictions_per_s": measured}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
