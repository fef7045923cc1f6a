"""What the commands do that ask a server, as any client may: no database, no models, only HTTP.

To a terminal it draws; to a pipe it writes plain lines. What was refused ends with exit code 2; what had no answer, or
no success, with 1.
"""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from headway.client import (
    ApiError,
    Client,
    Emitted,
    Event,
    NotSucceeded,
    Prediction,
    Progressed,
    Timeout,
    Transition,
    Unreachable,
)
from headway.client.verbs import output_of
from headway.errors import SettingsError

#: People wait before a terminal: what passes is given this long.
_TIMEOUT_S, _RETRIES = 10.0, 3
_COLOURS = {"succeeded": "green", "failed": "red", "canceled": "yellow", "expired": "yellow", "in_progress": "cyan"}


@contextlib.contextmanager
def asking(url: str | None, key: str | None, *, retries: int = _RETRIES) -> Iterator[Client]:
    with exits(), Client(url, key, timeout=_TIMEOUT_S, retries=retries) as client:
        yield client


@contextlib.contextmanager
def exits() -> Iterator[None]:
    """What goes wrong with a server, as the exit of a command."""
    try:
        yield
    except (NotSucceeded, Timeout, Unreachable, ApiError) as error:
        if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
            raise
        print(f"headway: {one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from error
    except (ValueError, RecursionError) as error:  # an input or a key that cannot be sent
        raise SettingsError(str(error)) from error


def read_input(argument: str | None) -> Any:
    """JSON where it is JSON, else a string: the argument itself, `@FILE` from a file, `-` or nothing from stdin."""
    if argument is None and sys.stdin.isatty():
        raise SettingsError("there is no input: give it as an argument, as @FILE or on stdin")
    text = argument = "-" if argument is None else argument
    try:
        if argument == "-":
            text = sys.stdin.read()
        elif argument.startswith("@"):
            text = Path(argument[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot read {argument[1:]}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{argument}: it is not UTF-8") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.removesuffix("\n")


def read_metadata(pairs: Iterable[str]) -> dict[str, str]:
    """`k=v`, each."""
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if any("=" not in pair for pair in pairs):
        raise SettingsError("metadata is given as NAME=VALUE")
    return found


def await_output(client: Client, id_: str) -> Any:
    """Raises NotSucceeded. A terminal sees how far it is."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return _output(client, client.wait(id_))
    for _ in _drawn(client.events(id_), console):
        pass
    return _output(client, client.get(id_))


def _output(client: Client, prediction: Prediction) -> Any:
    """Raises NotSucceeded, and SettingsError for bytes, which are nothing to print."""
    output = client.output(prediction.id) if prediction.output_omitted else output_of(prediction)
    if isinstance(output, bytes):
        raise SettingsError(f"the output is {len(output)} bytes: GET /v1/predictions/{prediction.id}/output has them")
    return output.tolist() if hasattr(output, "tolist") else output


def watch(client: Client, id_: str) -> Prediction:
    """Every event a line, and at last the output; the prediction as it ended."""
    console = Console(highlight=False)
    events = client.events(id_)
    for event in _drawn(events, console) if console.is_terminal else events:
        console.print(_line(event), soft_wrap=True)
    prediction = client.get(id_)
    if prediction.status == "succeeded":
        print(dumped(_output(client, prediction)), flush=True)
    return prediction


def cancel(client: Client, id_: str) -> str:
    """The status of the prediction, or batch, then. Ids of both look alike."""
    try:
        return client.cancel(id_).status
    except ApiError as error:
        if error.code != "prediction_not_found":
            raise
        try:
            return client.get_batch(id_).cancel().status
        except ApiError as of_batch:
            raise (error if of_batch.code == "batch_not_found" else of_batch) from None


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _drawn(events: Iterable[Event], console: Console) -> Iterator[Event]:
    """The same events, with a bar below them while they come."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=None)
        for event in events:
            if isinstance(event, Transition):
                progress.update(bar, description=event.status, total=None)
            elif isinstance(event, Progressed):
                progress.update(bar, completed=event.fraction, total=1.0)
            yield event


def _line(event: Event) -> Text:
    at = f"{event.at.astimezone():%H:%M:%S.%f}"[:-3]
    if isinstance(event, Emitted):
        return Text(f"{at} output {dumped(event.output)}")
    if isinstance(event, Progressed):
        share = "" if event.fraction is None else f" {event.fraction:.0%}"
        return Text(f"{at} progress{share} {one_line(event.message or '')}".rstrip())
    error = event.prediction.error if event.prediction is not None else None
    why = f": {one_line(error.message)} [{error.code}]" if error is not None else ""
    attempt = f" attempt {event.attempt}" if event.status == "in_progress" else ""
    return Text.assemble(f"{at} ", (event.status, _COLOURS.get(event.status, "")), f"{attempt}{why}")


def one_line(text: str) -> str:
    """What a model said, without what would break the line or drive the terminal."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def show_list(predictions: Iterable[Prediction], as_json: bool) -> None:
    """A table for a terminal, for a pipe lines with tabs, or JSON."""
    console = Console(highlight=False)
    if as_json:
        for prediction in predictions:
            print(msgspec.json.encode(prediction).decode())
    elif not console.is_terminal:
        for prediction in predictions:
            print(*_cells(prediction), sep="\t")
    else:
        table = Table("id", "model", "status", "created", "error")
        for prediction in predictions:
            id_, model, status, created, error = _cells(prediction)
            table.add_row(id_, model, Text(status, _COLOURS.get(status, "")), created, Text(error))
        console.print(table)


def _cells(prediction: Prediction) -> tuple[str, ...]:
    created = prediction.created_at.astimezone().isoformat(sep=" ", timespec="seconds")
    error = "" if prediction.error is None else prediction.error.code
    return prediction.id, f"{prediction.model}@{prediction.version}", prediction.status, created, error
