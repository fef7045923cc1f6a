"""Versions of a BentoML model store, as `bentoml.….save_model` writes them."""

import io
import tarfile
from pathlib import Path

import yaml

BATCHED = {"batchable": True, "batch_dim": [0, 0]}


def stored(
    models: Path,
    name: str,
    version: str,
    module: str,
    *,
    signatures: dict[str, object] | None = None,
    options: dict[str, object] | None = None,
    latest: bool = True,
) -> Path:
    """The version folder, without its model file."""
    folder = models / name / version
    folder.mkdir(parents=True)
    said = {
        "name": name,
        "version": version,
        "module": module,
        "labels": {},
        "options": options or {},
        "metadata": {},
        "context": {
            "framework_name": module.partition(".")[2],
            "framework_versions": {},
            "bentoml_version": "1.4.39",
            "python_version": "3.11.7",
        },
        "signatures": signatures or {"predict": {"batchable": False}},
        "api_version": "v1",
        "creation_time": "2026-11-24T05:10:44.325758+00:00",
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    if latest:
        (folder.parent / "latest").write_text(version)
    return folder


def trusted(models: Path, name: str) -> None:
    """So that its pickle is read."""
    (models / name / "model.toml").write_text("[artifact]\ntrust = true\n")


def exported(folder: Path, file: Path) -> Path:
    """As `bentoml models export` packs it."""
    with tarfile.open(file, "w:xz") as archive:
        archive.add(folder, ".")
    return file


def packed(file: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """A tar of whatever is asked for."""
    with tarfile.open(file, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file
