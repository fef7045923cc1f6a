"""Flower, for operators to watch: workers, micro-batches, queue lengths.

Its rule: the broker's URL holds a password, so it never stands in argv; Flower is run in this process on an app that
was configured from the environment. It is read-only, and beyond loopback it needs a password of its own.
"""

import os
from collections.abc import Mapping

from headway.broker import celery_config
from headway.errors import SettingsError
from headway.settings import secret
from launch.addresses import is_loopback

#: What Flower reads from the environment, unless the operator says otherwise there.
_DEFAULTS = {
    "FLOWER_READ_ONLY": "true",
    "FLOWER_MAX_TASKS": "10000",  # each is a micro-batch and costs about 4 kB of memory
    "FLOWER_CONF": os.devnull,  # the default is to run whatever flowerconfig.py the current folder holds
    "FLOWER_LOGGING": "none",  # Tornado's own handler; headway.logs has one already
}


def check_access(host: str, environ: Mapping[str, str]) -> None:
    """Raises SettingsError where Flower would show itself to the network without a password."""
    if not is_loopback(host) and not (secret(environ, "FLOWER_BASIC_AUTH", "") or environ.get("FLOWER_AUTH")):
        raise SettingsError(
            f"Flower on {host} needs a password: set FLOWER_BASIC_AUTH=user:password or FLOWER_BASIC_AUTH_FILE, "
            "or turn it off with --flower-port 0"
        )


def main(redis_url: str, host: str, port: int) -> int:
    """Serves until SIGTERM or SIGINT. Raises SettingsError."""
    from celery import Celery  # not in the supervisor, which only checks the access

    check_access(host, os.environ)
    if password := secret(os.environ, "FLOWER_BASIC_AUTH", ""):
        os.environ["FLOWER_BASIC_AUTH"] = password
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if is_loopback(host):
        os.environ.setdefault("FLOWER_UNAUTHENTICATED_API", "true")
    os.environ["FLOWER_ADDRESS"] = host
    os.environ["FLOWER_PORT"] = str(port)
    app = Celery("headway", set_as_current=False)
    app.conf.update(celery_config(redis_url))
    return app.start(["--quiet", "flower"]) or 0
