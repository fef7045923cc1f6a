"""`model.txt`, as LightGBM's `save_model` writes it (the extra `lightgbm`). Nothing is unpickled.

`[config] output = "margin"` asks for what the trees add up to, before the objective makes probabilities of it. A file
that was cut short ends the process that LightGBM reads it in, so where its trees begin and end is looked at before.
"""

import os
from pathlib import Path
from typing import Any

from headway.manifest import Manifest
from headway.model import Context
from workers.loaders import Unloadable, boosters

_FILE = "model.txt"


def booster(file: Path) -> Any:
    """Raises Unloadable."""
    try:
        import lightgbm
    except ImportError as error:
        raise Unloadable("it needs LightGBM: pip install 'headway[lightgbm]'") from error
    check(file)
    try:
        return lightgbm.Booster(model_file=file)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise Unloadable(f"{file.name} is no model that LightGBM {lightgbm.__version__} reads: {error}") from error


def load(manifest: Manifest, context: Context) -> boosters.BoosterModel:
    raw = boosters.option(manifest, "output", ("value", "margin")) == "margin"
    trees = booster(context.path / _FILE)
    names = trees.feature_name()
    made_up = names == [f"Column_{number}" for number in range(len(names))]
    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))  # LightGBM's own default is all there are

    def call(rows: boosters.Array) -> boosters.Array:
        answer: Any = trees.predict(rows, raw_score=raw, num_threads=threads)
        return answer  # type: ignore[no-any-return]

    return boosters.BoosterModel(
        "lightgbm",
        call,
        features=trees.num_feature(),
        names=None if made_up else names,
        dtype="float64",
        manifest=manifest,
    )


def check(file: Path) -> None:
    """That each tree begins where the head of the file says. Raises Unloadable."""
    content = file.read_bytes()
    head, _, rest = content.partition(b"\n\n")
    fields = dict(line.split(b"=", 1) for line in head.split(b"\n") if b"=" in line)
    try:
        if not head.startswith(b"tree\n"):
            raise ValueError
        classes, width, last = (
            int(fields[key]) for key in (b"num_class", b"num_tree_per_iteration", b"max_feature_idx")
        )
        sizes = [int(size) for size in fields[b"tree_sizes"].split()]
        features = len(fields[b"feature_names"].split(b" "))
    except (KeyError, ValueError):
        raise Unloadable(f"{file.name} is no model as LightGBM saves it") from None
    if features != last + 1 or classes not in (1, width) or not sizes or len(sizes) % max(width, 1):
        raise Unloadable(f"{file.name} contradicts itself: its head is of another model than its trees")
    at = 0
    for number, size in enumerate(sizes):
        if size < 1 or not rest.startswith(b"Tree=%d\n" % number, at):
            raise Unloadable(
                f"{file.name} is cut short, or was changed: tree {number} of {len(sizes)} is not where it should be"
            )
        at += size
    if not rest.startswith(b"end of trees", at):
        raise Unloadable(
            f"{file.name} is cut short, or was changed: its {len(sizes)} trees do not end where they should"
        )
