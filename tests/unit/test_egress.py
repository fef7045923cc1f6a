"""Where webhooks may go."""

import ipaddress

import pytest

from headway.egress import Egress, UrlRefused, is_public, networks
from headway.errors import SettingsError

PRIVATE = """
127.0.0.1 127.1 127.0.1 0x7f000001 0x7f.1 2130706433 017700000001 0177.0.0.1 0 0.0.0.0 10.0.0.1 10.1 172.16.0.1
172.31.255.255 192.168.1.1 192.168.257 169.254.169.254 0xa9fea9fe 100.64.0.1 100.127.255.255 198.18.0.1
192.0.0.1 192.0.2.1 198.51.100.7 203.0.113.9 192.88.99.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 ①②⑦.⓪.⓪.①
127。0。0。1 [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [::ffff:10.0.0.1]
[64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::1] [2002:7f00:1::] [2001::1] [2001:db8::1] [fc00::1]
[fd00:ec2::254] [fe80::1] [fec0::1] [ff02::1] [5f00::1] [100::1] [3fff::1] [4000::1] [fe80::1%25lo] localhost
localhost. LOCALHOST x.localhost 127.0.0.1.
""".split()  # noqa: SIM905  (as a list, each would take a line)


@pytest.mark.parametrize("host", PRIVATE)
def test_no_spelling_of_an_address_that_is_not_public_is_accepted(host: str) -> None:
    with pytest.raises(UrlRefused):
        Egress().checked_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#fragment",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://example.com/a\tb",
        "https://127.0.0.1\\@example.com/",
        "https://example.com%00.evil/",
        "https://[::1/",
        "https://exa\ud800mple.com/",
        "https://" + "a" * 64 + ".com/",
        "https://example.com/" + "a" * 2048,
        "",
    ],
    ids=ascii,
)
def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        Egress().checked_url(url)


@pytest.mark.parametrize("port", [1, 21, 22, 25, 53, 111, 445, 587, 1023, 2375, 3306, 5432, 6379, 9200, 11211, 27017])
def test_ports_where_other_protocols_are_spoken_are_refused_allowed_network_or_not(port: int) -> None:
    for egress, url in (
        (Egress(), f"https://example.com:{port}/"),
        (Egress(networks("127.0.0.0/8")), f"http://127.0.0.1:{port}/"),
    ):
        with pytest.raises(UrlRefused, match=f"port {port}:"):
            egress.checked_url(url)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://Example.com", "https://example.com/"),
        ("HTTPS://example.com:443/a?b=c d".replace(" ", "%20"), "https://example.com/a?b=c%20d"),
        ("https://example.com:8443/ü", "https://example.com:8443/%C3%BC"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://[2606:4700::1]:8443/x", "https://[2606:4700::1]:8443/x"),
    ],
)
def test_a_public_url_is_kept_in_its_plain_form(url: str, plain: str) -> None:
    assert Egress().checked_url(url) == plain
    assert Egress().checked_url(plain) == plain


def test_the_refusal_says_how_to_allow_it() -> None:
    for url in ("http://example.com/", "http://127.0.0.1/", "https://10.0.0.1/"):
        with pytest.raises(UrlRefused, match="HEADWAY_WEBHOOK_ALLOW="):
            Egress().checked_url(url)


def test_an_allowed_network_may_be_called_over_http_and_nothing_else_may() -> None:
    egress = Egress(networks("127.0.0.0/8, 10.1.0.0/16"))

    for host in ("127.0.0.1", "127.1", "localhost", "10.1.2.3", "[::1]", "[::1]:8000", "example.com"):
        egress.checked_url(f"http://{host}/")
    for host in ("10.2.0.1", "169.254.169.254", "8.8.8.8"):
        with pytest.raises(UrlRefused):
            egress.checked_url(f"http://{host}/")


def test_all_answers_of_a_name_must_pass() -> None:
    good, bad = ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")

    Egress().check([good], secure=True)
    for answers in ([good, bad], [bad, good]):
        with pytest.raises(UrlRefused):
            Egress().check(answers, secure=True)


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    with pytest.raises(UrlRefused):
        Egress().resolve("localhost", 443, secure=True)
    assert "127.0.0.1" in Egress(networks("127.0.0.0/8")).resolve("localhost", 80, secure=False)


def test_public_servers_are_public() -> None:
    for address in ("1.1.1.1", "8.8.8.8", "192.0.1.1", "2606:4700::1", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert is_public(ipaddress.ip_address(address)), address


def test_a_list_of_networks_that_makes_no_sense_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="HEADWAY_WEBHOOK_ALLOW"):
        networks("127.0.0.0/8,everything")
