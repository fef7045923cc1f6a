"""config.pbtxt as a manifest: what it becomes, and what is refused."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway.errors import ManifestError
from headway.manifest import Manifest, Tensor, read, with_signature
from headway.triton import mapping
from headway.versions import Found, scan, scan_model

#: As people write them for Triton: with comments, lists with and without commas.
PYTORCH = """
# config.pbtxt for PyTorch model
name: "text_classification"
platform: "pytorch_libtorch"
max_batch_size: 64

input [
  {
    name: "INPUT__0"
    data_type: TYPE_INT64
    dims: [ 512 ]  # sequence length
  }
]

output [
  {
    name: "OUTPUT__0"
    data_type: TYPE_FP32
    dims: [ 10 ]  # num classes
  }
]

# Instance groups - how many model instances to run
instance_group [
  {
    count: 2
    kind: KIND_GPU
    gpus: [ 0 ]
  }
]

# Dynamic batching configuration
dynamic_batching {
  preferred_batch_size: [ 8, 16, 32 ]
  max_queue_delay_microseconds: 100
}

# Version policy
version_policy: { latest { num_versions: 2 }}
"""
TENSORRT = """
# config.pbtxt for TensorRT model
name: "optimized_model"
platform: "tensorrt_plan"
max_batch_size: 128

optimization {
  # GPU execution accelerators
  execution_accelerators {
    gpu_execution_accelerator : [
      { name : "tensorrt" }
    ]
  }

  # Memory optimizations
  input_pinned_memory { enable: true }
  output_pinned_memory { enable: true }

  # CUDA graphs for reduced latency
  cuda {
    graphs: true
    busy_wait_events: true
  }
}
"""
INPUTS = """
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1, 3 ] } ]
output [ { name: "Y" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


def folder(tmp_path: Path, config: str, name: str = "text_classification", versions: tuple[str, ...] = ("1",)) -> Path:
    model = tmp_path / name
    for version in versions:
        (model / version).mkdir(parents=True)
        for file in ("model.py", "model.pt", "model.onnx"):
            (model / version / file).write_text("")
    (model / "config.pbtxt").write_text(config)
    return model


def of(tmp_path: Path, config: str) -> Manifest:
    return read(folder(tmp_path, config))


def notes(manifest: Manifest) -> list[str]:
    found: list[str] = manifest.config["notes"]
    return found


def test_a_configuration_as_it_was_written_for_triton_becomes_a_manifest(tmp_path: Path) -> None:
    model = folder(tmp_path, PYTORCH, versions=("1", "2", "10", "3"))
    manifest = read(model)
    assert (manifest.items, manifest.backend, manifest.file) == ("joined", "torchscript", "model.pt")
    assert manifest.inputs == {"INPUT__0": Tensor("int64", (-1, 512))}
    assert manifest.outputs == {"OUTPUT__0": Tensor("float32", (-1, 10))}
    assert (manifest.instances, manifest.devices) == (2, ("cuda:0",))
    batching = manifest.batching
    assert (batching.max_batch_size, batching.max_batch_cost, batching.max_wait_ms) == (64, 64, 0.1)
    assert notes(manifest) == []
    assert [one.version for one in scan_model(model) if one.wanted] == ["3", "10"]  # the latest two, as numbers
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_a_platform_that_is_not_loaded_here_says_what_to_give_instead(tmp_path: Path) -> None:
    (found,) = scan_model(folder(tmp_path, TENSORRT, "optimized_model"))
    assert found.error is not None
    assert "config.pbtxt: platform is 'tensorrt_plan', which is not loaded here: " in found.error
    assert "give the ONNX file" in found.error


def test_the_configuration_that_triton_would_show_goes_along(tmp_path: Path) -> None:
    config = of(tmp_path, f'backend: "python" max_batch_size: 8 dynamic_batching {{ }} {INPUTS}').config["triton"]
    group = {
        "name": "text_classification_0", "kind": "KIND_AUTO", "count": 1, "gpus": [], "secondary_devices": [],
        "profile": [], "passive": False, "host_policy": "",
    }  # fmt: skip
    assert config == {
        "name": "text_classification", "platform": "", "backend": "python", "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}}, "max_batch_size": 8,
        "input": [{
            "name": "X", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [-1, 3], "is_shape_tensor": False,
            "allow_ragged_batch": False, "optional": False, "is_non_linear_format_io": False,
        }],
        "output": [{
            "name": "Y", "data_type": "TYPE_STRING", "dims": [1], "label_filename": "", "is_shape_tensor": False,
            "is_non_linear_format_io": False,
        }],
        "batch_input": [], "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT", "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True}, "gather_kernel_buffer_threshold": 0, "eager_batching": False,
        },
        "dynamic_batching": {
            "preferred_batch_size": [8], "max_queue_delay_microseconds": 0, "preserve_ordering": False,
            "priority_levels": 0, "default_priority_level": 0, "priority_queue_policy": {},
        },
        "instance_group": [group], "default_model_filename": "model.py", "cc_model_filenames": {}, "metric_tags": {},
        "parameters": {}, "model_warmup": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "size", "cost", "items"),
    [
        ("max_batch_size: 8 dynamic_batching { }", 8, 8, "joined"),
        ("max_batch_size: 8", 1, 8, "joined"),  # rows of one request, and no other's
        ("", 1, None, "alone"),
        ("max_batch_size: 100000 dynamic_batching { }", 4096, 100000, "joined"),
    ],
)
def test_requests_share_a_call_only_where_dynamic_batching_says_so(
    tmp_path: Path, config: str, size: int, cost: int | None, items: str
) -> None:
    manifest = of(tmp_path, f'backend: "python" {config} {INPUTS}')
    assert (manifest.batching.max_batch_size, manifest.batching.max_batch_cost, manifest.items) == (size, cost, items)
    assert manifest.inputs["X"].shape == ((-1, -1, 3) if items == "joined" else (-1, 3))


@pytest.mark.parametrize(
    ("groups", "instances", "devices", "noted"),
    [
        ("", 1, (), 0),
        ("instance_group { count: 3 }", 3, (), 0),
        ("instance_group { kind: KIND_CPU count: 2 }", 2, (), 0),
        ("instance_group { kind: KIND_GPU }", 1, ("cuda",), 0),
        ("instance_group { kind: KIND_GPU gpus: [0, 2] count: 2 }", 2, ("cuda:0", "cuda:2"), 0),
        ("instance_group [{ gpus: [0] }, { gpus: [0, 1] }]", 2, ("cuda:0", "cuda:1"), 1),
        ("instance_group [{ kind: KIND_GPU gpus: [1] }, { kind: KIND_CPU }]", 1, (), 1),
    ],
)
def test_instance_groups_say_where_it_is_loaded_and_how_often(
    tmp_path: Path, groups: str, instances: int, devices: tuple[str, ...], noted: int
) -> None:
    manifest = of(tmp_path, f'backend: "python" {INPUTS} {groups}')
    assert (manifest.instances, manifest.devices, len(notes(manifest))) == (instances, devices, noted)
    assert mapping.computes_on_cpu(manifest.config["triton"]) == ("KIND_CPU count" in groups)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", ["4"]),
        ("version_policy { all { } }", ["1", "2", "4"]),
        ("version_policy { specific { versions: [1, 2] } }", ["1", "2"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "4"]),
        ("version_policy { latest { num_versions: 9 } }", ["1", "2", "4"]),
    ],
)
def test_version_policies_say_which_versions_stay_loaded(tmp_path: Path, policy: str, wanted: list[str]) -> None:
    model = folder(tmp_path, f'backend: "python" {INPUTS} {policy}', versions=("1", "2", "4", "0", "07", "v8"))
    found = scan_model(model)
    assert [one.version for one in found] == ["1", "2", "4"]  # numbers, as Triton counts them
    assert [one.version for one in found if one.wanted] == wanted


def test_what_is_not_heeded_is_noted(tmp_path: Path) -> None:
    manifest = of(
        tmp_path,
        f"""backend: "python" {INPUTS} response_cache {{ enable: true }} model_warmup {{ name: "w" }}
        parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "env.tar.gz" }} }}
        max_batch_size: 4
        dynamic_batching {{
            default_queue_policy {{ max_queue_size: 7 default_timeout_microseconds: 5 timeout_action: DELAY }}
            priority_levels: 2 priority_queue_policy {{ key: 1 value {{ max_queue_size: 3 }} }}
        }}""",
    )
    assert manifest.batching.max_queue == 7
    for word in ("model_warmup", "response_cache", "EXECUTION_ENV_PATH", "priority_queue_policy", "DELAY"):
        assert any(word in note for note in notes(manifest))
    assert manifest.limits.queue_timeout_s is None


def test_a_queue_timeout_is_that_of_requests_which_say_none(tmp_path: Path) -> None:
    policy = "default_queue_policy { default_timeout_microseconds: 250000 }"
    manifest = of(tmp_path, f'backend: "python" max_batch_size: 4 {INPUTS} dynamic_batching {{ {policy} }}')
    assert manifest.limits.queue_timeout_s == 0.25


def test_labels_go_along(tmp_path: Path) -> None:
    config = 'backend: "python" output { name: "Y" data_type: TYPE_FP32 dims: [2] label_filename: "words.txt" }'
    model = folder(tmp_path, config)
    with pytest.raises(ManifestError, match=r"label_filename words\.txt cannot be read"):
        read(model)
    (model / "words.txt").write_text("no\nyes\n")
    assert read(model).config["labels"] == {"Y": ["no", "yes"]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("max_batch_size: many", "is no model configuration: 1:17"),
        ("nme: 'x'", 'has no field named "nme"'),
        ('name: "other"', "name is 'other', and the folder is 'text_classification'"),
        ('backend: "tensorflow"', "which is not loaded here: convert the model to ONNX"),
        ('backend: "mystery"', "known backends are onnxruntime, pytorch, python"),
        ('platform: "ensemble"', "ensemble scheduling must be set"),
        ("ensemble_scheduling { step { model_name: 'a' } }", "ensemble scheduling cannot be set"),
        ("sequence_batching { }", "sequence_batching"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ('backend: "python" max_batch_size: -1', "max_batch_size is -1"),
        ('backend: "python" default_model_filename: "../x.py"', "default_model_filename"),
        ('backend: "python" input { name: "X" dims: [1] }', "has the data_type TYPE_INVALID"),
        ('backend: "python" input { name: "X" data_type: TYPE_FP32 dims: [0] }', "has the dims [0]"),
        ('backend: "python" input { data_type: TYPE_FP32 dims: [1] }', "has the name ''"),
        ('backend: "python" input { name: "X" data_type: TYPE_FP32 dims: [1] allow_ragged_batch: true }', "ragged"),
        ('backend: "python" output { name: "Y" data_type: TYPE_FP32 label_filename: "/etc/passwd" }', "label_filename"),
        ('backend: "python" instance_group { count: 65 }', "65 instances"),
    ],
)
def test_what_would_not_be_served_as_it_is_meant_is_refused(tmp_path: Path, config: str, said: str) -> None:
    with pytest.raises(ManifestError) as refused:
        of(tmp_path, config)
    assert "config.pbtxt: " in str(refused.value)
    assert said in str(refused.value)


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(ManifestError, match=r"pip install 'headway\[oip\]'"):
        of(tmp_path, PYTORCH)


def test_a_model_toml_comes_before_a_config_pbtxt(tmp_path: Path) -> None:
    model = folder(tmp_path, "rubbish")
    (model / "model.toml").write_text("[batching]\nmax_batch_size = 3")
    assert (read(model).batching.max_batch_size, read(model).items) == (3, "stacked")


def test_names_may_have_capitals_and_begin_with_an_underscore(tmp_path: Path) -> None:
    for name in ("Bert", "bert", "_private", "a.b-C_1"):
        folder(tmp_path, f'backend: "python" {INPUTS}', name)
    for passed_over in ("__pycache__", "_weights", ".hidden"):
        (tmp_path / passed_over).mkdir()
    found: list[Any] = [(one.model, one.error) for one in scan(tmp_path)]
    assert found == [("Bert", None), ("_private", None), ("a.b-C_1", None), ("bert", None)]


def test_the_file_that_the_configuration_names_has_to_be_there(tmp_path: Path) -> None:
    def at(file: str) -> Found:
        (found,) = scan_model(folder(tmp_path / file, f'backend: "python" default_model_filename: "{file}" {INPUTS}'))
        return found

    assert at("model.py").error is None
    assert str(at("mine.py").error).startswith("no mine.py in ")


def test_what_was_left_to_the_model_is_shown_as_it_said_it(tmp_path: Path) -> None:
    manifest = of(tmp_path, 'backend: "onnxruntime" max_batch_size: 2')
    loaded = with_signature(manifest, {"X": Tensor("float32", (-1, 3))}, {"Y": Tensor("string", (-1, 1))})
    assert loaded.config["triton"]["input"] == [{"name": "X", "data_type": "TYPE_FP32", "dims": [3]}]
    assert loaded.config["triton"]["output"] == [{"name": "Y", "data_type": "TYPE_STRING", "dims": [1]}]
