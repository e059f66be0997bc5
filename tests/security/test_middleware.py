"""The middleware: who a request comes from, and what never reaches the application."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from iaflow.auth import AuthMiddleware
from iaflow.auth.audit import Caller
from iaflow.data.accounts import Principal, permissions_of
from iaflow.settings import Settings
from tests.security.asking import HOST, Echo, Header, Reply, ask
from tests.security.deployments import ANN, BOB, HERE, OPERATOR, Deployment

UNSAFE = ("POST", "PUT", "PATCH", "DELETE", "PROPFIND", "post")
ORIGIN = ("origin", f"https://{HOST}")


@dataclass
class Gate:
    """An application behind the middleware, and Ann's credentials."""

    deployment: Deployment
    echo: Echo
    app: AuthMiddleware
    cookie: Header
    csrf: Header
    bearer: Header
    session_token: str

    def reached(self) -> int:
        return len(self.echo.scopes)


@pytest.fixture
def gate(on_sqlite: Deployment) -> Gate:
    signed_in = on_sqlite.sign_in()
    sessions = on_sqlite.sessions
    _, text = sessions.tokens.create(
        signed_in.principal, "ci", ["runs:read"], 30, caller=Caller(ANN)
    )
    echo = Echo()
    return Gate(
        on_sqlite,
        echo,
        AuthMiddleware(echo, sessions, public=["/healthz", "/static/*", "/sign-in"]),
        ("cookie", f"theme=dark; {sessions.cookie_name}={signed_in.token}; x=y"),
        ("x-csrf-token", signed_in.csrf_token),
        ("authorization", f"Bearer {text}"),
        signed_in.token,
    )


def refused(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.header("content-type") == "application/problem+json"
    assert reply.header("cache-control") == "no-store"
    told = reply.json
    assert told["type"] == f"/problems/{code}"
    assert told["status"] == status
    assert told["request_id"] == reply.header("x-request-id")
    assert told.keys() == {
        *("type", "title", "status", "detail", "code", "request_id", "problems"),
    }
    assert told["problems"] == []


# --- deny by default


@pytest.mark.parametrize("path", ("/", "/runs", "/healthz/", "/healthzz", "/static", "/docs", ""))
def test_nobody_comes_in(gate: Gate, path: str) -> None:
    reply = ask(gate.app, path=path)
    refused(reply, 401, "not_signed_in")
    assert reply.header("www-authenticate") == "Bearer"
    assert gate.reached() == 0


@pytest.mark.parametrize(
    "path", ("/static/../runs", "/static/./x", "/static/..\\runs", "/sign-in/../runs")
)
def test_a_path_that_steps_out_is_not_public(gate: Gate, path: str) -> None:
    refused(ask(gate.app, path=path), 401, "not_signed_in")


@pytest.mark.parametrize("path", ("/healthz", "/static/a/b.css", "/static/..."))
def test_public_paths_are_everybodys(gate: Gate, path: str) -> None:
    reply = ask(gate.app, path=path)
    assert (reply.status, reply.json) == (200, {"user": None})
    assert gate.echo.scopes[0]["auth"] is None


def test_a_mounted_application_has_paths_of_its_own(gate: Gate) -> None:
    assert ask(gate.app, path="/flows/healthz", root_path="/flows").status == 200
    refused(ask(gate.app, path="/healthz/x", root_path="/healthz"), 401, "not_signed_in")


def test_what_is_public_may_be_a_function(gate: Gate) -> None:
    app = AuthMiddleware(gate.echo, gate.deployment.sessions, public=lambda s: s["path"] == "/a")
    assert [ask(app, path=path).status for path in ("/a", "/b")] == [200, 401]


@pytest.mark.parametrize(
    "header",
    (
        ("authorization", "Bearer iaf_0_x"),
        ("authorization", "Bearer "),
        ("authorization", "Basic YW5uOng="),
        ("cookie", "__Host-iaflow=" + "A" * 43),
        ("cookie", "__Host-iaflow="),
        ("cookie", "__host-iaflow=" + "A" * 43),
        ("cookie", "iaflow-dev=" + "A" * 43),
    ),
    ids=str,
)
def test_bad_credentials_are_none(gate: Gate, header: Header) -> None:
    refused(ask(gate.app, headers=[header]), 401, "not_signed_in")
    assert ask(gate.app, path="/healthz", headers=[header]).json == {"user": None}


# --- who asks


def test_the_application_is_told_who_asks(gate: Gate) -> None:
    for header, has_session in ((gate.cookie, True), (gate.bearer, False)):
        assert ask(gate.app, headers=[header]).json == {"user": ANN}
        scope = gate.echo.scopes[-1]
        assert (scope["user"].session_id is not None) is has_session
        assert scope["auth"].principal == scope["user"]
        caller = Caller(ANN, HERE, scope["iaflow.request_id"])
        assert scope["iaflow.caller"] == caller
        # Applications log their state.
        assert gate.session_token not in repr(scope["state"])
        assert gate.session_token not in repr(scope["auth"])
    assert ask(gate.app, path="/healthz", headers=[gate.cookie]).json == {"user": ANN}


def test_what_frameworks_ask_of_a_user_is_answered(gate: Gate) -> None:
    ask(gate.app, headers=[gate.bearer])
    scope = gate.echo.scopes[-1]
    assert scope["user"].is_authenticated
    assert scope["user"].display_name == ANN
    assert scope["auth"].scopes == ["runs:read"]


def test_every_request_has_a_number_of_its_own(gate: Gate) -> None:
    sent = [("x-request-id", "chosen\x1b[31m")]
    replies = [ask(gate.app, path="/healthz", headers=sent) for _ in range(2)]
    numbers = [reply.header("x-request-id") for reply in replies]
    assert numbers == [scope["iaflow.request_id"] for scope in gate.echo.scopes]
    assert len(set(numbers)) == 2
    # The application's own header does not stand beside it.
    assert [sum(k == "x-request-id" for k, _ in reply.headers) for reply in replies] == [1, 1]


@pytest.mark.parametrize("path", ("/runs", "/healthz", "/static/x"))
def test_two_kinds_of_credentials_are_refused_everywhere(gate: Gate, path: str) -> None:
    refused(
        ask(gate.app, path=path, headers=[gate.cookie, gate.bearer]), 400, "credentials_refused"
    )
    bad = ("authorization", "Bearer x")
    refused(ask(gate.app, path=path, headers=[gate.cookie, bad]), 400, "credentials_refused")
    assert gate.reached() == 0


def test_a_head_request_is_refused_without_a_body(gate: Gate) -> None:
    reply = ask(gate.app, "HEAD")
    assert (reply.status, reply.body) == (401, b"")


# --- cross-site requests


def post(gate: Gate, *headers: Header, method: str = "POST", path: str = "/runs") -> Reply:
    return ask(gate.app, method, path, headers)


@pytest.mark.parametrize("method", UNSAFE)
def test_a_page_of_this_host_changes_things(gate: Gate, method: str) -> None:
    assert post(gate, gate.cookie, gate.csrf, ORIGIN, method=method).json == {"user": ANN}
    site = ("sec-fetch-site", "same-origin")
    assert post(gate, gate.cookie, gate.csrf, site, method=method).json == {"user": ANN}


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize(
    "headers",
    (
        (),
        (("x-csrf-token", ""),),
        (("x-csrf-token", "A" * 43),),
        (("x-xsrf-token", "A" * 43),),
        (("x-http-method-override", "GET"),),
    ),
    ids=str,
)
def test_without_its_csrf_token_nothing_changes(
    gate: Gate, method: str, headers: tuple[Header, ...]
) -> None:
    refused(post(gate, gate.cookie, ORIGIN, *headers, method=method), 403, "csrf_refused")
    assert gate.reached() == 0


def test_a_csrf_token_twice_is_none(gate: Gate) -> None:
    refused(post(gate, gate.cookie, ORIGIN, gate.csrf, gate.csrf), 403, "csrf_refused")


FOREIGN: tuple[tuple[Header, ...], ...] = (
    (),
    (("origin", "https://evil.example"),),
    (("origin", "null"),),
    (("origin", ""),),
    (("origin", f"https://{HOST}.evil.example"),),
    (("origin", f"https://{HOST}:8443"),),
    (("origin", f"https://evil@{HOST}"),),
    (("origin", "https://["),),
    (ORIGIN, ORIGIN),
    (ORIGIN, ("sec-fetch-site", "cross-site")),
    (ORIGIN, ("sec-fetch-site", "same-site")),
    (("sec-fetch-site", "cross-site"),),
    (("origin", "null"), ("sec-fetch-site", "none")),
    (("referer", f"https://{HOST}/"),),
)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", ("/runs", "/sign-in"))
def test_a_foreign_page_changes_nothing(gate: Gate, headers: tuple[Header, ...], path: str) -> None:
    """Also with a csrf token that it cannot have; and on public paths, such as a sign-in."""
    refused(post(gate, gate.cookie, gate.csrf, *headers, path=path), 403, "origin_refused")
    assert gate.reached() == 0


def test_a_form_without_referrers_is_vouched_for_by_the_browser(gate: Gate) -> None:
    given = (("origin", "null"), ("sec-fetch-site", "same-origin"))
    assert post(gate, gate.cookie, gate.csrf, *given).status == 200


def test_a_foreign_page_signs_nobody_in(gate: Gate) -> None:
    evil = ("origin", "https://evil.example")
    refused(post(gate, evil, path="/sign-in"), 403, "origin_refused")
    assert post(gate, ORIGIN, path="/sign-in").json == {"user": None}
    # A program says nothing of pages, and has no cookie that could be misused.
    assert post(gate, path="/sign-in").json == {"user": None}


def test_on_a_public_path_a_session_counts_only_with_its_csrf_token(gate: Gate) -> None:
    assert post(gate, gate.cookie, ORIGIN, path="/sign-in").json == {"user": None}
    assert post(gate, gate.cookie, gate.csrf, ORIGIN, path="/sign-in").json == {"user": ANN}


def test_a_token_needs_no_page(gate: Gate) -> None:
    assert post(gate, gate.bearer).json == {"user": ANN}
    assert post(gate, gate.bearer, ("origin", "https://other.example")).json == {"user": ANN}


def test_reading_is_for_every_page_that_the_browser_lets(gate: Gate) -> None:
    for method in ("GET", "OPTIONS"):
        reply = ask(gate.app, method, headers=[gate.cookie, ("origin", "https://evil.example")])
        assert reply.status == 200
        # No word of ours lets the foreign page read it.
        assert not any(name.startswith("access-control") for name, _ in reply.headers)


def test_the_public_url_is_what_counts_where_it_is_set(on_sqlite: Deployment) -> None:
    settings = Settings(public_url="https://flows.example.org/")
    sessions = on_sqlite.open(settings=settings)
    signed_in, app = on_sqlite.sign_in(), AuthMiddleware(Echo(), sessions)
    given = [
        ("cookie", f"{sessions.cookie_name}={signed_in.token}"),
        ("x-csrf-token", signed_in.csrf_token),
    ]
    for origin, host, status in (
        ("https://flows.example.org", "10.0.0.5:8000", 200),
        ("http://flows.example.org", "flows.example.org", 403),
        ("https://10.0.0.5:8000", "10.0.0.5:8000", 403),
    ):
        reply = ask(app, "POST", headers=[*given, ("origin", origin)], host=host)
        assert reply.status == status, origin
    sessions.close()


# --- websockets


def test_a_websocket_is_somebodys_and_of_this_host(gate: Gate) -> None:
    assert ask(gate.app, "WS").status == 1008
    assert ask(gate.app, "WS", headers=[gate.cookie]).status == 1008
    assert ask(gate.app, "WS", headers=[gate.cookie, ORIGIN]).status == 101
    assert ask(gate.app, "WS", headers=[gate.bearer]).status == 101
    evil = ("origin", "https://evil.example")
    assert ask(gate.app, "WS", headers=[gate.cookie, evil]).status == 1008
    assert ask(gate.app, "WS", headers=[gate.cookie, gate.bearer, ORIGIN]).status == 1008
    assert gate.reached() == 2
    assert gate.echo.scopes[0]["user"].name == ANN


def test_a_websocket_is_refused_with_a_reason_where_the_server_can(gate: Gate) -> None:
    can = {"extensions": {"websocket.http.response": {}}}
    refused(ask(gate.app, "WS", **can), 401, "not_signed_in")
    evil = ("origin", "https://evil.example")
    refused(ask(gate.app, "WS", headers=[gate.cookie, evil], **can), 403, "origin_refused")


def test_other_scopes_are_none_of_its_business(gate: Gate) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    ask(AuthMiddleware(app, gate.deployment.sessions), type="lifespan")
    assert seen == ["lifespan"]


# --- what changes while a browser is open


def test_who_is_disabled_is_out_at_once(gate: Gate) -> None:
    gate.deployment.add("eve", "admin", password="noch ein Kamel im Zoo")
    gate.deployment.accounts.set(gate.deployment.ann.user_id, is_disabled=True, caller=OPERATOR)
    for header in (gate.cookie, gate.bearer):
        refused(ask(gate.app, headers=[header]), 401, "not_signed_in")


def test_a_database_that_is_gone_is_no_open_door(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **given: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(gate.deployment.sessions.database, "fetch", fail)
    for path in ("/runs", "/healthz"):
        reply = ask(gate.app, path=path, headers=[gate.cookie])
        refused(reply, 503, "not_reachable")
        assert b"disk" not in reply.body
    # Who brings no credentials needs no database.
    assert ask(gate.app, path="/healthz").status == 200


# --- the development mode


@pytest.fixture
def local(on_sqlite: Deployment) -> Iterator[AuthMiddleware]:
    sessions = on_sqlite.open(is_development=True)
    user = Principal("dev", None, ("admin",), permissions_of(["admin"]))
    yield AuthMiddleware(Echo(), sessions, development_user=user)
    sessions.close()


@pytest.mark.parametrize("host", ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"))
def test_on_this_machine_one_may_be_signed_in(local: AuthMiddleware, host: str) -> None:
    assert ask(local, host=host).json == {"user": "dev"}
    own = ("origin", f"http://{host.lower()}")
    assert ask(local, "POST", headers=[own], host=host).json == {"user": "dev"}
    assert ask(local, "WS", headers=[own], host=host).status == 101


@pytest.mark.parametrize(
    "host", ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "", "[")
)
def test_a_foreign_name_that_leads_here_is_refused(local: AuthMiddleware, host: str) -> None:
    """DNS rebinding: the page's own name, whose address is this machine's."""
    refused(ask(local, host=host), 403, "host_refused")
    refused(ask(local, headers=[("host", "localhost")], host=host), 403, "host_refused")


def test_a_foreign_page_is_not_the_developer(local: AuthMiddleware) -> None:
    for header in (("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")):
        reply = ask(local, "POST", headers=[header], host="localhost:8000")
        refused(reply, 403, "origin_refused")
        assert ask(local, "WS", headers=[header], host="localhost:8000").status == 1008


def test_credentials_count_in_the_development_mode_too(
    local: AuthMiddleware, on_sqlite: Deployment
) -> None:
    signed_in = on_sqlite.sign_in(BOB)
    cookie = ("cookie", f"iaflow-dev={signed_in.token}")
    assert ask(local, headers=[cookie], host="localhost").json == {"user": BOB}
    bad = ("authorization", "Bearer x")
    refused(ask(local, headers=[bad], host="localhost"), 401, "not_signed_in")
