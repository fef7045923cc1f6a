"""What `headway up` will not start with, each with a sentence that names the way out."""

import contextlib
import dataclasses
import os
import socket
from pathlib import Path

import pytest

from headway.errors import SettingsError
from headway.keys import new_token
from headway.tfserving.setup import Files
from launch.up import Options, run
from storage.engine import Database, embedded_url
from storage.keys import Keys
from storage.migrate import upgrade


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "models").mkdir()
    return Options(
        models=tmp_path / "models",
        data=tmp_path / "data",
        devices="cpu",
        host="127.0.0.1",
        port=0,
        admin_port=0,
        api_processes=1,
        flower_port=0,
        metrics_port=0,
        redis_url=None,
        database_url=None,
        blobs=None,
        device_memory=None,
        dialects={},
        tfserving=Files(),
        insecure=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_there_must_be_keys_or_a_loud_word(options: Options, host: str) -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        run(dataclasses.replace(options, host=host))


@pytest.mark.parametrize("token", ["short", "x" * 600])
def test_a_bootstrap_key_that_is_none_is_refused(options: Options, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HEADWAY_BOOTSTRAP_KEY", token)
    with pytest.raises(SettingsError, match="HEADWAY_BOOTSTRAP_KEY"):
        run(options)


def test_with_a_key_it_listens_where_it_is_told(options: Options) -> None:
    """It gets as far as the address, which is not this machine's."""
    options.data.mkdir()
    url = embedded_url(options.data)
    upgrade(url)
    with contextlib.closing(Database.open(url)) as database:
        Keys(database).add(new_token(), tenant_id="default", scopes=("read",), name="")
    with pytest.raises(SettingsError, match="cannot listen"):
        run(dataclasses.replace(options, host="192.0.2.1"))


def test_flower_beyond_loopback_needs_a_password(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH"):
        run(dataclasses.replace(options, host="0.0.0.0", insecure=True, flower_port=5555))


@pytest.mark.parametrize("name", ["port", "admin_port", "flower_port"])
def test_a_port_that_is_taken_is_named(options: Options, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1"):
            run(dataclasses.replace(options, **{name: port}))
    assert os.listdir(options.data) == []


def test_a_device_that_is_none_is_refused(options: Options) -> None:
    with pytest.raises(SettingsError, match="'gpu' is no device"):
        run(dataclasses.replace(options, devices="gpu"))


def test_a_models_folder_that_is_not_there_is_named(options: Options) -> None:
    with pytest.raises(SettingsError, match="elsewhere"):
        run(dataclasses.replace(options, models=options.models / "elsewhere"))
