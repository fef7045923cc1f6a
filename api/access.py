"""Who calls, and what they may do: keys as SQL has them, read every second, looked up without any I/O.

While the table of keys has never had a row, everybody is the default tenant and may do all, if the process listens on
loopback only or was told `--insecure`. With a row, even a revoked one, nobody gets in without a key. Until the keys
have been read once, nobody gets in at all.
"""

import hashlib
import hmac
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from api.limits import Bucket
from api.problems import Problem
from api.refreshing import keep_fresh
from api.threads import Threads
from headway.keys import DEFAULT_TENANT, PREFIX_LENGTH, SCOPES, Key, Scope
from storage.keys import Keys

log = logging.getLogger(__name__)


#: Longer than any key. What is longer is not worth hashing.
_MOST_BYTES = 600


class Caller(NamedTuple):
    tenant: str
    grants: frozenset[Scope]
    bucket: Bucket | None = None  # None: it may call as often as it likes
    key: str | None = None  # the first characters of its key, which are no secret; None: it has none

    def must(self, scope: Scope | None) -> None:
        """Raises Problem forbidden."""
        if scope is not None and scope not in self.grants:
            raise Problem("forbidden", f"This needs a key with the scope `{scope}`.")


#: Whoever calls while there are no keys.
_EVERYBODY = Caller(DEFAULT_TENANT, frozenset(SCOPES))

#: Whoever calls an open route.
NOBODY = Caller(DEFAULT_TENANT, frozenset())

_Found = Mapping[bytes, Sequence[tuple[bytes, Caller]]]


class Access:
    """`caller` from the front of both planes; `run` is the one task that reads the keys."""

    def __init__(self, keys: Keys, *, bootstrap_key: str) -> None:
        self._keys = keys
        self._bootstrap_key = bootstrap_key
        self._thread = Threads("keys", 1)
        self._by_prefix: _Found | None = None  # prefix → (digest, caller); None: not read yet
        self._buckets: dict[str, Bucket] = {}  # by the key's id: a new view of the keys fills none
        self._keyless = False  # there has never been a key
        self.trusting = False  # who reaches the port may use it while there are no keys

    def caller(self, authorization: bytes | None) -> Caller:
        """Raises Problem: unauthenticated, the same whatever is wrong with the key; unavailable before the first read.

        One hash, one look-up and a comparison that takes the same time wherever the digests differ.
        """
        by_prefix = self._by_prefix
        if by_prefix is None:
            raise Problem.unavailable("The keys cannot be read now.")
        if self._keyless and self.trusting:
            return _EVERYBODY
        if authorization is not None and len(authorization) <= _MOST_BYTES and authorization[:7].lower() == b"bearer ":
            token = authorization[7:].strip()
            digest = hashlib.sha256(token).digest()
            for known, caller in by_prefix.get(token[:PREFIX_LENGTH], ()):
                if hmac.compare_digest(digest, known):
                    return caller
        raise Problem("unauthenticated", _UNAUTHENTICATED, headers=((b"www-authenticate", b"Bearer"),))

    async def run(self) -> None:
        """Until canceled. While SQL is away the keys stand as they were; no route that asks SQL answers then."""
        await keep_fresh(self.refresh, "the keys")

    async def refresh(self) -> None:
        """Raises StorageUnavailable."""
        self._take(await self._thread.run(self._read))

    def _read(self) -> list[Key]:
        """The bootstrap key comes first: no moment may pass in which keys are read and it is not among them."""
        if self._bootstrap_key:
            add_bootstrap_key(self._keys, self._bootstrap_key)
            self._bootstrap_key = ""
        return self._keys.all()

    def _take(self, keys: Sequence[Key]) -> None:
        by_prefix: dict[bytes, list[tuple[bytes, Caller]]] = defaultdict(list)
        self._buckets = {
            key.id: self._buckets.get(key.id) or Bucket(key.rate)
            for key in keys
            if key.rate is not None and key.revoked_at is None
        }
        for key in keys:
            if key.revoked_at is None:
                caller = Caller(key.tenant_id, key.grants, self._buckets.get(key.id), key.prefix)
                by_prefix[key.prefix.encode()].append((bytes.fromhex(key.digest), caller))
        self._by_prefix = dict(by_prefix)
        self._keyless = not keys

    def close(self) -> None:
        self._thread.close()


_UNAUTHENTICATED = (
    "Send `Authorization: Bearer KEY` with a key that is valid; a key in the URL is not taken. "
    "`headway keys create` makes one."
)


def add_bootstrap_key(keys: Keys, token: str) -> Key:
    """The admin key of HEADWAY_BOOTSTRAP_KEY; one that was revoked stays revoked. Raises StorageUnavailable."""
    key = keys.add(token, tenant_id=DEFAULT_TENANT, scopes=("admin",), name="bootstrap")
    if key.revoked_at is not None:
        log.warning("the bootstrap key has been revoked and opens nothing", extra={"key": key.id})
    return key
