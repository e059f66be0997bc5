"""Headers and cookies of every reply (T16): of what succeeds, and of every way to be refused.

Decides by twenty rules what guards a reply of this web, whatever route it comes from; a route or
an error that is added is looked at too.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import pytest
import sqlalchemy.exc

from iaflow.errors import NotReachable
from iaflow.web import limits, server
from iaflow.web.guard import HEADERS
from iaflow.web.link_page import POLICY as LINK_POLICY
from iaflow.web.problems import CODES
from iaflow.web.routes.pipelines import DRAWING_POLICY
from tests.security.recipes import RECIPES, ask
from tests.security.wire import Wire, write_request
from tests.security.world import World
from tests.web.webs import Visitor

V1 = "/api/v1"
COOKIE_ROUTES: Final = {f"POST {V1}/session", f"DELETE {V1}/session", f"PUT {V1}/password"}
API_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; "
    "form-action 'self'"
)
"""As RELIABILITY S44 has it, word by word."""


@dataclass(frozen=True)
class Seen:
    """One reply."""

    route: str
    why: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_https: bool = False
    accepts_html: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        values = self.all(name)
        return values[0] if len(values) == 1 else ""

    @property
    def is_link_page(self) -> bool:
        return self.route.endswith("/l/{token}")

    @property
    def is_drawing(self) -> bool:
        return self.one("content-type").startswith("image/svg+xml")


Rule = Callable[[Seen], bool]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


@rule
def policy_is_one_of_three(seen: Seen) -> bool:
    """The API's, word by word; the drawing's, and that of the page of a link."""
    found = seen.one("content-security-policy")
    if seen.is_drawing:
        return found == DRAWING_POLICY
    return found == API_POLICY or (seen.is_link_page and found == LINK_POLICY)


@rule
def policy_allows_nothing_inline_or_anywhere(seen: Seen) -> bool:
    found = seen.one("content-security-policy")
    words = {part.strip().split(" ")[0]: part.split()[1:] for part in found.split(";")}
    scripts = words.get("script-src", words.get("default-src", ["*"]))
    return (
        words.get("default-src") == ["'none'"]
        and words.get("frame-ancestors") == ["'none'"]
        and not {"'unsafe-inline'", "'unsafe-eval'", "*", "data:", "https:"} & set(scripts)
        and "'unsafe-eval'" not in found
        and "*" not in found
    )


@rule
def nothing_is_sniffed(seen: Seen) -> bool:
    return seen.one("x-content-type-options") == "nosniff"


@rule
def no_referrer(seen: Seen) -> bool:
    return seen.one("referrer-policy") == "no-referrer"


@rule
def windows_and_resources_are_kept_apart(seen: Seen) -> bool:
    names = ("cross-origin-opener-policy", "cross-origin-resource-policy")
    return all(seen.one(name) == "same-origin" for name in names)


@rule
def nothing_is_stored(seen: Seen) -> bool:
    return seen.one("cache-control") == "no-store"


@rule
def encryption_is_kept_where_there_is_some(seen: Seen) -> bool:
    wanted = ["max-age=31536000; includeSubDomains"] if seen.is_https else []
    return seen.all("strict-transport-security") == wanted


@rule
def no_program_tells_its_name(seen: Seen) -> bool:
    return not (seen.all("server") + seen.all("x-powered-by") + seen.all("via"))


@rule
def no_other_origin_may_read(seen: Seen) -> bool:
    return not any(name.startswith("access-control-") for name, _ in seen.headers)


@rule
def each_has_an_id_of_its_own(seen: Seen) -> bool:
    try:
        return uuid.UUID(seen.one("x-request-id")).version == 7
    except ValueError:
        return False


@rule
def what_has_a_body_says_what_it_is(seen: Seen) -> bool:
    kind = seen.one("content-type")
    if seen.status == 204:
        return not seen.body and not kind
    return kind in KINDS


KINDS: Final = {
    "application/json",
    "application/problem+json",
    "image/svg+xml",
    "text/event-stream; charset=utf-8",
    "text/html; charset=utf-8",
    "text/plain; version=0.0.4; charset=utf-8",
}


@rule
def what_is_refused_is_a_problem(seen: Seen) -> bool:
    if seen.status < 400 or seen.route.startswith("HEAD"):
        return True
    if seen.is_link_page and seen.one("content-type").startswith("text/html"):
        return seen.accepts_html
    told = json.loads(seen.body)
    return (
        seen.one("content-type") == "application/problem+json"
        and told["status"] == seen.status == CODES[told["code"]][0]
        and told["type"] == f"/problems/{told['code']}"
        and told["title"] == CODES[told["code"]][1]
        and told["request_id"] == seen.one("x-request-id")
        and set(told) == {"type", "title", "status", "detail", "code", "request_id", "problems"}
    )


@rule
def nothing_of_the_inside_is_told(seen: Seen) -> bool:
    if seen.status < 400:
        return True
    return INSIDE.search(seen.body.decode()) is None


INSIDE: Final = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|sqlalchemy|psycopg|sqlite|SELECT |INSERT |UPDATE |"
    r"pydantic|starlette|fastapi|uvicorn|errors\.|/home/|/tmp/|boom",
)


@rule
def cookies_are_the_sessions_own(seen: Seen) -> bool:
    cookies = seen.all("set-cookie")
    if seen.route not in COOKIE_ROUTES or seen.status >= 400:
        return not cookies
    [cookie] = cookies
    value, *traits = cookie.split("; ")
    lifetime = "Max-Age=0" if seen.status == 204 else "Max-Age=43200"
    text = r"__Host-iaflow=" if seen.status == 204 else r"__Host-iaflow=[\w-]{43}"
    return bool(re.fullmatch(text, value)) and sorted(traits) == sorted(
        [lifetime, "Path=/", "HttpOnly", "SameSite=Lax", "Secure"]
    )


@rule
def signing_out_clears_the_site(seen: Seen) -> bool:
    is_end = seen.route == f"DELETE {V1}/session" and seen.status == 204
    wanted = ['"cache", "cookies", "storage"'] if is_end else []
    return seen.all("clear-site-data") == wanted


@rule
def it_is_said_how_to_sign_in(seen: Seen) -> bool:
    wants = seen.status == 401 and seen.route != f"POST {V1}/session"
    return seen.all("www-authenticate") == (["Bearer"] if wants else [])


@rule
def it_is_said_when_to_come_again(seen: Seen) -> bool:
    found = seen.all("retry-after")
    if seen.status in (429, 503):
        return len(found) == 1 and found[0].isdecimal() and int(found[0]) >= 1
    return not found


@rule
def it_is_said_what_there_is(seen: Seen) -> bool:
    found = seen.all("allow")
    if seen.status == 405:
        return len(found) == 1 and re.fullmatch(r"[A-Z]+(, [A-Z]+)*", found[0]) is not None
    return not found


@rule
def addresses_stay_on_this_host(seen: Seen) -> bool:
    found = seen.all("location")
    if seen.status // 100 == 3:
        return False
    return all(re.fullmatch(r"/api/v1/[\w/-]+", one) for one in found)


@rule
def what_is_text_of_others_is_never_a_page(seen: Seen) -> bool:
    """A drawing is downloaded; only the page of a link is HTML, and no one may index it."""
    if seen.is_drawing:
        return seen.one("content-disposition").startswith("attachment; ")
    is_html = seen.one("content-type").startswith("text/html")
    return not is_html or (seen.is_link_page and seen.one("x-robots-tag") == "noindex")


@rule
def no_header_comes_twice(seen: Seen) -> bool:
    return max(Counter(name for name, _ in seen.headers).values()) == 1


# --- what is asked


@dataclass
class Gathered:
    """All replies, and what broke which rule."""

    seen: list[Seen] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, route: str, why: str, reply: httpx2.Response, **more: Any) -> int:
        headers = [(k.decode().lower(), v.decode()) for k, v in reply.headers.raw]
        body = reply.content if reply.is_closed and hasattr(reply, "_content") else b""
        self.seen.append(Seen(route, why, reply.status_code, headers, body, **more))
        return reply.status_code

    def faults(self) -> list[tuple[str, str, int, str]]:
        return [
            (one.route, one.why, one.status, name)
            for one in self.seen
            for name, holds in RULES.items()
            if not _holds(holds, one)
        ]

    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.seen)


def _holds(holds: Rule, seen: Seen) -> bool:
    try:
        return holds(seen)
    except (ValueError, KeyError):
        return False


@pytest.fixture(scope="module")
def gathered(world: World) -> Gathered:
    return Gathered()


def settle(gathered: Gathered, *wanted: int) -> None:
    """Judge what was gathered, and forget it."""
    faults, statuses = gathered.faults(), gathered.statuses()
    ids = [one.one("x-request-id") for one in gathered.seen]
    count = len(gathered.seen)
    gathered.seen.clear()
    print(f"{count} replies x {len(RULES)} rules, by status: {dict(sorted(statuses.items()))}")
    assert not faults, faults[:20]
    assert len(set(ids)) == count, "an id was given twice"
    assert set(wanted) <= set(statuses), statuses
    assert len(RULES) >= 18


def test_replies_to_everybody(world: World, gathered: Gathered) -> None:
    """Every route: done, without credentials, without permission, of what is nowhere."""
    admin, weak = world.person("admin-of-all"), world.person("finance")
    for route, recipe in RECIPES.items():
        for who, where, why in (
            (admin, "own", "done"),
            (admin, "absent", "absent"),
            (weak, "own", "weak"),
            (world.nobody, "own", "nobody"),
        ):
            if where not in recipe.wheres:
                continue
            with world.fresh(why == "done" and not route.startswith("GET")):
                asked = recipe.make(world, where, who)
            reply = ask(world, route, asked, who, is_stream=recipe.is_stream)
            gathered.add(route, why, reply)
    settle(gathered, 200, 201, 204, 401, 403, 404)


def test_replies_through_a_proxy_that_decrypts(world: World, gathered: Gathered) -> None:
    """This machine is trusted as a proxy here: what came encrypted is to stay so."""
    admin = world.person("admin-of-all")
    for route, recipe in RECIPES.items():
        if not route.startswith("GET"):
            continue
        for who in (admin, world.nobody):
            headers = {**who.headers, "X-Forwarded-Proto": "https"}
            asked = recipe.make(world, "own", who)
            visitor = Visitor(world, "", headers)
            reply = ask(world, route, asked, visitor, is_stream=recipe.is_stream)
            gathered.add(route, "https", reply, is_https=True)
    for proto, is_https in (("http", False), ("https, http", False), ("http, https", True)):
        reply = world.http.get("/healthz", headers={"X-Forwarded-Proto": proto})
        gathered.add("GET /healthz", proto, reply, is_https=is_https)
    settle(gathered, 200, 401)


def test_replies_to_what_is_no_request_of_this_api(world: World, gathered: Gathered) -> None:
    admin = world.person("admin-of-all")
    for path in sorted({route.partition(" ")[2] for route in RECIPES}):
        known = {route.partition(" ")[0] for route in RECIPES if route.endswith(f" {path}")}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - known:
            for who in (admin, world.nobody):
                reply = world.http.request(method, _fill(path), headers=who.headers)
                gathered.add(f"{method} {path}", "method", reply)
    # Elsewhere a place where nothing is would be a page's: see tests/web/pages.
    for path in (f"{V1}/nothing", f"{V1}/runs/", f"{V1}//", f"{V1}/docs", f"{V1}/", "/api/"):
        for who in (admin, world.nobody):
            gathered.add(f"GET {path}", "unknown", world.http.get(path, headers=who.headers))
    settle(gathered, 401, 404, 405)


def _fill(path: str) -> str:
    return re.sub(r"\{\w+\}", "x", path)


def test_replies_to_bodies(world: World, gathered: Gathered, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    admin = world.person("admin-of-all")
    for route, recipe in RECIPES.items():
        asked = recipe.make(world, "own", admin)
        if asked.body is None and asked.form is None:
            continue
        method, _, path = route.partition(" ")
        path = path.format(**asked.path)
        kind = "application/json" if asked.form is None else "application/x-www-form-urlencoded"
        base = {**admin.headers, "Content-Type": kind, "X-Forwarded-For": world.address()}
        for why, status, headers, body in (
            ("text", 415, {"Content-Type": "text/plain"}, b"{}"),
            ("gzip", 415, {"Content-Encoding": "gzip"}, b"{}"),
            ("large", 413, {}, b" " * 3_000_000),
            ("no json", 422, {}, b"\xff{"),
            ("unknown field", 422, {}, b'{"unheard-of": 1}'),
        ):
            if asked.form is not None and why == "unknown field":
                continue
            reply = world.http.request(method, path, headers={**base, **headers}, content=body)
            assert gathered.add(route, why, reply) == status, (route, why, reply.text)
        lines = [f"{name}: {value}" for name, value in base.items()]
        with Wire(_port(world)) as wire:
            host = f"127.0.0.1:{_port(world)}"
            wire.say(write_request(method, path, *lines, length="5", host=host))
            [late] = wire.hear(replies=1).replies
        headers_ = list(late.headers.items())
        gathered.seen.append(Seen(route, "late", late.status, headers_, late.body))
        assert late.status == 408, (route, late.body)
    settle(gathered, 408, 413, 415, 422)


def _port(world: World) -> int:
    return int(world.url.rpartition(":")[2])


def test_replies_to_credentials(world: World, gathered: Gathered) -> None:
    admin, program = world.person("admin-of-all"), world.program("admin-of-all")
    both = {**admin.headers, **program.headers}
    for route in RECIPES:
        method, _, path = route.partition(" ")
        reply = world.http.request(method, _fill(path), headers=both)
        assert gathered.add(route, "both", reply) == 400, route
        if method in ("GET", "HEAD"):
            continue
        headers = {**admin.headers, "Origin": "https://evil.example"}
        reply = world.http.request(method, _fill(path), headers=headers)
        gathered.add(route, "foreign", reply)
    address = {"X-Forwarded-For": world.address()}
    for _ in range(8):
        body = {"name": "viewer", "password": "wrong"}
        reply = world.http.post(f"{V1}/session", json=body, headers=address)
        gathered.add(f"POST {V1}/session", "wrong", reply)
    settle(gathered, 400, 401, 403, 429)


def test_replies_to_faults(world: World, gathered: Gathered, monkeypatch: Any) -> None:
    """Each reading route as the database fails in two ways, and as iaflow itself does."""
    admin = world.person("admin-of-all")
    routes = [route for route in RECIPES if route.startswith(f"GET {V1}/runs")]
    gone = sqlalchemy.exc.OperationalError("SELECT boom", {}, Exception("boom"))
    for error, status in (
        (RuntimeError("boom in /tmp/x.py"), 500),
        (NotReachable("boom at postgresql://u:p@h/d"), 503),
        (gone, 500),
    ):
        with monkeypatch.context() as patch:
            asked = {route: RECIPES[route].make(world, "own", admin) for route in routes}

            def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
                raise error

            for name in ("run", "runs"):
                patch.setattr(world.client, name, fail)
            for route in routes:
                reply = ask(world, route, asked[route], admin)
                assert gathered.add(route, repr(error), reply) in (status, 503), route
    with monkeypatch.context() as patch:
        patch.setattr(world.sessions, "authenticate", fail)
        reply = world.http.get(f"{V1}/runs", headers=admin.headers)
        assert gathered.add(f"GET {V1}/runs", "sign-in away", reply) in (500, 503)
    settle(gathered, 500, 503)


def test_replies_of_the_server_itself(world: World, gathered: Gathered, monkeypatch: Any) -> None:
    """What is no HTTP, and one connection more than there may be, never reach the app."""

    def hear(why: str, sent: bytes) -> None:
        with Wire(_port(world)) as wire:
            wire.say(sent)
            [reply] = wire.hear(replies=1).replies
        assert reply.headers.get("connection", "").lower() == "close"
        headers = list(reply.headers.items())
        gathered.seen.append(Seen("GET /healthz", why, reply.status, headers, reply.body))

    hear("noise", b"\x16\x03\x01\r\n\r\n")
    hear("two hosts", write_request("GET", "/healthz", "Host: b", json_body=False))
    hear("two lengths", write_request("GET", "/healthz", "Transfer-Encoding: chunked"))
    hear("HTTP/2", b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n")
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 0)
    hear("full", write_request("GET", "/healthz", json_body=False))
    settle(gathered, 400, 503)


def test_the_pages_of_links(world: World, gathered: Gathered) -> None:
    html = {"Accept": "text/html"}
    for route in ("GET /l/{token}", "POST /l/{token}"):
        method = route.partition(" ")[0]
        for where in ("own", "absent"):
            asked = RECIPES[route].make(world, where, world.nobody)
            path = "/l/" + asked.path["token"]
            forms: list[Mapping[str, str] | None] = [asked.form]
            if asked.form is not None:
                # Not the page's token; an answer that does not fit; the answer; once more.
                forms = [
                    {"form_token": ""},
                    {"form_token": asked.form["form_token"]},
                    asked.form,
                    asked.form,
                ]
            for form in forms:
                more: dict[str, Any] = {"data": dict(form)} if form is not None else {}
                reply = world.http.request(method, path, headers=html, **more)
                gathered.add(route, where, reply, accepts_html=True)
    settle(gathered, 200, 403, 404, 410, 422)


def test_the_products_table_is_that_of_the_document() -> None:
    assert HEADERS["Content-Security-Policy"] == API_POLICY
