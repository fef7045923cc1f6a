"""Folders of a BentoML model store: what they say, which version is the latest, and what is not taken."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from api.registry import ModelView
from headway import versions
from headway.bentoml import exported, store
from headway.errors import ManifestError
from headway.manifest import Manifest, Tensor
from headway.registry import Version
from tests import bentos
from tests.bentos import BATCHED

ONNX = "bentoml.onnx"


def onnx(models: Path, name: str = "twice", version: str = "a1", **more: Any) -> Path:
    folder = bentos.stored(models, name, version, ONNX, **{"signatures": {"run": BATCHED}, **more})
    (folder / "saved_model.onnx").write_bytes(b"graph")
    return folder


def found(models: Path, name: str) -> dict[str, versions.Found]:
    return {one.version: one for one in versions.scan_model(models / name)}


def test_a_store_folder_is_a_model_folder_and_its_tags_are_versions(tmp_path: Path) -> None:
    onnx(tmp_path, version="wd7sx2xhywu6wax4")
    (one,) = found(tmp_path, "twice").values()
    assert (one.version, one.framework, one.error) == ("wd7sx2xhywu6wax4", "bentoml", None)
    assert one.manifest is not None
    assert (one.manifest.items, one.manifest.batching.max_batch_size) == ("joined", 100)
    assert store.call_of(one.manifest) == store.Call(ONNX, "run", ["run"])


def test_the_file_latest_says_which_version_is_the_latest_whatever_is_newer(tmp_path: Path) -> None:
    onnx(tmp_path, version="b2")
    onnx(tmp_path, version="c3", latest=False)
    onnx(tmp_path, version="7", latest=False)
    assert {name: one.wanted for name, one in found(tmp_path, "twice").items()} == {"b2": True, "c3": False, "7": False}
    rows = [row(one, at) for at, one in enumerate(found(tmp_path, "twice").values())]
    assert ModelView.of("twice", rows).latest == "b2"
    (tmp_path / "twice" / "latest").write_text("c3\n")
    rows = [row(one, at) for at, one in enumerate(found(tmp_path, "twice").values())]
    assert ModelView.of("twice", rows).latest == "c3"
    (tmp_path / "twice" / "latest").write_text("../c3")
    assert [name for name, one in found(tmp_path, "twice").items() if one.wanted] == ["7"]


def row(one: versions.Found, at: int) -> Version:
    assert one.manifest is not None
    return Version(
        model=one.model, version=one.version, state="ready", reason=None, framework=one.framework, path="/",
        sha256=one.sha256, manifest=one.manifest, created_at=at, loaded_at=1, placements=[],
    )  # fmt: skip


@pytest.mark.parametrize("module", ["bentoml.sklearn", "bentoml.pytorch", "bentoml.picklable_model"])
def test_what_is_a_pickle_is_refused_until_model_toml_trusts_it(tmp_path: Path, module: str) -> None:
    folder = bentos.stored(tmp_path, "iris", "a1", module)
    (folder / store.FILES[module]).write_bytes(b"pickle")
    (one,) = found(tmp_path, "iris").values()
    assert one.error == versions.UNTRUSTED
    bentos.trusted(tmp_path, "iris")
    (one,) = found(tmp_path, "iris").values()
    assert one.error is None


@pytest.mark.parametrize(
    ("signatures", "items", "size"),
    [
        ({"run": {"batchable": False}}, "alone", 1),
        ({"run": {"batchable": True}}, "joined", 100),
        ({"run": {"batchable": True, "batch_dim": 0}}, "joined", 100),
    ],
)
def test_a_signature_says_whether_requests_are_joined(
    tmp_path: Path, signatures: dict[str, object], items: str, size: int
) -> None:
    served = store.served(Manifest(), onnx(tmp_path, signatures=signatures))
    assert (served.items, served.batching.max_batch_size) == (items, size)


def test_model_toml_outranks_model_yaml_and_its_inputs_get_the_dimension_of_rows(tmp_path: Path) -> None:
    onnx(tmp_path)
    (tmp_path / "twice" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 7\n[inputs.x]\ndtype = "float32"\nshape = [2]\n'
    )
    (one,) = found(tmp_path, "twice").values()
    assert one.manifest is not None
    assert one.manifest.batching.max_batch_size == 7
    assert one.manifest.inputs == {"x": Tensor("float32", (-1, 2))}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"signatures": {"run": {"batchable": True, "batch_dim": [1, 0]}}}, "joined along the first dimension only"),
        ({"signatures": {"run": {"batchable": "often"}}}, "batchable"),
    ],
)
def test_what_cannot_be_served_as_it_is_says_why(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    onnx(tmp_path, **change)
    (one,) = found(tmp_path, "twice").values()
    assert said in (one.error or "")


def test_a_module_that_is_not_known_and_a_file_that_is_missing_are_named(tmp_path: Path) -> None:
    bentos.stored(tmp_path, "cats", "a1", "bentoml.catboost")
    bentos.stored(tmp_path, "twice", "a1", ONNX)
    (cats,), (twice,) = found(tmp_path, "cats").values(), found(tmp_path, "twice").values()
    assert "its module is 'bentoml.catboost', and known are bentoml.sklearn" in (cats.error or "")
    assert "no saved_model.onnx in" in (twice.error or "")


def test_a_method_of_model_toml_has_to_be_one_of_the_signatures(tmp_path: Path) -> None:
    signatures = {"predict": BATCHED, "predict_proba": {"batchable": False}}
    folder = bentos.stored(tmp_path, "trees", "a1", "bentoml.lightgbm", signatures=signatures)
    (folder / "saved_model.ubj").write_text("tree")
    config = tmp_path / "trees" / "model.toml"
    config.write_text('[config]\nmethod = "predict_proba"\n')
    (one,) = found(tmp_path, "trees").values()
    assert one.manifest is not None
    assert (store.call_of(one.manifest).method, one.manifest.items) == ("predict_proba", "alone")
    config.write_text('[config]\nmethod = "transform"\n')
    (one,) = found(tmp_path, "trees").values()
    assert "[config] method is 'transform'" in (one.error or "")


def test_an_exported_model_becomes_a_version_and_the_latest(tmp_path: Path) -> None:
    file = bentos.exported(onnx(tmp_path / "theirs"), tmp_path / "twice.bentomodel")
    target = exported.unpack(file, tmp_path / "models")
    assert target == tmp_path / "models" / "twice" / "a1"
    assert (target / "saved_model.onnx").read_bytes() == b"graph"
    assert (target.parent / "latest").read_text() == "a1"
    with pytest.raises(ManifestError, match="is there"):
        exported.unpack(file, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["twice"]


def _link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("saved_model.onnx")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return link


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../../evil", b"x")], "which is no place in a folder"),
        ([("/etc/evil", b"x")], "which is no place in a folder"),
        ([_link()], "which is no plain file"),
        ([("model.yaml", b"x" * 2000)], "unpacks to more than 1000 bytes"),
        ([(f"f{at}", b"") for at in range(9)], "more than 8 files"),
        ([("saved_model.onnx", b"x")], "model.yaml: cannot be read"),
        ([("model.yaml", b"name: ../up\nversion: a\nmodule: bentoml.onnx"), ("saved_model.onnx", b"")], "is no name"),
        ([("model.yaml", b"name: a\nversion: b/../..\nmodule: bentoml.onnx"), ("saved_model.onnx", b"")], "is no name"),
    ],
)
def test_an_export_that_leads_elsewhere_or_is_none_leaves_nothing_behind(
    tmp_path: Path, members: list[Any], said: str
) -> None:
    file = bentos.packed(tmp_path / "bad.bentomodel", *members)
    with pytest.raises(ManifestError, match=said):
        exported.unpack(file, tmp_path / "models", most_bytes=1000, most_files=8)
    assert list((tmp_path / "models").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_an_export_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = bentos.exported(onnx(tmp_path / "theirs"), tmp_path / "twice.bentomodel")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ManifestError, match="the archive cannot be read"):
        exported.unpack(file, tmp_path / "models")
