"""Train the `digits` model: scikit-learn's 1,797 scanned digits to `models/digits/1/model.pt2`.

A small convolutional net, seconds on one CPU thread (more would only wait for each other), the same weights every time
on the same machine. One image in four is held out of training; `held_out()` gives those, so that whoever measures
accuracy measures it on images the net has not seen.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

MODEL = Path(__file__).resolve().parent / "models" / "digits" / "1" / "model.pt2"
SEED = 0
EPOCHS = 30
BATCH = 64

Images = npt.NDArray[np.float32]  # (n, 8, 8), grey levels 0 to 16 as scanned
Labels = npt.NDArray[np.int64]  # (n,), 0 to 9


class Digits(nn.Module):
    """(n, 8, 8) grey levels → (n, 10) probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(32 * 4 * 4, 10),
        )

    def logits(self, image: Tensor) -> Tensor:
        scores: Tensor = self.features(image.unsqueeze(1) / 16.0)
        return scores

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(image).softmax(dim=1)


def split() -> tuple[Images, Images, Labels, Labels]:
    """Training images, held-out images, training labels, held-out labels; the same split every time."""
    digits = load_digits()
    images = digits.images.astype(np.float32)
    parts = train_test_split(images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target)
    train_images, held_images, train_labels, held_labels = parts
    return train_images, held_images, train_labels, held_labels


def held_out() -> tuple[Images, Labels]:
    """The 450 images, and their digits, that training never sees."""
    _, images, _, labels = split()
    return images, labels


def train(images: Images, labels: Labels) -> Digits:
    torch.manual_seed(SEED)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    net = Digits()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net.logits(x[batch]), y[batch]))
            optimizer.step()
        schedule.step()
    return net.eval()


def accuracy(net: Digits, images: Images, labels: Labels) -> float:
    with torch.inference_mode():
        guessed = net(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((guessed == labels).mean())


def export(net: Digits, path: Path) -> None:
    """Write `path` with a free batch dimension; whoever reads it sees the old file or the new one, never half of it."""
    program = torch.export.export(
        net, (torch.zeros(2, 8, 8),), dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=4096)}}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    torch.export.save(program, unfinished)
    unfinished.replace(path)


def build(path: Path = MODEL) -> float:
    """Train, write `path`, return the accuracy on the held-out images."""
    train_images, held_images, train_labels, held_labels = split()
    net = train(train_images, train_labels)
    export(net, path)
    return accuracy(net, held_images, held_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits model and export it with torch.export.")
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"accuracy on held-out images {build(options.output):.3f}")
    print(f"wrote {options.output} ({options.output.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
