"""Where models lie: in the models folder, and where TF Serving's model.config says, which may be read again and again.

What it says replaces what it said before; one that cannot be read changes nothing.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from headway.errors import SettingsError
from headway.tfserving.setup import Files, read
from headway.versions import Place, model_folders, places

log = logging.getLogger(__name__)


class Places:
    """Of one worker, asked on one thread at a time."""

    def __init__(self, models: Path, files: Files | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SettingsError for files that make no sense."""
        self._models = models
        self._files = files or Files()
        self._clock = clock
        self.setup = read(self._files, models)
        self._read_at = clock()
        self._error = ""
        for note in self.setup.notes:
            log.warning("%s", note)

    @property
    def due(self) -> bool:
        """Whether model.config is to be looked at again."""
        poll_s = self._files.poll_s
        return bool(poll_s and self._files.model_config) and self._clock() - self._read_at >= poll_s

    def look(self) -> list[Place]:
        """By model. Raises ManifestError if the models folder cannot be read."""
        if self.due:
            self._read_again()
        return places(self._models, self.setup)

    def check(self) -> None:
        """Raises ManifestError if the models folder cannot be read."""
        model_folders(self._models)

    def roots(self) -> list[Path]:
        """The folders all of it lies in, those that are there; the models folder is first."""
        paths = dict.fromkeys(entry.base_path for entry in self.setup.entries)
        return [self._models, *(path for path in paths if path.is_dir())]

    def _read_again(self) -> None:
        self._read_at = self._clock()
        try:
            setup = read(self._files, self._models)
        except SettingsError as error:
            if str(error) != self._error:
                log.error("%s; what it said before holds", error)
            self._error = str(error)
            return
        self._error = ""
        if setup == self.setup:
            return
        for note in setup.notes:
            if note not in self.setup.notes:
                log.warning("%s", note)
        names = ", ".join(entry.name for entry in setup.entries) or "no model"
        log.info("%s has changed: it names %s", self._files.model_config, names)
        self.setup = setup
