"""model.toml and the version folders."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from headway.errors import ManifestError
from headway.manifest import Manifest, Tensor, fits, parse, read, with_signature
from headway.versions import scan


def put(folder: Path, **files: str) -> Path:
    """Writes files under `folder`; a key `v1__model_py` is the path v1/model.py."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, text in files.items():
        path = folder / key.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


FULL = """
[model]
entry = "pkg.mod:Net"
example = { x = [1.0, 2.0] }
[batching]
max_batch_size = 8
max_wait_ms = 2
[limits]
timeout_s = 1.5
[inputs.x]
dtype = "float32"
shape = [-1]
[outputs.y]
dtype = "int64"
[versions]
policy = [1, "v2"]
[aliases]
stable = 1
[resources]
instances = 2
memory = "1.5GiB"
devices = ["cuda", "cpu"]
[config]
trained = 2024-05-01
"""


def test_every_key_is_read_and_the_manifest_survives_json(tmp_path: Path) -> None:
    manifest = read(put(tmp_path, model_toml=FULL))
    assert manifest.batching.max_batch_size == 8
    assert manifest.limits.timeout_s == 1.5
    assert manifest.inputs == {"x": Tensor("float32", (-1,))}
    assert manifest.outputs == {"y": Tensor("int64", ())}
    assert (manifest.policy, manifest.aliases) == (["1", "v2"], {"stable": "1"})
    assert (manifest.entry, manifest.instances, manifest.example) == ("pkg.mod:Net", 2, {"x": [1.0, 2.0]})
    assert (manifest.memory_bytes, manifest.devices) == (3 << 29, ("cuda", "cpu"))
    assert [fits(manifest, device) for device in ("cuda:3", "cpu", "mps")] == [True, True, False]
    assert manifest.config["config"] == {"trained": "2024-05-01"}
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


def test_without_a_model_toml_there_are_defaults(tmp_path: Path) -> None:
    manifest = read(tmp_path)
    assert manifest == Manifest()
    assert (manifest.batching.max_batch_size, manifest.batching.max_wait_ms, manifest.limits.max_attempts) == (32, 5, 3)


@pytest.mark.parametrize(
    ("shape", "written", "size"),
    [([3], {}, "none"), ([-1, 3], {}, "shape"), ([-1, 3], {"size": "bytes"}, "bytes"), (None, {}, "bytes")],
)
def test_what_a_size_is_follows_from_the_inputs_unless_it_is_written(
    shape: list[int] | None, written: dict[str, str], size: str
) -> None:
    inputs = {} if shape is None else {"x": {"dtype": "float32", "shape": shape}}
    assert parse({"inputs": inputs, "batching": written}).batching.size == size


def test_a_graph_that_reports_its_inputs_changes_the_default_size_only() -> None:
    reported = {"x": Tensor("float32", (3,))}
    assert with_signature(parse({}), reported, {}).batching.size == "none"
    assert with_signature(parse({"batching": {"size": "bytes"}}), reported, {}).batching.size == "bytes"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[batching]\nmax_batchsize = 8", "did you mean 'max_batch_size'"),
        ("[batchin]", "did you mean 'batching'"),
        ("[batching]\nmax_batch_size = 0", "[batching] max_batch_size: expected `int` >= 1"),
        ("[batching]\nmax_batch_size = true", "[batching] max_batch_size"),
        ("[batching]\nsize = 'rows'", "[batching] size"),
        ("[limits]\ntimeout_s = nan", "[limits] timeout_s"),
        ("[limits]\ntimeout_s = inf", "[limits] timeout_s"),
        ("batching = 3", "[batching]"),
        ("inputs = 3", "[inputs]"),
        ("[inputs]\nx = 3", "[inputs.x]"),
        ("[inputs.x]\ndtype = 'float31'", "[inputs.x] dtype is 'float31'"),
        ("[inputs.x]\ndtype = 'int8'\nshape = [0]", "[inputs.x] shape"),
        ("[inputs.x]\nshape = [1]", "dtype"),
        ("[inputs.x]\ndtype = 'int8'\nnullable = true", "int8 has no NaN"),
        ("[inputs.'a b']\ndtype = 'int8'", "[inputs.a b]"),
        ("[versions]\npolicy = 'newest'", "[versions] policy"),
        ("[versions]\npolicy = ['../1']", "[versions] policy"),
        ("[aliases]\nstable = 1.5", "[aliases] stable"),
        ("[aliases]\n'a:b' = 1", "[aliases] 'a:b'"),
        ("[model]\nentry = 'pkg.mod'", "[model] entry"),
        ("[resources]\ninstances = 0", "[resources] instances"),
        ("[resources]\nmemory = '6 pounds'", "[resources] memory is '6 pounds'"),
        ("[resources]\ndevices = ['gpu']", "'gpu'"),
        ("[artifact]\nsha256 = 'ab'", "[artifact] sha256 is 'ab'"),
        ("[artifact]\nsha256 = { '../1' = 'ab' }", "[artifact] sha256"),
        ("[artifact]\ntrust = 'yes'", "[artifact] trust"),
        ("[batching", "not valid TOML"),
    ],
)
def test_a_wrong_model_toml_is_refused_naming_the_file_and_the_key(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(ManifestError) as refusal:
        read(put(tmp_path, model_toml=toml))
    assert said in str(refusal.value)
    assert str(tmp_path / "model.toml") in str(refusal.value)


def test_latest_is_the_highest_number_and_else_the_newest(tmp_path: Path) -> None:
    put(tmp_path / "numbered", **{f"{v}__model_py": "" for v in ("2", "10", "beta")})
    put(tmp_path / "named", **{f"{v}__model_py": "" for v in ("b", "a")})
    os.utime(tmp_path / "named" / "b", (1, 1))
    found = {one.model: one.version for one in scan(tmp_path) if one.wanted}
    assert found == {"numbered": "10", "named": "a"}


def test_policies_and_aliases_say_which_versions_are_served(tmp_path: Path) -> None:
    versions = {f"{v}__model_py": "" for v in ("1", "2", "10")}
    put(tmp_path / "all", model_toml="[versions]\npolicy = 'all'", **versions)
    put(tmp_path / "aliased", model_toml="[aliases]\nstable = 1", **versions)
    put(tmp_path / "listed", model_toml="[versions]\npolicy = [2, 7]", **versions)
    found = [(one.model, one.version, one.error) for one in scan(tmp_path) if one.wanted]
    assert [(model, version) for model, version, error in found if error is None] == [
        ("aliased", "1"), ("aliased", "10"), ("all", "1"), ("all", "2"), ("all", "10"), ("listed", "2"),
    ]  # fmt: skip
    assert [(model, version) for model, version, error in found if error] == [("listed", "7")]


def test_a_broken_folder_is_found_with_its_reason_and_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path / "good", **{"1__model_pt2": "weights", "notes__read_me": "no version"})
    put(tmp_path / "bad-toml", model_toml="[", **{"3__model_py": ""})
    put(tmp_path / "Bad Name", **{"1__model_py": ""})
    put(tmp_path / "no-file", **{"1__weights_bin": ""})
    put(tmp_path / "no-version", model_toml="")
    put(tmp_path / ".git", config="")
    found = {(one.model, one.version): one for one in scan(tmp_path)}
    good = found.pop(("good", "1"))
    assert (good.error, good.framework, good.path) == (None, "torch.export", tmp_path / "good" / "1")
    assert set(found) == {("bad-toml", "3"), ("Bad Name", ""), ("no-file", "1"), ("no-version", "")}
    assert all(one.error for one in found.values())


def digest(models: Path) -> str:
    (found,) = scan(models)
    assert found.error is None
    return found.sha256


def test_the_digest_is_of_the_names_and_contents_of_all_files(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    put(tmp_path / "m", **{"1__model_py": "a = 1", "1__b_txt": "b"})
    (version / "sub").mkdir()
    (version / "sub" / "a.txt").write_text("a")
    before = digest(tmp_path)
    listed = "find . -type f | sed 's,^./,,' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    said = subprocess.run(["/bin/sh", "-c", listed], cwd=version, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == before

    seen = {before}
    for change in (
        lambda: (version / "b.txt").write_text("c"),
        lambda: (version / "b.txt").rename(version / "c.txt"),
        lambda: (version / "new").write_text(""),
        lambda: (version / "sub").rename(version / "bus"),
        lambda: (version / "model.py").write_text("a = 2"),
    ):
        change()
        assert digest(tmp_path) not in seen
        seen.add(digest(tmp_path))


def test_the_digest_passes_over_what_editors_copiers_and_python_leave(tmp_path: Path) -> None:
    put(tmp_path / "m", **{"1__model_py": "a = 1"})
    before = digest(tmp_path)
    for name in (".model.py.swp", "model.py~", "weights.part", ".git/config", "__pycache__/model.cpython-312.pyc"):
        file = tmp_path / "m" / "1" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    assert digest(tmp_path) == before


def test_a_link_may_lead_anywhere_in_the_models_folder_and_nowhere_else(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    put(models / "m", **{"1__model_py": "a = 1"})
    put(models / "_weights", big="weights")
    put(outside, secret="s", **{"1__model_py": ""})
    (models / "m" / "1" / "weights").symlink_to(models / "_weights" / "big")
    (models / "m" / "1" / "above").symlink_to(models / "m" / "1", target_is_directory=True)
    inside = digest(models)
    (models / "_weights" / "big").write_text("others")
    assert digest(models) != inside

    def error() -> str:
        (found,) = scan(models)
        assert found.sha256 == ""
        return found.error or ""

    link = models / "m" / "1" / "link"
    for target in (outside / "secret", outside, Path("../../../outside/secret")):
        link.symlink_to(target)
        assert "link out of the models folder" in error()
        link.unlink()
    shutil.rmtree(models / "m" / "1")
    (models / "m" / "1").symlink_to(outside / "1", target_is_directory=True)
    assert "link out of the models folder" in error()
    shutil.rmtree(models / "m")
    (models / "m").symlink_to(outside, target_is_directory=True)
    assert "link out of the models folder" in error()


def test_a_name_that_could_forge_the_list_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "m", **{"1__model_py": ""})
    (tmp_path / "m" / "1" / "a\nb").write_text("")
    (found,) = scan(tmp_path)
    assert "control characters" in (found.error or "")


def test_files_that_are_not_those_that_model_toml_names_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "m", **{"1__model_py": "a = 1"})
    sha256 = digest(tmp_path)
    for toml in (f'sha256 = "{sha256}"', f'sha256 = {{ 1 = "{sha256}", 2 = "{"0" * 64}" }}', "sha256 = {}"):
        put(tmp_path / "m", model_toml=f"[artifact]\n{toml}")
        assert digest(tmp_path) == sha256
    for toml in (f'sha256 = "{"0" * 64}"', f'sha256 = {{ 1 = "{"0" * 64}" }}'):
        put(tmp_path / "m", model_toml=f"[artifact]\n{toml}")
        (found,) = scan(tmp_path)
        assert found.error == f"its files have the sha256 {sha256}, and model.toml says [artifact] sha256 = {'0' * 64}"


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.joblib"])
def test_what_unpickles_is_refused_unless_it_is_trusted(tmp_path: Path, name: str) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for toml in ("", "[artifact]\ntrust = false"):
        put(tmp_path / "m", model_toml=toml)
        (found,) = scan(tmp_path)
        assert "trust = true" in (found.error or "")
    put(tmp_path / "m", model_toml="[artifact]\ntrust = true")
    (found,) = scan(tmp_path)
    assert (found.error, found.framework) == (None, "joblib" if name == "model.joblib" else "pickle")


def test_a_missing_models_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere"):
        scan(tmp_path / "nowhere")
