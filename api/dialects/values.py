"""JSON values as predictions, whose outputs are waited for: what a dialect needs whose requests are JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from api.asking import ask
from api.dialects import jobs
from api.dialects.outputs import output_of
from api.exchange import Call
from api.registry import Target
from api.service import Service
from headway.notices import Ended
from headway.states import Status
from headway.types import NewPrediction, Prediction


class Failed(Exception):  # noqa: N818  (what has become of a prediction)
    """One of them has no output; `end` is None where it has not ended."""

    def __init__(self, end: Ended | Prediction | None) -> None:
        super().__init__("failed" if end is None else end.status.label)
        self.end = end


class Answers(NamedTuple):
    """Their outputs, and how they have ended."""

    outputs: list[Any]
    ends: list[Ended | Prediction]


async def rows_of(service: Service, call: Call, target: Target, values: Sequence[Any]) -> list[NewPrediction]:
    """A row a value. Raises Problem where one does not fit the model."""
    rows = []
    for index, value in enumerate(values):
        body = msgspec.json.encode(value)
        measured = target.measure(value, body, f"/{index}" if len(values) > 1 else "")
        rows.append(await jobs.row_of(service, call, target, body, None, measured))
    return rows


async def compute(service: Service, call: Call, target: Target, values: Sequence[Any]) -> Answers:
    """Each is a prediction. Raises Failed for the first that has no output, Problem, Disconnected."""
    rows = await rows_of(service, call, target, values)
    if not rows:
        return Answers([], [])
    await service.capacity.admit(target, len(rows))

    def copied() -> None:
        for row, value in zip(rows, values, strict=True):
            service.shadows.copy(row, row.body, value)

    answers = await ask(service, call, rows, target.at_most, within_s=jobs.LONGEST_WAIT_S, accepted=copied)
    ends = []
    for row in rows:
        end = answers.ended.get(row.id)
        if end is None or end.status is not Status.SUCCEEDED:
            raise Failed(end)
        ends.append(end)
    return Answers([await output_of(service, row.id, end) for row, end in zip(rows, ends, strict=True)], ends)
