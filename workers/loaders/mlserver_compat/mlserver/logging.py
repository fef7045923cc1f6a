"""The log, and metrics, which go there, too."""

import logging
from typing import Any

logger = logging.getLogger("mlserver")


def register(name: str, description: str) -> None:
    """Names a metric."""
    logger.debug("metric %s: %s", name, description)


def log(**metrics: float) -> Any:
    """A value of each."""
    logger.debug("metrics: %s", metrics)
