"""Logging for every process: JSON lines where nobody watches, short lines at a terminal."""

import json
import logging
import sys
import time

#: What a LogRecord always has; anything else on it came by `extra=` and is worth showing.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(part: str, *, level: int = logging.INFO) -> None:
    """One handler on the root logger, to stderr; libraries only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter(f"%(asctime)s {part:<8} %(levelname).1s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(_Json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for ours in ("headway", "api", "workers", "batching", "storage", "launch"):
        logging.getLogger(ours).setLevel(level)
