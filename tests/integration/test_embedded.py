"""The embedded Valkey, started for real."""

import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.broker import kombu_url
from headway.testing import wait_until
from launch.embedded import EmbeddedValkey


@contextmanager
def running(valkey: EmbeddedValkey) -> Iterator[None]:
    process = subprocess.Popen(valkey.argv)
    try:
        wait_until(valkey.answers, 10, "Valkey to answer")
        yield
    finally:
        process.terminate()
        process.wait(10)
        valkey.remove()


def test_it_answers_on_a_socket_and_only_with_its_password(tmp_path: Path) -> None:
    valkey = EmbeddedValkey.prepare(tmp_path)
    with running(valkey):
        socket = valkey.directory / "valkey.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        stranger = redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()


def test_the_password_is_for_the_owner_alone_and_not_in_argv(tmp_path: Path) -> None:
    valkey = EmbeddedValkey.prepare(tmp_path)
    config = valkey.directory / "valkey.conf"
    password = valkey.url.split("@")[0].rpartition(":")[2]
    assert password in config.read_text()
    assert password not in " ".join(valkey.argv)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(valkey.directory.stat().st_mode) == 0o700


def test_it_keeps_nothing_and_refuses_rather_than_forgets(tmp_path: Path) -> None:
    valkey = EmbeddedValkey.prepare(tmp_path)
    with running(valkey):
        client = redis.Redis.from_url(valkey.url, decode_responses=True)
        assert client.config_get("save", "appendonly", "maxmemory-policy", "port") == {
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }
        client.close()


@pytest.mark.parametrize("name", ["x" * 100, "a folder? with #signs%"])
def test_a_data_folder_with_a_long_or_odd_path_will_do(tmp_path: Path, name: str) -> None:
    data = tmp_path / name
    data.mkdir()
    valkey = EmbeddedValkey.prepare(data)
    with running(valkey), kombu.Connection(kombu_url(valkey.url)) as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        assert connection.connected
    assert not valkey.directory.exists()


def test_what_an_earlier_one_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    first = EmbeddedValkey.prepare(tmp_path)
    process = subprocess.Popen(first.argv)
    wait_until(first.answers, 10, "Valkey to answer")
    process.kill()
    process.wait(10)
    second = EmbeddedValkey.prepare(tmp_path)
    assert second.url != first.url
    with running(second):
        assert not first.answers()
