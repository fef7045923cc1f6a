"""The model that both sides serve: the 10 → 128 → 64 → 10 classifier of many a serving tutorial.

It is tiny on purpose. What is measured is everything around the model, and a large one would hide it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from bench.load import Questions

SEED = 0

MODEL_TOML = """\
[batching]
max_batch_size = 64
max_queue = 1000000
"""


class Classifier(nn.Module):
    """(n, 10) features → (n, 10) probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.layers(features)
        return scores.softmax(dim=1)


def write(models: Path) -> Path:
    """Write `models/mlp` as a version folder; returns its model.pt2, which the plain application loads too."""
    torch.manual_seed(SEED)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Classifier().eval(), (torch.zeros(2, 10),), dynamic_shapes={"features": {0: batch}})
    version = models / "mlp" / "1"
    version.mkdir(parents=True)
    (models / "mlp" / "model.toml").write_text(MODEL_TOML, encoding="utf-8")
    torch.export.save(program, version / "model.pt2")
    return version / "model.pt2"


def questions(artifact: Path, count: int = 64) -> Questions:
    """`count` × 10 numbers and as many times 10 probabilities: what to ask, and what is right."""
    inputs = torch.randn(count, 10, generator=torch.Generator().manual_seed(SEED)).round(decimals=4)
    with torch.inference_mode():
        answers = torch.export.load(artifact).module()(inputs)
    return Questions(inputs.tolist(), answers.tolist())
