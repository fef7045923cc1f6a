"""TF Serving's files: what they become, and what is refused, with its place."""

from pathlib import Path

import pytest

from headway.errors import ManifestError, SettingsError
from headway.manifest import Manifest
from headway.tfserving import batching, model_config, number, savedmodel, tflite
from headway.tfserving.setup import NOTHING, Files, read
from headway.versions import places, scan

#: As TF Serving's documentation and its users write it: with and without commas, either quotation mark.
CONFIG = """
model_config_list: {
  config: {
    name: "first",
    base_path: "/models/first",
    model_platform: "tensorflow",
    model_version_policy: { latest { num_versions: 2 } }
  },
  config {
    name: 'second'
    base_path: 'second'
    model_version_policy { specific { versions: 1 versions: 3 } }
    version_labels { key: 'stable' value: 1 }
    version_labels { key: 'canary' value: 3 }
  }
  config { name: "third" base_path: "/models/third" model_version_policy { all { } } }
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.config"


def test_a_model_config_says_names_paths_policies_and_labels(file: Path, tmp_path: Path) -> None:
    file.write_text(CONFIG)
    first, second, third = model_config.read(file, tmp_path).entries
    assert (first.name, first.base_path, first.policy, first.labels) == ("first", Path("/models/first"), 2, {})
    assert (second.base_path, second.policy) == (tmp_path / "second", ["1", "3"])
    assert second.applied(Manifest()).aliases == {"canary": "3", "stable": "1"}
    assert third.policy == "all"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_config_list {\n config {\n nme: 'x' } }", 'line 3: .*no field named "nme"'),
        ("model_config_list { config { base_path: '/x' } }", "the name '' is no model name"),
        ("model_config_list { config { name: 'x' } }", "'x' has no base_path"),
        ("model_config_list { config { name: 'x' base_path: 's3://b/x' } }", "mount it, or copy it here"),
        ("model_config_list { config { name: 'x' base_path: 'x' model_platform: 'caffe' } }", "known is 'tensorflow'"),
        ("model_config_list { config { name: 'x' base_path: 'x' model_type: OTHER } }", "model_type OTHER"),
        (
            "model_config_list { config { name: 'x' base_path: 'x' version_labels { key: '/' value: 1 } } }",
            "label '/', which is none",
        ),
        (
            "model_config_list { config { name: 'x' base_path: 'x' } config { name: 'x' base_path: 'y' } }",
            "listed twice",
        ),
        ("custom_model_config { }", "sources of C"),
    ],
)
def test_a_model_config_that_makes_no_sense_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        model_config.read(file, file.parent)


def test_a_batching_config_counts_rows(file: Path) -> None:
    file.write_text(
        "max_batch_size { value: 128 }\nbatch_timeout_micros { value: 2000 }\nmax_enqueued_batches { value: 4 }\n"
        "allowed_batch_sizes: 32\nallowed_batch_sizes: 128\nnum_batch_threads { value: 8 }\n"
    )
    found = batching.read(file)
    rules = found.rules
    assert (rules.max_batch_cost, rules.max_wait_ms, rules.max_queue, rules.size) == (128, 2.0, 512, "none")
    assert found.allowed_batch_sizes == (32, 128)
    assert [note.partition(" ")[0] for note in found.notes] == ["num_batch_threads"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size is 0, and should be 1 or more"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", r"allowed_batch_sizes are \[4\], .* 8"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [8, 4]", "should ascend"),
        (
            (
                "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
                "max_execution_batch_size { value: 9 }"
            ),
            "should not be larger",
        ),
        ("max_batch_size: 8", "line 1"),
    ],
)
def test_a_batching_config_that_makes_no_sense_is_refused(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        batching.read(file)


def test_what_model_config_names_is_served_from_its_base_path_alone(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models / "own" / "1", models / "named" / "1", elsewhere / "007", elsewhere / "new", elsewhere / "2"):
        folder.mkdir(parents=True)
        (folder / "model.py").write_text("")
    file = tmp_path / "model.config"
    file.write_text(f"model_config_list {{ config {{ name: 'named' base_path: '{elsewhere}' }} }}")
    setup = read(Files(model_config=file), models)
    assert [(place.name, place.folder) for place in places(models, setup)] == [
        ("named", elsewhere), ("own", models / "own")
    ]  # fmt: skip
    assert [(one.model, one.version, one.path.name, one.wanted) for one in scan(models, setup)] == [
        ("named", "2", "2", False), ("named", "7", "007", True), ("own", "1", "1", True)
    ]  # fmt: skip
    assert [one.model for one in scan(models, NOTHING)] == ["named", "own"]


@pytest.mark.parametrize(
    ("name", "version"), [("1", "1"), ("00000123", "123"), ("0", "0"), ("1a", None), ("-1", None), ("9" * 19, None)]
)
def test_a_folder_whose_name_is_a_number_is_a_version(name: str, version: str | None) -> None:
    assert number(name) == version


@pytest.mark.parametrize("content", [b"", b"\x00", b"no model", b"\x12\xff\xff\xff\xff\x0f", b"\x08\x01\x12\x02\x0a"])
def test_what_is_no_saved_model_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ManifestError):
        savedmodel.signatures(file)


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00TFL3", b"\xff\xff\xff\x7fTFL3" + b"\xff" * 64])
def test_what_is_no_tflite_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ManifestError):
        tflite.signatures(file)


@pytest.mark.parametrize("said", ["-1", "x", "100000"])
def test_how_often_it_is_looked_at_is_seconds(said: str) -> None:
    with pytest.raises(SettingsError, match="HEADWAY_MODEL_CONFIG_FILE_POLL_WAIT_SECONDS"):
        Files.from_environ({"HEADWAY_MODEL_CONFIG_FILE_POLL_WAIT_SECONDS": said})
