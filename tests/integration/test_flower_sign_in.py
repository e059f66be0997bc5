"""The real Flower behind the sign-in of the web, over HTTP: who sees it, and for how long."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg2
import pytest
from flower.urls import handlers
from flower.views import BaseHandler
from tornado.web import StaticFileHandler

from iaflow.auth import SessionManager
from iaflow.auth.accounts import principal_of
from iaflow.auth.audit import Caller
from iaflow.cli.flower import list_flower_options
from iaflow.errors import SettingsRefused
from iaflow.settings import Settings
from tests.servers import ServerRoom, wait_until
from tests.servers.processes import find_free_port, read_tail, spawn
from tests.servers.worker import ROOT

PASSWORD = "plum-cradle-oxide-74"
KEY = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"
COOKIE = "iaflow-flower"
TEST = Caller("test")


@dataclass
class Looker:
    """Somebody before Flower, with a browser that keeps cookies."""

    http: httpx2.Client
    cookies: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = dict(more.pop("headers", {}))
        if self.cookies:
            pairs = (f"{name}={value}" for name, value in self.cookies.items())
            headers.setdefault("Cookie", "; ".join(pairs))
        replied = self.http.request(method, path, headers=headers, **more)
        for line in replied.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if not self.cookies[name]:
                del self.cookies[name]
        return replied

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self("GET", path, **more)

    def send(self, path: str, fields: dict[str, str], **headers: str) -> httpx2.Response:
        """Fill in the form of a page, and send it."""
        page = self.get(path)
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert token is not None, page.text
        return self("POST", path, data={"_xsrf": token[1], **fields}, headers=headers)

    def sign_in(self, name: str, password: str = PASSWORD, path: str = "/login") -> httpx2.Response:
        return self.send(path, {"name": name, "password": password})

    def sees(self) -> bool:
        replied = self.get("/tasks")
        assert replied.status_code in (200, 302)
        return replied.status_code == 200


@dataclass
class Scene:
    url: str
    sessions: SessionManager
    log: Path
    http: httpx2.Client
    database_url: str
    count: int = 0

    def looker(self, **cookies: str) -> Looker:
        return Looker(self.http, dict(cookies))

    def account(self, *roles: str) -> str:
        self.count += 1
        name = f"user-{self.count}"
        self.sessions.accounts.create(name, roles=roles, password=PASSWORD, caller=TEST)
        return name

    def user_id(self, name: str) -> str:
        return self.sessions.accounts.get_by_name(name).user_id

    def operator(self) -> tuple[str, Looker]:
        name = self.account("operator")
        looker = self.looker()
        assert looker.sign_in(name).status_code == 302
        assert looker.sees()
        return name, looker


@pytest.fixture(scope="module")
def scene(
    server_room: ServerRoom, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("flower")
    database_url = server_room.create_database(postgres_template)
    broker_url = server_room.take_redis_database()
    url, log = f"http://127.0.0.1:{find_free_port()}", folder / "flower.log"
    environment = {
        **os.environ,
        "IAFLOW_DATABASE_URL": database_url,
        "IAFLOW_BROKER_URL": broker_url,
        "IAFLOW_SECRET_KEY": KEY,
        # What would open the API by itself has no say.
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    argv = [sys.executable, "-m", "iaflow.cli", "flower", "--sign-in"]
    argv += ["--port", url.rpartition(":")[2]]
    process = spawn(argv, log=log, cwd=ROOT, env=environment)
    server_room.guardian.watch(process.pid)
    settings = Settings().model_copy(update={"database_url": database_url})
    sessions = SessionManager(database_url, secret_key=KEY, settings=settings)
    http = httpx2.Client(base_url=url, timeout=20, trust_env=False)

    def answers() -> bool:
        try:
            return http.get("/healthcheck").text == "OK"
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, 30, f"Flower; its log ends:\n{read_tail(log)}")
        yield Scene(url, sessions, log, http, database_url)
    finally:
        http.close()
        sessions.close()
        process.terminate()
        process.wait(timeout=20)
        server_room.guardian.forget(process.pid)
        server_room.postgres.drop_database(database_url)


def every_path() -> list[str]:
    """Return a path to each place of Flower, but for those that are open."""
    patterns = [one[0] if isinstance(one, tuple) else one.regex.pattern for one in handlers]
    found = {re.sub(r"\(\.[+*]\)", "x", one).rstrip("$").replace("/?", "") for one in patterns}
    return [*sorted(found - {"/healthcheck", "/login", "/static/x", ".*"}), "/nothing"]


def test_every_place_of_flower_is_behind_the_door() -> None:
    kinds = [one[1] if isinstance(one, tuple) else one.handler_class for one in handlers]
    assert all(issubclass(kind, BaseHandler | StaticFileHandler) for kind in kinds)
    assert len(every_path()) > 25


@pytest.mark.parametrize("path", every_path())
def test_who_has_not_signed_in_sees_nothing(scene: Scene, path: str) -> None:
    for cookies in (
        {},
        {"user": "ann"},
        {COOKIE: "x" * 43},
        {COOKIE: ""},
        {"__Host-iaflow": "y" * 43},
    ):
        for method in ("GET", "POST", "HEAD", "DELETE"):
            replied = scene.looker(**cookies)(method, path)
            if replied.status_code == 302:
                assert replied.headers["location"].startswith("/login?next=")
                assert method in ("GET", "HEAD")
            else:
                # Without a page's own token nothing that changes gets as far as the door.
                assert replied.status_code in (401, 403, 405), (method, replied.text)
            assert "celery" not in replied.text


def test_an_operator_signs_in_and_out(scene: Scene) -> None:
    name = scene.account("operator")
    looker = scene.looker()
    sent = looker.get("/workers?x=1")
    assert sent.headers["location"] == "/login?next=%2Fworkers%3Fx%3D1"
    page = looker.get(sent.headers["location"])
    assert "Sign in" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    done = looker.sign_in(name.upper(), path=sent.headers["location"])
    assert (done.status_code, done.headers["location"]) == (302, "/workers?x=1")
    [cookie] = [one for one in done.headers.get_list("set-cookie") if COOKIE in one]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert looker.sees()
    assert f"Log out {name}" in looker.get("/workers").text
    stolen = scene.looker(**looker.cookies)
    # Looking at the way out is not going.
    assert "Sign out" in looker.get("/logout").text
    assert stolen.sees()
    assert looker("POST", "/logout").status_code == 403
    assert stolen.sees()
    out = looker.send("/logout", {})
    assert (out.status_code, COOKIE in looker.cookies) == (302, False)
    assert not stolen.sees()
    [kept] = scene.sessions.audit.list(actor=name, action="sign_out")
    assert kept.address == "127.0.0.1"


@pytest.mark.parametrize("roles", (("viewer",), ("author",), ("approver",), ("clerk",), ()))
def test_only_who_operates_may_look(scene: Scene, roles: tuple[str, ...]) -> None:
    looker = scene.looker()
    replied = looker.sign_in(scene.account(*roles))
    assert replied.status_code == 403
    assert COOKIE not in looker.cookies
    assert not looker.sees()


def test_wrong_passwords_are_refused_and_slowed_down(scene: Scene) -> None:
    name = scene.account("admin")
    told = set()
    for who, password in ((name, "wrong"), ("nobody-there", PASSWORD), (name, "x" * 2_000)):
        replied = scene.looker().sign_in(who, password)
        told.add((replied.status_code, re.search(r'role="alert">([^<]*)', replied.text)[1]))  # type: ignore[index]
    assert len(told) == 1
    assert next(iter(told))[0] == 401
    found = [scene.looker().sign_in(name, "wrong") for _ in range(7)]
    assert found[-1].status_code == 429
    assert int(found[-1].headers["retry-after"]) >= 1
    assert "wrong" not in scene.log.read_text()
    foreign = scene.looker()
    page = foreign.get("/login")
    assert page.status_code == 200
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        replied = foreign.send("/login", {"name": name, "password": PASSWORD}, **headers)
        assert replied.status_code == 403


@pytest.mark.parametrize("end", ("disabled", "roles", "session", "deleted"))
def test_what_ends_a_session_ends_it_here_at_once(scene: Scene, end: str) -> None:
    name, looker = scene.operator()
    accounts, user_id = scene.sessions.accounts, scene.user_id(name)
    match end:
        case "disabled":
            accounts.set(user_id, is_disabled=True, caller=TEST)
        case "roles":
            accounts.set(user_id, roles=("viewer",), caller=TEST)
        case "session":
            [session] = scene.sessions.sessions_of(user_id)
            assert scene.sessions.end_session(user_id, session.session_id)
        case "deleted":
            accounts.delete(user_id, caller=TEST)
    assert not looker.sees()
    assert looker.get("/api/workers").status_code == 401


def test_the_cookie_of_the_web_is_good_here(scene: Scene) -> None:
    signed = scene.sessions.sign_in(scene.account("admin"), PASSWORD)
    looker = scene.looker(**{"__Host-iaflow": signed.token})
    assert looker.sees()
    assert looker.get("/api/workers").status_code == 200
    scene.sessions.sign_out(signed.session.session_id)
    assert not looker.sees()
    viewer = scene.sessions.sign_in(scene.account("viewer"), PASSWORD)
    replied = scene.looker(**{"__Host-iaflow": viewer.token}).get("/tasks")
    assert replied.status_code == 403


def test_programs_come_by_a_token(scene: Scene) -> None:
    name = scene.account("operator")
    principal = principal_of(scene.sessions.accounts.get_by_name(name))
    tokens = scene.sessions.tokens
    _, text = tokens.create(principal, "prometheus", ["metrics:read"], 1, caller=TEST)
    _, narrow = tokens.create(principal, "other", ["runs:read"], 1, caller=TEST)
    for path in ("/metrics", "/api/workers"):
        good = scene.looker().get(path, headers={"Authorization": f"Bearer {text}"})
        assert good.status_code == 200
        bad = scene.looker().get(path, headers={"Authorization": f"Bearer {narrow}"})
        assert bad.status_code == 403
    both = scene.looker(**{"__Host-iaflow": "x" * 43})
    replied = both.get("/tasks", headers={"Authorization": f"Bearer {text}"})
    assert replied.status_code == 400


def test_what_a_page_fetches_by_itself_keeps_no_session_awake(scene: Scene) -> None:
    name, looker = scene.operator()
    [session] = scene.sessions.sessions_of(scene.user_id(name))
    long_ago = session.seen_at - timedelta(minutes=10)
    connecting = closing(psycopg2.connect(scene.database_url))
    with connecting as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE iaflow.sessions SET seen_at = %s WHERE session_id = %s",
            (long_ago, session.session_id),
        )

    def seen_at() -> datetime:
        [now] = scene.sessions.sessions_of(scene.user_id(name))
        return now.seen_at

    assert looker.get("/workers", headers={"X-Requested-With": "XMLHttpRequest"}).is_success
    assert seen_at() == long_ago
    assert looker.get("/workers").is_success
    assert seen_at() > long_ago


def test_nobody_acts_on_workers_though_signed_in(scene: Scene) -> None:
    _, looker = scene.operator()
    looker.get("/workers")
    token = looker.cookies["_xsrf"]
    replied = looker("POST", "/api/worker/shutdown/x", headers={"X-XSRFToken": token})
    assert replied.status_code in (403, 404)


# --- the command


def test_one_sign_in_is_enough() -> None:
    def options(*given: str, **environment: str) -> list[str]:
        return list_flower_options(
            given, address="10.0.0.1", port=1, environment=environment, has_sign_in=True
        )

    assert "--auth-provider=iaflow.cli.flower_sign_in.SignInHandler" in options()
    for given, environment in (
        (("--basic-auth=a:b",), {}),
        (("--auth=.*",), {}),
        (("--auth_provider=x.Y",), {}),
        ((), {"FLOWER_BASIC_AUTH": "a:b"}),
        ((), {"FLOWER_AUTH_PROVIDER": "x.Y"}),
    ):
        with pytest.raises(SettingsRefused, match="leave --"):
            options(*given, **environment)
