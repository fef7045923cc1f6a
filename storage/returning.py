"""Letting go: rows of a claim that will not be finished under it go back to their old position."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headway.errors import ItemCode
from headway.notices import Ended
from headway.states import Status
from headway.types import Hint
from storage.rows import item_error
from storage.verbs import UUID, Verbs, as_json

_uuids = msgspec.json.Decoder(list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A row that a worker lets go of."""

    id: str
    losses: int | None = None  # raise `losses` to at least this
    charge: bool = False  # blame it: one more toward max_attempts
    code: ItemCode = ItemCode.WORKER_LOST  # what it fails with when that was the last
    message: str = "the worker was lost each time it ran this alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    queued: list[tuple[str, int, Hint]] = field(default_factory=list)  # (line, priority, hint): to be published again
    ended: dict[str, Ended] = field(default_factory=dict)  # canceled, or failed because its attempts are used up
    lines: dict[str, str] = field(default_factory=dict)  # of those that ended: id → line

    def __bool__(self) -> bool:
        return bool(self.queued or self.ended)


class Returning(Verbs):
    def give_back(self, claim: str, returned: Sequence[Returned], settled: bool) -> GivenBack:
        """Rows of a claim that will not be finished under it: queued again at their old position.

        Those being canceled are canceled; those whose blame reaches `max_attempts` fail with their `code`. The claim is
        forgotten if it is settled and really nothing of it remains.
        """
        rows = [_return_row(claim, row) for row in returned if UUID.fullmatch(row.id)]
        return self._give_back(rows, [claim] if settled else [])

    def give_back_dead(self, limit: int = 500) -> GivenBack:
        """What is claimed by workers that are not live, about `limit` rows a call; call it until nothing is returned.

        Each row loses once more in company; one that ran alone is charged.
        """
        while claims := self._dead_claims(limit):
            rows = [
                _return_row(claim, Returned(id=id_, charge=len(ids) == 1), lost=1)
                for claim, ids in claims.items()
                for id_ in ids
            ]
            given_back = self._give_back(rows, list(claims))
            if given_back or self._dead_claims(limit).keys() & claims.keys():
                return given_back  # what is left of these claims is locked: another pass will find it
        return GivenBack()

    def _dead_claims(self, limit: int) -> dict[str, list[str]]:
        def read() -> dict[str, list[str]]:
            taken: dict[str, list[str]] = {}
            with self._database.read() as connection:
                rows = self._database.run(connection, "dead_claims", limit=limit).all()
            count = 0
            for claim, ids in rows:
                if count >= limit:
                    break
                taken[claim] = _uuids.decode(ids)
                count += len(taken[claim])
            return taken

        return self._database.retrying(read)

    def _give_back(self, rows: Sequence[dict[str, Any]], settled: Sequence[str]) -> GivenBack:
        def once() -> Sequence[Sequence[Any]]:
            with self._database.write() as connection:
                changed = self._database.run(connection, "give_back", rows=as_json(rows)).all()
                if settled:
                    self._database.run(connection, "settle_checked", claims=self._ids(settled))
                return changed

        given_back = GivenBack()
        for row in self._database.retrying(once) if rows or settled else ():
            id_, line, priority, size, shape, position, status, revision, claim, attempt, started, completed, *error = (
                row
            )
            if status == Status.QUEUED:
                hint = Hint(id=id_, size=size, shape=shape, position=position)
                given_back.queued.append((line, priority, hint))
            else:
                given_back.lines[id_] = line
                given_back.ended[id_] = Ended(
                    status=Status(status),
                    revision=revision,
                    claim=claim,
                    attempt=attempt,
                    started_at=started,
                    completed_at=completed,
                    predict_us=None,
                    batch_size=None,
                    output=None,
                    output_omitted=False,
                    error=item_error(*error),
                )
        return given_back


def _return_row(claim: str, row: Returned, *, lost: int = 0) -> dict[str, Any]:
    return {
        "id": row.id,
        "claim": claim,
        "losses": row.losses or 0,
        "lost": lost,
        "charge": int(row.charge),
        "code": row.code,
        # What killed a device may have left anything in its last words.
        "message": row.message.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}"),
    }
