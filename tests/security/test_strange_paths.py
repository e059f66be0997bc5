"""Paths that are spelt otherwise, and the app below a path of a host's: closed by default.

Decides that nobody reaches a route without its policy by another spelling, and that signing in,
changes, links and streams are the same below a prefix, mounted or behind a proxy.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from iaflow.web.server import make_server
from tests.security.recipes import RECIPES
from tests.security.wire import Wire, write_request
from tests.security.world import OWN, World
from tests.servers import wait_until
from tests.web.webs import PASSWORD

V1: Final = "/api/v1"


def spell(path: str) -> Iterator[str]:
    """Yield a path in ways that some server, proxy or framework takes for the same."""
    yield f"{path}/"
    yield f"/{path}"
    yield path.replace("/", "//")
    yield f"/.{path}"
    yield f"/x/..{path}"
    yield f"/healthz/..{path}"
    yield f"/l/..{path}"
    yield f"/l/x/../..{path}"
    yield f"/l/%2e%2e{path}"
    yield f"/l/%2E%2E%2f{path[1:]}"
    yield f"/l/..%2f{path[1:]}"
    yield f"/l/..%5c{path[1:]}"
    yield f"/l/..\\{path[1:]}"
    yield f"/healthz/%2e%2e{path}"
    yield f"/healthz;{path}"
    yield f"/healthz%00{path}"
    yield f"{path}%00"
    yield f"{path};x=/healthz"
    yield f"{path};.css"
    yield f"{path}%20"
    yield f"{path}."
    yield f"{path}%2f"
    yield f"{path}/healthz"
    yield f"{path}/..;/healthz"
    yield f"{path}%3f/healthz"
    yield f"{path}%23/healthz"
    yield path.upper()
    yield path.replace("api", "%61pi")
    yield path.replace("api", "%2561pi")
    yield path.replace("/v1/", "%2fv1%2f")
    yield path.replace("v1", "V1")
    yield path.replace("api", "\uff41pi".encode().decode("latin-1"))
    yield f"http://127.0.0.1{path}"
    yield f"http://evil.example{path}"
    yield f"https://user:pass@127.0.0.1/healthz{path}"
    yield f"//evil.example{path}"
    yield f"/%2f%2fevil.example{path}"
    yield path[1:]
    yield "*"


PLACES: Final = (
    f"{V1}/runs",
    f"{V1}/users",
    f"{V1}/audit",
    f"{V1}/metrics",
    f"{V1}/openapi.json",
    f"{V1}/pipelines/{OWN}",
    f"{V1}/inbox/stream",
    f"{V1}/session",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/nothing",
)


def test_no_spelling_of_a_path_lets_anybody_in(world: World) -> None:
    """Without credentials: never more than a refusal, and never a redirect."""
    counted: Counter[int] = Counter()
    port = int(world.url.rpartition(":")[2])
    secret = re.compile(r"mine-v1|theirs-v1|adele|\"items\"|openapi\"|iaflow_runs|csrf_token\"")
    for place in PLACES:
        for spelt in [place, *spell(place)]:
            for method in ("GET", "POST"):
                raw = write_request(method, spelt.encode().decode("latin-1"), body=b"{}")
                with Wire(port) as wire:
                    wire.say(raw)
                    outcome = wire.hear(replies=1, seconds=5)
                assert outcome.replies or outcome.is_closed, (method, spelt)
                for reply in outcome.replies:
                    counted[reply.status] += 1
                    assert 400 <= reply.status < 500, (method, spelt, reply)
                    assert reply.is_problem, (method, spelt, reply)
                    assert not secret.search(reply.body.decode()), (method, spelt, reply.body)
    print(f"{sum(counted.values())} requests: {dict(counted)}")
    assert counted[401] > 300


def test_spellings_with_credentials_are_what_they_are_or_nothing(world: World) -> None:
    """Whatever is answered, is what the plain path gets, under the same policy."""
    weak, strong = world.person("finance"), world.person("admin-of-all")
    counted: Counter[tuple[int, int]] = Counter()
    port = int(world.url.rpartition(":")[2])

    def ask(who: Any, spelt: str) -> int:
        lines = [f"{name}: {value}" for name, value in who.headers.items()]
        with Wire(port) as wire:
            wire.say(write_request("GET", spelt.encode().decode("latin-1"), *lines))
            outcome = wire.hear(replies=1, seconds=5)
        return outcome.statuses[0] if outcome.statuses else 0

    for place in (f"{V1}/users", f"{V1}/audit", f"{V1}/metrics"):
        assert (ask(weak, place), ask(strong, place)) == (403, 200)
        for spelt in spell(place):
            got = ask(weak, spelt), ask(strong, spelt)
            counted[got] += 1
            assert got[0] in (0, 400, 403, 404, 405, 422), (spelt, got)
            assert got[1] in (0, 200, 400, 404, 405, 422), (spelt, got)
            # What the strong are given the weak are refused, by the same name.
            assert got[1] != 200 or got[0] == 403, (spelt, got)
    print(dict(counted))
    assert counted[403, 200] >= 3


# --- below a prefix


class Outer:
    """A layer of the host's own, around everything."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-host", b"yes")]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, marked)


def mount(world: World, prefix: str) -> ASGIApp:
    """The app in a host's, whose own routes and layers are around it."""
    host = FastAPI()

    @host.get("/")
    def own() -> dict[str, bool]:
        return {"host": True}

    host.mount(prefix, world.app)
    host.add_middleware(Outer)
    return host


def behind(world: World, prefix: str) -> ASGIApp:
    """The app behind a proxy that takes a prefix away and says so, as `root_path` does."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": prefix, "path": prefix + scope["path"]}
        await world.app(scope, receive, send)

    return proxy


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    server = make_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 20, "the server listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    with World(f"sqlite:///{tmp_path / 'runs.db'}") as world:
        yield world


@pytest.mark.parametrize("how", ("mounted", "mounted deep", "behind a proxy"))
def test_below_a_prefix_everything_is_as_it_is(own_world: World, how: str) -> None:
    prefix = "/tools/of/iaflow" if how == "mounted deep" else "/iaflow"
    is_mounted = how.startswith("mounted")
    app = mount(own_world, prefix) if is_mounted else behind(own_world, prefix)
    with serve(app) as url, httpx2.Client(base_url=url, timeout=20) as http:
        asked = _Below(own_world, http, prefix if is_mounted else "", prefix, url)
        asked.sign_in_and_out()
        asked.refuse_what_is_foreign()
        asked.start_and_follow()
        asked.answer_by_link()
        asked.walk_all_routes()
        if is_mounted:
            assert http.get("/").json() == {"host": True}
            reply = http.get(f"{prefix}/api/v1/runs")
            assert reply.headers["x-host"] == "yes"
            # Outside of the prefix there is nothing of it.
            for path in (
                "/healthz",
                f"{V1}/runs",
                f"{prefix}x/healthz",
                f"{prefix}{prefix}/healthz",
            ):
                assert http.get(path).status_code in (401, 404), path


class _Below:
    """What is asked below a prefix; `sent` is what the server is asked for, `told` what it is."""

    def __init__(self, world: World, http: httpx2.Client, sent: str, told: str, url: str) -> None:
        self.world, self.http, self.sent, self.told, self.url = world, http, sent, told, url

    def ask(self, method: str, path: str, status: int, **more: Any) -> httpx2.Response:
        headers = {"X-Forwarded-For": self.world.address(), **more.pop("headers", {})}
        reply = self.http.request(method, self.sent + path, headers=headers, **more)
        assert reply.status_code == status, (method, path, reply.status_code, reply.text)
        assert reply.headers["x-content-type-options"] == "nosniff"
        return reply

    def sign_in(self, name: str = "operator") -> dict[str, str]:
        body = {"name": name, "password": PASSWORD}
        reply = self.ask("POST", f"{V1}/session", 201, json=body)
        [cookie] = reply.headers.get_list("set-cookie")
        # Or a browser would not keep it: this prefix of a name wants the whole host.
        assert cookie.startswith("__Host-iaflow=")
        assert "; Path=/;" in cookie
        self.http.cookies.clear()
        return {
            "Cookie": cookie.partition(";")[0],
            "X-CSRF-Token": reply.json()["csrf_token"],
            "Origin": self.url,
        }

    def sign_in_and_out(self) -> None:
        who = self.sign_in()
        assert self.ask("GET", f"{V1}/session", 200, headers=who).json()["name"] == "operator"
        self.ask("DELETE", f"{V1}/session", 204, headers=who)
        self.ask("GET", f"{V1}/session", 401, headers=who)

    def refuse_what_is_foreign(self) -> None:
        who = self.sign_in()
        path = f"{V1}/pipelines/{OWN}/pause"
        bare = {name: value for name, value in who.items() if name != "X-CSRF-Token"}
        self.ask("POST", path, 403, headers=bare)
        self.ask("POST", path, 403, headers={**who, "Origin": "https://evil.example"})
        self.ask("POST", path, 403, headers={**who, "Sec-Fetch-Site": "cross-site"})
        self.ask("POST", path, 200, headers=who)
        self.ask("POST", f"{V1}/pipelines/{OWN}/resume", 200, headers=who)
        foreign = {"Origin": "https://evil.example"}
        body = {"name": "operator", "password": PASSWORD}
        self.ask("POST", f"{V1}/session", 403, headers=foreign, json=body)
        self.ask("GET", "/healthz", 200)
        self.ask("GET", "/readyz", 200)
        self.ask("GET", f"{V1}/runs", 401)
        self.ask("GET", "/nothing", 401)
        self.ask("GET", "/nothing", 404, headers=who)
        # What steps out of a public beginning is not public, below a prefix either.
        self.ask("GET", f"/l/%2e%2e{V1}/runs", 401)

    def start_and_follow(self) -> None:
        who = self.sign_in()
        reply = self.ask("POST", f"{V1}/pipelines/{OWN}/runs", 201, headers=who, json={"input": {}})
        run_id = reply.json()["run_id"]
        place = reply.headers["location"]
        assert place == f"{self.told}{V1}/runs/{run_id}"
        # A browser resolves it against the host, so it comes back with the prefix.
        followed = place if self.sent else place.removeprefix(self.told)
        assert self.http.get(followed, headers=who).json()["run_id"] == run_id
        self.world.drive(run_id)
        stream = f"{self.sent}{V1}/runs/{run_id}/stream"
        with self.http.stream("GET", stream, headers=who) as told:
            assert told.status_code == 200
            text = "".join(told.iter_text())
        assert "event: end" in text

    def answer_by_link(self) -> None:
        who = self.sign_in("admin")
        run_id = self.world.client.start(OWN, {"kind": "ask"}, started_by="somebody").run_id
        self.world.drive(run_id)
        [pause] = self.world.client.inbox(run_id)
        path = f"{V1}/pauses/{pause.pause_id}/links"
        reply = self.ask("POST", path, 201, headers=who, json={"person": "maria"})
        address = reply.json()["url"]
        assert address.startswith(f"{self.url}{self.told}/l/"), address
        path = address.removeprefix(self.url + self.told)
        page = self.ask("GET", path, 200).text
        # Sent to where the page is: no path of its own that would leave the prefix.
        assert '<form method="post">' in page
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        self.ask("POST", path, 403, data={**form, "form_token": "", "field.decision": "0"})
        self.ask("POST", path, 200, data={**form, "field.decision": "0"})
        self.ask("POST", path, 410, data={**form, "field.decision": "0"})

    def walk_all_routes(self) -> None:
        """Who has not signed in is sent away from every route that is not public."""
        counted: Counter[int] = Counter()
        for route in RECIPES:
            method, _, path = route.partition(" ")
            reply = self.http.request(method, self.sent + re.sub(r"\{\w+\}", "x", path))
            counted[reply.status_code] += 1
            is_public = path in ("/healthz", "/readyz", f"{V1}/session", f"{V1}/setup")
            if is_public or path.startswith("/l/"):
                continue
            assert reply.status_code == 401, (route, reply.text)
            assert (
                json.loads(reply.content or b'{"code": "not_signed_in"}')["code"] == "not_signed_in"
            )
        assert counted[401] > 50
        print(f"{sum(counted.values())} routes below {self.told}: {dict(counted)}")
