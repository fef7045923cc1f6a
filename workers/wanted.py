"""Which versions of a model are to be loaded without being asked for: a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass

from headway.registry import Route, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A version in the folder."""

    version: str
    wanted: bool  # by the policy or an alias of model.toml
    warm: bool  # it serves here
    failed: bool
    released: bool  # it was warm somewhere, since its file last changed
    wish: Wish | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    kept: frozenset[str]
    urgent: frozenset[str]  # of those, to be made warm before anybody can ask for them, or at an operator's word


def wanted(versions: Sequence[Known], route: Route, *, latest_only: bool) -> Wanted:
    """`versions`: those of one model, oldest first. `latest_only`: its policy is `latest`.

    While the latest is not warm for the first time, or cannot be loaded, the one before it goes on.
    """
    named = {*route.traffic.versions, *route.traffic.shadow, *filter(None, route.aliases.values())}
    kept = {one.version for one in versions if one.wanted or one.version in named or one.wish == "load"}
    if latest_only:
        kept.update(_before_the_latest(versions))
    kept -= {one.version for one in versions if one.wish == "unload"}
    served = any(one.warm or one.released for one in versions)
    urgent = {
        one.version
        for one in versions
        if one.version in kept and (one.wish == "load" or (served and not one.warm and not one.released))
    }
    return Wanted(kept=frozenset(kept), urgent=frozenset(urgent))


def _before_the_latest(versions: Sequence[Known]) -> set[str]:
    """The latest, and who serves in its place: the newest that is warm, or may become so where newer ones cannot."""
    kept = set()
    latest_first = [one for one in reversed(versions) if one.wish != "unload"]
    for place, one in enumerate(latest_first):
        kept.add(one.version)
        if one.failed:
            continue
        if not one.warm and not one.released:
            kept.update([older.version for older in latest_first[place + 1 :] if older.warm][:1])
        break
    return kept
