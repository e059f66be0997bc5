"""A web to test: a real server in a thread, accounts of every role, and somebody who carries runs.

`Carrier` does what workers do, on messages, in a thread of this process. `Web` is the server and
what a test asks of it; `Visitor` is somebody who asks, by a session or by a token.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import httpx2
from pydantic import SecretStr
from starlette.types import ASGIApp

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.auth.sessions import SignedIn
from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.client import Client
from iaflow.data.records import StepTask
from iaflow.data.status import RunStatus
from iaflow.database import migrator
from iaflow.database.pipeline_store import PipelineStore
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.local import LocalExecutor
from iaflow.pipeline.maintenance import sweep
from iaflow.settings import Settings
from iaflow.web.app import create_app
from iaflow.web.server import make_server
from iaflow.web.tracking import Tracker
from tests.servers import wait_until

PASSWORD = "plum-cradle-oxide-74"
SECRET_KEY = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"
PATIENCE = 20.0

USERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adele": (("admin",), ("*",)),
    "otto": (("operator",), ("*",)),
    "aurel": (("author",), ("*",)),
    "vera": (("viewer",), ("*",)),
    "paula": (("approver",), ("*",)),
    # Operators of other pipelines than those that the tests are about.
    "fremd": (("operator", "approver"), ("foreign-*",)),
    "clara": (("operator", "approver", "clerk"), ("house", "own-*")),
}
"""Who has an account: roles, and the pipelines that they see."""


class Carrier:
    """Executes steps on messages, and sweeps, as workers do; an executor of the client."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._thread = threading.Thread(target=self._serve, name="carrier", daemon=True)
        self._is_over = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._executor: LocalExecutor | None = None
        self._is_ready = threading.Event()
        self.is_idle = False
        """Leaves messages where they are: what is ready stays so."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        assert self._is_ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def submit(self, tasks: Iterable[StepTask]) -> int:
        listed = list(tasks)
        self._loop.call_soon_threadsafe(self._take, listed)
        return len(listed)

    def submit_resume(self, pause_id: str, slug: str) -> bool:
        if self.is_idle:
            return True
        verb = partial(self._app.engine.resume, pause_id)
        self._loop.call_soon_threadsafe(self._begin, partial(self._conclude, verb))
        return True

    def depth(self) -> int | None:
        return None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._carry())
        finally:
            self._app.database.release_thread()
            self._loop.close()

    async def _carry(self) -> None:
        async with open_local_executor(self._app) as executor:
            self._executor = executor
            self._is_ready.set()
            while not self._is_over.is_set():
                if not self.is_idle:
                    await self._sweep()
                try:
                    await asyncio.wait_for(self._is_over.wait(), 0.1)
                except TimeoutError:
                    continue
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

    async def _sweep(self) -> None:
        swept = sweep(self._app.engine, republish_seconds=2.0)
        self._take(swept.tasks)
        for duty in swept.duties:
            await self._conclude(duty.verb)

    def _take(self, tasks: Iterable[StepTask]) -> None:
        if not self.is_idle:
            for task in tasks:
                self._begin(partial(self._execute, task))

    def _begin(self, work: Callable[[], Any]) -> None:
        task = self._loop.create_task(work())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _execute(self, task: StepTask) -> None:
        assert self._executor is not None
        settled = await self._executor.execute(task)
        if settled is not None:
            self._take(settled.tasks)

    async def _conclude(self, verb: Any) -> None:
        assert self._executor is not None
        self._take((await self._executor.conclude(verb)).tasks)


@dataclass
class Visitor:
    """Somebody who asks the API, with the credentials that they have."""

    web: Web
    name: str
    headers: dict[str, str]
    signed_in: SignedIn | None = None

    def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        sent = {**self.headers, **(headers or {})}
        return self.web.http.request(method, path, headers=sent, **more)

    def get(self, path: str, **params: Any) -> httpx2.Response:
        return self.ask("GET", path, params=params)

    def post(
        self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        return self.ask("POST", path, json=body, headers=headers)

    def read(self, path: str, **params: Any) -> Any:
        reply = self.get(path, **params)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def start(self, slug: str, given: Mapping[str, Any] | None = None, key: str = "") -> str:
        headers = {"Idempotency-Key": key} if key else {}
        reply = self.post(f"/api/v1/pipelines/{slug}/runs", {"input": given or {}}, headers=headers)
        assert reply.status_code in (200, 201), reply.text
        run_id: str = reply.json()["run_id"]
        return run_id

    def read_pages(self, path: str, **params: Any) -> list[Any]:
        """Return a whole list, page by page."""
        found: list[Any] = []
        while True:
            page = self.read(path, **params)
            found += page["items"]
            if page["next"] is None:
                return found
            params["cursor"] = page["next"]

    @contextmanager
    def listen(
        self, path: str, *, last: str | None = None, **params: Any
    ) -> Iterator[Iterator[Told]]:
        """Open a stream, and give its events; leaving the `with` breaks the connection."""
        headers = dict(self.headers)
        if last is not None:
            headers["Last-Event-ID"] = last
        with self.web.http.stream("GET", path, headers=headers, params=params) as reply:
            assert reply.status_code == 200, reply.read().decode()
            assert reply.headers["content-type"].startswith("text/event-stream")
            yield read_stream(reply.iter_lines())


@dataclass(frozen=True)
class Told:
    """One event of a stream, or a comment (`kind` is empty then)."""

    kind: str
    data: Any
    id: str | None = None


def read_stream(lines: Iterable[str]) -> Iterator[Told]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield Told("", line[1:].strip())
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "event" in fields:
                yield Told(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


class Web:
    """
    A server on one database; what it starts is carried by this process, or by workers.

    Args:
        broker_url: of the workers; None: there are none.
        tracker: how streams are watched; None: as in production.
        options: settings.
    """

    def __init__(
        self,
        database_url: str,
        *,
        broker_url: str | None = None,
        tracker: Callable[[Client], Tracker] = Tracker,
        **options: Any,
    ) -> None:
        settings = Settings.model_validate(
            {
                "IAFLOW_DATABASE_URL": database_url,
                "IAFLOW_BROKER_URL": broker_url,
                "secret_key": SecretStr(SECRET_KEY),
                "step_modules": ("tests.integration.houses",),
                "flower_url": "http://flower.example:5555/",
                **options,
            }
        )
        if database_url.startswith("sqlite"):
            migrator.upgrade(database_url)
        self.application = open_application(settings)
        self.carrier = Carrier(self.application)
        self.client = Client(
            engine=self.application.engine, executor=self.application.executor or self.carrier
        )
        self._is_carried = self.application.executor is None
        self.sessions = SessionManager(
            self.application.database,
            settings=settings,
            passwords=Passwords(time_cost=1, memory_kib=8),
        )
        self.tracker = tracker(self.client)
        self.app = create_app(self.client, self.sessions, settings, tracker=self.tracker)
        self.served: ASGIApp = self.app
        self.pipelines = PipelineStore(self.application.database)
        self._visitors: dict[str, Visitor] = {}

    def __enter__(self) -> Self:
        if self._is_carried:
            self.carrier.__enter__()
        self._server = make_server(self.served, host="127.0.0.1", port=0)
        self._thread = threading.Thread(target=self._server.run, name="web", daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, PATIENCE, "the server listens")
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        limits = httpx2.Limits(max_connections=None)
        self.http = httpx2.Client(base_url=self.url, timeout=PATIENCE, limits=limits)
        for name, (roles, pipelines) in USERS.items():
            self.sessions.accounts.create(
                name, roles=roles, pipelines=pipelines, password=PASSWORD, caller=Caller("test")
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.stop()
        if self._is_carried:
            self.carrier.__exit__()
        self.client.close()
        self.sessions.close()
        self.application.close()

    def stop(self) -> None:
        """Stop the server, as SIGTERM does."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    # -- who asks

    def user(self, name: str) -> Visitor:
        """Return somebody with a session, always the same."""
        if name not in self._visitors:
            self._visitors[name] = self.sign_in(name)
        return self._visitors[name]

    def sign_in(self, name: str) -> Visitor:
        """Return somebody with a session of their own."""
        signed_in = self.sessions.sign_in(name, PASSWORD)
        cookie = f"{self.sessions.cookie_name}={signed_in.token}"
        headers = {
            "Cookie": cookie,
            "X-CSRF-Token": signed_in.csrf_token,
            "Origin": self.url,
        }
        return Visitor(self, name, headers, signed_in)

    def token(self, name: str, *scopes: str) -> Visitor:
        """Return a program of a user's, with no more than these scopes."""
        signed_in = self.user(name).signed_in
        assert signed_in is not None
        _, text = self.sessions.tokens.create(
            signed_in.principal, f"of {name}", scopes, 1, caller=Caller(name)
        )
        return Visitor(self, name, {"Authorization": f"Bearer {text}"})

    @property
    def nobody(self) -> Visitor:
        return Visitor(self, "", {})

    # -- what there is

    def publish(self, definition: Mapping[str, Any]) -> str:
        """Make a definition the one that its slug runs; return the slug."""
        known = compile_definition(dict(definition)).definition
        self.client.publish(known)
        return known.slug

    def wait_for(self, run_id: str, *statuses: RunStatus) -> None:
        """Wait until a run is in one of these statuses; without any: at rest."""

        def is_there() -> bool:
            if statuses:
                return self.client.run(run_id).status in statuses
            return self.client.is_at_rest(run_id)

        wait_until(is_there, PATIENCE, f"run {run_id} is {statuses or 'at rest'}")

    def audited(self, action: str) -> list[Any]:
        """Return what the audit has of an action, the newest first."""
        return list(self.sessions.audit.list(action=action, limit=100))
