"""The command line's promises about itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headway import __version__
from launch.cli import app


def test_it_says_its_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"headway {__version__}\n"


def test_every_option_is_also_an_environment_variable() -> None:
    group = typer.main.get_group(app)
    options = [
        (name, option)
        for name, command in _commands(group)
        for option in command.params
        # These are acts and not settings: nobody wants them done by what happens to stand in the environment.
        if option.param_type_name == "option" and option.name not in ("help", "rotate", "delete", "latest", "yes")
    ]
    assert len(options) > 20
    for name, option in options:
        assert option.name is not None
        assert isinstance(option.envvar, str), f"{name} --{option.name}"
        assert option.envvar.startswith("HEADWAY_")


def _commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield name, command
        if hasattr(command, "commands"):
            yield from _commands(command)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert CliRunner().invoke(app, ["up", "--port", port]).exit_code == 2
