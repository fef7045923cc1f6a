"""/metrics of a worker and of the utility worker, on a port of its own.

Its rule: it listens on loopback unless told otherwise. Nobody needs a key to read it, and it names the models.
"""

import logging

import prometheus_client

from headway.errors import SettingsError

log = logging.getLogger(__name__)


def serve(host: str, port: int | None) -> None:
    """From now on, in a thread that ends with the process. None: not at all; 0: on a free port, which the log names.

    Raises SettingsError where the port cannot be had.
    """
    if port is None:
        return
    try:
        server, _ = prometheus_client.start_http_server(port, addr=host)
    except OSError as error:
        raise SettingsError(f"cannot serve metrics on port {port} of {host}: {error.strerror}") from error
    log.info("metrics at http://%s:%d/metrics", host, server.server_port, extra={"metrics_port": server.server_port})
