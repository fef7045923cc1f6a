"""Ensembles: what of a configuration is one, and what its steps' models make of it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from api.ensembles import judged
from api.registry import ModelView
from headway.errors import ManifestError
from headway.manifest import Manifest, Tensor, read
from headway.registry import Version

HEAD = """
platform: "ensemble"
max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 4 }
output { name: "S" data_type: TYPE_FP32 dims: 4 }
"""


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str], version: int = -1) -> str:
    maps = [("input_map", inputs), ("output_map", outputs)]
    said = "".join(f'{key} {{ key: "{a}" value: "{b}" }}' for key, names in maps for a, b in names.items())
    return f'step {{ model_name: "{model}" model_version: {version} {said} }}\n'


ONE = step("half", {"I": "X"}, {"O": "S"})


def ensemble(folder: Path, *steps: str, head: str = HEAD, more: str = "") -> Manifest:
    folder = folder / "whole"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f"{head}ensemble_scheduling {{ {''.join(steps)} }}\n{more}")
    return read(folder)


def test_steps_stand_in_the_order_in_which_they_can_begin(tmp_path: Path) -> None:
    manifest = ensemble(tmp_path, step("half", {"I": "a"}, {"O": "S"}, 3), step("half", {"I": "X"}, {"O": "a"}))
    assert [(one.version, one.inputs, one.outputs) for one in manifest.steps] == [
        (None, {"I": "X"}, {"O": "a"}),
        ("3", {"I": "a"}, {"O": "S"}),
    ]
    assert (manifest.items, manifest.inputs["X"].shape, manifest.batching.max_batch_cost) == ("joined", (-1, 4), 8)


@pytest.mark.parametrize(
    ("steps", "more", "reason"),
    [
        ([], "", "must specify 'step' for ensemble 'whole'"),
        (["step { }"], "", "must specify 'model_name' in step 0 of ensemble 'whole'"),
        ([step("half", {}, {"O": "S"})], "", "must specify 'input_map' in step 0"),
        ([step("half", {"I": "X"}, {})], "", "must specify 'output_map' in step 0"),
        ([ONE, ONE], "", "ensemble tensor 'S' can appear in an output map only once for ensemble 'whole' step 1"),
        ([step("half", {"I": "X"}, {"O": "X"})], "", "'X' is an input of ensemble 'whole', and no step may write it"),
        ([step("half", {"I": "q"}, {"O": "S"})], "", "ensemble input 'X' for ensemble whole is not used"),
        ([step("half", {"I": "X"}, {"O": "q"})], "", "ensemble output 'S' for ensemble whole is not used"),
        ([step("half", {"I": "X", "J": "q"}, {"O": "S"})], "", "of its depending tensors, 'q', is not connected"),
        ([ONE, step("half", {"I": "X"}, {"O": "d"})], "", "ensemble tensor 'd' is unused in ensemble 'whole'"),
        ([ONE], "instance_group { kind: KIND_CPU }", "instance group should not be specified for ensemble 'whole'"),
        ([ONE], 'backend: "python"', "must have platform type 'ensemble' and empty backend type"),
        ([ONE], 'model_warmup { name: "a" }', "model_warmup can not be specified for ensemble 'whole'"),
    ],
)
def test_what_is_no_ensemble_says_why(tmp_path: Path, steps: list[str], more: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=r"config\.pbtxt") as refused:
        ensemble(tmp_path, *steps, more=more)
    assert reason in str(refused.value)


def test_half_an_ensemble_is_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be set for model 'whole' whose platform is not ensemble"):
        ensemble(tmp_path, ONE, head=HEAD.replace("ensemble", "onnxruntime_onnx"))


# What its steps' models make of it


def version(model: str, manifest: Manifest, state: str = "ready", reason: str | None = None) -> Version:
    raw = {
        "model": model, "version": "1", "state": state, "reason": reason, "framework": None, "path": "", "sha256": "",
        "manifest": msgspec.to_builtins(manifest), "created_at": 1, "loaded_at": 2, "placements": [],
    }  # fmt: skip
    return msgspec.convert(raw, Version)


def half(dtype: str = "float32", shape: tuple[int, ...] = (-1, 4), rows: int | None = 8) -> Manifest:
    tensor = Tensor(dtype, shape)
    batching = msgspec.structs.replace(Manifest().batching, max_batch_cost=rows)
    return Manifest(inputs={"I": tensor}, outputs={"O": tensor}, batching=batching, items="joined" if rows else "alone")


def judge(*rows: Version) -> Version:
    views = {row.model: ModelView.of(row.model, [row]) for row in rows}
    return judged(views)["whole"][0]


@pytest.mark.parametrize("state", ["loading", "unloaded", "ready"])
def test_an_ensemble_is_as_its_steps_are(tmp_path: Path, state: str) -> None:
    row = judge(version("whole", ensemble(tmp_path, ONE), "loading"), version("half", half(), state))
    assert (row.state, row.wish) == (state, None)


def test_an_ensemble_whose_model_was_unloaded_is_unloaded(tmp_path: Path) -> None:
    unloaded = msgspec.structs.replace(version("half", half(), "unloaded"), wish="unload")
    row = judge(version("whole", ensemble(tmp_path, ONE), "loading"), unloaded)
    assert (row.state, row.reason, row.wish) == ("unloaded", "unloaded", "unload")


def test_models_that_declare_nothing_are_taken_at_their_word(tmp_path: Path) -> None:
    assert judge(version("whole", ensemble(tmp_path, ONE)), version("half", Manifest())).state == "ready"


def test_the_rows_of_one_may_be_a_length_of_the_other(tmp_path: Path) -> None:
    for shape in ((4,), (-1, 4)):
        folder = tmp_path / str(len(shape))
        assert (
            judge(version("whole", ensemble(folder, ONE)), version("half", half(shape=shape, rows=None))).reason is None
        )


@pytest.mark.parametrize(
    ("model", "manifest", "state", "reason"),
    [
        ("other", half(), "ready", "ensemble whole contains models that are not available or ambiguous: half"),
        ("half", half(), "failed", "depends on 'half' which has no loaded version. Model 'half' loading failed"),
        ("half", half(rows=4), "ready", "allows maximum batch size 8, but it contains model half which only allows"),
        ("half", half("int32"), "ready", "tensor X: inconsistent data type: TYPE_FP32 is inferred from model whole"),
        ("half", half(shape=(-1, 3)), "ready", "inconsistent shape: [-1,4] is inferred from model whole while [-1,3]"),
    ],
)
def test_steps_that_do_not_fit_are_named(
    tmp_path: Path, model: str, manifest: Manifest, state: str, reason: str
) -> None:
    row = judge(version("whole", ensemble(tmp_path, ONE)), version(model, manifest, state))
    assert row.state == "failed"
    assert reason in str(row.reason)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (step("half", {"I": "X", "J": "X"}, {"O": "S"}), "X is mapping to non-existing input J in model half"),
        (step("half", {"I": "X"}, {"P": "S"}), "S is mapped from non-existing output P in model half"),
        (step("half", {"I": "X"}, {"O": "S"}, 7), "depends on 'half' whose required version 7 is not loaded"),
        (
            step("whole", {"X": "X"}, {"S": "S"}),
            "circular dependency between ensembles: whole -> ... -> whole -> whole",
        ),
    ],
)
def test_what_a_step_asks_of_its_model_has_to_be_there(tmp_path: Path, said: str, reason: str) -> None:
    row = judge(version("whole", ensemble(tmp_path, said)), version("half", half()))
    assert row.state == "failed"
    assert reason in str(row.reason)
