"""A web with its server, database and people, asked over HTTP as anybody would.

Decides how a test gets a house with a web in it and people of every role; never what is right.
Used by the tests of the routes about people.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.concurrency import run_async
from iaflow.data.records import PauseRecord
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from iaflow.web.app import create_app
from iaflow.web.server import make_server
from tests.servers import ServerRoom, wait_until

PASSWORD = "lamp violin harbour 77"
KEY = "Tq3vXz9LmW2rYb7KcN5hGd8PfJ4sA6uE1oI0"
ROOT = Caller("root")

APPROVAL: dict[str, Any] = {
    "name": "Approval",
    "slug": "approval-v1",
    "version": "1.0.0",
    "parameters": {"amount": 1.0},
    "steps": [
        {
            "id": "ask",
            "type": "human_input",
            "config": {
                "ui_schema": {
                    "title": "Approve <this>?",
                    "fields": [
                        {
                            "name": "decision",
                            "type": "radio",
                            "options": ["approve", "reject"],
                            "required": True,
                        },
                        {"name": "comment", "type": "textarea"},
                        {"name": "count", "type": "integer", "minimum": 0},
                    ],
                },
                "show": {"amount": "{{ parameters.amount }}"},
            },
        }
    ],
    "flow": {"start_at": "ask", "transitions": []},
}


def approval(slug: str = "approval-v1", **config: Any) -> dict[str, Any]:
    """Return a definition that asks once; `config` is laid over the step's."""
    [step] = APPROVAL["steps"]
    asking = {**step, "config": {**step["config"], **config}}
    return {**APPROVAL, "slug": slug, "steps": [asking]}


@dataclass
class Asker:
    """One who asks the web: signed in by a cookie, by a token, or not at all."""

    http: httpx2.Client
    csrf: str | None = None

    def __call__(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = dict(options.pop("headers", {}))
        if self.csrf is not None and method not in ("GET", "HEAD"):
            headers.setdefault("X-CSRF-Token", self.csrf)
            headers.setdefault("Origin", str(self.http.base_url).rstrip("/"))
        return self.http.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return self("POST", path, json=json, **options)

    def put(self, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return self("PUT", path, json=json, **options)

    def patch(self, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return self("PATCH", path, json=json, **options)

    def delete(self, path: str, **options: Any) -> httpx2.Response:
        return self("DELETE", path, **options)


@dataclass
class Web:
    """A web that serves, and all that stands behind it."""

    url: str
    app: Application
    sessions: SessionManager
    askers: list[httpx2.Client] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def nobody(self, **options: Any) -> Asker:
        """Return one who has not signed in."""
        http = httpx2.Client(base_url=self.url, timeout=30, trust_env=False, **options)
        self.askers.append(http)
        return Asker(http)

    def name(self, stem: str = "user") -> str:
        """Return a name that nobody has yet."""
        return f"{stem}-{next(self.numbers)}"

    def account(
        self, *roles: str, pipelines: tuple[str, ...] = ("*",), name: str | None = None
    ) -> str:
        """Make an account with the password of all; return its name."""
        name = name or self.name("-".join(roles) or "nobody")
        self.sessions.accounts.create(
            name, roles=roles, pipelines=pipelines, password=PASSWORD, caller=ROOT
        )
        return name

    def sign_in(self, name: str, password: str = PASSWORD) -> Asker:
        """Return one who has signed in by the API."""
        asker = self.nobody()
        replied = asker.post("/api/v1/session", {"name": name, "password": password})
        assert replied.status_code == 201, replied.text
        asker.csrf = replied.json()["csrf_token"]
        return asker

    def person(self, *roles: str, pipelines: tuple[str, ...] = ("*",)) -> Asker:
        """Return a new user of these roles, signed in without the cost of a password."""
        return self.as_user(self.account(*roles, pipelines=pipelines))

    def as_user(self, name: str) -> Asker:
        """Return a user, signed in."""
        signed = self.sessions.sign_in(name, PASSWORD, address=f"10.0.0.{next(self.numbers) % 250}")
        asker = self.nobody()
        # As a reply would set it: the next one takes its place.
        asker.http.cookies.set(
            self.sessions.cookie_name, signed.token, domain="127.0.0.1", path="/"
        )
        asker.csrf = signed.csrf_token
        return asker

    def by_token(self, name: str, *scopes: str) -> Asker:
        """Return a program that asks in a user's name by a token."""
        user = self.sessions.accounts.get_by_name(name)
        from iaflow.auth.accounts import principal_of

        _, text = self.sessions.tokens.create(principal_of(user), "t", scopes, 1, caller=ROOT)
        return self.nobody(headers={"Authorization": f"Bearer {text}"})

    def keep(self, definition: Mapping[str, Any]) -> str:
        """Import a definition; return its slug."""
        graph = compile_definition(dict(definition))
        self.app.client.publish(graph.definition)
        return graph.definition.slug

    def drive(self, run_id: str) -> None:
        """Execute a run here until it ends or waits."""

        async def drive() -> None:
            async with open_local_executor(self.app) as executor:
                await executor.drive(run_id)

        run_async(drive())

    def ask(
        self, slug: str | None = None, *, started_by: str | None = None, **config: Any
    ) -> PauseRecord:
        """Start a run that asks, and return its question."""
        slug = self.keep(approval(slug or self.name("approval"), **config))
        run_id = self.app.client.start(slug, started_by=started_by).run_id
        self.drive(run_id)
        [pause] = self.app.client.inbox(run_id)
        return pause


def open_web(database_url: str) -> Iterator[Web]:
    """Serve a web on a database until the generator is closed."""
    settings = Settings().model_copy(update={"database_url": database_url})
    app = open_application(settings)
    sessions = SessionManager(
        app.database,
        secret_key=KEY,
        settings=settings,
        is_development=True,
        # What is tried here is not how much a guess costs.
        passwords=Passwords(time_cost=1, memory_kib=64),
    )
    server = make_server(create_app(app.client, sessions, settings), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, name="web")
    thread.start()
    try:
        wait_until(lambda: server.started, 20, "the web")
        port = server.servers[0].sockets[0].getsockname()[1]
        web = Web(f"http://127.0.0.1:{port}", app, sessions)
        yield web
        for http in web.askers:
            http.close()
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        app.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web on each kind of database; tests of a file share it, and bring people of their own."""
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("web") / "web.db"
        yield from open_web(f"sqlite:///{path}")
        return
    room: ServerRoom = request.getfixturevalue("server_room")
    template: str = request.getfixturevalue("postgres_template")
    url = room.create_database(template)
    yield from open_web(url)
    room.postgres.drop_database(url)
