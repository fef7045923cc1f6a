"""Every name in Redis, and the form of the messages.

| key                        | type | meaning, life                                                              |
| -------------------------- | ---- | -------------------------------------------------------------------------- |
| `headway:{model}@{v}:{s}`  | list | a line: envelopes of hints; LPUSH at the tail, BRPOP from the head (right)   |
| `headway:{model}@{v}:{s}.{c}` |   | the same for tenants of class c; class 0 has the plain name                |
| `headway:{model}@{v}:3…`     | list | the same for items of batches                                              |
| `headway:notices`          | chan | ended predictions, see `headway.notices`; `headway:cancels` beside it        |
| `headway:reports…`         | list | progress and partial outputs, see `headway.reports`                        |
| `_kombu.*`, `*.pidbox`     | –    | Celery's own: remote control and events                                    |

An envelope is a Celery task message (protocol 2) for one line. It carries ids and sizes and nothing worth keeping:
losing one costs seconds, never a prediction.
"""

import functools
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from headway.clock import new_id
from headway.types import BULK_PRIORITY, Hint

TASK = "headway.predict"
PREFIX = "headway:"  # of every line

#: Priorities 0–2, 3–6 and 7–9 each have a line of their own; inside a window the exact priority decides.
STEPS = (0, 1, 2)
#: Items of batches come behind everybody, in a line that is the last.
BULK = 3


def step(priority: int) -> int:
    """The line step of a priority from 0 (first) to 9, or of a batch's item, from 10 to 19."""
    return 0 if priority <= 2 else 1 if priority <= 6 else 2 if priority < BULK_PRIORITY else BULK


class Line(NamedTuple):
    """What the name of a line says."""

    model: str
    version: str
    step: int
    tenant_class: int


def line(model: str, version: str, priority: int, tenant_class: int = 0) -> str:
    """The Redis list of a model version's predictions of this priority; also the Celery queue's name."""
    return _name(model, version, step(priority), tenant_class)


def lines(model: str, version: str, classes: Iterable[int] = (0,)) -> list[str]:
    """Of a model version, most urgent first, without those of batches."""
    classes = list(classes)
    return [_name(model, version, s, tenant_class) for s in STEPS for tenant_class in classes]


def all_lines(model: str, version: str, classes: Iterable[int] = (0,)) -> list[str]:
    """The same with those of batches, last."""
    classes = list(classes)
    return lines(model, version, classes) + [_name(model, version, BULK, tenant_class) for tenant_class in classes]


def _name(model: str, version: str, step: int, tenant_class: int) -> str:
    suffix = f".{tenant_class}" if tenant_class else ""
    return f"{PREFIX}{model}@{version}:{step}{suffix}"


def parse_line(name: str) -> Line:
    """Model names admit no `@` and versions no `:`."""
    versioned, _, place = name.removeprefix(PREFIX).rpartition(":")
    model, _, version = versioned.partition("@")
    s, _, tenant_class = place.partition(".")
    return Line(model, version, int(s), int(tenant_class or 0))


@functools.lru_cache(maxsize=4096)
def is_bulk(name: str) -> bool:
    """Whether it is a line of batches' items."""
    return parse_line(name).step == BULK


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Hints of one line, oldest first."""

    line: str
    at: int  # the least position among them, microseconds
    priorities: list[int]
    ids: list[str]
    sizes: list[int]
    shapes: list[str] | None = None  # left out where the line's inputs have no free dimensions
    coming: int = 0  # submissions for this line already waiting in the API's next group commit

    def hints(self) -> Iterator[tuple[int, Hint]]:
        """(priority, hint) of each."""
        shapes: Sequence[str | None] = self.shapes if self.shapes is not None else [None] * len(self.ids)
        for priority, id_, size, shape in zip(self.priorities, self.ids, self.sizes, shapes, strict=True):
            yield priority, Hint(id=id_, size=size, shape=shape, position=self.at)


_encoder = msgspec.json.Encoder()
_envelope_decoder = msgspec.json.Decoder(tuple[tuple[Envelope], dict[str, Any], Any])


def envelopes(
    line: str, hints: Sequence[tuple[int, Hint]], *, at_most: int, coming: int = 0
) -> list[tuple[str, bytes]]:
    """(envelope id, wire form) for the (priority, hint) pairs of one line, given oldest first."""
    model, version, *_ = parse_line(line)
    name = f"{model}@{version}"
    made = []
    for start in range(0, len(hints), at_most):
        part = hints[start : start + at_most]
        shapes = [hint.shape or "" for _, hint in part] if any(hint.shape for _, hint in part) else None
        envelope = Envelope(
            line=line,
            at=min(hint.position for _, hint in part),
            priorities=[priority for priority, _ in part],
            ids=[hint.id for _, hint in part],
            sizes=[hint.size for _, hint in part],
            shapes=shapes,
            coming=coming + len(hints) - start - len(part),
        )
        id_ = new_id()
        args = f"('{name} ×{len(part)}',)"
        made.append((id_, message(TASK, line, [envelope], id_=id_, argsrepr=args, at=envelope.at)))
    return made


def message(task: str, key: str, args: list[Any], *, id_: str = "", argsrepr: str = "", at: int = 0) -> bytes:
    """A Celery task message for the list `key`, in the form kombu's Redis transport keeps there."""
    id_ = id_ or new_id()
    return _encoder.encode(
        {
            # Celery wants the task's arguments as JSON inside the message's JSON.
            "body": _encoder.encode([args, {}, None]).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {
                "lang": "py",
                "task": task,
                "id": id_,
                "root_id": id_,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "argsrepr": argsrepr,
                "kwargsrepr": "{}",
                "ignore_result": True,
                "headway_at": at,  # here, so that the janitor reads it without decoding the body
            },
            "properties": {
                "correlation_id": id_,
                "delivery_mode": 2,
                "delivery_tag": id_,  # kombu drops a message without one
                "body_encoding": "utf-8",
                "delivery_info": {"exchange": "", "routing_key": key},
            },
        }
    )


def decode_body(body: bytes | str) -> Envelope:
    """The envelope in a Celery message's body. Raises `msgspec.DecodeError` (of which ValidationError is one)."""
    (envelope,), _, _ = _envelope_decoder.decode(body)
    return envelope


class _Headers(msgspec.Struct):
    headway_at: int


class _Message(msgspec.Struct):
    headers: _Headers


_message_decoder = msgspec.json.Decoder(_Message)


def position_of(message: bytes) -> int | None:
    """The least position in a wire message, or None where it is not one of ours."""
    try:
        return _message_decoder.decode(message).headers.headway_at
    except msgspec.DecodeError:
        return None


def kombu_url(url: str) -> str:
    """The same Redis for kombu, which spells a unix socket `redis+socket://`."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = dict(urllib.parse.parse_qsl(parts.query))
    auth = f"{parts.netloc}" if parts.netloc else ""
    return f"redis+socket://{auth}{parts.path}?virtual_host={query.get('db', '0')}"


def _tls(redis_url: str) -> dict[str, Any]:
    """What a URL says of its TLS, in the words that Flower wants beside it."""
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redis_url).query))
    return {"ssl_cert_reqs": "required"} | {key: value for key, value in query.items() if key.startswith("ssl_")}


def celery_config(redis_url: str) -> dict[str, Any]:
    """Celery's settings for everything of ours that speaks Celery. No result backend: SQL is the truth."""
    return {
        "broker_url": kombu_url(redis_url),
        **({"broker_use_ssl": _tls(redis_url)} if redis_url.startswith("rediss") else {}),
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default gives up after 100, and the worker with it
        "broker_connection_timeout": 4,
        "broker_channel_error_retry": True,  # READONLY and OOM answers end the worker otherwise
        "broker_transport_options": {
            "ack_emulation": False,  # nothing in Redis is worth acknowledging
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
            "body_encoding": "utf-8",
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": not redis_url.startswith("unix"),
            "health_check_interval": 15,
            "retry_on_timeout": False,
        },
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "task_create_missing_queues": True,
        "task_ignore_result": True,
        "task_send_sent_event": False,
        "worker_concurrency": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_disable_rate_limits": True,
        "worker_send_task_events": True,
        "worker_enable_remote_control": True,
        "worker_detect_quorum_queues": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
