"""Model archives: what may come out of one, and what is refused."""

import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from headway import envelopes, mar
from headway.errors import ManifestError
from headway.versions import scan_model

SAID = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py:go", "modelVersion": "1.0"}}
GOOD = {mar.MANIFEST: json.dumps(SAID).encode(), "h.py": b"def go(data, context): return data\n"}


def zipped(file: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def tarred(file: Path, files: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return file


def foldered(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", [zipped, tarred, foldered])
def test_an_archive_of_each_kind_becomes_a_version_folder(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    archive = mar.unpack(pack(tmp_path / "m.mar", GOOD), tmp_path / "models" / "m" / "1.0")
    assert (archive.model.model_name, archive.model.handler) == ("m", "h.py:go")
    assert contents(tmp_path / "models" / "m" / "1.0") == GOOD
    (found,) = scan_model(tmp_path / "models" / "m")
    assert (found.version, found.framework, found.error) == ("1.0", "torchserve", None)
    assert found.manifest is not None
    assert (found.manifest.batching.max_batch_size, found.manifest.limits.timeout_s) == (1, 120.0)
    assert mar.peek(tmp_path / "m.mar", tmp_path).model_version == "1.0"


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out", "C:out", "a\nb", "x" * 600])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_nothing_leaves_its_folder(tmp_path: Path, pack: object, name: str) -> None:
    assert callable(pack)
    file = pack(tmp_path / "m.mar", GOOD | {name: b"x"})
    with pytest.raises(ManifestError, match="no place in a folder"):
        mar.unpack(file, tmp_path / "models" / "m" / "1.0")
    assert os.listdir(tmp_path / "models" / "m") == []
    assert sorted(os.listdir(tmp_path)) == ["m.mar", "models"]


def test_a_link_is_refused_in_every_kind_of_archive(tmp_path: Path) -> None:
    link = tarfile.TarInfo("secret")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("secret")
    hard.type, hard.linkname = tarfile.LNKTYPE, "h.py"
    files = [tarred(tmp_path / "a.mar", GOOD, link), tarred(tmp_path / "b.mar", GOOD, hard)]
    with zipfile.ZipFile(zipped(tmp_path / "c.mar", GOOD), "a") as archive:
        info = zipfile.ZipInfo("secret")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    foldered(tmp_path / "d", GOOD)
    (tmp_path / "d" / "secret").symlink_to("/etc/passwd")
    for file in (*files, tmp_path / "c.mar", tmp_path / "d"):
        with pytest.raises(ManifestError, match="no plain file"):
            mar.unpack(file, tmp_path / "models" / "m" / "1.0")


def test_an_archive_that_unpacks_to_too_much_is_stopped_on_the_way(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.mar", GOOD | {"zeros": bytes(10_000_000)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ManifestError, match="more than 1000000 bytes"):
        mar.unpack(bomb, tmp_path / "models" / "m" / "1.0", most_bytes=1_000_000)
    many = zipped(tmp_path / "many.mar", GOOD | {f"f{i}": b"" for i in range(30)})
    with pytest.raises(ManifestError, match="more than 20 files"):
        mar.unpack(many, tmp_path / "models" / "m" / "1.0", most_files=20)
    assert os.listdir(tmp_path / "models" / "m") == []


def test_what_is_cut_off_or_no_archive_says_so(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.mar", GOOD).read_bytes()
    tar = tarred(tmp_path / "tar.mar", GOOD).read_bytes()
    damaged = bytearray(whole)
    damaged[damaged.index(b"MAR-INF") + len(mar.MANIFEST) + 4] ^= 0xFF
    for number, data in enumerate((whole[:-30], tar[:-20], tar[:40], bytes(damaged), b"", b"hello", b"\x1f\x8b")):
        file = tmp_path / f"{number}.mar"
        file.write_bytes(data)
        with pytest.raises(ManifestError):
            mar.unpack(file, tmp_path / "models" / "m" / "1.0")
    assert os.listdir(tmp_path / "models" / "m") == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"h.py": b""}, "no such file"),
        ({mar.MANIFEST: b"[1]"}, "JSON object"),
        ({mar.MANIFEST: b"{"}, "not valid JSON"),
        ({mar.MANIFEST: b'{"model": {}}'}, "handler"),
        ({mar.MANIFEST: b'{"runtime": "java", "model": {"handler": "h.py"}}'}, "only Python"),
        ({mar.MANIFEST: b'{"model": {"handler": "../h.py"}}'}, "file of the archive"),
        ({mar.MANIFEST: b'{"model": {"handler": "h", "modelFile": "/etc/passwd"}}'}, "file of the archive"),
        ({mar.MANIFEST: b'{"model": {"handler": "h", "serializedFile": "gone.pt"}}'}, "no such file"),
        ({mar.MANIFEST: b'{"model": {"handler": "h", "configFile": "c"}}', "c": b"a: [1"}, "not valid YAML"),
        ({mar.MANIFEST: b'{"model": {"handler": "h", "configFile": "c"}}', "c": b"- 1"}, "a mapping"),
        ({mar.MANIFEST: b'{"model": {"handler": "h", "configFile": "c"}}', "c": b"batchSize: x"}, "batchSize"),
    ],
)
def test_a_version_whose_manifest_makes_no_sense_says_why(
    tmp_path: Path, files: Mapping[str, bytes], reason: str
) -> None:
    foldered(tmp_path / "m" / "1", files)
    (found,) = scan_model(tmp_path / "m")
    assert found.error is not None
    if mar.MANIFEST in files:
        assert reason in found.error


def test_the_archive_outranks_torchserves_defaults_and_model_toml_outranks_both(tmp_path: Path) -> None:
    said = {"model": {**SAID["model"], "configFile": "c.yaml"}}  # type: ignore[dict-item]
    config = b"minWorkers: 2\nbatchSize: 8\nmaxBatchDelay: 50\nresponseTimeout: 9\nhandler: {profile: true}\n"
    foldered(tmp_path / "m" / "1", {mar.MANIFEST: json.dumps(said).encode(), "c.yaml": config, "h.py": b""})
    (found,) = scan_model(tmp_path / "m")
    assert found.manifest is not None
    manifest = found.manifest
    assert (manifest.batching.max_batch_size, manifest.batching.max_wait_ms) == (8, 50.0)
    assert (manifest.limits.timeout_s, manifest.instances) == (9.0, 2)
    (tmp_path / "m" / "model.toml").write_text("[batching]\nmax_batch_size = 3\n[resources]\ninstances = 1\n")
    (found,) = scan_model(tmp_path / "m")
    assert found.manifest is not None
    assert (found.manifest.batching.max_batch_size, found.manifest.instances) == (3, 1)
    assert found.manifest.limits.timeout_s == 9.0


def test_a_message_is_what_it_was_packed_from(tmp_path: Path) -> None:
    request = envelopes.Request("/predictions/m?a=b", {"x-name": "Zoë", "explain": "True"}, b"\r\n\r\nx")
    assert envelopes.unpack_request(envelopes.pack_request(request)) == request
    response = envelopes.Response(422, "Not \xfc so", {"X-Said": "1"}, b"")
    assert envelopes.unpack_response(envelopes.pack_response(response)) == response
    split = envelopes.Response(200, "OK\r\nSet-Cookie: a", {"a": "b\r\nc: d", "e f": "g", "h": "i"}, b"")
    assert envelopes.unpack_response(envelopes.pack_response(split)).headers == {"h": "i"}
    for broken in (b"", b"GET", b"HTTP/1.1 2 x\r\n\r\n", b"HTTP/1.1 200 x\r\nno\r\n\r\n"):
        with pytest.raises(ValueError, match="no "):
            envelopes.unpack_response(broken)
