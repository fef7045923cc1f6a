"""API keys: what one looks like, what is kept of it, and what it allows.

A key is shown once, when it is made. Kept are its SHA-256, which is enough for 256 random bits, and its first
characters, by which it is found and by which people tell keys apart.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from headway.errors import SettingsError

Scope = Literal["predict", "read", "admin"]

#: `predict` submits, `read` looks, `admin` operates and may do all the others may.
SCOPES: tuple[Scope, ...] = get_args(Scope)

#: What a key may do when nobody said.
USUAL: tuple[Scope, ...] = ("predict", "read")

#: Whose predictions are those made without a key, or with one of which nobody said a tenant.
DEFAULT_TENANT = "default"

#: Characters of a key that are no secret.
PREFIX_LENGTH = 11

#: A key chosen by an operator: at least 128 bits beyond the prefix, if it is random and hexadecimal.
_LEAST, _MOST = 43, 512

#: Requests a second that a key may be limited to.
LEAST_RATE, GREATEST_RATE = 0.001, 1e6

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A row: everything of a key but the key. Times are microseconds since 1970."""

    id: str
    name: str
    tenant_id: str
    scopes: tuple[Scope, ...]
    prefix: str
    digest: str  # SHA-256, hexadecimal
    created_at: int
    revoked_at: int | None
    weight: float = 1.0  # of its tenant
    rate: float | None = None  # requests a second it may make of each API process; None: as many as it likes

    @property
    def grants(self) -> frozenset[Scope]:
        """`admin` includes the others."""
        return frozenset(SCOPES if "admin" in self.scopes else self.scopes)


def new_token() -> str:
    """A key of 256 random bits. Its beginning lets secret scanners know it for one of Headway's."""
    return f"hw_{secrets.token_urlsafe(32)}"


def digest_of(token: str) -> str:
    """What is kept instead of the key, hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


def checked_token(token: str, name: str) -> str:
    """A key that an operator chose, as it is. Raises SettingsError, naming the setting and never the key."""
    if not _LEAST <= len(token) <= _MOST or not _TOKEN.fullmatch(token):
        raise SettingsError(
            f"{name} should be {_LEAST} to {_MOST} random letters and digits (`openssl rand -hex 32` makes some); "
            f"it has {len(token)} characters"
        )
    return token


def checked_tenant(tenant: str) -> str:
    """Raises SettingsError."""
    if not _TENANT.fullmatch(tenant):
        raise SettingsError(f"a tenant is up to 64 lower-case letters, digits and . _ -, and not {tenant[:80]!r}")
    return tenant


def checked_rate(rate: float) -> float:
    """Raises SettingsError."""
    if not LEAST_RATE <= rate <= GREATEST_RATE:
        raise SettingsError(f"a rate is {LEAST_RATE:g} to {GREATEST_RATE:g} requests a second, and not {rate:g}")
    return rate


def checked_scopes(scopes: Iterable[str]) -> tuple[Scope, ...]:
    """Each once, in the order of SCOPES. Raises SettingsError."""
    wanted = set(scopes)
    if not wanted or not wanted <= set(SCOPES):
        raise SettingsError(f"scopes are one or more of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in wanted)
