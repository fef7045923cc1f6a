"""`monitoring.config`: whether metrics are exported, and at which path."""

from pathlib import Path

import msgspec

from headway.errors import SettingsError
from headway.tfserving import text

#: Where TF Serving exports them if the file does not say.
PATH = "/monitoring/prometheus/metrics"


class Monitoring(msgspec.Struct, frozen=True):
    """What the file says."""

    enable: bool = False
    path: str = PATH


def read_monitoring(path: Path) -> Monitoring:
    """Raises SettingsError, naming the file."""
    said = text.read(path, "MonitoringConfig").get("prometheus_config", {})
    where = said.get("path", PATH)
    if not where.startswith("/") or "?" in where or "#" in where:
        raise SettingsError(f"{path}: the path of prometheus_config is {where[:80]!r}, and should begin with /")
    return Monitoring(said.get("enable", False), where)
