"""Which servers may be called because somebody gave us their URL: receivers of webhooks, and where inputs are fetched.

It is the one guard against requests that reach into the network they come from.

Two rules. What is judged is the address that is then connected to, never the spelling of a host: `127.1`, `0x7f.1` and
`①②⑦.⓪.⓪.①` are all loopback to the resolver. And the table of addresses is this file's own: `ipaddress.is_global`
calls NAT64 loopback, 6to4 and multicast global.
"""

import functools
import ipaddress
import re
import socket
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headway.errors import HeadwayError, SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The longest URL that is accepted, characters.
LONGEST_URL = 2048

#: IPv4 that is nobody's public server (RFC 6890 and its successors).
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; clouds put their metadata here too
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
#: Of IPv6 only global unicast is public, without what tunnels, documents or measures.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, ORCHID, benchmarking and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address inside
        "2620:4f:8000::/48",
        "3fff::/20",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOPBACK_4 = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK_6 = ipaddress.IPv6Network("::1/128")

#: Where web servers do not listen and a POST may be taken for something else: below 1024 all but the web's own, and
#: those of databases, brokers and the control planes of clusters.
_WEB_PORTS = {80, 443}
_OTHERS_PORTS = {
    *(1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5671, 5672, 5900, 5984, 6000, 6379, 6443),
    *(6667, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 26379, 27017),
}


@dataclass(frozen=True, slots=True)
class Errand:
    """Why a server is called, in the words of refusals."""

    url: str  # what holds the URL
    never: str  # reads on with an address or a port
    only: str  # reads on with "https only"
    setting: str  # by which the operator allows more

    @property
    def how(self) -> str:
        return f"The operator can allow a network: {self.setting}=127.0.0.0/8"


WEBHOOK = Errand("The webhook", "Webhooks are not sent to", "Webhooks go to", "HEADWAY_WEBHOOK_ALLOW")
INPUT = Errand("The input", "Inputs are not fetched from", "Inputs are fetched over", "HEADWAY_FETCH_ALLOW")

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?", re.ASCII)


class UrlRefused(HeadwayError):  # noqa: N818  (the field says "refused")
    """A server that must not be called; the message says why, and how the operator could allow it."""


def networks(text: str, setting: str = "HEADWAY_WEBHOOK_ALLOW") -> tuple[Network, ...]:
    """Of a list with commas. Whoever allows 127.0.0.0/8 means ::1 as well. Raises SettingsError."""
    found: list[Network] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise SettingsError(
                f"{setting} has {part[:80]!r}, and should be networks: 127.0.0.0/8,10.1.0.0/16"
            ) from None
    if _LOOPBACK_4 in found:
        found.append(_LOOPBACK_6)
    return tuple(found)


class Egress:
    """Public https addresses, and whatever is in `allow`, over http too."""

    def __init__(self, allow: Sequence[Network] = (), errand: Errand = WEBHOOK) -> None:
        self._allow = tuple(allow)
        self._errand = errand

    def checked_url(self, url: str) -> str:
        """The URL in its plain form: ASCII, a path, no fragment. Without the network: names are resolved when they
        are connected to, numbers in whatever spelling are judged here. Raises UrlRefused."""
        errand = self._errand
        if len(url) > LONGEST_URL:
            raise UrlRefused(f"{errand.url}'s URL is longer than {LONGEST_URL} characters.")
        if re.search(r"[\s\\\x00-\x1f\x7f]", url):
            raise UrlRefused(f"{errand.url}'s URL has spaces, backslashes or control characters.")
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
            host = _plain_host(parts.hostname or "")
        except (ValueError, UnicodeError):
            raise UrlRefused(f"{errand.url} has no URL that can be called.") from None
        scheme = parts.scheme
        if scheme not in ("https", "http"):
            raise UrlRefused(f"{errand.url}'s URL should begin with https://.")
        if parts.username is not None or parts.password is not None:
            raise UrlRefused(f"{errand.url}'s URL must not hold a user or password.")
        if parts.fragment:
            raise UrlRefused(f"{errand.url}'s URL must not have a fragment.")
        if port == 0 or not host:
            raise UrlRefused(f"{errand.url}'s URL has no host and port that can be called.")
        if port is not None and port not in _WEB_PORTS and (port < 1024 or port in _OTHERS_PORTS):
            raise UrlRefused(f"{errand.never} port {port}: web servers have 443, or one of their own from 1024.")
        if (addresses := _numeric(host)) is not None:
            self.check(addresses, secure=scheme == "https")
        elif host.rstrip(".").rpartition(".")[2] == "localhost":
            self.check([ipaddress.IPv4Address("127.0.0.1")], secure=scheme == "https")
        elif scheme == "http" and not self._allow:
            raise self._not_secure()
        authority = f"[{host}]" if ":" in host else host
        if port is not None and port != {"https": 443, "http": 80}[scheme]:
            authority += f":{port}"
        path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = urllib.parse.quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")
        return urllib.parse.urlunsplit((scheme, authority, path, query, ""))

    def check(self, addresses: Iterable[Address], *, secure: bool) -> None:
        """All of what a name resolved to must pass: a receiver cannot mix one good answer with bad ones.

        Raises UrlRefused.
        """
        for address in addresses:
            if any(address in network for network in self._allow):
                continue
            if not is_public(address) or _own(address):
                raise UrlRefused(
                    f"{self._errand.never} {address}: it is not a public address. {self._errand.how} would."
                )
            if not secure:
                raise self._not_secure()

    def _not_secure(self) -> UrlRefused:
        return UrlRefused(f"{self._errand.only} https only. {self._errand.how} does so over http there.")

    def resolve(self, host: str, port: int, *, secure: bool) -> list[str]:
        """Addresses that may be connected to now, in the resolver's order. Blocks. Raises UrlRefused, OSError."""
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(answer[4][0]) for answer in answers))
        self.check(addresses, secure=secure)
        return [str(address) for address in addresses]


def is_public(address: Address) -> bool:
    """Whether it can be a server on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
    return not any(address in network for network in _NOT_PUBLIC_4)


def _own(address: Address) -> bool:
    """Whether this machine has it: then nothing stands between it and what listens here."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _plain_host(host: str) -> str:
    """Lower case and ASCII, as the resolver would make of it. Raises ValueError, UnicodeError."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host)) if "%" not in host else ""
    plain = host.encode("idna").decode().lower()
    return plain if _NAME.fullmatch(plain) else ""


@functools.lru_cache(maxsize=1024)
def _numeric(host: str) -> tuple[Address, ...] | None:
    """What a host that is a number in any spelling stands for; None for a name."""
    try:
        answers = socket.getaddrinfo(host.rstrip("."), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None
    return tuple(ipaddress.ip_address(answer[4][0]) for answer in answers)
