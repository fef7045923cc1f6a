"""The workload: clients of several tenants who submit, wait, read again, cancel, retry, and try each other's doors.

Arrivals follow the clock and not the answers, with a bound on how much may be open at once: what is measured is
recovery, not how large a backlog can grow. Each submission has an Idempotency-Key and is sent until it is answered,
but for those of callers who give up: what became of these nobody knows.
"""

import asyncio
import contextlib
import itertools
import json
import random
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import answers
from tests.chaos.asking import Answer, Client, Unanswered
from tests.chaos.history import Writer

#: (share, model, kind). Every `crash` and `hang` costs a handful of device processes.
MIX: Sequence[tuple[float, str, str]] = (
    (0.75, "steady", "good"),
    (0.12, "moody", "good"),
    (0.03, "leaky", "good"),
    (0.02, "moody", "slow"),
    (0.02, "moody", "raise"),
    (0.02, "moody", "refuse"),
    (0.015, "moody", "short"),
    (0.015, "moody", "nan"),
    (0.001, "moody", "memory"),
    (0.001, "moody", "crash"),
    (0.0005, "moody", "hang"),
)
#: (share, temper of the receiver); the rest has no webhook.
HOOKS: Sequence[tuple[float, str]] = (
    (0.55, "good"),
    (0.04, "flaky"),
    (0.02, "slow"),
    (0.02, "busy"),
    (0.01, "endless"),
    (0.01, "redirect"),
    (0.01, "gone"),
    (0.01, "dead"),
    (0.003, "stalled"),
    (0.005, "garbage"),
)
TERMINAL = ("succeeded", "failed", "canceled", "expired")

#: A file of so many lines is on its way all the time, one after the other.
LINES = 150
_TIMEOUT_S = 10.0
_PAUSES_S = (0.1, 0.3, 0.5, 1.0)


@dataclass
class One:
    """A prediction as its caller knows it."""

    key: str
    tenant: str
    model: str
    kind: str
    number: int
    hook: str | None
    id: str | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Callers:
    """All in one event loop."""

    def __init__(
        self, url: str, keys: Mapping[str, str], hooks: Mapping[str, str], log: Writer, *, seed: int, most_open: int
    ) -> None:
        """`keys`: tenant → API key. `hooks`: temper → URL."""
        self._keys = keys
        self._hooks = hooks
        self._log = log
        self._random = random.Random(seed)
        self._calls: Iterator[int] = itertools.count(1)
        self._numbers: Iterator[int] = itertools.count(1)
        self._prefix = f"{seed}-"
        self._most_open = most_open
        self._lives: set[asyncio.Task[None]] = set()
        self._known: dict[str, One] = {}  # those that are followed, by prediction id
        self._heard: set[str] = set()
        self._foreign: list[One] = []  # some accepted ones, for others to try
        parts = urllib.parse.urlsplit(url)
        self._client = Client(str(parts.hostname), int(parts.port or 80), _TIMEOUT_S)
        self.accepted = 0
        self.open = 0  # submitted, perhaps, and not known to have ended

    def heard(self, id_: str) -> None:
        """A receiver was told of its end."""
        self._heard.add(id_)  # it may come before the answer to the submission
        if (one := self._known.get(id_)) is not None:
            one.ended.set()

    async def load(self, count: int, seconds: float) -> None:
        """About `count` predictions, spread over the time. What is late is made up for as soon as there is room."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while (passed := loop.time() - began) < seconds:
            due = min(count, int(count * passed / seconds) + 1)
            while sent < due and self.open < self._most_open:
                self.open += 1
                self._begin(self._life(self._next()))
                sent += 1
            await asyncio.sleep(0.01)

    async def files(self, seconds: float) -> None:
        """One batch after the other, each to its end, and a new one for as long as this lasts."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await self._file()
            await asyncio.sleep(self._random.uniform(0, 4))

    async def control(self, count: int) -> None:
        """So many good ones, to their ends."""
        ones = [self._one("steady", "good", None) for _ in range(count)]
        await asyncio.gather(*(self._submit_and_follow(one) for one in ones))

    async def finish(self, seconds: float) -> int:
        """Until every caller has what it waits for; how many had not after this time."""
        if self._lives:
            _, late = await asyncio.wait(self._lives, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            return len(late)
        return 0

    def close(self) -> None:
        self._client.close()

    # What callers do

    def _begin(self, life: Any) -> None:
        task = asyncio.create_task(life)
        self._lives.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._lives.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(type="broken", error=repr(error))  # a defect of this program

    def _next(self) -> One:
        model, kind = self._chosen([(share, (model, kind)) for share, model, kind in MIX], MIX[0][1:])
        hook = self._chosen(HOOKS, None)
        return self._one(model, kind, hook)

    def _one(self, model: str, kind: str, hook: str | None) -> One:
        number = next(self._numbers)
        tenant = self._random.choice(list(self._keys))
        return One(f"{self._prefix}{number}", tenant, model, kind, number, hook)

    def _chosen(self, shares: Sequence[tuple[float, Any]], rest: Any) -> Any:
        point = self._random.random()
        for share, value in shares:
            point -= share
            if point < 0:
                return value
        return rest

    async def _life(self, one: One) -> None:
        try:
            if not await self._submit(one, gives_up=self._random.random() < 0.01):
                return
            if self._random.random() < 0.03:
                await self._change(one, "cancel")
            if self._foreign and self._random.random() < 0.1:
                await self._trespass(one.tenant)
            end = await self._follow(one)
        finally:
            self.open -= 1
        if end in ("canceled", "failed", "expired") and one.kind not in answers.DEADLY and self._random.random() < 0.3:
            await self._change(one, "retry")
            await self._follow(one, at_once=True)
        if self._random.random() < 0.02:
            await self._change(one, "delete")
        if self._random.random() < 0.1:  # once more, a while later
            await asyncio.sleep(self._random.uniform(0.5, 5))
            await self._read(one)
        self._known.pop(str(one.id), None)

    async def _file(self) -> None:
        first = next(self._numbers)
        self._numbers = itertools.count(first + LINES)
        one = self._one("steady", "good", self._random.choice((None, "good")))
        lines = ({"custom_id": f"c{n}", "input": {"n": n, "kind": "good"}} for n in range(first, first + LINES))
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        asked = {"key": one.key, "model": one.model, "n": first, "count": LINES, "hook": one.hook}
        path = f"/v1/batches?model={one.model}"
        if one.hook is not None:
            path += f"&webhook={urllib.parse.quote(self._hooks[one.hook], safe='')}"
        headers = {"idempotency-key": one.key}
        made = await self._until(lambda: self._call("batch", one, "POST", path, asked, headers, body))
        one.id, place = str(made["id"]), f"/v1/batches/{made['id']}"
        seen = made
        while seen["status"] != "completed":
            await asyncio.sleep(1)
            seen = await self._until(lambda: self._call("batch read", one, "GET", place, {}))
        await self._until(lambda: self._call("results", one, "GET", f"{place}/results", {}))

    async def _until(self, ask: Callable[[], Awaitable[dict[str, Any] | None]]) -> dict[str, Any]:
        """It is answered."""
        for pause in itertools.chain(_PAUSES_S, itertools.repeat(1.0)):
            if (answer := await ask()) is not None:
                return answer
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _submit_and_follow(self, one: One) -> None:
        await self._submit(one)
        await self._follow(one)
        self._known.pop(str(one.id), None)

    async def _submit(self, one: One, *, gives_up: bool = False) -> bool:
        body: dict[str, Any] = {"input": {"n": one.number, "kind": one.kind}, "priority": one.number % 10}
        body["max_attempts"] = 2 if one.kind in answers.DEADLY else 10
        events: list[str] = []
        if one.hook is not None:
            events = ["started", "completed"] if one.number % 4 == 0 else ["completed"]
            body |= {"webhook": self._hooks[one.hook], "webhook_events": events}
        asked = {"key": one.key, "model": one.model, "kind": one.kind, "n": one.number, "hook": one.hook}
        asked |= {"events": events, "max_attempts": body["max_attempts"], "expires": self._random.random() < 0.03}
        if asked["expires"]:
            body["queue_timeout_seconds"] = self._random.choice((0.5, 2, 5))
        for pause in itertools.chain(_PAUSES_S, itertools.repeat(1.0)):
            headers = {"idempotency-key": one.key}
            if self._random.random() < 0.05:
                headers["prefer"] = "wait=1"
            path = f"/v1/models/{one.model}/predictions"
            answer = await self._call("submit", one, "POST", path, asked, headers, body)
            if answer is not None:
                one.id = str(answer["id"])
                self._known[one.id] = one
                if one.id in self._heard:
                    one.ended.set()
                self.accepted += 1
                if self._random.random() < 0.1:
                    self._foreign = [*self._foreign[-49:], one]
                return True
            if gives_up:
                return False
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _follow(self, one: One, *, at_once: bool = False) -> str:
        """Its terminal status, as it was read."""
        if one.hook in ("good", "flaky", "slow", "busy", "endless") and not at_once:
            with contextlib.suppress(TimeoutError):  # and then it asks like the others
                await asyncio.wait_for(one.ended.wait(), 15)
        for pause in itertools.chain(_PAUSES_S, itertools.repeat(1.0)):
            headers = {"prefer": "wait=5"} if self._random.random() < 0.7 else {}
            answer = await self._read(one, headers)
            if answer is not None and answer["status"] in TERMINAL:
                return str(answer["status"])
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _read(self, one: One, headers: Mapping[str, str] = {}) -> dict[str, Any] | None:
        return await self._call("read", one, "GET", f"/v1/predictions/{one.id}", {}, headers)

    async def _change(self, one: One, verb: str) -> None:
        """A few times, until it is answered: what came of it is read afterwards."""
        method, path = ("DELETE", "") if verb == "delete" else ("POST", f"/{verb}")
        for pause in _PAUSES_S:
            if await self._call(verb, one, method, f"/v1/predictions/{one.id}{path}", {}) is not None:
                return
            await asyncio.sleep(pause)

    async def _trespass(self, tenant: str) -> None:
        """Tries one of another tenant's, which is to be as unknown as none."""
        others = [other for other in self._foreign if other.tenant != tenant]
        if not others:
            return
        other = self._random.choice(others)
        verb = self._random.choice(("read", "cancel", "retry", "delete", "deliveries", "events"))
        path = f"/v1/predictions/{other.id}"
        method, path = {
            "read": ("GET", path),
            "delete": ("DELETE", path),
            "deliveries": ("GET", f"{path}/deliveries"),
            "events": ("GET", f"{path}/events"),
        }.get(verb, ("POST", f"{path}/{verb}"))
        await self._call("foreign", other, method, path, {"verb": verb}, tenant=tenant)

    async def _call(
        self,
        op: str,
        one: One,
        method: str,
        path: str,
        asked: Mapping[str, Any],
        headers: Mapping[str, str] = {},
        body: Any = None,
        *,
        tenant: str | None = None,
    ) -> dict[str, Any] | None:
        """The prediction as it was answered; None if it was not."""
        call, tenant = next(self._calls), tenant or one.tenant
        self._log(type="invoke", call=call, op=op, tenant=tenant, id=one.id, **asked)
        try:
            answer = await self._client.ask(
                method, path, {"authorization": f"Bearer {self._keys[tenant]}", **headers}, body
            )
        except (Unanswered, asyncio.CancelledError) as error:
            self._log(type="info", call=call, error=str(error) or type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                raise
            return None
        return self._answered(call, op, answer)

    def _answered(self, call: int, op: str, answer: Answer) -> dict[str, Any] | None:
        code = answer.status
        if code >= 400:
            # Of a 5xx nobody knows whether it was done.
            problem = answer.json().get("code") if "problem+json" in answer.headers.get("content-type", "") else None
            retry_after = answer.headers.get("retry-after")
            kind = "info" if code >= 500 else "fail"
            self._log(type=kind, call=call, http=code, problem=problem, retry_after=retry_after)
            return None
        if op in ("foreign", "delete"):
            self._log(type="ok", call=call, http=code)
            return {}
        if op == "results":
            lines = [json.loads(line) for line in answer.body.splitlines()]
            said = [[line["line"], line["custom_id"], line.get("output")] for line in lines]
            self._log(type="ok", call=call, http=code, lines=said)
            return {}
        got = answer.json()
        if op.startswith("batch"):
            counts = got["request_counts"]
            self._log(type="ok", call=call, http=code, id=got["id"], status=got["status"], counts=counts)
            return got  # type: ignore[no-any-return]
        self._log(
            type="ok",
            call=call,
            http=code,
            id=got["id"],
            status=got["status"],
            revision=got["revision"],
            attempt=got["attempt"],
            output=got.get("output"),
            error=(got["error"] or {}).get("code"),
            model=got["model"],
        )
        return got  # type: ignore[no-any-return]
