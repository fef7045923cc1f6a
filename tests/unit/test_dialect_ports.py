"""Ports of dialects: what may be asked for, and a port that is kept for those who will listen there."""

import importlib.util
import socket
from typing import Any

import pytest

from headway import dialects
from headway.errors import SettingsError
from launch import addresses


def test_ports_are_those_of_the_roles_in_their_order_and_survive_being_written() -> None:
    ports = dialects.parse(["oip=8100,8101", "torchserve=0"])
    assert ports == {"oip": {"http": 8100, "grpc": 8101}, "torchserve": {"inference": 0}}
    assert dialects.parse(dialects.split(dialects.written(ports))) == ports


@pytest.mark.parametrize(
    "bad", [["x=1"], ["oip"], ["oip="], ["oip=1,2,3,4"], ["oip=1,1"], ["oip=70000"], ["oip=-1"], ["oip=1", "oip=2"]]
)
def test_what_is_no_dialect_with_ports_is_refused(bad: list[str]) -> None:
    with pytest.raises(SettingsError, match="--dialect"):
        dialects.parse(bad)


def test_a_grpc_port_without_what_it_needs_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def nothing_of_tritons(name: str, *more: Any) -> Any:
        return None if name == "tritonclient" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", nothing_of_tritons)
    dialects.require(dialects.parse(["oip=1"]))
    with pytest.raises(SettingsError, match=r"needs tritonclient; pip install 'headway\[oip\]'"):
        dialects.require(dialects.parse(["oip=1,2"]))


def test_a_port_is_kept_for_those_who_share_it_and_from_all_others() -> None:
    with addresses.reserve("127.0.0.1", 0) as kept:
        port = kept.getsockname()[1]
        with pytest.raises(SettingsError, match="cannot listen"):
            addresses.listen("127.0.0.1", port)
        with addresses.listen("127.0.0.1", port, shared=True) as sharing:
            with socket.create_connection(("127.0.0.1", port), timeout=5):  # who keeps it takes nobody's connection
                sharing.accept()[0].close()
            with pytest.raises(SettingsError, match="cannot listen"):
                addresses.reserve("127.0.0.1", port)
