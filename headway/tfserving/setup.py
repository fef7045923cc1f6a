"""What an operator has named of TF Serving's files, and what they say together."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from headway.errors import SettingsError
from headway.tfserving import batching, model_config
from headway.tfserving.batching import Parameters
from headway.tfserving.model_config import Entry

MODEL_CONFIG_FILE = "HEADWAY_MODEL_CONFIG_FILE"
MODEL_CONFIG_POLL = "HEADWAY_MODEL_CONFIG_FILE_POLL_WAIT_SECONDS"
BATCHING_PARAMETERS_FILE = "HEADWAY_BATCHING_PARAMETERS_FILE"
PREFER_TFLITE = "HEADWAY_PREFER_TFLITE_MODEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """By their paths, and how they are read. None: there is none."""

    model_config: Path | None = None
    poll_s: int = 0  # how often model.config is looked at again; 0: never
    batching_parameters: Path | None = None
    prefer_tflite: bool = False

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> "Files":
        """Raises SettingsError, naming the variable."""
        poll = env.get(MODEL_CONFIG_POLL, "").strip() or "0"
        if not poll.isascii() or not poll.isdigit() or int(poll[:10]) > 86_400:
            raise SettingsError(f"{MODEL_CONFIG_POLL} is {poll[:80]!r}, and should be seconds, 0 for never")
        return cls(
            model_config=_path(env, MODEL_CONFIG_FILE),
            poll_s=int(poll),
            batching_parameters=_path(env, BATCHING_PARAMETERS_FILE),
            prefer_tflite=env.get(PREFER_TFLITE, "") not in ("", "0"),
        )

    def environ(self) -> dict[str, str]:
        """As `from_environ` reads it, wherever a part is started."""
        return {
            MODEL_CONFIG_FILE: _absolute(self.model_config),
            MODEL_CONFIG_POLL: str(self.poll_s),
            BATCHING_PARAMETERS_FILE: _absolute(self.batching_parameters),
            PREFER_TFLITE: "1" if self.prefer_tflite else "",
        }


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the files say."""

    entries: tuple[Entry, ...] = ()  # models beside those of the models folder
    parameters: Parameters | None = None  # of every SavedModel that has none of its own
    prefer_tflite: bool = False  # where a version has both
    notes: tuple[str, ...] = ()  # what of the files is not heeded


NOTHING = Setup()


def read(files: Files, models: Path) -> Setup:
    """Raises SettingsError, naming the file."""
    config = model_config.read(files.model_config, models) if files.model_config else model_config.ModelConfig()
    parameters = batching.read(files.batching_parameters) if files.batching_parameters else None
    notes = [f"{files.model_config}: {note}" for note in config.notes]
    notes += [f"{files.batching_parameters}: {note}" for note in (parameters.notes if parameters else ())]
    return Setup(entries=config.entries, parameters=parameters, prefer_tflite=files.prefer_tflite, notes=tuple(notes))


def _path(env: Mapping[str, str], name: str) -> Path | None:
    said = env.get(name, "").strip()
    return Path(said) if said else None


def _absolute(path: Path | None) -> str:
    return "" if path is None else os.path.abspath(path)
