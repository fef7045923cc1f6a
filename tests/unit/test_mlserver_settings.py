"""What model-settings.json says of a version, and what is not taken from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from headway import mlserver
from headway.versions import Found, scan, scan_model

SKLEARN = "mlserver_sklearn.SKLearnModel"


def settings(folder: Path, implementation: str = SKLEARN, *, file: str = "model.joblib", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mlserver.FILE).write_text(json.dumps({"implementation": implementation} | more))
    if file:
        (folder / file).write_bytes(b"an estimator")
    return folder


def trusted(model: Path) -> Path:
    (model / "model.toml").write_text("[artifact]\ntrust = true\n")
    return model


def only(model: Path) -> Found:
    (found,) = scan_model(model)
    return found


def test_a_folder_with_its_files_beside_it_is_one_version(tmp_path: Path) -> None:
    model = trusted(settings(tmp_path / "iris", name="iris", parameters={"version": "v1.0", "uri": "./model.joblib"}))
    found = only(model)
    assert (found.version, found.path, found.framework, found.error) == ("v1.0", model, "mlserver", None)


def test_one_without_a_version_is_1(tmp_path: Path) -> None:
    assert only(trusted(settings(tmp_path / "iris"))).version == "1"


def test_version_folders_are_called_as_their_settings_say_and_all_are_loaded(tmp_path: Path) -> None:
    model = tmp_path / "iris"
    settings(model / "first", parameters={"version": "1"})
    settings(model / "second", parameters={"version": "2"})
    settings(model / "third")
    found = scan_model(trusted(model))
    assert {one.version: one.path.name for one in found} == {"1": "first", "2": "second", "third": "third"}
    assert all(one.wanted for one in found)


def test_a_pickle_needs_trust(tmp_path: Path) -> None:
    assert "trust = true" in str(only(settings(tmp_path / "iris")).error)


def test_a_booster_needs_none(tmp_path: Path) -> None:
    found = only(settings(tmp_path / "trees", "mlserver_xgboost.XGBoostModel", file="model.json"))
    assert found.error is None


def test_batches_and_workers_become_their_like(tmp_path: Path) -> None:
    (tmp_path / mlserver.SERVER_FILE).write_text('{"parallel_workers": 3, "http_port": 8080}')
    settings(tmp_path / "iris", max_batch_size=16, max_batch_time=0.25)
    settings(tmp_path / "alone", parallel_workers=0)
    of = {found.model: found.manifest for found in scan(tmp_path)}
    iris, alone = of["iris"], of["alone"]
    assert iris is not None
    assert alone is not None
    assert (iris.batching.max_batch_size, iris.batching.max_wait_ms, iris.instances) == (16, 250, 3)
    assert (alone.batching.max_batch_size, alone.instances) == (1, 1)


def test_model_toml_outranks_the_settings(tmp_path: Path) -> None:
    model = settings(tmp_path / "iris", max_batch_size=16)
    (model / "model.toml").write_text("[batching]\nmax_batch_size = 2\n[artifact]\ntrust = true\n")
    manifest = only(model).manifest
    assert manifest is not None
    assert manifest.batching.max_batch_size == 2


def test_what_has_no_meaning_here_is_noted(tmp_path: Path) -> None:
    model = settings(tmp_path / "iris", cache_enabled=True, parameters={"environment_tarball": "env.tar.gz"})
    manifest = only(trusted(model)).manifest
    assert manifest is not None
    assert manifest.config["notes"] == [
        "model-settings.json: cache_enabled is not heeded",
        "model-settings.json: parameters.environment_tarball is not heeded",
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"name": "other"}, "they have to be the same"),
        ({"parameters": {"uri": "s3://bucket/model.joblib"}}, "nothing is fetched here"),
        ({"parameters": {"uri": "../other/model.joblib"}}, "leads out of"),
        ({"parameters": {"uri": "/etc/passwd"}}, "leads out of"),
        ({"parameters": {"uri": "absent.joblib"}}, "nothing of that name"),
        ({"parameters": {"version": "a/b"}}, "a version is"),
        ({"implementation": "mlserver_mlflow.MLflowRuntime"}, "in its own format"),
        ({"implementation": "model"}, "module.Class"),
        ({"implementation": 7}, "expected `str`"),
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"inputs": [{"name": "x", "datatype": "FP31", "shape": [1]}]}, "FP31"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, said: dict[str, Any], why: str) -> None:
    model = trusted(settings(tmp_path / "iris"))
    (model / mlserver.FILE).write_text(json.dumps({"implementation": SKLEARN} | said))
    error = only(model).error or ""
    assert mlserver.FILE in error
    assert why in error


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    model = trusted(settings(tmp_path / "iris", file="", parameters={"uri": "model.joblib"}))
    (tmp_path / "elsewhere").write_bytes(b"")
    (model / "model.joblib").symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in (only(model).error or "")


@pytest.mark.parametrize("text", ["[]", "{", "\ufffe", '"text"'])
def test_settings_that_are_none_say_so(tmp_path: Path, text: str) -> None:
    model = settings(tmp_path / "iris")
    (model / mlserver.FILE).write_text(text)
    assert mlserver.FILE in (only(model).error or "")
