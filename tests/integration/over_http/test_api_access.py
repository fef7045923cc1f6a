"""Who gets in where: every route of both planes, with every method, for every kind of key and on both stores."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from api.app import CONTROL, DATA
from api.endpoint import Endpoint
from headway.keys import Scope, new_token
from headway.testing import wait_until
from storage.keys import Keys

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Stack

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"

#: Without a key at all; anything else there is needs one. The operator's page holds nothing before it has asked.
PAGE = {"/ui", "/ui/page.css", "/ui/page.js", "/ui/elements.js"}
OPEN = {"/health", "/ready", "/problems/{code}", "/docs", "/openapi.json"} | PAGE

NAMES = {"model": "echo", "version": "2", "alias": "stable", "id": UNKNOWN, "code": "forbidden"}

ROUTES = [("data", endpoint) for endpoint in DATA] + [("control", endpoint) for endpoint in CONTROL]
CLOSED = [(plane, endpoint) for plane, endpoint in ROUTES if endpoint.path not in OPEN]


def path_of(endpoint: Endpoint) -> str:
    return re.sub(r"{(\w+)}", lambda found: NAMES[found[1]], endpoint.path)


class Guarded(NamedTuple):
    """A running API with keys; `tokens` of tenant `default` by scope, and one of another tenant."""

    stack: "Stack"
    keys: Keys
    tokens: dict[str, str]
    client: httpx.Client

    def url(self, plane: str) -> str:
        return self.stack.api.url if plane == "data" else self.stack.api.control_url

    def ask(self, method: str, plane: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        headers |= more.pop("headers", {})
        with self.client.stream(method, self.url(plane) + path, headers=headers, **more) as response:
            if response.headers.get("content-type") != "text/event-stream":  # that has no end
                response.read()
        return response


def outcome(response: httpx.Response) -> tuple[int, str | None]:
    if response.headers.get("content-type") != "application/problem+json" or not response.content:
        return response.status_code, None
    return response.status_code, response.json()["code"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    from tests.integration.over_http.conftest import Stack

    if request.param == "sqlite":
        database_url = f"sqlite:///{tmp_path_factory.mktemp('access')}/headway.db"
    else:
        database_url = request.getfixturevalue("module_postgres_url")
    tokens = {"bootstrap": new_token()}
    made = Stack(
        database_url,
        HEADWAY_BOOTSTRAP_KEY=tokens["bootstrap"],
        HEADWAY_CORS_ORIGINS="https://app.example.com",
        HEADWAY_ALLOWED_HOSTS="queue.example.com",
        HEADWAY_PUBLIC_URL="https://public.example.com/headway",
    )
    try:
        scopes: dict[str, tuple[Scope, ...]] = {"predict": ("predict",), "read": ("read",), "admin": ("admin",)}
        keys = Keys(made.database)
        for name, granted in (*scopes.items(), ("both", ("predict", "read")), ("revoked", ("admin",))):
            tokens[name] = new_token()
            key = keys.add(tokens[name], tenant_id="default", scopes=granted, name=name)
            if name == "revoked":
                keys.revoke(key.id)
        tokens["other"] = new_token()
        keys.add(tokens["other"], tenant_id="other", scopes=("admin",), name="other")
        with httpx.Client(timeout=30) as client:
            guarded = Guarded(made, keys, tokens, client)
            wait_until(lambda: guarded.ask("GET", "data", "/v1/models", tokens["other"]).status_code == 200, 10)
            yield guarded
    finally:
        made.close()


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: Any) -> str:
    import psycopg

    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE access TEMPLATE template1")
    url: str = postgres_server.get_uri("access")
    return url


def test_what_is_open_is_what_the_contract_says() -> None:
    assert {endpoint.path for _, endpoint in ROUTES if endpoint.scope is None} == OPEN - {"/docs", "/openapi.json"}


def test_on_the_data_plane_looking_is_read_and_doing_is_predict() -> None:
    for endpoint in DATA:
        if endpoint.scope is not None:
            assert endpoint.scope == ("read" if endpoint.method == "GET" else "predict"), endpoint.path


def test_on_the_control_plane_all_but_looking_at_series_is_admin() -> None:
    assert {endpoint.path for endpoint in CONTROL if endpoint.scope != "admin"} == {"/metrics"} | PAGE


def test_without_a_key_every_method_of_every_route_is_401(guarded: Guarded) -> None:
    paths = {(plane, path_of(endpoint)) for plane, endpoint in CLOSED}
    nowhere = {("data", "/"), ("data", "/v1/nothing"), ("data", "/docs/oauth2-redirect"), ("control", "/"),
               ("control", "/health"), ("control", "/docs"), ("control", "/openapi.json"), ("data", "/metrics"),
               ("data", "/v1/keys"), ("data", "//health"), ("data", "/health/"), ("data", "/ready%00")}  # fmt: skip
    for plane, path in paths | nowhere:
        for method in METHODS:
            for token in (None, guarded.tokens["revoked"], new_token()):
                response = guarded.ask(method, plane, path, token)
                assert response.status_code == 401, (method, plane, path)
                assert response.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    assert outcome(response) == (401, "unauthenticated")


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json", "/problems/forbidden",
                                  "/static-offline-docs/swagger-ui.css"])  # fmt: skip
def test_what_is_open_stays_open_with_and_without_a_key(guarded: Guarded, path: str) -> None:
    for token in (None, "nonsense", guarded.tokens["predict"]):
        assert guarded.ask("GET", "data", path, token).status_code == 200
        assert guarded.ask("HEAD", "data", path, token).status_code == 200
    assert guarded.ask("POST", "data", path).status_code == 405


def test_every_route_takes_the_keys_with_its_scope_and_no_other(guarded: Guarded) -> None:
    for plane, endpoint in CLOSED:
        assert endpoint.scope is not None
        for name in ("predict", "read", "admin", "bootstrap"):
            response = guarded.ask(endpoint.method, plane, path_of(endpoint), guarded.tokens[name])
            allowed = name in (endpoint.scope, "admin", "bootstrap")
            assert (outcome(response) == (403, "forbidden")) == (not allowed), (endpoint.path, name, response.text)
            assert response.status_code != 401
    for method in METHODS:  # a route's scope is asked where there is a route
        assert guarded.ask(method, "data", "/v1/nothing", guarded.tokens["read"]).status_code == 404
    assert guarded.ask("DELETE", "data", "/v1/models", guarded.tokens["read"]).status_code == 405


CREDENTIALS = {
    "empty": b"",
    "no scheme": b"hw_abcdefghijklmnopqrstuvwxyz",
    "scheme alone": b"Bearer",
    "basic": b"Basic aHc6aHc=",
    "not ASCII": "Bearer hw_schlüssel".encode(),
    "10 kB": b"Bearer " + b"x" * 10_000,
    "two keys": b"Bearer a, Bearer b",
}


@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(guarded: Guarded, credentials: bytes) -> None:
    def refused(*headers: tuple[bytes, bytes]) -> tuple[int, dict[str, Any]]:
        url = f"{guarded.stack.api.url}/v1/models"
        response = guarded.client.get(url, headers=[(b"x-request-id", b"same"), *headers])
        return response.status_code, response.json()

    revoked = f"Bearer {guarded.tokens['revoked']}".encode()
    assert refused((b"authorization", credentials)) == refused() == refused((b"authorization", revoked))
    assert refused()[0] == 401


def test_a_key_nearly_right_is_wrong(guarded: Guarded) -> None:
    token = guarded.tokens["admin"]
    for wrong in (token[:-1], token + "x", token.swapcase(), token[:11], token[:11] + new_token()[11:]):
        assert guarded.ask("GET", "data", "/v1/models", wrong).status_code == 401


def test_the_scheme_is_read_in_any_case(guarded: Guarded) -> None:
    headers = {"authorization": f"bEaReR   {guarded.tokens['read']}"}
    assert guarded.client.get(f"{guarded.stack.api.url}/v1/models", headers=headers).status_code == 200


def test_a_key_in_the_url_opens_nothing(guarded: Guarded) -> None:
    token = guarded.tokens["admin"]
    for name in ("key", "api_key", "access_token", "authorization"):
        assert guarded.ask("GET", "data", f"/v1/models?{name}={token}").status_code == 401
    assert outcome(guarded.ask("GET", "data", f"/v1/models?access_token={token}", token)) == (422, "validation_failed")


def test_two_authorization_headers_are_400(guarded: Guarded) -> None:
    header = ("authorization", f"Bearer {guarded.tokens['admin']}")
    for path in ("/v1/models", "/v1/models/echo:predict", "/nothing"):
        response = guarded.client.get(guarded.stack.api.url + path, headers=[header, header])
        assert outcome(response) == (400, "malformed_request")


def test_a_stranger_is_answered_before_the_body_is_read(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.stack.api.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/echo/predictions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 90000\r\nexpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_another_tenants_prediction_is_as_unknown_as_one_that_is_not(guarded: Guarded) -> None:
    created = guarded.ask(
        "POST", "data", "/v1/models/echo/predictions", guarded.tokens["both"], json={"input": {"secret": 1}}
    )
    assert created.status_code == 202
    id_ = created.json()["id"]
    assert guarded.ask("GET", "data", f"/v1/predictions/{id_}", guarded.tokens["read"]).status_code == 200
    for more in ("", "?include=input", "/events"):
        for headers in ({}, {"prefer": "wait=1"}, {"if-none-match": created.headers["etag"]}):
            for method in ("GET", "HEAD"):
                foreign, unknown = (
                    guarded.ask(
                        method,
                        "data",
                        f"/v1/predictions/{each}{more}",
                        guarded.tokens["other"],
                        headers={**headers, "x-request-id": "same"},
                    )
                    for each in (id_, UNKNOWN)
                )
                assert foreign.status_code == 404
                assert foreign.content.replace(id_.encode(), b"ID") == unknown.content.replace(UNKNOWN.encode(), b"ID")
                same = [{k: v for k, v in r.headers.items() if k != "date"} for r in (foreign, unknown)]
                assert same[0] == same[1]


def test_a_key_made_over_http_is_shown_once_and_works_at_once(guarded: Guarded) -> None:
    admin = guarded.tokens["admin"]
    made = guarded.ask("POST", "control", "/v1/keys", admin, json={"name": "ci", "tenant": "ci", "scopes": ["read"],
                                                                     "rate": 1000, "weight": 4})  # fmt: skip
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    token = made.json().pop("key")
    assert guarded.ask("GET", "data", "/v1/models", token).status_code == 200
    listed = guarded.ask("GET", "control", "/v1/keys", admin)
    assert token not in listed.text
    shown = next(key for key in listed.json()["data"] if key["id"] == made.json()["id"])
    assert shown == {k: v for k, v in made.json().items() if k != "key"}
    assert (shown["tenant"], shown["scopes"], shown["revoked_at"]) == ("ci", ["read"], None)
    assert (shown["rate"], shown["weight"]) == (1000, 4)
    assert token.startswith(shown["prefix"])

    assert guarded.ask("DELETE", "control", f"/v1/keys/{shown['id']}", admin).status_code == 204
    assert guarded.ask("GET", "data", "/v1/models", token).status_code == 401
    assert guarded.ask("DELETE", "control", f"/v1/keys/{shown['id']}", admin).status_code == 204
    assert outcome(guarded.ask("DELETE", "control", f"/v1/keys/{UNKNOWN}", admin)) == (404, "not_found")


def test_a_key_made_without_words_is_for_the_makers_tenant_to_predict_and_read(guarded: Guarded) -> None:
    made = guarded.ask("POST", "control", "/v1/keys", guarded.tokens["other"], json={}).json()
    assert (made["tenant"], made["scopes"]) == ("other", ["predict", "read"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"tenant": "Über"}, "/tenant"),
        ({"tenant": ""}, "/tenant"),
        ({"name": "\0"}, "/name"),
        ({"owner": "me"}, "/owner"),
        ({"rate": 0}, "/rate"),
        ({"rate": "fast"}, "/rate"),
        ({"weight": 101}, "/weight"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(guarded: Guarded, body: dict[str, Any], pointer: str) -> None:
    before = len(guarded.keys.all())
    response = guarded.ask("POST", "control", "/v1/keys", guarded.tokens["admin"], json=body)
    assert outcome(response) == (422, "validation_failed")
    assert response.json()["errors"][0]["pointer"] == pointer
    assert len(guarded.keys.all()) == before


def test_a_key_revoked_elsewhere_is_refused_within_five_seconds(guarded: Guarded) -> None:
    token = new_token()
    key = guarded.keys.add(token, tenant_id="default", scopes=("read",), name="")
    wait_until(lambda: guarded.ask("GET", "data", "/v1/models", token).status_code == 200, 5)
    guarded.keys.revoke(key.id)
    wait_until(lambda: guarded.ask("GET", "data", "/v1/models", token).status_code == 401, 5)


def test_the_document_says_what_needs_a_key(guarded: Guarded) -> None:
    document = guarded.ask("GET", "data", "/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    assert document["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "401" in document["paths"]["/v1/models"]["get"]["responses"]
    assert "security" not in document["paths"]["/health"]["get"]


# Pages of other sites


@pytest.mark.parametrize("plane", ["data", "control"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "evil.example.com"}, (400, "malformed_request")),
        ({"host": "localhost.evil.example.com"}, (400, "malformed_request")),
        ({"host": "127.0.0.1.nip.io"}, (400, "malformed_request")),
        ({"host": "10.0.0.1"}, (400, "malformed_request")),
        ({"host": "a/?x="}, (400, "malformed_request")),
        ({"host": "localhost:8000:8000"}, (400, "malformed_request")),
        ({"host": "localhost, localhost"}, (400, "malformed_request")),
        ({"host": ""}, (400, "malformed_request")),
        ({"origin": "https://evil.example.com"}, (403, "forbidden")),
        ({"origin": "null"}, (403, "forbidden")),
        ({"origin": "http://localhost:3000", "host": "localhost"}, (403, "forbidden")),
        ({"sec-fetch-site": "cross-site"}, (403, "forbidden")),
    ],
)
def test_a_page_of_another_site_is_refused_on_every_route(
    guarded: Guarded, plane: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    for path in ("/health", "/v1/models", "/v1/models/echo/predictions", "/metrics", "/v1/keys", "/nothing"):
        for method in ("GET", "POST", "OPTIONS"):
            response = guarded.ask(method, plane, path, guarded.tokens["admin"], headers=headers)
            assert outcome(response) == expected, (method, path)


#: What a form on any page can send without asking first.
FORMS: list[tuple[dict[str, str], bytes]] = [
    ({}, b""),
    ({"content-type": "application/x-www-form-urlencoded"}, b"version=2"),
    ({"content-type": "multipart/form-data; boundary=x"}, b"--x--"),
    ({"content-type": "text/plain"}, b'{"versions": {"1": 1}}'),
]


def test_a_form_on_a_page_of_another_site_reaches_nothing_of_the_control_plane(guarded: Guarded) -> None:
    page = {"origin": "https://evil.example.com", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in {path_of(endpoint) for endpoint in CONTROL}:
        for method in METHODS:
            for more, body in FORMS:
                for headers in (page, {"origin": page["origin"]}, {"sec-fetch-site": "cross-site"}):
                    sent = {"headers": {**more, **headers}, "content": body}
                    response = guarded.ask(method, "control", path, guarded.tokens["admin"], **sent)
                    assert response.status_code == 403, (method, path, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:1"},
        {"host": "LOCALHOST."},
        {"host": "[::1]:80"},
        {"host": "127.9.9.9"},
        {"host": "queue.example.com"},
        {"host": "Public.Example.Com:443"},
        {"host": "localhost:8000", "origin": "http://localhost:8000", "sec-fetch-site": "same-origin"},
        {"host": "queue.example.com", "origin": "https://queue.example.com"},
        {"origin": "https://public.example.com"},
        {"sec-fetch-site": "none"},
    ],
)
def test_our_own_names_and_pages_are_welcome(guarded: Guarded, headers: dict[str, str]) -> None:
    for plane, path in (("data", "/v1/models"), ("control", "/metrics")):
        assert guarded.ask("GET", plane, path, guarded.tokens["admin"], headers=headers).status_code == 200


def test_a_request_of_http_1_1_needs_one_host_and_one_of_http_1_0_may_do_without(guarded: Guarded) -> None:
    def answer(request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", guarded.stack.api.port), timeout=10) as connection:
            connection.sendall(request)
            return connection.recv(1000)

    assert answer(b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert answer(b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert answer(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


APP = "https://app.example.com"


def test_a_page_that_is_allowed_may_ask_first_and_read_the_answer(guarded: Guarded) -> None:
    asking = {"origin": APP, "access-control-request-method": "POST", "sec-fetch-site": "cross-site"}
    preflight = guarded.ask("OPTIONS", "data", "/v1/models/echo/predictions", headers=asking)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    page = {"origin": APP, "sec-fetch-site": "cross-site"}
    for token, status in ((guarded.tokens["read"], 200), (None, 401), (guarded.tokens["predict"], 403)):
        response = guarded.ask("GET", "data", "/v1/models", token, headers=page)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == APP
        assert "ETag" in response.headers["access-control-expose-headers"]
        assert response.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in guarded.ask("GET", "data", "/health").headers


def test_no_page_of_another_site_is_allowed_on_the_control_plane(guarded: Guarded) -> None:
    asking = {"origin": APP, "access-control-request-method": "POST"}
    assert guarded.ask("OPTIONS", "control", "/v1/keys", headers=asking).status_code == 403
    assert (
        guarded.ask("GET", "control", "/metrics", guarded.tokens["admin"], headers={"origin": APP}).status_code == 403
    )


# With and without keys


def test_the_first_key_closes_the_door_and_revoking_it_does_not_open_it(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    stack = new_stack(sqlite_url)
    assert stack.api.submit().status_code == 202
    made = httpx.post(f"{stack.api.control_url}/v1/keys", json={"scopes": ["admin"]}).json()
    assert stack.api.submit().status_code == 401
    with_key = {"authorization": f"Bearer {made['key']}"}
    revoked = httpx.delete(f"{stack.api.control_url}/v1/keys/{made['id']}", headers=with_key)
    assert revoked.status_code == 204
    assert stack.api.submit().status_code == 401
    assert httpx.get(f"{stack.api.control_url}/metrics").status_code == 401


def test_with_keys_the_api_listens_where_it_is_told(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    token, file = new_token(), tmp_path / "bootstrap key"
    file.write_text(f"{token}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        "HEADWAY_DATABASE_URL": sqlite_url,
        "HEADWAY_REDIS_URL": redis_url,
        "HEADWAY_BOOTSTRAP_KEY_FILE": str(file),
        "PATH": "",
    }
    command = [sys.executable, "-m", "launch", "api", "--host", "0.0.0.0", "--port", str(port), "--admin-port", "0"]
    process = subprocess.Popen(command, env=environ)
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(answers, 20, "the API")
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
        with_key = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=with_key).status_code == 200
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_nobody_gets_in_while_the_keys_cannot_be_read(
    new_api: Callable[[str, str], Any], tmp_path: Path, redis_url: str
) -> None:
    api = new_api(f"sqlite:///{tmp_path}/never migrated.db", redis_url)
    wait_until(lambda: api.client.get("/health").status_code == 200, 20)
    for path in ("/v1/models", "/v1/models/echo", "/nothing"):
        assert outcome(api.client.get(path)) == (503, "unavailable")
    assert outcome(httpx.get(f"{api.control_url}/metrics")) == (503, "unavailable")
