"""docker-compose.yml without Docker: it is valid, it keeps its promises, and its commands run as plain processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import httpx
import pytest
import redis
import yaml
from compose_spec import PyCompose
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.running import free_port
from headway.testing import wait_until
from launch.embedded import find_binary

ROOT = Path(__file__).parent.parent.parent
DRAIN_S = 15

DOUBLE = """
from headway import Model

class Double(Model):
    def predict(self, inputs):
        return [2 * number for number in inputs]
"""

Service = dict[str, Any]


def interpolated(text: str, environ: Mapping[str, str]) -> str:
    """As Compose does it: `${NAME:-default}`, and `$$` for a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return environ.get(match["name"]) or match["default"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+):-(?P<default>[^}]*)\}", value, text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose sees it, with nothing set."""
    loaded: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(), {}))
    return loaded


def ours(compose: Mapping[str, Any]) -> dict[str, Service]:
    """The services that run Headway's own image."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_the_compose_file_is_valid(compose: dict[str, Any]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(compose))
    with pytest.raises(ValueError, match="prots"):
        PyCompose.from_yaml(yaml.safe_dump({"services": {"api": {"image": "x:1", "prots": ["80:80"]}}}))


def test_it_has_every_part_and_a_worker_for_each_gpu_by_profile(compose: dict[str, Any]) -> None:
    services = compose["services"]
    expected = {"valkey", "postgres", "migrate", "api", "worker", "utility", "flower", "prometheus", "grafana"}
    assert expected == {name for name, service in services.items() if "profiles" not in service}
    for n in range(4):
        gpu = services[f"worker-gpu{n}"]
        assert gpu["profiles"] == [f"gpu{n}"]
        assert gpu["environment"] == {**services["worker"]["environment"], "HEADWAY_DEVICE": "cuda:0"}
        (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == [str(n)]


def test_no_part_is_root_or_has_less_time_to_stop_than_a_drain_takes(compose: dict[str, Any]) -> None:
    assert re.findall(r"^USER (.*)$", (ROOT / "Dockerfile").read_text(), re.M) == ["10001:10001"]
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert service.get("network_mode") is None, name
        assert ("cap_add" in service) == (name == "postgres")
    for service in ours(compose).values():
        assert "user" not in service
        assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_S


def test_every_lasting_service_has_a_health_check_and_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert "healthcheck" in service or name == "migrate", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_secrets_come_by_file_and_are_made_by_the_script(compose: dict[str, Any], tmp_path: Path) -> None:
    made = make_secrets(tmp_path / "secrets")
    again = make_secrets(tmp_path / "secrets")
    assert made == again  # a second run changes no password
    assert set(made) == set(compose["secrets"])
    for name, service in compose["services"].items():
        mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        words = str([service.get("environment"), service.get("command"), service.get("healthcheck")])
        if name == "prometheus":
            words += (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
        if name == "postgres":
            words += (ROOT / "deploy" / "postgres" / "passwords.sh").read_text()
        assert set(re.findall(r"/run/secrets/\w+", words)) == mounted, name
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_what_the_image_is_made_of_is_let_through_to_the_build() -> None:
    let_through = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M))
    copied = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    names = {name for names in copied for name in names}
    assert names == let_through
    assert all((ROOT / name).exists() for name in names)


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([ROOT / "deploy" / "secrets.sh", folder], check=True)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_the_broker_takes_its_password_from_its_file(compose: dict[str, Any], tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path / "secrets")
    *shell, script = compose["services"]["valkey"]["command"]
    port = free_port()
    places = {
        "/run/secrets": f"{tmp_path}/secrets",
        "/etc/valkey": str(ROOT / "deploy" / "valkey"),
        "/tmp/users.acl": str(tmp_path / "users.acl"),
        "valkey-server": find_binary(),
    }
    for inside, outside in places.items():
        script = script.replace(inside, outside)
    process = subprocess.Popen([*shell, script.rstrip() + f" --port {port} --bind 127.0.0.1"], stdout=DEVNULL)
    try:
        url = secrets["redis_url"].replace("valkey:6379", f"127.0.0.1:{port}")
        with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
            wait_until(lambda: answers(client), 10, "Valkey")
            assert client.lpush("headway:double@1:0", "x") == 1
        refused = (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)
        with redis.Redis(port=port) as stranger, pytest.raises(refused):
            stranger.ping()
        assert (tmp_path / "users.acl").stat().st_mode & 0o077 == 0
        assert "--maxmemory-policy noeviction" in script
        assert secrets["redis_password"] not in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.kill()
        process.wait()


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def test_what_is_mounted_into_a_container_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./deploy"):
                assert (ROOT / source).exists(), source
    assert os.access(ROOT / "deploy" / "postgres" / "passwords.sh", os.X_OK)


class Plain:
    """The services as plain processes, with the environment of the file: only places and ports are this machine's."""

    def __init__(self, compose: dict[str, Any], folder: Path, places: Mapping[str, str]) -> None:
        self._services = ours(compose)
        self._folder = folder
        self._places = places  # what to write instead of names and paths inside the containers
        self._ports: dict[tuple[str, str], int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def port(self, service: str, inside: str) -> int:
        return self._ports.setdefault((service, inside), free_port())

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        service = self._services[name]
        given = {key: self._placed(name, value) for key, value in service["environment"].items()}
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("HEADWAY_", "FLOWER_"))}
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "launch", *service["command"]],
                env={**environ, **given},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        return self._processes[name]

    def healthy(self, name: str) -> bool:
        """What its health check says; raises where the process has ended."""
        process = self._processes[name]
        assert process.poll() is None, self.log(name)
        kind, program, *words = self._services[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        words = [self._placed(name, word) for word in words]
        return subprocess.run([sys.executable, *words], capture_output=True, check=False).returncode == 0

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-4000:]

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        try:
            return {name: process.wait(DRAIN_S + 5) for name, process in self._processes.items()}
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _placed(self, service: str, text: str) -> str:
        for inside in ("8000", "8001", "5555", "9101"):
            if text == inside or f":{inside}/" in text:
                text = text.replace(inside, str(self.port(service, inside)))
        for inside, outside in self._places.items():
            text = text.replace(inside, outside)
        return text


@pytest.fixture
def plain(compose: dict[str, Any], tmp_path: Path, empty_postgres_url: str, fresh_redis_url: str) -> Iterator[Plain]:
    secrets = tmp_path / "secrets"
    make_secrets(secrets)
    urls = {
        "migrate_database_url": empty_postgres_url,
        "database_url": empty_postgres_url,
        "redis_url": fresh_redis_url,
    }
    for name, text in urls.items():
        (secrets / name).unlink()
        (secrets / name).write_text(text)
    version = tmp_path / "models" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(DOUBLE)
    places = {"/run/secrets": str(secrets), "/models": str(tmp_path / "models"), "/blobs": str(tmp_path / "blobs")}
    running = Plain(compose, tmp_path, places)
    yield running
    running.stop()


def test_the_commands_of_the_file_serve_predictions_as_plain_processes(
    compose: dict[str, Any], plain: Plain, tmp_path: Path
) -> None:
    assert plain.start("migrate").wait(60) == 0, plain.log("migrate")
    lasting = ["api", "worker", "utility", "flower"]
    assert {name for name, service in ours(compose).items() if "profiles" not in service} == {"migrate", *lasting}
    for name in lasting:
        plain.start(name)
    for name in lasting:
        wait_until(lambda name=name: plain.healthy(name), 60, f"{name} to be healthy")  # type: ignore[misc]

    key = (tmp_path / "secrets" / "bootstrap_key").read_text()
    bearer = {"Authorization": f"Bearer {key}"}
    data = f"http://127.0.0.1:{plain.port('api', '8000')}"
    wait_until(lambda: "double" in httpx.get(f"{data}/ready", headers=bearer).text, 60, "the model to be registered")
    for number in range(5):
        answer = httpx.post(
            f"{data}/v1/models/double/predictions",
            json={"input": number},
            headers={**bearer, "Prefer": "wait=30"},
            timeout=40,
        )
        assert (answer.status_code, answer.json().get("output")) == (200, 2 * number), answer.text

    for name, inside in (("api", "8001"), ("worker", "9101"), ("utility", "9101")):
        url = f"http://127.0.0.1:{plain.port(name, inside)}/metrics"
        assert "headway_" in httpx.get(url, headers=bearer if name == "api" else {}).text
    user, password = (tmp_path / "secrets" / "flower_basic_auth").read_text().split(":")
    flower = f"http://127.0.0.1:{plain.port('flower', '5555')}/api/workers?refresh=1"
    assert httpx.get(flower).status_code == 401
    wait_until(lambda: httpx.get(flower, auth=(user, password)).json(), 20, "Flower to see the worker")

    began = time.monotonic()
    assert set(plain.stop().values()) == {0}
    assert time.monotonic() - began < DRAIN_S
