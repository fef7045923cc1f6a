"""What an InferenceService says of a model, and what is not taken from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from headway import kserve
from headway.errors import ManifestError
from headway.manifest import read
from headway.versions import scan_model


def service(folder: Path, predictor: dict[str, Any], name: str = "iris", **spec: Any) -> Path:
    model = folder / "iris"
    model.mkdir(exist_ok=True)
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": predictor, **spec},
    }
    (model / kserve.FILE).write_text(yaml.safe_dump(document))
    return model


def sklearn(uri: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": {"modelFormat": {"name": "sklearn"}} | ({"storageUri": uri} if uri else {}) | more}


def artifact(folder: Path, name: str = "model.joblib") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"an estimator")
    return folder


def test_the_files_are_where_storage_uri_leads(tmp_path: Path) -> None:
    model = service(tmp_path, sklearn("pvc://claim/store/iris%201"))
    artifact(tmp_path / "store" / "iris 1", "best.pkl")
    (found,) = scan_model(model)
    assert (found.version, found.path, found.framework) == ("1", tmp_path / "store" / "iris 1", "pickle")
    assert found.error is not None
    assert "trust = true" in found.error
    (model / "model.toml").write_text("[artifact]\ntrust = true\n")
    (found,) = scan_model(model)
    assert found.error is None


def test_a_version_folder_that_storage_uri_names_is_that_version(tmp_path: Path) -> None:
    model = service(tmp_path, sklearn(f"file://{tmp_path}/iris/v7"))
    artifact(model / "v7")
    assert list(kserve.places(model)) == ["v7"]


def test_numbered_folders_are_the_versions_whatever_storage_uri_says(tmp_path: Path) -> None:
    model = service(tmp_path, sklearn("gs://bucket/models/iris"))
    for version in ("10", "9"):
        artifact(model / version)
    assert list(kserve.places(model)) == ["9", "10"]


def test_what_lies_beside_the_manifest_is_the_one_version(tmp_path: Path) -> None:
    model = artifact(service(tmp_path, sklearn()))
    assert kserve.places(model) == {"1": model}


@pytest.mark.parametrize("uri", ["gs://bucket/iris", "s3://bucket/iris", "https://example.com/iris.joblib"])
def test_nothing_is_fetched(tmp_path: Path, uri: str) -> None:
    model = service(tmp_path, sklearn(uri))
    (found,) = scan_model(model)
    assert found.error is not None
    assert "nothing is fetched here" in found.error


@pytest.mark.parametrize("uri", ["pvc://claim/../outside", "file:///etc", "pvc://claim/link"])
def test_a_storage_uri_out_of_the_models_folder_is_refused(tmp_path: Path, uri: str) -> None:
    models = tmp_path / "models"
    models.mkdir()
    artifact(tmp_path / "outside")
    (models / "link").symlink_to(tmp_path / "outside")
    (found,) = scan_model(service(models, sklearn(uri)))
    assert found.error is not None
    assert "not below the models folder" in found.error


def test_replicas_batches_timeouts_and_gpus_become_their_like(tmp_path: Path) -> None:
    predictor = sklearn("pvc://c/iris/1", resources={"limits": {"nvidia.com/gpu": 1}})
    predictor |= {"minReplicas": 3, "batcher": {"maxBatchSize": 16, "maxLatency": 25, "timeout": 7}}
    manifest = read(artifact(service(tmp_path, predictor)))
    assert manifest.batching.max_batch_size == 16
    assert manifest.batching.max_wait_ms == 25
    assert manifest.limits.timeout_s == 7
    assert manifest.instances == 3
    assert manifest.devices == ("cuda",)


def test_model_toml_outranks_the_manifest(tmp_path: Path) -> None:
    model = service(tmp_path, sklearn() | {"minReplicas": 3})
    (model / "model.toml").write_text("[resources]\ninstances = 1\n[batching]\nmax_batch_size = 4\n")
    manifest = read(model)
    assert (manifest.instances, manifest.batching.max_batch_size) == (1, 4)


def test_without_a_batcher_a_request_is_a_call(tmp_path: Path) -> None:
    assert read(service(tmp_path, sklearn())).batching.max_batch_size == 1


def test_a_canary_is_the_latest_version_s_share(tmp_path: Path) -> None:
    manifest = read(service(tmp_path, sklearn() | {"canaryTrafficPercent": 10}))
    assert (manifest.canary_percent, manifest.policy) == (10, 2)


def test_the_format_may_be_the_key_as_it_was_once_written(tmp_path: Path) -> None:
    manifest = read(service(tmp_path, {"xgboost": {"storageUri": "pvc://c/iris"}}))
    assert manifest.config["kserve"] == {"format": "xgboost", "method": "predict"}


def test_probabilities_are_asked_for_by_the_environment(tmp_path: Path) -> None:
    manifest = read(service(tmp_path, sklearn(env=[{"name": "PREDICT_PROBA", "value": "True"}])))
    assert manifest.config["kserve"]["method"] == "predict_proba"


def test_what_is_not_heeded_is_noted(tmp_path: Path) -> None:
    predictor = sklearn(args=["--x"], env=[{"name": "MINE", "value": "1"}])
    predictor |= {"maxReplicas": 4, "serviceAccountName": "me", "minReplicas": 0}
    notes = read(service(tmp_path, predictor, explainer={})).config["notes"]
    for word in ("maxReplicas", "serviceAccountName", "model.args", "env MINE", "spec.explainer", "minReplicas is 0"):
        assert any(word in note for note in notes), word


@pytest.mark.parametrize(
    ("predictor", "spec", "said"),
    [
        ({}, {}, "no model"),
        (sklearn() | {"xgboost": {}}, {}, "several models"),
        ({"model": {"modelFormat": {"name": "tensorflow"}}}, {}, "tf2onnx"),
        ({"model": {"modelFormat": {"name": "made-up"}}}, {}, "'made-up'"),
        ({"model": {"storageUri": "pvc://c/iris"}}, {}, "modelFormat is missing"),
        ({"containers": [{"image": "me/mine"}]}, {}, "containers"),
        (sklearn(), {"transformer": {}}, "transformer"),
        (sklearn(runtime="kserve-mlserver"), {}, "model-settings.json"),
        (sklearn(protocolVersion="v3"), {}, "'v3'"),
        (sklearn() | {"canaryTrafficPercent": 101}, {}, "spec.predictor.canaryTrafficPercent"),
        (sklearn() | {"batcher": {"maxBatchSize": 0}}, {}, "spec.predictor.batcher.maxBatchSize"),
    ],
)
def test_what_would_behave_otherwise_is_refused(
    tmp_path: Path, predictor: dict[str, Any], spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(ManifestError, match=kserve.FILE) as refused:
        read(service(tmp_path, predictor, **spec))
    assert said in str(refused.value)


def test_another_name_than_the_folder_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"metadata\.name is 'other'"):
        read(service(tmp_path, sklearn(), name="other"))


@pytest.mark.parametrize("text", ["{", "- a\n", "kind: Deployment\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_a_file_that_is_no_inference_service_says_so(tmp_path: Path, text: str) -> None:
    model = service(tmp_path, sklearn())
    (model / kserve.FILE).write_text(text)
    with pytest.raises(ManifestError, match=kserve.FILE):
        read(model)


def test_inputs_beside_it_are_refused(tmp_path: Path) -> None:
    model = service(tmp_path, sklearn())
    (model / "model.toml").write_text('[inputs.x]\ndtype = "float32"\n')
    with pytest.raises(ManifestError, match="as it is"):
        read(model)
