"""How torch runs a graph: filled up to buckets, compiled, recorded. What needs CUDA is tested where it is."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headway.errors import ManifestError
from headway.manifest import Graph, Manifest, parse
from headway.model import Context
from workers.loaders import LoadedModel, Unloadable, load, tensors
from workers.loaders.transfer import transfer

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]

NET = """
import torch

class Net(torch.nn.Module):
    seen = []

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        if not torch.compiler.is_compiling():
            Net.seen.append(len(x))
        return {"y": self.layer(x), "twice": 2 * x}
"""


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, device: str = "cpu", **sections: Any) -> LoadedModel:
    """Weights for `Net`, whose every input is of three numbers unless `sections` say otherwise."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    (folder / "net_of_graphs.py").write_text(NET)
    save_file({"layer.weight": layer.weight.detach(), "layer.bias": layer.bias.detach()}, folder / "model.safetensors")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "net_of_graphs", raising=False)
    return load(manifest(**sections), Context(path=folder, device=device, config={}))


def manifest(**sections: Any) -> Manifest:
    return parse(
        {
            "model": {"entry": "net_of_graphs:Net"},
            "batching": {"max_batch_size": 8},
            "inputs": {"x": {"dtype": "float32", "shape": [3]}},
            **sections,
        }
    )


def rows(count: int) -> list[dict[str, Any]]:
    return [{"x": np.full(3, number, dtype=np.float32)} for number in range(count)]


def answers(model: LoadedModel, count: int) -> list[Any]:
    answered: Any = model.predict(rows(count), Context(path=Path(), device="cpu", config={}))
    return [{name: array.tolist() for name, array in row.items()} for row in answered]


def test_sizes_are_those_that_were_said_or_powers_of_two_up_to_the_largest_batch() -> None:
    assert Graph().sizes(32) == ()
    assert Graph(compile=True).sizes(48) == (1, 2, 4, 8, 16, 32, 48)
    assert Graph(cuda_graphs=True).sizes(1) == (1,)
    assert Graph(buckets=(8, 4, 4, 100)).sizes(32) == (4, 8, 32)


def test_a_batch_is_filled_up_to_the_smallest_bucket_that_holds_it() -> None:
    assert [tensors.padded(count, (4, 8, 32)) for count in (1, 4, 5, 32, 33)] == [4, 4, 8, 32, 33]
    assert tensors.padded(7, ()) == 7


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("graph", [{"buckets": [2, 4]}, {"compile": "eager"}, {"cuda_graphs": True}])
def test_every_item_has_its_own_answer_however_the_graph_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, graph: dict[str, Any]
) -> None:
    if device == "cpu" and "cuda_graphs" in graph:
        pytest.skip("recordings are CUDA's")
    plain = loaded(tmp_path, monkeypatch, device)
    expected = answers(plain, 8)
    assert [row["twice"] for row in expected] == [[2.0 * number] * 3 for number in range(8)]
    model = loaded(tmp_path, monkeypatch, device, graph=graph)
    for count in (1, 3, 8, 3, 5):
        for row, wanted in zip(answers(model, count), expected, strict=False):
            assert row["twice"] == wanted["twice"]
            assert row["y"] == pytest.approx(wanted["y"], abs=1e-5)


def test_the_graph_sees_the_buckets_and_no_other_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tmp_path, monkeypatch, graph={"buckets": [2, 4]})
    for count in (1, 2, 3, 5, 8):
        assert len(answers(model, count)) == count
    assert sys.modules["net_of_graphs"].Net.seen == [2, 2, 4, 8, 8]


def test_what_cannot_be_had_is_said_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unloadable, match="cuda_graphs is set, and the device is cpu"):
        loaded(tmp_path, monkeypatch, graph={"cuda_graphs": True})
    with pytest.raises(Unloadable, match=r"\[graph\] compile"):
        loaded(tmp_path, monkeypatch, graph={"compile": "no-such-backend"})
    (tmp_path / "model.py").write_text(
        "from headway import Model\nclass M(Model):\n    def predict(self, inputs): ...\n"
    )
    with pytest.raises(Unloadable, match=r"calls torch\.compile"):
        load(parse({"graph": {"compile": True}}), Context(path=tmp_path, device="cpu", config={}))
    with pytest.raises(ManifestError, match="buckets"):
        manifest(graph={"buckets": [0]})


@pytest.mark.parametrize("device", DEVICES)
def test_what_goes_to_a_device_comes_back_in_the_same_structure(device: str) -> None:
    with transfer(device) as move:
        moved = move.in_([np.array([1, 2], dtype=np.int64), np.array([3, 4], dtype=np.int64)], torch.int64)
        assert moved.device.type == device.partition(":")[0]
        back: Any = move.out({"a": moved + 1, "b": [moved * 2, None], "c": "text"})
    assert back["a"].cpu().tolist() == [[2, 3], [4, 5]]
    assert back["b"][0].cpu().tolist() == [[2, 4], [6, 8]]
    assert (back["b"][1], back["c"]) == (None, "text")


@pytest.mark.parametrize("device", DEVICES)
def test_items_with_rows_of_their_own_are_joined_on_the_way_to_a_device(device: str) -> None:
    two, one = np.array([[1, 2], [3, 4]], dtype=np.float32), np.array([[5, 6]], dtype=np.float32)
    with transfer(device) as move:
        joined = move.in_([two, one], torch.float32, "joined")
        alone = move.in_([np.array(7, dtype=np.int64)], torch.int32, "alone")
        back: Any = move.out([joined, alone])
    assert back[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (back[1].tolist(), back[1].dtype) == (7, torch.int32)
