"""Who comes in at a port: a key that is valid, not more often than it may, and no tenant with more than its share."""

from collections import defaultdict

from api import metrics
from api.access import Caller
from api.problems import Problem
from api.service import Service


class Entrance:
    """Of one port of one API process."""

    def __init__(self, service: Service) -> None:
        self._access = service.access
        # Whoever waits holds a connection: half of all is one tenant's share.
        self._most_each = max(1, service.settings.max_connections // 2)
        self._serving: defaultdict[str, int] = defaultdict(int)  # requests under way of each tenant

    def enter(self, authorization: bytes | None) -> Caller:
        """Who calls, from now on among those who are being served. Raises Problem."""
        caller = self._access.caller(authorization)
        if caller.bucket is not None:
            caller.bucket.take()
        serving = self._serving[caller.tenant]
        if serving >= self._most_each:
            metrics.refused("rate_limited")
            raise Problem(
                "rate_limited",
                f"{serving} requests of this tenant are under way, and this API process serves no more at once.",
                headers=((b"retry-after", b"1"),),
            )
        self._serving[caller.tenant] = serving + 1
        return caller

    def leave(self, caller: Caller | None) -> None:
        """`caller`: as `enter` gave it; None where it gave none."""
        if caller is not None:
            self._serving[caller.tenant] -= 1


def one_authorization(names: list[bytes]) -> None:
    """Raises Problem where a request's headers say more than once who calls."""
    if names.count(b"authorization") > 1:
        raise Problem("malformed_request", "There is more than one Authorization header.")
