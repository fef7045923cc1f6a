"""Settings from the environment. Every one is `HEADWAY_…`; secrets may also come as `HEADWAY_…_FILE`.

The command line writes its flags into the environment of what it starts, so that a part reads its settings the same
way whoever started it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headway.dialects import Ports, parse, split
from headway.egress import Network, networks
from headway.errors import SettingsError
from headway.keys import checked_token
from headway.manifest import bytes_of
from headway.tfserving.setup import Files
from headway.webhooks import check_secret

#: A prediction is kept this long after its end.
RETENTION_S = 7 * 86_400

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
#: Seconds between the attempts of a delivery, before jitter.
WEBHOOK_SCHEDULE = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Read once at the start of a process and handed down."""

    redis_url: str
    database_url: str
    models: Path
    host: str = "127.0.0.1"
    port: int = 8000
    admin_port: int = 8001
    max_body_bytes: int = 8 * 1024 * 1024
    max_batch_lines: int = 10_000_000
    max_connections: int = 10_000  # of clients, to the data plane of one API process
    read_timeout_s: int = 10  # for a request's headers, and for each stretch of its body
    flower_port: int = 0  # where the operator's page links to; 0: not known
    flower_url: str = ""  # the same where it is not a port beside the page's
    public_url: str = ""  # "" makes the paths in `urls` relative
    bootstrap_key: str = field(default="", repr=False)  # "" makes none
    allowed_hosts: tuple[str, ...] = ()  # what `Host` may be besides our own names and addresses
    cors_origins: tuple[str, ...] = ()
    insecure: bool = False  # listens beyond loopback although there are no keys
    retention_s: int = RETENTION_S
    webhook_allow: tuple[Network, ...] = ()  # beyond public https addresses
    webhook_schedule: tuple[float, ...] = WEBHOOK_SCHEDULE
    webhook_secret: str | None = None  # signs for tenants that have none in SQL
    blobs: str = ".headway/blobs"  # a folder or a URL of fsspec's, the same for all parts
    device_memory: int | None = None  # bytes that a worker may fill with models; None: what the device has
    process_memory: int | None = None  # bytes that a device process may hold; None: as much as there is
    silent_s: int = 20  # how long a duty of a process may show no sign of life before the process is replaced
    pin: bool = False  # a version whose files are not those it was registered with is refused
    fetch_allow: tuple[Network, ...] = ()  # where inputs may be fetched from beyond public https addresses
    dialects: Ports = field(default_factory=dict)  # of other servers, and where they are spoken
    tfserving: Files = field(default_factory=Files)  # TF Serving's configuration, where it is
    torchserve_config: str = ""  # where TorchServe's config.properties is; "": in the models folder, if anywhere

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Raises SettingsError, naming the variable."""
        env = os.environ if environ is None else environ
        database_url = secret(env, "HEADWAY_DATABASE_URL", "sqlite:///.headway/headway.db")
        return cls(
            redis_url=secret(env, "HEADWAY_REDIS_URL", "redis://127.0.0.1:6379/0"),
            database_url=database_url,
            models=Path(env.get("HEADWAY_MODELS", "models")),
            host=env.get("HEADWAY_HOST", "127.0.0.1"),
            port=integer(env, "HEADWAY_PORT", 8000, 0, 65535),
            admin_port=integer(env, "HEADWAY_ADMIN_PORT", 8001, 0, 65535),
            max_body_bytes=integer(env, "HEADWAY_MAX_BODY_BYTES", 8 * 1024 * 1024, 1, 1 << 40),
            max_batch_lines=integer(env, "HEADWAY_MAX_BATCH_LINES", 10_000_000, 1, 1 << 40),
            max_connections=integer(env, "HEADWAY_MAX_CONNECTIONS", 10_000, 8, 1 << 20),
            read_timeout_s=duration(env, "HEADWAY_READ_TIMEOUT", 10),
            flower_port=integer(env, "HEADWAY_FLOWER_PORT", 0, 0, 65535),
            flower_url=_web_address(env, "HEADWAY_FLOWER_URL"),
            public_url=env.get("HEADWAY_PUBLIC_URL", "").rstrip("/"),
            bootstrap_key=bootstrap_key(env),
            allowed_hosts=_several(env, "HEADWAY_ALLOWED_HOSTS"),
            cors_origins=_several(env, "HEADWAY_CORS_ORIGINS"),
            insecure=env.get("HEADWAY_INSECURE", "") not in ("", "0"),
            retention_s=duration(env, "HEADWAY_RETENTION", RETENTION_S),
            webhook_allow=networks(env.get("HEADWAY_WEBHOOK_ALLOW", "")),
            webhook_schedule=_schedule(env.get("HEADWAY_WEBHOOK_SCHEDULE")),
            webhook_secret=webhook_secret(env),
            blobs=env.get("HEADWAY_BLOBS") or _beside(database_url),
            device_memory=size(env, "HEADWAY_DEVICE_MEMORY"),
            process_memory=size(env, "HEADWAY_PROCESS_MEMORY"),
            silent_s=duration(env, "HEADWAY_SILENT", 20),
            pin=env.get("HEADWAY_PIN", "") not in ("", "0"),
            fetch_allow=networks(env.get("HEADWAY_FETCH_ALLOW", ""), "HEADWAY_FETCH_ALLOW"),
            dialects=parse(split(env.get("HEADWAY_DIALECTS", ""))),
            tfserving=Files.from_environ(env),
            torchserve_config=env.get("HEADWAY_TORCHSERVE_CONFIG", "").strip(),
        )


def _beside(database_url: str) -> str:
    """Where blobs lie if nobody says: in a folder beside SQLite's file, so that every part on this machine agrees."""
    scheme, _, path = database_url.partition(":///")
    return str(Path(path.partition("?")[0]).parent / "blobs") if scheme.startswith("sqlite") else ".headway/blobs"


def secret(environ: Mapping[str, str], name: str, default: str) -> str:
    """`name`, or the stripped content of the file that `name_FILE` names."""
    if name in environ:
        return environ[name]
    path = environ.get(f"{name}_FILE")
    if path is None:
        return default
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}_FILE: cannot read {path}: {error.strerror}") from error


def bootstrap_key(environ: Mapping[str, str]) -> str:
    """The admin key that an operator chose, "" where there is none. Raises SettingsError."""
    token = secret(environ, "HEADWAY_BOOTSTRAP_KEY", "")
    return checked_token(token, "HEADWAY_BOOTSTRAP_KEY") if token else ""


def _web_address(environ: Mapping[str, str], name: str) -> str:
    """ "" where there is none. Raises SettingsError: it becomes a link."""
    url = environ.get(name, "").strip()
    if url and not url.lower().startswith(("http://", "https://")):
        raise SettingsError(f"{name} is {url[:80]!r}, and should be an address like https://flower.example.com")
    return url


def _several(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Separated by commas."""
    return tuple(part.strip() for part in environ.get(name, "").split(",") if part.strip())


def integer(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise SettingsError(f"{name} is {text[:80]!r}, and should be a whole number from {least} to {most}")
    return int(text)


def duration(environ: Mapping[str, str], name: str, default: int) -> int:
    """Seconds, written as 90, 90s, 30m, 12h or 7d."""
    text = environ.get(name)
    return default if text is None else seconds_of(text, name)


def seconds_of(text: str, name: str) -> int:
    """Of a time like 90, 90s, 30m, 12h or 7d. Raises SettingsError, which begins with the name."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS_S else (text, "s")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:10]) * _UNITS_S[unit] <= 1 << 32:
        raise SettingsError(f"{name} is {text[:80]!r}, and should be a time like 90s, 30m, 12h or 7d")
    return int(number) * _UNITS_S[unit]


def size(environ: Mapping[str, str], name: str) -> int | None:
    """Bytes, written as 6GiB, 512MB or a number."""
    text = environ.get(name)
    if not text:
        return None
    try:
        return bytes_of(text)
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from error


def webhook_secret(environ: Mapping[str, str]) -> str | None:
    """HEADWAY_WEBHOOK_SECRET, or its file."""
    given = secret(environ, "HEADWAY_WEBHOOK_SECRET", "")
    return check_secret(given) if given else None


def _schedule(text: str | None) -> tuple[float, ...]:
    if text is None:
        return WEBHOOK_SCHEDULE
    try:
        delays = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        delays = (-1.0,)
    if not all(0 <= delay <= 31 * 86_400 for delay in delays):
        raise SettingsError(f"HEADWAY_WEBHOOK_SCHEDULE is {text[:80]!r}, and should be seconds: 5,300,1800")
    return delays
