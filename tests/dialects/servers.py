"""The real servers, started on loopback: they say what is right."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from headway.testing import wait_until
from tests.dialects import building, folders

MODELS = Path(__file__).resolve().parent / "models"
_READY_S = 120.0
_STOP_S = 30.0


def free_ports(count: int) -> list[int]:
    """That nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def triton(folder: Path, unloaded: Sequence[str], models: Path = MODELS / "triton") -> Iterator[dict[str, str]]:
    """Triton, of the wheel that carries it, with a copy of `models`; port → URL. They are loaded but for `unloaded`."""
    home = building.folder("triton")
    (packages,) = (home / "lib").glob("python3.*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    # The wheel keeps the process that runs a model.py apart from the backend, one for each version of Python.
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    python = packages.parent.name.removeprefix("python")
    shutil.copy(server / "python_backend_stubs" / python / "triton_python_backend_stub", backends / "python")
    shutil.copytree(models, folder / "models")
    http, grpc, metrics = free_ports(3)
    command = [str(server / "bin" / "tritonserver"), "--model-repository", str(folder / "models")]
    command += ["--backend-directory", str(backends), "--disable-auto-complete-config"]
    command += ["--model-control-mode", "explicit", "--exit-on-error", "false"]
    for option, port in (("http", http), ("grpc", grpc)):
        command += [f"--{option}-address", "127.0.0.1", f"--{option}-port", str(port)]
    command += ["--metrics-address", "127.0.0.1", "--metrics-port", str(metrics)]
    for model in sorted(path.name for path in (folder / "models").iterdir()):
        command += [] if model in unloaded else ["--load-model", model]
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environ = os.environ | {"LD_LIBRARY_PATH": libraries}
    url = f"http://127.0.0.1:{http}"
    # The backend embeds a Python that knows of no virtual environment and heeds no PYTHONPATH: what it imports, it
    # looks for in the working folder first. With a numpy 2 from elsewhere its tensors are rubbish.
    with _running(command, folder / "log", environ, f"{url}/v2/health/ready", packages):
        yield {"inference": url, "metrics": f"http://127.0.0.1:{metrics}", "grpc": f"grpc://127.0.0.1:{grpc}"}


@contextlib.contextmanager
def torchserve(folder: Path, archives: Path) -> Iterator[dict[str, str]]:
    """TorchServe with the archives of a folder, none registered; port → URL."""
    home = building.folder("torchserve")
    names = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    settings = [f"{name}_address=http://127.0.0.1:{ports[name]}" for name in names[:3]]
    settings += [f"{name}_port={ports[name]}" for name in names[3:]]
    settings += ["metrics_mode=prometheus", "number_of_netty_threads=2", "job_queue_size=100"]
    (folder / "config.properties").write_text("\n".join(settings) + "\n")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "TEMP": str(folder),
        "LOG_LOCATION": str(folder / "logs"),
    }
    environ |= {"METRICS_LOCATION": str(folder / "logs")}
    command = [str(home / "bin" / "torchserve"), "--foreground", "--ncs", "--ts-config", "config.properties"]
    command += ["--disable-token-auth", "--enable-model-api", "--model-store", str(archives)]
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with _running(command, folder / "log", environ, f"{urls['inference']}/ping", folder):
        yield urls


@contextlib.contextmanager
def kserve(folder: Path) -> Iterator[dict[str, str]]:
    """KServe's model server with its folders, which are made; port → URL."""
    python = building.folder("kserve") / "bin" / "python"
    models = folder / "models"
    models.mkdir()
    folders.build("kserve", models, python)
    (port,) = free_ports(1)
    named = [f"{name}={method}" for name, method in folders.KSERVE.items()]
    command = [str(python), str(Path(__file__).with_name("kserve_server.py")), str(models), str(port), *named]
    url = f"http://127.0.0.1:{port}"
    with _running(command, folder / "log", _without_ours(), f"{url}/v2/health/ready", folder):
        yield {"inference": url}


@contextlib.contextmanager
def bentoml(folder: Path) -> Iterator[dict[str, str]]:
    """BentoML's server with the service that is here; port → URL."""
    shutil.copytree(MODELS / "bentoml" / "measures" / "1", folder / "service")
    (port,) = free_ports(1)
    command = [str(building.folder("bentoml") / "bin" / "bentoml"), "serve", "service:Measures"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environ = _without_ours() | {"BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    url = f"http://127.0.0.1:{port}"
    with _running(command, folder / "log", environ, f"{url}/readyz", folder / "service"):
        yield {"inference": url}


@contextlib.contextmanager
def mlserver(folder: Path) -> Iterator[dict[str, str]]:
    """MLServer with its folders, which are made; port → URL."""
    home = building.folder("mlserver")
    models = folder / "models"
    models.mkdir()
    folders.build("mlserver", models, home / "bin" / "python")
    http, grpc, metrics = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    settings |= {"parallel_workers": 0, "debug": False}
    (models / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [str(home / "bin" / "mlserver"), "start", str(models)]
    url = f"http://127.0.0.1:{http}"
    with _running(command, folder / "log", _without_ours(), f"{url}/v2/health/ready", folder):
        yield {"inference": url}


def _without_ours() -> dict[str, str]:
    """The environment of a server that must not find what this repository has on its path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path, environ: Mapping[str, str], ready: str, folder: Path) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environ, cwd=folder, process_group=0)

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(ready).status_code == 200
            return False

        try:
            wait_until(answers, _READY_S, f"{ready} to answer")
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
                process.wait(_STOP_S)
            with contextlib.suppress(ProcessLookupError):  # its helpers
                os.killpg(process.pid, signal.SIGKILL)
