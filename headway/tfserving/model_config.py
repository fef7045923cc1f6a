"""`model.config`: which models are served from which base paths, which of their versions, and under which labels."""

from pathlib import Path
from typing import Any

import msgspec

from headway.errors import SettingsError
from headway.manifest import NAME, NAME_RULE, Manifest, Policy
from headway.tfserving import text


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the file lists."""

    name: str
    base_path: Path
    policy: Policy = "latest"
    labels: dict[str, str] = {}  # label → version

    def applied(self, manifest: Manifest) -> Manifest:
        """The manifest of its folder, with what the file says of versions."""
        return msgspec.structs.replace(manifest, policy=self.policy, aliases=self.labels)


class ModelConfig(msgspec.Struct, frozen=True):
    """All of the file."""

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()  # what of it is not heeded


def read(file: Path, models: Path) -> ModelConfig:
    """`models`: where a base path begins that is not absolute. Raises SettingsError, naming the file."""
    said = text.read(file, "ModelServerConfig")
    try:
        return of(said, models)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from error


def of(said: dict[str, Any], models: Path) -> ModelConfig:
    """Of the decoded file. Raises SettingsError."""
    if "custom_model_config" in said:
        raise SettingsError("custom_model_config is for sources of C++: list models in a model_config_list")
    notes: list[str] = []
    entries: dict[str, Entry] = {}
    for config in said.get("model_config_list", {}).get("config", []):
        entry = _entry(config, models, notes)
        if entry.name in entries:
            raise SettingsError(f"the model {entry.name!r} is listed twice")
        entries[entry.name] = entry
    return ModelConfig(tuple(entries.values()), tuple(notes))


def _entry(config: dict[str, Any], models: Path, notes: list[str]) -> Entry:
    name = config.get("name", "")
    if not NAME.fullmatch(name):
        raise SettingsError(f"the name {name[:80]!r} is no model name: {NAME_RULE}")
    platform = config.get("model_platform", "")
    if platform not in ("", "tensorflow") or config.get("model_type", "TENSORFLOW") != "TENSORFLOW":
        said = f"model_platform {platform[:80]!r}" if platform else f"model_type {config['model_type']}"
        raise SettingsError(f"the model {name!r} has the {said}; known is 'tensorflow'")
    if "logging_config" in config or "logging_configs" in config:
        notes.append(f"logging_config of {name} is not heeded: HEADWAY_RETENTION keeps all requests")
    return Entry(
        name=name,
        base_path=_base_path(name, config.get("base_path", ""), models),
        policy=_policy(config.get("model_version_policy", {})),
        labels=_labels(name, config.get("version_labels", {})),
    )


def _base_path(name: str, said: str, models: Path) -> Path:
    if not said:
        raise SettingsError(f"the model {name!r} has no base_path")
    if "://" in said or "\0" in said:
        raise SettingsError(f"the model {name!r} has the base_path {said[:80]!r}: mount it, or copy it here")
    return models.resolve() / said


def _policy(said: dict[str, Any]) -> Policy:
    if "all" in said:
        return "all"
    if "specific" in said:
        return [str(version) for version in said["specific"].get("versions", [])]
    count = said.get("latest", {}).get("num_versions", 1)
    return "latest" if count <= 1 else int(count)


def _labels(name: str, said: dict[str, int]) -> dict[str, str]:
    for label, version in said.items():
        if not NAME.fullmatch(label):
            raise SettingsError(f"the model {name!r} has the label {label[:80]!r}, which is none: {NAME_RULE}")
        if version < 0:
            raise SettingsError(f"the model {name!r} has the label {label!r} of the version {version}, which is none")
    return {label: str(version) for label, version in sorted(said.items())}
