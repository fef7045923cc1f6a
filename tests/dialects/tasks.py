"""Requests that are sent one after the other: TASK in a path is the task that one of them began last.

One with the header X-Until is sent again until the task's status is one of those words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headway.testing import wait_until
from tests.dialects.exchanges import Reply, Request, Volatile, send_one

_LIMIT_S = 30.0


class _AsItIs(Volatile):
    """Tasks have to be read before they are called TASK."""

    def of(self, value: Any) -> Any:
        return value


def send(requests: Sequence[Request], ports: Mapping[str, str], volatile: Volatile) -> list[Reply]:
    """`volatile` is told the tasks, which it calls TASK."""
    replies = []
    for request in requests:
        headers = dict(request.headers)
        statuses = headers.pop("X-Until", "").split()
        task = next((id_ for id_ in reversed(volatile.texts) if volatile.texts[id_] == "TASK"), "")
        sent = msgspec.structs.replace(request, path=request.path.replace("TASK", task), headers=headers)
        reply = Reply()

        def answered(sent: Request = sent, statuses: Sequence[str] = statuses) -> bool:
            nonlocal reply
            reply = send_one(sent, ports, _AsItIs())
            return not statuses or _said(reply, "status") in statuses

        wait_until(answered, _LIMIT_S, f"{request.path} to say {statuses}")
        if (begun := _said(reply, "task_id")) and request.method == "POST":
            volatile.texts[begun] = "TASK"
        headers = {name: volatile.of(value) for name, value in reply.headers.items()}
        replies.append(Reply(reply.status, headers, volatile.of(reply.body), reply.broken))
    return replies


def _said(reply: Reply, key: str) -> str:
    said = (reply.body or {}).get("json")
    return str(said.get(key, "")) if isinstance(said, dict) else ""
