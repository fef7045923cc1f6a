"""What a key must allow at KServe's and MLServer's ports, and where their requests go that name no version."""

import msgspec
import pytest

from api.dialects import kserve, mlserver
from api.dialects.front import Route as PortRoute
from api.registry import ModelView
from headway.manifest import Manifest
from headway.registry import Route, Traffic, Version
from tests.unit.test_api_views import version

OPEN = {"live", "health", "model ready"}
READY = "/v1/models/(?P<model>[^/]+?)"  # of the first protocol


ROUTES = {f"{module.__name__}: {one.pattern.pattern}": one for module in (kserve, mlserver) for one in module.ROUTES}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_a_route_asks_for_the_scope_that_is_its_own(route: PortRoute) -> None:
    if route.name in ("load", "unload"):
        assert route.scope == "admin"
    elif route.name.startswith(("infer", "predict", "explain")):
        assert route.scope == "predict"
    elif route.name in OPEN or route.pattern.pattern == READY:
        assert route.scope is None
    else:
        assert route.scope == "read"


def canaried(name: str, percent: int | None) -> Version:
    return msgspec.structs.replace(version(name), manifest=Manifest(canary_percent=percent))


def test_a_canary_s_share_goes_to_the_latest_and_the_rest_to_the_one_before() -> None:
    view = ModelView.of("m", [canaried(name, 10) for name in ("1", "2", "3")])
    assert view.shares == {"2": 0.9, "3": 0.1}


@pytest.mark.parametrize(("percent", "shares"), [(0, {"1": 1.0}), (100, {"2": 1.0}), (None, {"2": 1.0})])
def test_a_share_may_be_none_or_all(percent: int | None, shares: dict[str, float]) -> None:
    assert ModelView.of("m", [canaried(name, percent) for name in ("1", "2")]).shares == shares


def test_a_canary_without_a_version_before_it_gets_everything() -> None:
    assert ModelView.of("m", [canaried("1", 10)]).shares == {"1": 1.0}


def test_what_an_operator_says_outranks_the_manifest() -> None:
    route = Route(traffic=Traffic(versions={"1": 1.0}))
    assert ModelView.of("m", [canaried(name, 10) for name in ("1", "2")], route).shares == {"1": 1.0}
