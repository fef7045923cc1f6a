"""What is asked of BentoML's server, and of ours in its dialect: requests that are good, and that are not."""

from tests.dialects.exchanges import Body, Case, Request

_JSON = {"Content-Type": "application/json"}
_BOUNDARY = "a-boundary"
_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
_COUNTED = {"Content-Type": "application/x-www-form-urlencoded"}


def one(
    name: str, path: str, method: str = "GET", body: Body = None, headers: dict[str, str] | None = None, *,
    slow: bool = False,
) -> Case:  # fmt: skip
    return Case(name, [Request(path, method, body, headers or {})], slow=slow)


def call(name: str, route: str, value: object, headers: dict[str, str] | None = None) -> Case:
    return one(name, route, "POST", {"json": value}, headers or _JSON)


def said(name: str, route: str, text: str, headers: dict[str, str] | None = None) -> Case:
    return one(name, route, "POST", {"text": text}, headers or _JSON)


def form(*fields: tuple[str, str, str | None]) -> Body:
    """name, content, file name."""
    text = ""
    for name, content, file in fields:
        named = f'; filename="{file}"' if file else ""
        text += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'
        text += ("Content-Type: text/plain\r\n" if file else "") + f"\r\n{content}\r\n"
    return {"text": text + f"--{_BOUNDARY}--\r\n"}


SERVER = [
    one("live", "/livez"),
    one("healthy", "/healthz"),
    one("ready", "/readyz"),
    one("live by POST", "/livez", "POST"),
    one("live by HEAD", "/livez", "HEAD"),
    one("an unknown path", "/nothing"),
    one("an unknown path by POST", "/nothing", "POST", {"json": {}}, _JSON),
    one("the schema", "/schema.json", slow=True),  # of this service alone
    one("a call by GET", "/add"),
    one("a call by PUT", "/add", "PUT", {"json": {"a": 1}}, _JSON),
    one("a call by DELETE", "/add", "DELETE"),
    one("a slash at the end", "/add/", "POST", {"json": {"a": 1}}, _JSON),
]

ARGUMENTS = [
    call("arguments", "/add", {"a": 1, "b": 2}),
    call("a default", "/add", {"a": 1}),
    call("a number as text", "/add", {"a": "1"}),
    call("text for a number", "/add", {"a": "x"}),
    call("a fraction for an integer", "/add", {"a": 1.5}),
    call("null for a number", "/add", {"a": None}),
    call("a boolean for a number", "/add", {"a": True}),
    call("no arguments", "/add", {}),
    call("an argument nobody knows", "/add", {"a": 1, "c": 3}),
    call("two that are wrong", "/add", {"a": "x", "b": []}),
    call("a list for arguments", "/add", [1, 2]),
    one("no body", "/add", "POST"),
    said("broken JSON", "/add", "{"),
    said("JSON with more behind it", "/add", '{"a": 1} x'),
    said("text as JSON's type", "/add", "hello"),
    said("JSON without its type", "/add", '{"a": 1}', {"Content-Type": "text/plain"}),
    said("JSON of a type nobody knows", "/add", '{"a": 1}', {"Content-Type": "application/x-mine"}),
    said("a pickle", "/add", "x", {"Content-Type": "application/vnd.bentoml+pickle"}),
    one("a form", "/add", "POST", form(("a", "1", None), ("b", "3", None)), _FORM),
    one("a form with a file for a number", "/add", "POST", form(("a", "1", "a.txt")), _FORM),
    one("a form that is wrong", "/add", "POST", form(("a", "x", None)), _FORM),
    one("a form without a field", "/add", "POST", form(("b", "1", None)), _FORM),
    said("a form of another kind", "/add", "a=1&b=2", _COUNTED),
    call("a model", "/greet", {"person": {"name": "Ada", "age": 36}, "loud": True}),
    call("a model with defaults left out", "/greet", {"person": {"name": "Ada", "age": 36, "tags": ["x"]}}),
    call("a model that is wrong", "/greet", {"person": {"name": 1, "age": -1}}),
    call("a model without a field", "/greet", {"person": {"name": "Ada"}}),
    call("anything", "/anything", {"value": {"a": [1, None, True]}}),
    call("anything: text", "/anything", {"value": "é"}),
    call("nothing of anything", "/anything", {}),
    call("another route", "/lists/join", {"words": ["a"], "parts": {"b": 1}}),
    call("an optional argument left out", "/lists/join", {"words": ["a"]}),
    call("an optional argument that is null", "/lists/join", {"words": ["a"], "parts": None}),
    call("a dictionary that is wrong", "/lists/join", {"words": ["a"], "parts": {"b": "x"}}),
    one("files", "/sizes", "POST", form(("file", "hello", "a.txt"), ("name", '"x"', None)), _FORM),
    one("a file that is missing", "/sizes", "POST", form(("name", '"x"', None)), _FORM),
]

WHOLE = [
    call("a whole body", "/total", [1, 2.5]),
    call("a whole body that is wrong", "/total", ["x"]),
    call("an object for a whole list", "/total", {"numbers": [1]}),
    said("a whole body that is no JSON", "/total", "["),
    said("a whole text", "/echo", "héllo", {"Content-Type": "text/plain"}),
    said("a whole text as JSON's type", "/echo", '{"text": "a"}'),
    one("no whole text", "/echo", "POST"),
]

ARRAYS = [
    call("an array", "/double", {"array": [[1, 2], [3, 4]]}),
    call("an array of fractions", "/double", {"array": [0.5, 1e300]}),
    call("a number for an array", "/double", {"array": 2}),
    call("an empty array", "/double", {"array": []}),
    call("rows of unequal length", "/double", {"array": [[1, 2], [3]]}),
    call("text for an array", "/double", {"array": "x"}),
    call("no array", "/double", {}),
    call("a bare array", "/double", [[1, 2]]),
    call("an array that overflows", "/double", {"array": [1e308, 1]}),
    said("an array with NaN, as Python writes it", "/double", '{"array": [NaN, 1.5]}'),
    said("a number that overflows", "/add", '{"a": 1, "b": 1e999}'),
    said("anything that overflows", "/anything", '{"value": 1e999}'),
    said("an integer of many digits", "/add", '{"a": 1000000000000000000000000000000}'),
    said("an argument twice", "/add", '{"a": 1, "a": 2}'),
    call("an array that is shaped", "/shaped", {"array": [1, 2, 3, 4]}),
    call("an array that cannot be shaped", "/shaped", {"array": [1, 2, 3]}),
    call("an array of text for numbers", "/shaped", {"array": ["x"]}),
]

BATCHES = [
    call("a batch", "/squares", {"rows": [[1, 2], [3, 4]]}),
    call("a batch larger than the most", "/squares", {"rows": [1, 2, 3, 4, 5, 6]}),
    call("a batch that fails", "/squares", {"rows": [-1]}),
    call("no batch", "/squares", {"rows": 5}),
    call("a batch of lists", "/lengths", {"texts": ["a", "bb"]}),
    Case("batches together", [Request("/squares", "POST", {"json": {"rows": [n]}}, _JSON) for n in (1, 2, 3)]),
    Case(
        "batches of other shapes together",
        [Request("/squares", "POST", {"json": {"rows": rows}}, _JSON) for rows in ([1, 2], [[1, 2]], [3])],
    ),
]

OUTCOMES = [
    call("text", "/shout", {"text": "ö"}),
    call("asynchronous", "/waits", {"seconds": 0.5}),
    call("a status and a header", "/with_context", {"x": 1}),
    call("a header that the method reads", "/heard", {}, _JSON | {"X-Name": "Ada"}),
    call("bad input", "/fails", {"how": "bad"}),
    call("not found", "/fails", {"how": "missing"}),
    call("not allowed", "/fails", {"how": "forbidden"}),
    call("overloaded", "/fails", {"how": "overloaded"}),
    call("an exception", "/fails", {"how": "raise"}),
    call("an answer that is not as annotated", "/fails", {"how": "type"}),
    one("an answer that is late", "/fails", "POST", {"json": {"how": "slow"}}, _JSON, slow=True),
    call("the next call after all of these", "/add", {"a": 1}),
    call("bytes", "/bytes_of", {"text": "é"}),
    call("a file", "/file_of", {"text": "hello"}),
    call("pieces", "/pieces", {"count": 3}),
    call("a call of a task", "/slow", {"seconds": 0}),
]

CASES = [*SERVER, *ARGUMENTS, *WHOLE, *ARRAYS, *BATCHES, *OUTCOMES]


# Tasks: in their order, and the task that was submitted last is called TASK.


def submitted(value: object, route: str = "/slow") -> Request:
    return Request(f"{route}/submit", "POST", {"json": value}, _JSON)


def of(verb: str, method: str = "GET", route: str = "/slow") -> Request:
    return Request(f"{route}/{verb}?task_id=TASK", method)


ENDED = Request("/slow/status?task_id=TASK", headers={"X-Until": "completed failed canceled"})
BEGUN = Request("/slow/status?task_id=TASK", headers={"X-Until": "in_progress"})


def ordered(name: str, *requests: Request) -> Case:
    return Case(name, list(requests), in_order=True)


TASKS = [
    ordered("submit, status, get", submitted({"seconds": 0.05}), ENDED, of("get"), of("get")),
    ordered("a result that is text", submitted({"text": "abc"}, "/jobs/text"), ENDED, of("get", route="/jobs/text")),
    ordered("while it runs", submitted({"seconds": 0.3}), BEGUN, of("get"), of("retry", "POST"), ENDED, of("get")),
    ordered("retry of a completed one", submitted({"seconds": 0}), ENDED, of("retry", "POST"), ENDED, of("get")),
    ordered("one that raises", submitted({"seconds": 0, "then": "raise"}), ENDED, of("get")),
    ordered("retry of one that failed", of("retry", "POST"), ENDED, of("get")),
    ordered("one that refuses", submitted({"seconds": 0, "then": "bad"}), ENDED, of("get")),
    ordered("arguments that are wrong", submitted({"seconds": "x"}), ENDED, of("get")),
    ordered("no arguments", submitted({}), ENDED, of("get")),
    ordered("broken JSON", Request("/slow/submit", "POST", {"text": "{"}, _JSON), ENDED, of("get")),
    Case("longer than a caller would wait", [submitted({"seconds": 2.2}), ENDED, of("get")], slow=True, in_order=True),
    ordered("cancel", submitted({"seconds": 4}), BEGUN, of("cancel", "PUT"), ENDED, of("get")),
    ordered("cancel of a completed one", submitted({"seconds": 0}), ENDED, of("cancel", "PUT"), of("get")),
    ordered("a form", Request("/slow/submit", "POST", form(("seconds", "0", None)), _FORM), ENDED, of("get")),
    one("status without a task", "/slow/status"),
    one("get without a task", "/slow/get"),
    one("retry without a task", "/slow/retry", "POST"),
    one("cancel without a task", "/slow/cancel", "PUT"),
    one("status of an unknown task", "/slow/status?task_id=x"),
    one("get of an unknown task", "/slow/get?task_id=x"),
    one("retry of an unknown task", "/slow/retry?task_id=x", "POST"),
    one("cancel of an unknown task", "/slow/cancel?task_id=x", "PUT"),
    one("status of a task that never was", "/slow/status?task_id=01a20c0d-4425-7696-b292-899c9966ee23"),
    one("submit by GET", "/slow/submit"),
    one("status by POST", "/slow/status?task_id=x", "POST"),
    one("retry by GET", "/slow/retry?task_id=x"),
    one("cancel by POST", "/slow/cancel?task_id=x", "POST"),
    one("submit of what is no task", "/add/submit", "POST", {"json": {"a": 1}}, _JSON),
    one("status of what is no task", "/add/status?task_id=x"),
    one("an unknown verb", "/slow/stop?task_id=x", "POST"),
]
