"""Where things listen."""

import ipaddress
import socket

from headway.errors import SettingsError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost could be anything, so it is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    """Where a client on this machine reaches what listens on `host`."""
    if host in ("0.0.0.0", "::"):  # noqa: S104  (comparing, not binding)
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. `shared`: others of this user may listen there as well, and the
    kernel parts new connections among them. Raises SettingsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048, reuse_port=shared)
    except OSError as error:
        raise SettingsError(f"cannot listen on port {port} of {host}: {error.strerror}") from error


def reserve(host: str, port: int) -> socket.socket:
    """A socket that does not listen, and keeps its port for those processes of this user that share it.

    Port 0 takes a free one. Raises SettingsError where anybody listens there already, sharing or not.
    """
    with listen(host, port) as alone:
        family, address = alone.family, alone.getsockname()
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        reserved.close()
        raise SettingsError(f"cannot listen on port {address[1]} of {host}: {error.strerror}") from error
    return reserved
