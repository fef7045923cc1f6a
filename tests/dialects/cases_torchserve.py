"""What is asked of TorchServe, and of ours in its dialect, in this order: requests that are good, and that are not."""

import msgspec

from tests.dialects.exchanges import Body, Case, Request

_JSON = {"Content-Type": "application/json"}
_BOUNDARY = "a-boundary"
_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def one(
    name: str, path: str, method: str = "GET", body: Body = None, headers: dict[str, str] | None = None,
    port: str = "inference",
) -> Case:  # fmt: skip
    return Case(name, [Request(path, method, body, headers or {}, port)])


def manage(name: str, method: str, path: str, body: Body = None, headers: dict[str, str] | None = None) -> Case:
    return one(name, path, method, body, headers, "management")


def predict(body: Body, model: str = "echo", headers: dict[str, str] | None = None, method: str = "POST") -> Request:
    return Request(f"/predictions/{model}", method, body, _JSON if headers is None else headers)


def does(what: str, model: str = "echo") -> Request:
    return predict({"json": {"do": what}}, model)


def form(*fields: tuple[str, str, str | None]) -> Body:
    """name, content, file name."""
    text = ""
    for name, content, file in fields:
        named = f'; filename="{file}"' if file else ""
        text += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'
        text += ("Content-Type: application/octet-stream\r\n" if file else "") + f"\r\n{content}\r\n"
    return {"text": text + f"--{_BOUNDARY}--\r\n"}


def said(name: str, body: Body, headers: dict[str, str], path: str = "/predictions/echo", method: str = "POST") -> Case:
    return one(name, path, method, body, headers)


EMPTY = [
    one("ping", "/ping"),
    one("ping by POST", "/ping", "POST"),
    one("an unknown path", "/nothing"),
    one("the root", "/"),
    one("infer of a model before any is there", "/predictions/echo", "POST", {"text": "x"}),
    manage("no models", "GET", "/models"),
    manage("an unknown model", "GET", "/models/echo"),
    manage("an unknown path of management", "GET", "/nothing"),
    one("management's path at the inference port", "/models"),
]

REGISTRATION = [
    manage("register without a url", "POST", "/models"),
    manage("register an archive that is not there", "POST", "/models?url=nothing.mar"),
    manage("register from above the store", "POST", "/models?url=../echo.mar"),
    manage("register from an unknown scheme", "POST", "/models?url=ftp://127.0.0.1/x.mar"),
    manage("register without workers", "POST", "/models?url=function.mar"),
    manage("describe without workers", "GET", "/models/function"),
    one("infer without workers", "/predictions/function", "POST", {"text": "x"}),
    manage("register with a worker", "POST", "/models?url=echo.mar&initial_workers=1&synchronous=true"),
    manage("register again", "POST", "/models?url=echo.mar&initial_workers=1&synchronous=true"),
    manage("register under another name", "POST", "/models?url=echo.mar&model_name=other&initial_workers=1"),
    manage("register a second version", "POST", "/models?url=echo_2.mar&initial_workers=1&synchronous=true"),
    manage("register with a batch size", "POST",
           "/models?url=scores.mar&batch_size=2&max_batch_delay=1000&initial_workers=1&synchronous=true"),
    manage("register by JSON", "POST", "/models",
           {"json": {"url": "base.mar", "initial_workers": 1, "synchronous": "true"}}, _JSON),
    manage("register with a configuration of its own", "POST", "/models?url=together.mar"),
    manage("register what cannot be loaded", "POST", "/models?url=broken.mar&initial_workers=1&synchronous=true"),
    manage("register with a bad runtime", "POST", "/models?url=broken.mar&runtime=cobol"),
    manage("register with a batch size that is no number", "POST",
           "/models?url=broken.mar&model_name=odd&batch_size=many"),
    manage("register by PUT", "PUT", "/models?url=echo.mar"),
    manage("models", "GET", "/models"),
    manage("models with a limit", "GET", "/models?limit=2"),
    manage("the next models", "GET", "/models?limit=2&next_page_token=2"),
    manage("models with a limit that is no number", "GET", "/models?limit=x"),
    manage("describe", "GET", "/models/echo"),
    manage("describe a version", "GET", "/models/echo/2.0"),
    manage("describe all versions", "GET", "/models/echo/all"),
    manage("describe what has a configuration", "GET", "/models/together"),
    manage("describe an unknown version", "GET", "/models/echo/9.9"),
    manage("describe in the model's words", "GET", "/models/echo?customized=true"),
]  # fmt: skip

BODIES = [
    said("JSON", {"json": {"a": [1, 2]}}, _JSON),
    said("JSON that is a list", {"json": [1, 2]}, _JSON),
    said("JSON that is a number", {"text": "7"}, _JSON),
    said("broken JSON", {"text": "{"}, _JSON),
    said("JSON with a character set", {"json": {"a": 1}}, {"Content-Type": "application/json; charset=utf-8"}),
    said("text", {"text": "wörds"}, {"Content-Type": "text/plain"}),
    said("bytes", {"hex": "00ff01"}, {"Content-Type": "application/octet-stream"}),
    said("a type nobody knows", {"text": "x"}, {"Content-Type": "application/x-mine"}),
    said("no type", {"text": "x"}, {}),
    said("no body", None, {}),
    said("a form's field", form(("data", "x", None)), _FORM),
    said("a form's file", form(("data", "x", "a.bin")), _FORM),
    said("a form's fields", form(("data", "x", None), ("more", "y", "b.txt")), _FORM),
    said(
        "a form of another kind",
        {"text": "data=x+y&more=%C3%B6"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    said("a query", {"json": {"a": 1}}, _JSON, "/predictions/echo?b=2"),
    said("a query alone", None, {}, "/predictions/echo?b=2", "GET"),
    said("by PUT", {"text": "x"}, {}, method="PUT"),
    said("by GET", None, {}, method="GET"),
    said("by DELETE", None, {}, method="DELETE"),
    said("a version", {"text": "x"}, {}, "/predictions/echo/2.0"),
    said("an unknown version", {"text": "x"}, {}, "/predictions/echo/9.9"),
    said("an unknown model", {"text": "x"}, {}, "/predictions/nothing"),
    said("no model", {"text": "x"}, {}, "/predictions"),
    said("a slash at the end", {"text": "x"}, {}, "/predictions/echo/"),
    said("a path after the version", {"json": {"do": "path"}}, _JSON, "/predictions/echo/1.0/further/on"),
    said("another name", {"text": "x"}, {}, "/predictions/other"),
    said("explanations", {"json": {"do": "explained"}}, _JSON, "/explanations/echo"),
    said("the old invoke", {"text": "x"}, {}, "/models/echo/invoke"),
    said("invocations", {"text": "x"}, {}, "/invocations"),
    said("KServe's path", {"json": {"instances": [{"data": 1}]}}, _JSON, "/v1/models/echo:predict"),
    said("KServe's second path", {"json": {"inputs": []}}, _JSON, "/v2/models/echo/infer"),
    said("a header that the handler reads", {"json": {"do": "header in"}}, _JSON | {"X-Name": "me"}),
    said("a request id", {"text": "x"}, {"x-request-id": "mine"}),
    said("the tutorial's model", {"json": {"features": [1, 2, 3]}}, _JSON, "/predictions/scores"),
    said(
        "the tutorial's model by a file",
        form(("data", '{"features": [1, 2, 3]}', "f.json")),
        _FORM,
        "/predictions/scores",
    ),
    said("the tutorial's model by upload", {"text": '{"features": [1, 2, 3]}'}, {}, "/predictions/scores", "PUT"),
    said("the tutorial's model, wrongly", {"json": {"featurez": []}}, _JSON, "/predictions/scores"),
    said("BaseHandler", {"json": [1, 2, 3]}, _JSON, "/predictions/base"),
    said("BaseHandler with an object", {"json": {"data": [1, 2, 3]}}, _JSON, "/predictions/base"),
    said("BaseHandler, wrongly", {"json": {"data": [1, 2]}}, _JSON, "/predictions/base"),
]

OUTCOMES = [
    *(
        Case(f"a handler that answers: {what}", [does(what)])
        for what in ("str", "number", "float", "none", "true", "list", "nan", "bytes", "type", "header", "status",
                     "all", "size", "config", "manifest", "properties", "id")
    ),
    *(
        Case(f"a handler that fails: {what}", [does(what)])
        for what in ("raise", "memory", "cuda", "refuse", "text", "short", "long", "object")
    ),
    Case("the next request after all of these", [does("str")]),
]  # fmt: skip

BATCHES = [
    Case("four together", [does("size", "together") for _ in range(4)]),
    Case("two together, until the delay is over", [does("size", "together") for _ in range(2)]),
    Case("a failure for all", [does("raise", "together")] + [does("size", "together")] * 3),
    Case("a status for one", [does("status", "together")] + [does("size", "together")] * 3),
    Case("a list that is too short, for all", [does("short", "together")] + [does("size", "together")] * 3),
    Case("its configuration", [does("config", "together")]),
    Case("requests of the tutorial together",
         [predict({"json": {"features": [value, 2, 3]}}, "scores") for value in (1, 9)]),
]  # fmt: skip

MANAGEMENT = [
    manage("scale", "PUT", "/models/function?min_worker=1&synchronous=true"),
    one("infer after the scale", "/predictions/function", "POST", {"text": "x"}),
    manage("scale a version", "PUT", "/models/echo/2.0?min_worker=1&synchronous=true"),
    manage("scale without waiting", "PUT", "/models/function?min_worker=1"),
    manage("scale with nothing", "PUT", "/models/function"),
    manage("scale to less than the least", "PUT", "/models/function?min_worker=3&max_worker=1"),
    manage("scale an unknown model", "PUT", "/models/nothing?min_worker=1"),
    manage("scale an unknown version", "PUT", "/models/echo/9.9?min_worker=1"),
    manage("set the default", "PUT", "/models/echo/2.0/set-default"),
    manage("describe after the default is set", "GET", "/models/echo"),
    manage("set an unknown default", "PUT", "/models/echo/9.9/set-default"),
    manage("set the default of an unknown model", "PUT", "/models/nothing/1.0/set-default"),
    manage("unregister the default", "DELETE", "/models/echo/2.0"),
    manage("unregister a version", "DELETE", "/models/echo/1.0"),
    manage("describe all that is left", "GET", "/models/echo/all"),
    manage("unregister", "DELETE", "/models/function"),
    manage("unregister with a slash", "DELETE", "/models/other/"),
    manage("unregister an unknown model", "DELETE", "/models/nothing"),
    manage("unregister an unknown version", "DELETE", "/models/echo/9.9"),
    one("infer after it was unregistered", "/predictions/function", "POST", {"text": "x"}),
    manage("register it again", "POST", "/models?url=function.mar&initial_workers=1&synchronous=true"),
    one("infer after it is there again", "/predictions/function", "POST", {"text": "x"}),
]

#: Each of them costs a worker.
LAST = [
    manage("register with a response timeout", "POST",
           "/models?url=echo.mar&model_name=hurried&response_timeout=1&initial_workers=1&synchronous=true"),
    Case("a response that is late", [does("sleep", "hurried")]),
    Case("a handler that ends its process", [does("exit")]),
]  # fmt: skip

#: What takes seconds to load, or to be given up, and what comes of it; and what is other with more models than these.
_SLOW = (
    "scores", "base", "other", "hurried", "'exit'", "echo_2", "/echo/2.0", "/models/echo/1.0", "/echo/all",
    "broken.mar&initial",
)  # fmt: skip
_SLOW_BY_NAME = (
    "ping", "ping by POST", "no models",
    "models", "models with a limit", "the next models", "models with a limit that is no number",
    "describe after the default is set", "register it again", "infer after it is there again",
)  # fmt: skip


def _sped(case: Case) -> Case:
    said = str(case.requests)
    return msgspec.structs.replace(case, slow=any(word in said for word in _SLOW) or case.name in _SLOW_BY_NAME)


ALL = [*EMPTY, *REGISTRATION, *BODIES, *OUTCOMES, *BATCHES, *MANAGEMENT, *LAST]
CASES = [_sped(case) for case in ALL]
