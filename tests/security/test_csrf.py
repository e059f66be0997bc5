"""What a page of another host can make a browser send (T4): refused, and nothing is changed.

Decides that every route that changes something asks for the session's own token, for a page of
this host and for JSON; a route that is added is asked too, by its recipe.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx2
import pytest

from iaflow.auth import SessionManager
from iaflow.web.__main__ import make_developer
from iaflow.web.app import create_app
from iaflow.web.server import make_server
from tests.security.recipes import RECIPES, Asked, ask
from tests.security.world import World
from tests.servers import wait_until
from tests.web.webs import Visitor

CHANGING: Final = sorted(
    route for route in RECIPES if route.partition(" ")[0] not in ("GET", "HEAD")
)
PUBLIC: Final = ("POST /api/v1/session", "POST /api/v1/setup")
"""Nobody needs a session here, so its token proves nothing; a page of another host is refused."""
REFUSED: Final = {(403, "csrf_refused"), (403, "origin_refused")}
FORM: Final = "POST /l/{token}"
"""Decided by a one-time link, by whoever has it, and by no cookie: it has a token of its own."""
EVIL: Final = "https://evil.example"

Headers = dict[str, str]
Change = Callable[[Headers], Headers]


def without(*names: str) -> Change:
    return lambda headers: {k: v for k, v in headers.items() if k not in names}


def with_(**changed: str) -> Change:
    named = {name.replace("_", "-"): value for name, value in changed.items()}
    return lambda headers: {**headers, **named}


def cut_token(headers: Headers) -> Headers:
    return {**headers, "X-CSRF-Token": headers["X-CSRF-Token"][:-1]}


def raise_port(headers: Headers) -> Headers:
    host, _, port = headers["Origin"].rpartition(":")
    return {**headers, "Origin": f"{host}:{int(port) + 1}"}


def prefix_host(headers: Headers) -> Headers:
    return {**headers, "Origin": headers["Origin"].replace("//", "//evil.")}


TOKENS: Final[Mapping[str, Change]] = {
    "no token": without("X-CSRF-Token"),
    "an empty token": with_(X_CSRF_Token=""),
    "a wrong token": with_(X_CSRF_Token="A" * 43),
    "a token that is cut": cut_token,
    "neither token nor origin": without("X-CSRF-Token", "Origin"),
    "a token of another name": with_(X_CSRF_Token="", X_XSRF_Token="A" * 43),
}
ORIGINS: Final[Mapping[str, Change]] = {
    "a foreign origin": with_(Origin=EVIL),
    "a foreign origin of the same name": prefix_host,
    "another port": raise_port,
    "the origin null": with_(Origin="null"),
    "an origin that is none": with_(Origin="http://["),
    "cross-site": with_(Sec_Fetch_Site="cross-site"),
    "same-site": with_(Sec_Fetch_Site="same-site"),
    "cross-site, without an origin": lambda headers: {
        **without("Origin")(headers),
        "Sec-Fetch-Site": "cross-site",
    },
    "a foreign page's form": lambda headers: {
        **without("X-CSRF-Token")(headers),
        "Origin": EVIL,
        "Sec-Fetch-Site": "cross-site",
        "Content-Type": "text/plain",
    },
    "a foreign origin, and a host that follows it": with_(
        Origin=EVIL, X_Forwarded_Host="evil.example"
    ),
}


def send(world: World, route: str, asked: Asked, headers: Headers, **more: Any) -> httpx2.Response:
    method, _, path = route.partition(" ")
    if "type" in more:
        headers = {**headers, "Content-Type": more.pop("type")}
    return world.http.request(
        more.pop("method", method),
        path.format(**asked.path),
        params={**asked.query, **more.pop("params", {})},
        headers={"X-Forwarded-For": world.address(), **headers, **asked.headers},
        **(more or ({"json": asked.body} if asked.body is not None else {})),
    )


@pytest.fixture(scope="module", params=("sqlite", "postgres"))
def any_world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(
        "world" if request.param == "sqlite" else "postgres_world"
    )
    return found


@contextmanager
def nothing_changes(world: World, route: str) -> Iterator[None]:
    before = world.dump()
    yield
    after = world.dump()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"{route}: {changed}"


def test_no_page_of_another_host_changes_anything(any_world: World) -> None:
    world = any_world
    admin = world.person("admin-of-all")
    others_token = world.person("operator").headers["X-CSRF-Token"]
    counted: Counter[str] = Counter()
    for route in CHANGING:
        if route == FORM:
            continue
        asked = RECIPES[route].make(world, "own", admin)
        good = (asked.by or admin).headers
        changes = dict(ORIGINS)
        if route not in PUBLIC:
            changes |= {**TOKENS, "another session's": with_(X_CSRF_Token=others_token)}
        with nothing_changes(world, route):
            for name, change in changes.items():
                reply = send(world, route, asked, change(dict(good)))
                told = (reply.status_code, reply.json()["code"])
                assert told in REFUSED, (route, name, reply.text)
                assert "set-cookie" not in reply.headers, (route, name)
                counted[name] += 1
            for name, more in _bodies(asked).items():
                reply = send(world, route, asked, dict(good), **more)
                assert reply.status_code == 415, (route, name, reply.status_code, reply.text)
                assert reply.json()["code"] == "body_not_json"
                counted[name] += 1
            for name, more in _overrides(route).items():
                headers = {**without("X-CSRF-Token", "Origin")(dict(good)), **more["headers"]}
                reply = send(world, route, asked, headers, method="GET", params=more["params"])
                assert reply.status_code in (200, 404, 405, 422), (route, name, reply.text)
                counted[name] += 1
    print(f"{len(CHANGING) - 1} routes, {sum(counted.values())} requests: {dict(counted)}")
    assert len(CHANGING) > 25
    assert set(counted.values()) >= {len(CHANGING) - 1}
    assert counted["text"] > 10


def _bodies(asked: Asked) -> dict[str, dict[str, Any]]:
    """Forms that need no leave of the browser to be sent to another host."""
    if asked.body is None:
        return {}
    return {
        "text": {"content": b"{}", "type": "text/plain"},
        "nothing said": {"content": b"{}"},
        "a form": {"data": {"a": "b"}},
        "parts": {"files": {"a": b"b"}},
    }


def _overrides(route: str) -> dict[str, dict[str, Any]]:
    method = route.partition(" ")[0]
    names = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    return {
        "a GET that says otherwise": {"headers": dict.fromkeys(names, method), "params": {}},
        "a GET with _method": {"headers": {}, "params": {"_method": method}},
    }


def test_the_same_requests_from_the_own_page_succeed(any_world: World) -> None:
    """Or else the refusals above would say nothing."""
    world = any_world
    admin = world.person("admin-of-all")
    for route in CHANGING:
        with world.fresh():
            asked = RECIPES[route].make(world, "own", admin)
        for site in ({}, {"Sec-Fetch-Site": "same-origin"}) if route in PUBLIC[:1] else ({},):
            reply = ask(world, route, asked, Visitor(world, "", {**admin.headers, **site}))
            assert reply.status_code == RECIPES[route].done, (route, reply.text)
    print(f"{len(CHANGING)} routes succeed")


def test_the_form_of_a_link_asks_for_its_own_token(any_world: World) -> None:
    world = any_world
    with world.fresh():
        asked = RECIPES[FORM].make(world, "own", world.nobody)
    assert asked.form is not None
    other = world.sessions.links.form_token("A" * 43)
    with nothing_changes(world, FORM):
        for token in ("", "A" * 43, other, asked.form["form_token"][:-1]):
            form = {**asked.form, "form_token": token}
            reply = send(world, FORM, asked, {}, data=form)
            assert (reply.status_code, reply.json()["code"]) == (403, "csrf_refused")
        for headers in ({"Origin": EVIL}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            reply = send(world, FORM, asked, headers, data=dict(asked.form))
            assert reply.status_code == 403, headers
        reply = send(world, FORM, asked, {}, json=dict(asked.form))
        assert reply.status_code == 415
    assert send(world, FORM, asked, {}, data=dict(asked.form)).status_code == 200


def test_in_the_development_mode_a_page_of_another_host_is_refused(world: World) -> None:
    settings = world.sessions.settings
    with SessionManager(world.database, settings=settings, is_development=True) as sessions:
        app = create_app(world.client, sessions, settings, development_user=make_developer())
        server = make_server(app, host="127.0.0.1", port=0)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, 20, "the server listens")
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as http:
                _ask_in_development(world, http)
        finally:
            server.should_exit = True
            thread.join(20)


def _ask_in_development(world: World, http: httpx2.Client) -> None:
    count = 0
    for route in CHANGING:
        method, _, path = route.partition(" ")
        asked = RECIPES[route].make(world, "own", world.person("admin-of-all"))
        with nothing_changes(world, route):
            for headers in (
                {"Origin": EVIL},
                {"Sec-Fetch-Site": "cross-site"},
                {"Origin": "null"},
                # A name of theirs that leads here: it is their own page, and this machine.
                {"Host": "evil.example", "Origin": "http://evil.example"},
                {"Host": "evil.example"},
            ):
                sent: dict[str, Any] = {"json": asked.body} if asked.body is not None else {}
                if asked.form is not None:
                    sent = {"data": dict(asked.form)}
                reply = http.request(method, path.format(**asked.path), headers=headers, **sent)
                assert reply.status_code == 403, (route, headers, reply.text)
                count += 1
    assert http.get("/api/v1/runs", headers={"Host": "evil.example"}).status_code == 403
    assert http.get("/api/v1/runs").status_code == 200
    print(f"{count} requests of other hosts' pages refused")
