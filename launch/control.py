"""`headway models …` and bulk retries: what operators ask the control plane, over HTTP like anybody.

To a terminal it draws; to a pipe it writes plain lines. What was refused ends with exit code 2, what had no answer with
1.
"""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headway.client import Unreachable, wire
from headway.client.asking import checked, foreign
from headway.errors import SettingsError
from launch.asking import exits, one_line

_USUAL_URL = "http://127.0.0.1:8001"
#: A purge works for 20 s before it answers.
_PATIENCE = httpx.Timeout(60.0, connect=5.0)
_LEAST = {"remarks": 12}
_COLOURS = {"ready": "green", "loading": "cyan", "failed": "red", "unloaded": "bright_black"}


class Operator:
    """The control plane of one server."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, method: str, *path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """What the answer's JSON has; None where it has none. Raises ApiError, Unreachable."""
        url = "/v1/" + "/".join(quote(part, safe="") for part in path)
        asked = {name: str(value) for name, value in (query or {}).items() if value is not None}
        try:
            response = self._http.request(method, url, params=asked, json=body, timeout=_PATIENCE)
        except httpx.TransportError as error:
            raise Unreachable(wire.lost(error, self._http).reason) from error
        answer = checked(wire.answer(response, response.content))
        try:
            return msgspec.json.decode(answer.body) if answer.body else None
        except msgspec.DecodeError as error:
            raise foreign(answer.status, error) from error


@contextlib.contextmanager
def operating(url: str | None, key: str | None) -> Iterator[Operator]:
    with exits(), httpx.Client(**wire.options(url or _USUAL_URL, key)) as http:
        yield Operator(http)


# Models


def show_models(operator: Operator, name: str | None, as_json: bool) -> None:
    """A row a version, newest last; or the models as the server shows them, one a line."""
    models = operator.ask("GET", "models")["data"] if name is None else [operator.ask("GET", "models", name)]
    if as_json:
        for model in models:
            print(json.dumps(model, ensure_ascii=False))
        return
    headings = ("version", "state", "takes", "devices", "memory", "ended", "failed", "p50", "p99", "remarks")
    _show(headings, [_cells(model, version) for model in models for version in model["versions"]])


def _cells(model: Mapping[str, Any], version: Mapping[str, Any]) -> tuple[str, ...]:
    name, traffic = version["version"], model["traffic"]
    share = traffic["now"].get(name)
    takes = f"{100 * share:.4g}%" if share is not None else "shadow" if name in traffic["shadow"] else "-"
    remarks = [alias for alias, target in sorted(model["aliases"].items()) if target == name]
    remarks += [word for word, holds in (("latest", name == model["latest"]), ("paused", model["paused"])) if holds]
    remarks += [f"wish: {version['wish']}"] if version["wish"] else []
    remarks += [one_line(version["reason"])] if version["reason"] else []
    rate = version["error_rate"]
    return (
        f"{model['name']}@{name}",
        version["state"],
        takes,
        ", ".join(version["devices"]) or "-",
        _bytes(version["memory_bytes"]),
        str(version["counts"]["ended"]),
        "-" if rate is None else f"{100 * rate:.3g}%",
        _seconds(version["p50_seconds"]),
        _seconds(version["p99_seconds"]),
        ", ".join(remarks),
    )


def _show(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for row in rows:
            print(*row, sep="\t")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:  # words are broken where a terminal is narrow, numbers never
        table.add_column(heading, no_wrap=heading not in ("devices", headings[-1]), min_width=_LEAST.get(heading))
    for row in rows:
        table.add_row(*[Text(cell, _COLOURS.get(cell, "")) for cell in row])
    console.print(table)


def _bytes(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{factor * seconds:.3g} {unit}"


def change_version(operator: Operator, verb: str, model: str, version: str) -> str:
    """In a line, how the version stands then; workers follow within a second."""
    row = operator.ask("POST", "models", model, "versions", version, verb)
    wish = f", wish: {row['wish']}" if row["wish"] else ""
    return f"{model} {row['version']}: {row['state']}{wish}"


def change_alias(operator: Operator, model: str, alias: str, version: str | None, delete: bool) -> str:
    if delete == (version is not None):
        raise SettingsError("say where the alias points, or --delete")
    if delete:
        operator.ask("DELETE", "models", model, "aliases", alias)
        return f"{model} has no alias {alias}"
    row = operator.ask("PUT", "models", model, "aliases", alias, body={"version": version})
    return f"{model} {row['alias']}: {row['version']}"


def change_traffic(
    operator: Operator, model: str, weights: list[str], shadows: list[str], sticky: str | None, latest: bool
) -> str:
    """In a line, where submissions go then; without anything said, where they go now."""
    said = bool(weights or shadows or sticky)
    if latest and said:
        raise SettingsError("--latest stands alone: it clears weights, shadows and what is sticky")
    if not latest and not said:
        return _traffic(operator.ask("GET", "models", model, "traffic"))
    body: dict[str, Any] = {"versions": _weights(weights), "shadow": shadows, "sticky": sticky}
    return _traffic(operator.ask("PUT", "models", model, "traffic", body=body))


def _weights(pairs: Iterable[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for pair in pairs:
        version, _, weight = pair.rpartition("=")
        try:
            weights[version] = float(weight)
        except ValueError:
            version = ""
        if not version:
            raise SettingsError(f"{pair[:80]!r} is no weight; they are given as VERSION=WEIGHT")
    return weights


def _traffic(row: Mapping[str, Any]) -> str:
    words = [", ".join(f"{version} {100 * share:.4g}%" for version, share in row["now"].items())]
    words += [f"shadow {', '.join(row['shadow'])}"] if row["shadow"] else []
    words += [f"sticky by {row['sticky']}"] if row["sticky"] else []
    waiting = [version for version in row["versions"] if version not in row["now"]]
    words += [f"not released: {', '.join(waiting)}"] if waiting else []
    return f"{row['model']}: {'; '.join(words)}"


def change_queue(operator: Operator, verb: str, model: str) -> str:
    row = operator.ask("POST", "models", model, "queue", verb)
    return f"{model}: {'paused' if row['paused'] else 'running'}, {row['depth']:,} queued"


def purge(operator: Operator, model: str) -> str:
    """Goes on until nothing is left that was there at the beginning of a call."""
    purged = 0
    while True:
        page = operator.ask("POST", "models", model, "queue", "purge")
        purged += page["purged"]
        if not page["has_more"]:
            return f"{model}: {purged:,} canceled"
        print(f"headway: {purged:,} canceled so far", file=sys.stderr)


def show_shadows(operator: Operator, model: str, version: str, limit: int, as_json: bool) -> None:
    """A row a comparison, newest first, and below them what they say together."""
    compared: list[Mapping[str, Any]] = []
    after = None
    while len(compared) < limit:
        query = {"limit": min(100, limit - len(compared)), "after": after}
        page = operator.ask("GET", "models", model, "versions", version, "shadows", query=query)
        compared += page["data"]
        after = page["last_id"]
        if not page["has_more"]:
            break
    if as_json:
        for one in compared:
            print(json.dumps(one, ensure_ascii=False))
        return
    _show(("id", "original", "shadow", "equal", "took"), map(_compared, compared))
    known = [one["equal"] for one in compared if one["equal"] is not None]
    if known:
        print(f"headway: {sum(known):,} of {len(known):,} are equal", file=sys.stderr)


def _compared(one: Mapping[str, Any]) -> tuple[str, ...]:
    sides = [one["original"] or {}, one["shadow"]]
    equal = "-" if one["equal"] is None else "yes" if one["equal"] else "no"
    if one["max_difference"]:
        equal += f", by {one['max_difference']:.3g}"
    seconds = " / ".join(_seconds(side.get("predict_seconds")) for side in sides)
    original, shadow = (_side(side) for side in sides)
    return one["id"], original, shadow, equal, seconds


def _side(side: Mapping[str, Any]) -> str:
    status = side.get("status", "gone")
    return f"{side.get('version', '-')}{'' if status == 'succeeded' else f' {status}'}"


# Predictions


def retry_all(operator: Operator, **filters: str | None) -> str:
    """Page after page, with a line for each on stderr."""
    count, after, told = 0, None, 0
    while True:
        page = operator.ask("POST", "predictions", "retry", query={**filters, "after": after})
        count, after = count + page["retried"], page["last_id"]
        if not page["has_more"]:
            return f"{count:,} queued again"
        if count > told:
            print(f"headway: {count:,} queued again so far", file=sys.stderr)
            told = count
