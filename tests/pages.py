"""A page of the documentation as a program: its files are written, its commands run, and what they print is compared.

    <!-- file: PATH -->      the fenced block that follows is this file
    ```console               `$ command` lines, each with what it prints; … stands for anything

`headway up` goes on running while the rest of the page does; its ports become free ones, here and in all that follows.
JSON is compared as JSON, whatever its order and spaces.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from headway.running import RunningHeadway, free_port

_BLOCK = re.compile(r"(?:<!-- file: (?P<path>[^ ]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_COMMAND = re.compile(r"^\$ (?P<command>(?:.*\\\n)*.*)\n?(?P<printed>(?:(?!\$ ).*\n?)*)", re.M)
_PORT = re.compile(r"(?<=[:=,\s])(?P<port>[1-9]\d{3,4})(?=[/,\s'\"]|$)")


class Step(NamedTuple):
    """A command, and what the page says that it prints."""

    command: str
    printed: str


class Page:
    """In a folder of its own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._folder = folder
        self._steps: list[Step] = []
        self._ports: dict[str, str] = {}
        for block in _BLOCK.finditer(source.read_text(encoding="utf-8")):
            if block["path"]:
                file = folder / block["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block["text"], encoding="utf-8")
            elif block["kind"] == "console":
                self._steps += [Step(found["command"], found["printed"]) for found in _COMMAND.finditer(block["text"])]

    def run(self) -> int:
        """How many commands it had. Raises AssertionError at the first that prints something else."""
        with contextlib.ExitStack() as stack:
            for step in self._steps:
                if step.command.startswith("headway up"):
                    self._find_ports(step.command)
                    for file in self._folder.rglob("*.py"):
                        file.write_text(self._moved(file.read_text(encoding="utf-8")), encoding="utf-8")
                    stack.enter_context(self._up(self._moved(step.command)))
                else:
                    self._check(step, self._printed(self._moved(step.command)))
        return len(self._steps)

    def _find_ports(self, command: str) -> None:
        for found in _PORT.finditer(command):
            self._ports.setdefault(found["port"], str(free_port()))

    def _moved(self, text: str) -> str:
        return _PORT.sub(lambda found: self._ports.get(found["port"], found["port"]), text)

    def _up(self, command: str) -> RunningHeadway:
        words = shlex.split(command.replace("\\\n", " "))[2:]
        models = self._folder / words[words.index("--models") + 1]
        at = words.index("--models")
        return RunningHeadway(self._folder / "run", models=models, options=words[:at] + words[at + 2 :])

    def _printed(self, command: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env={**os.environ, "PATH": path, "no_proxy": "*"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _check(self, step: Step, printed: str) -> None:
        wanted = self._moved(step.printed).strip()
        if wanted:
            assert _alike(wanted, printed.strip()), f"$ {step.command}\n{printed}\n--- and the page says\n{wanted}"


def _alike(wanted: str, found: str) -> bool:
    try:
        return _same(json.loads(wanted.replace("…", '"…"') if '"…"' not in wanted else wanted), json.loads(found))
    except ValueError:
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        return re.fullmatch(pattern, found, re.S) is not None


def _same(wanted: Any, found: Any) -> bool:
    if wanted == "…":
        return True
    if isinstance(wanted, dict) and isinstance(found, dict):
        return wanted.keys() == found.keys() and all(_same(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_same, wanted, found))
    return bool(wanted == found)
