"""Other servers' protocols that Headway listens for, each on ports of its own: `--dialect oip=8100,8101`."""

import importlib.util
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from headway.errors import SettingsError

#: Dialect → what is spoken at each of its ports, in the order of that server's own. The first is always there.
ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "oip": ("http", "grpc", "metrics"),
        "tfserving": ("rest", "grpc"),
        "torchserve": ("inference", "management", "metrics"),
        "kserve": ("http", "grpc"),
        "mlserver": ("http", "grpc"),
        "bentoml": ("http",),
    }
)
#: At these, something else than HTTP/1.1.
_FOREIGN = frozenset((dialect, "grpc") for dialect in ("kserve", "mlserver", "oip", "tfserving"))
#: What their gRPC needs to be installed: modules, and the extra that brings them.
_GRPC = {
    **dict.fromkeys(("kserve", "mlserver", "oip"), (("grpc", "tritonclient"), "oip")),
    "tfserving": (("grpc", "google.protobuf"), "tfserving"),
}

Ports = Mapping[str, Mapping[str, int]]  # dialect → role → port


def parse(specs: Iterable[str]) -> Ports:
    """Of `NAME=PORT[,PORT…]` each; 0 takes a free port. Raises SettingsError."""
    found: dict[str, Mapping[str, int]] = {}
    for spec in specs:
        name, _, ports = spec.strip().partition("=")
        if name not in ROLES:
            raise SettingsError(f"--dialect {spec[:80]!r}: known are {', '.join(ROLES)}")
        if name in found:
            raise SettingsError(f"--dialect {name} is given twice")
        numbers = [_port(spec, text) for text in ports.split(",")] if ports else []
        roles = ROLES[name]
        if not 1 <= len(numbers) <= len(roles):
            raise SettingsError(f"--dialect {spec[:80]!r}: expected {name}=PORT, of {', '.join(roles)} in this order")
        if len(set(numbers) - {0}) != len([number for number in numbers if number]):
            raise SettingsError(f"--dialect {spec[:80]!r}: a port is named twice")
        found[name] = dict(zip(roles, numbers, strict=False))
    return found


def require(ports: Ports) -> None:
    """Raises SettingsError where a port needs what is not installed."""
    for dialect, (modules, extra) in _GRPC.items():
        if "grpc" not in ports.get(dialect, ()):
            continue
        missing = [name for name in modules if not _is_there(name)]
        if missing:
            raise SettingsError(
                f"--dialect {dialect}: its second port, gRPC, needs {' and '.join(missing)}; "
                f"pip install 'headway[{extra}]', or give it one port only"
            )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is part of
        return False


def is_http(dialect: str, role: str) -> bool:
    return (dialect, role) not in _FOREIGN


def written(ports: Ports) -> str:
    """As HEADWAY_DIALECTS has them, which `split` reads."""
    return " ".join(f"{name}={','.join(map(str, roles.values()))}" for name, roles in ports.items())


def split(text: str) -> list[str]:
    """HEADWAY_DIALECTS, parted by spaces."""
    return text.split()


def _port(spec: str, text: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or int(text[:9]) > 65535:
        raise SettingsError(f"--dialect {spec[:80]!r}: {text[:20]!r} is no port")
    return int(text)
