"""What a key looks like, what it grants, and whose pages may call."""

import pytest

from api.sites import Sites, checked_origin
from headway.errors import SettingsError
from headway.keys import PREFIX_LENGTH, Key, Scope, checked_scopes, checked_tenant, new_token
from headway.settings import Settings


def test_keys_are_random_and_hold_no_character_that_a_header_or_a_shell_minds() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len({token[:PREFIX_LENGTH] for token in tokens}) == 1000
    assert all(token.replace("-", "").replace("_", "").isalnum() and len(token) == 46 for token in tokens)


@pytest.mark.parametrize(
    ("scopes", "grants"),
    [
        (("admin",), {"predict", "read", "admin"}),
        (("predict",), {"predict"}),
        (("predict", "read"), {"predict", "read"}),
    ],
)
def test_admin_includes_the_other_scopes(scopes: tuple[Scope, ...], grants: set[str]) -> None:
    key = Key(id="", name="", tenant_id="", scopes=scopes, prefix="", digest="", created_at=0, revoked_at=None)
    assert key.grants == grants


def test_scopes_are_each_once_and_in_order() -> None:
    assert checked_scopes(["admin", "read", "read"]) == ("read", "admin")
    for wrong in ([], ["Read"], ["read", "write"]):
        with pytest.raises(SettingsError, match="predict, read, admin"):
            checked_scopes(wrong)


@pytest.mark.parametrize("tenant", ["", "A", "a b", "-a", "a" * 65, "a\n", "ü"])
def test_a_tenant_is_a_plain_name(tenant: str) -> None:
    assert checked_tenant("team-1.x_y") == "team-1.x_y"
    with pytest.raises(SettingsError):
        checked_tenant(tenant)


@pytest.mark.parametrize("token", ["secret", "x" * 42, "x" * 513, "x" * 43 + " ", "ü" * 50])
def test_a_bootstrap_key_must_be_long_enough_and_is_never_repeated(token: str) -> None:
    assert Settings.from_environ({"HEADWAY_BOOTSTRAP_KEY": "0" * 64}).bootstrap_key == "0" * 64
    with pytest.raises(SettingsError, match="openssl") as caught:
        Settings.from_environ({"HEADWAY_BOOTSTRAP_KEY": token})
    assert token not in str(caught.value)


def test_a_bootstrap_key_shows_in_no_printed_settings() -> None:
    assert "0" * 64 not in repr(Settings.from_environ({"HEADWAY_BOOTSTRAP_KEY": "0" * 64}))


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example.com", "https://app.example.com/page", "ftp://a", "https://"]
)
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    assert checked_origin("https://App.example.com:8443/") == "https://app.example.com:8443"
    with pytest.raises(SettingsError, match="HEADWAY_CORS_ORIGINS"):
        checked_origin(origin)


def test_a_star_takes_every_host() -> None:
    sites = Sites(hosts=["*"], origins=(), public_url="")
    sites.check({b"host": b"anything.example.com:9"}, version="1.1", server="127.0.0.1")


def test_the_address_that_was_connected_to_is_a_host_of_ours() -> None:
    sites = Sites(hosts=(), origins=(), public_url="")
    sites.check({b"host": b"10.1.2.3:80"}, version="1.1", server="10.1.2.3")
    sites.check({b"host": b"[fd00::1]:80"}, version="1.1", server="fd00::1")
