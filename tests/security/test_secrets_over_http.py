"""Canaries in all that is secret (T14): a story over HTTP, and then everything is looked through.

Decides where each of them may be found, which for most is nowhere: not in a row, a line of a log,
a message of the broker, a reply to others, what `iaflow doctor` says; in no spelling, nor cut.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.bootstrap import open_application, open_local_executor
from iaflow.data.status import END_OF_RUN
from iaflow.database import migrator
from iaflow.settings import Settings
from tests.security.wire import ROOT, HastyServer
from tests.servers import ServerRoom, wait_until
from tests.servers.fixtures import StartWorker

V1: Final = "/api/v1"
PATIENCE: Final = 30.0

STEPS: Final = """
from iaflow.pipeline import Step


class Use(Step):
    async def work(self, data):
        secret = self.config["key"]
        self.context.log(f"using {secret}", token=secret)
        self.context.progress(0.5, f"half with {secret}")
        match self.config.get("then"):
            case "fail":
                raise RuntimeError(f"https://user:{secret}@example.org refused")
            case "leak":
                return {"deep": [{"copied": f"Bearer {secret}"}]}
        return {"length": len(secret)}
"""

WINDOW: Final = 12
DATA: Final = ("input", "answer", "linked answer")
"""A run's own data: kept with it, and shown to whoever may see that."""
HANDED: Final = ("setup", "token", "link", "csrf", "session", "form")
"""What the web gives out; to whom it belongs, in one reply."""


def open_engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))


def draw() -> str:
    """Return a secret that nothing else has a piece of, and that is spelt otherwise in an URL."""
    return f"{os.urandom(6).hex()}+{os.urandom(6).hex()}/{os.urandom(6).hex()}=ü"


def spellings(secret: str) -> set[str]:
    """Return pieces of a secret at every offset, as it is, in an URL, in Base64, hex and JSON."""
    raw = secret.encode()
    texts = {
        secret,
        quote(secret, safe=""),
        quote(secret),
        json.dumps(secret)[1:-1],
        raw.hex(),
        # The same bytes inside of others stand otherwise in Base64, in two more ways.
        *(base64.b64encode(b"\0" * at + raw).decode()[2 * at :].rstrip("=") for at in range(3)),
        *(base64.urlsafe_b64encode(b"\0" * at + raw).decode()[2 * at :] for at in range(3)),
    }
    pieces = set()
    for text in texts:
        size = 2 * WINDOW if text == raw.hex() else WINDOW
        pieces |= {text[at : at + size] for at in range(max(1, len(text) - size + 1))}
    return pieces


@dataclass
class Story:
    """A web in a process of its own, who executes its runs, and all that came out of both."""

    server: HastyServer
    env: Mapping[str, str]
    url: str
    canaries: dict[str, str]
    drive: Any
    sinks: dict[str, str] = field(default_factory=dict)
    replies: list[tuple[str, str, str]] = field(default_factory=list)
    """To what, what was said, and which canaries that is meant to hold."""
    statuses: dict[int, int] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        who: Mapping[str, str] | None = None,
        *,
        holds: str = "",
        body: Any = None,
        status: int | tuple[int, ...] = 200,
        **more: Any,
    ) -> httpx2.Response:
        if body is not None:
            more["json"] = body
        headers = {**(who or {}), **more.pop("headers", {})}
        reply = httpx2.request(
            method, self.server.url + path, headers=headers, timeout=PATIENCE, **more
        )
        wanted = (status,) if isinstance(status, int) else status
        assert reply.status_code in wanted, (method, path, reply.status_code, reply.text)
        self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
        head = "\n".join(f"{k}: {v}" for k, v in reply.headers.multi_items())
        label = f"{reply.status_code} {method} {path[:40]}"
        self.replies.append((label, f"{head}\n{reply.text}", holds))
        return reply

    def sign_in(self, name: str, password: str) -> dict[str, str]:
        body = {"name": name, "password": password}
        reply = self.ask("POST", f"{V1}/session", body=body, status=201, holds="session csrf")
        cookie = reply.headers["set-cookie"].partition(";")[0]
        return {
            "Cookie": cookie,
            "X-CSRF-Token": reply.json()["csrf_token"],
            "Origin": self.server.url,
        }

    def dump(self) -> dict[str, str]:
        """Return every table as text."""
        found = {}
        key = self.canaries["key"]
        with (
            SessionManager(self.url, secret_key=key, settings=Settings()) as one,
            one.database.engine.connect() as connection,
        ):
            for table in one.database.tables.metadata.sorted_tables:
                columns = [sa.type_coerce(column, sa.Text) for column in table.c]
                rows = connection.execute(sa.select(*columns)).all()
                found[table.name] = "\n".join("\t".join(map(str, row)) for row in rows)
        return found


def definition(slug: str, then: str) -> dict[str, Any]:
    """A pipeline whose first step has a secret, and that asks a person unless it fails."""

    def use(id: str, then: str, secret: str) -> dict[str, Any]:
        config = {"key": {"$secret": secret}, "then": then}
        return {"id": id, "module": "secretive_steps", "step_class": "Use", "config": config}

    fields = [{"name": "note", "type": "text"}]
    ask = {"id": "ask", "type": "human_input", "config": {"ui_schema": {"fields": fields}}}
    steps = [use("first", "", "used"), use("second", then, "spilt"), ask]
    flow = {
        "start_at": "first",
        "transitions": [{"from": "first", "to": "second"}, {"from": "second", "to": "ask"}],
    }
    return {"name": slug, "steps": steps, "flow": flow, "parameters": {"word": ""}}


def tell(story: Story) -> None:
    """Sign in, start, answer, follow links, and be refused in every way."""
    canaries = story.canaries
    admin = story.sign_in("adele", canaries["password"])
    canaries["session"] = admin["Cookie"].partition("=")[2]
    canaries["csrf"] = admin["X-CSRF-Token"]
    refuse(story, admin)
    # Accounts, tokens.
    body = {"name": "nina", "roles": ["approver"]}
    story.ask("POST", f"{V1}/users", admin, body=body, status=201)
    made = story.ask("POST", f"{V1}/users/nina/setup", admin, status=201, holds="setup")
    canaries["setup"] = made.json()["setup_token"]
    nina_body = {"token": canaries["setup"], "password": canaries["first password"]}
    story.ask("POST", f"{V1}/setup", body=nina_body)
    story.ask("POST", f"{V1}/setup", body=nina_body, status=404)
    body = {"name": "ci", "scopes": ["runs:read", "runs:start"], "days": 3}
    made = story.ask("POST", f"{V1}/tokens", admin, body=body, status=201, holds="token")
    canaries["token"] = made.json()["token"].split("_", 2)[2]
    program = {"Authorization": f"Bearer {made.json()['token']}"}
    nina = story.sign_in("nina", canaries["first password"])
    body = {"old": canaries["wrong password"], "new": canaries["next password"]}
    story.ask("PUT", f"{V1}/password", nina, body=body, status=422)
    body = {"old": canaries["first password"], "new": canaries["next password"]}
    story.ask("PUT", f"{V1}/password", nina, body=body, holds="csrf")
    nina = story.sign_in("nina", canaries["next password"])
    # Runs.
    for slug, then in (("spill", ""), ("fall", "fail"), ("leak", "leak")):
        body = {"definition": definition(slug, then)}
        story.ask("POST", f"{V1}/pipelines", admin, body=body, status=201)
    run_ids = []
    for slug in ("spill-v1", "spill-v1", "fall-v1", "leak-v1"):
        body = {"input": {"word": canaries["input"]}}
        path = f"{V1}/pipelines/{slug}/runs"
        started = story.ask("POST", path, program, body=body, status=201)
        run_ids.append(started.json()["run_id"])
    story.drive(run_ids)
    is_read = "input"
    states = [
        story.ask("GET", f"{V1}/runs/{run_id}", admin, holds=is_read).json()["status"]
        for run_id in run_ids
    ]
    assert states == ["waiting", "waiting", "failed", "failed"], [
        (one["step_id"], one["error"])
        for run_id in run_ids
        for one in story.ask("GET", f"{V1}/runs/{run_id}/steps", admin).json()["items"]
    ]
    # Answers: by a session, by a link, by nobody.
    pauses = story.ask("GET", f"{V1}/pauses", nina).json()["items"]
    answered, linked = (one["pause_id"] for one in pauses)
    body = {"answer": {"note": canaries["answer"]}}
    story.ask("POST", f"{V1}/pauses/{answered}/answer", program, body=body, status=403)
    story.ask("POST", f"{V1}/pauses/{answered}/answer", body=body, status=401)
    bad = {"answer": {"note": [canaries["answer"]]}}
    story.ask("POST", f"{V1}/pauses/{answered}/answer", nina, body=bad, status=422)
    story.ask("POST", f"{V1}/pauses/{answered}/answer", nina, body=body, holds="answer")
    story.ask("POST", f"{V1}/pauses/{answered}/answer", nina, body=body, status=409)
    path = f"{V1}/pauses/{linked}/links"
    made = story.ask("POST", path, admin, body={"person": "eve"}, status=201, holds="link")
    canaries["link"] = made.json()["url"].rpartition("/")[2]
    story.ask("GET", path, admin)
    place = f"/l/{canaries['link']}"
    page = story.ask("GET", place, holds="form")
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    canaries["form"] = hidden["form_token"]
    form = {**hidden, "field.note": canaries["linked answer"]}
    story.ask("POST", place, data={**form, "form_token": canaries["link"]}, status=403)
    story.ask("POST", place, data=form)
    story.ask("POST", place, data=form, status=410)
    story.drive(run_ids)
    # What others are told of all that: approvers see questions, and no data.
    for run_id in run_ids:
        for tail in ("", "/steps", "/events", "/decisions", "/steps/ask", "/steps/second/why"):
            holds = " ".join(DATA) if tail in ("", "/steps/ask") else ""
            story.ask("GET", f"{V1}/runs/{run_id}{tail}", program, holds=holds)
            story.ask("GET", f"{V1}/runs/{run_id}{tail}", nina, status=403)
            story.ask("GET", f"{V1}/runs/{run_id}{tail}", status=401)
    for path in ("/audit", "/users", "/sessions", "/tokens", "/runs", "/pauses", "/schedules"):
        story.ask("GET", V1 + path, admin, holds="input" if path == "/runs" else "")
    story.ask("GET", f"{V1}/pauses/{linked}", nina)
    story.ask("GET", f"{V1}/openapi.json", admin)
    story.ask("GET", f"{V1}/metrics", admin)
    story.ask("GET", f"{V1}/session", admin, holds="csrf")
    break_down(story, admin, program)
    story.ask("DELETE", f"{V1}/session", admin, status=204)
    story.ask("GET", f"{V1}/runs", admin, status=401)


def refuse(story: Story, admin: Mapping[str, str]) -> None:
    """Send secrets to where they are of no use."""
    canaries = story.canaries
    sign_in = f"{V1}/session"
    typed = canaries["typed as a name"]
    for name, password in (
        ("adele", canaries["wrong password"]),
        (typed, canaries["wrong password"]),
        (typed, typed),
        ("nobody", canaries["wrong password"]),
    ):
        body = {"name": name, "password": password}
        story.ask("POST", sign_in, body=body, status=401)
    for body in (
        {"name": "adele", "password": [canaries["wrong password"]]},
        {"name": {"a": canaries["wrong password"]}},
        {"name": "adele", "password": canaries["wrong password"], "more": typed},
        {"password": canaries["wrong password"] * 40, "name": "adele"},
        [canaries["wrong password"]],
        canaries["wrong password"],
    ):
        story.ask("POST", sign_in, body=body, status=422)
    raw = json.dumps({"name": typed, "password": canaries["wrong password"]})
    kind = {"Content-Type": "application/json"}
    for content in (raw[:-1], raw + raw, raw.encode("utf-16"), raw.replace(":", "=")):
        story.ask("POST", sign_in, content=content, headers=kind, status=422)
    story.ask("POST", sign_in, content=raw, headers={"Content-Type": "text/plain"}, status=415)
    for headers, status in (
        ({"Authorization": f"Bearer {quote(canaries['bearer'])}"}, 401),
        ({"Authorization": f"Basic {quote(canaries['basic'])}"}, 401),
        ({"Cookie": f"__Host-iaflow={quote(canaries['cookie'])}"}, 401),
        ({"Cookie": f"other={quote(canaries['foreign cookie'])}"}, 401),
        ({**admin, "Authorization": f"Bearer {quote(canaries['bearer'])}"}, 400),
        ({"Proxy-Authorization": quote(canaries["basic"])}, 401),
    ):
        story.ask("GET", f"{V1}/runs", headers=headers, status=status)
    marked = {**admin, "X-CSRF-Token": quote(canaries["csrf that is wrong"])}
    story.ask("POST", f"{V1}/runs/bulk/cancel", marked, body={"filter": {}}, status=403)
    # Somebody puts it into an address; and into the path of what is not there.
    query = {"token": canaries["in an address"]}
    story.ask("GET", f"{V1}/runs", params=query, status=401)
    story.ask("GET", f"/l/{quote(canaries['in an address'], safe='')}", status=404)
    story.ask("GET", f"/{quote(canaries['in an address'], safe='')}", status=401)
    body = {"token": canaries["in an address"], "password": canaries["next password"]}
    story.ask("POST", f"{V1}/setup", body=body, status=404)


def break_down(story: Story, admin: Mapping[str, str], program: Mapping[str, str]) -> None:
    """Take columns away that statements with secrets in them need: faults with all they know."""
    engine = open_engine(story.url)
    schema = "iaflow." if story.url.startswith("postgres") else ""
    broken = (
        ("users", "password_hash"),
        ("pauses", "ui_schema"),
        ("run_payloads", "input"),
        ("sign_ins", "name_hash"),
        ("sessions", "token_hash"),
        ("api_tokens", "token_hash"),
        ("answer_links", "token_hash"),
    )
    inspected = sa.inspect(engine)
    count = 0
    for table, column in broken:
        named = (
            {one["name"] for one in inspected.get_columns(table, schema=schema[:-1] or None)}
            if table in inspected.get_table_names(schema=schema[:-1] or None)
            else set()
        )
        if column not in named:
            continue
        rename = f"ALTER TABLE {schema}{table} RENAME COLUMN"
        with engine.begin() as connection:
            connection.execute(sa.text(f"{rename} {column} TO was_{column}"))
        try:
            count += _ask_what_is_broken(story, admin, program)
        finally:
            with engine.begin() as connection:
                connection.execute(sa.text(f"{rename} was_{column} TO {column}"))
    engine.dispose()
    print(f"{count} faults of statements with secrets in them")
    assert count >= 5


def _ask_what_is_broken(story: Story, admin: Mapping[str, str], program: Mapping[str, str]) -> int:
    canaries, before = story.canaries, story.statuses.get(500, 0)
    any_status = tuple(range(200, 504))
    body: Any = {"name": "adele", "password": canaries["password"]}
    story.ask("POST", f"{V1}/session", body=body, status=any_status, holds="session csrf")
    body = {"token": canaries["in an address"], "password": canaries["next password"]}
    story.ask("POST", f"{V1}/setup", body=body, status=any_status)
    body = {"input": {"word": canaries["input"]}}
    path = f"{V1}/pipelines/spill-v1/runs"
    story.ask("POST", path, program, body=body, status=any_status)
    story.ask("GET", f"{V1}/runs", admin, status=any_status, holds="input")
    story.ask("GET", f"/l/{canaries['link']}", status=any_status)
    return story.statuses.get(500, 0) - before


# --- looking through it


def find_leaks(story: Story) -> list[tuple[str, str]]:
    """Return which canaries are where they may not be."""
    rows = story.dump()
    places = {f"table {name}": text for name, text in rows.items()}
    places |= {f"sink {name}": text for name, text in story.sinks.items()}
    leaks = []
    for name, secret in story.canaries.items():
        needles = spellings(secret)
        for place, text in places.items():
            if name in DATA and place.startswith("table "):
                continue
            found = [needle for needle in needles if needle in text]
            if found:
                at = text.index(found[0])
                leaks.append((name, f"{place}: …{text[max(0, at - 200) : at + 60]}…"))
        for label, told, holds in story.replies:
            if name not in holds.split(" ") and not (name in DATA and name in holds):
                found = [needle for needle in needles if needle in told]
                if found:
                    leaks.append((name, label))
    size = sum(map(len, places.values())) + sum(len(told) for _, told, _ in story.replies)
    print(
        f"{len(story.canaries)} canaries, {len(story.replies)} replies {story.statuses}, "
        f"{len(places)} tables and sinks, {size:,} characters"
    )
    return leaks


def judge(story: Story) -> None:
    canaries = story.canaries
    assert len(canaries) >= 20
    leaks = find_leaks(story)
    assert leaks == [], leaks
    # It is looked for in the right place: what may be there is there.
    rows = story.dump()
    assert any(
        canaries["answer"] in text or json.dumps(canaries["answer"])[1:-1] in text
        for text in rows.values()
    )
    assert "$argon2id$" in rows["users"]
    assert "sign_in.refused" in rows["audit_events"]
    assert '"web.error"' in story.sinks["web"]
    for name in ("password", "token", "link", "answer", "used"):
        spilt = Story(**{**story.__dict__, "sinks": {"x": f"a{canaries[name][3:20]}b"}})
        assert [told for leaked, told in find_leaks(spilt) if leaked == name], (
            f"a piece of {name} is not noticed"
        )


NAMES: Final = (
    *("used", "spilt", "key", "notify", "password", "wrong password", "typed as a name"),
    *("first password", "next password", "bearer", "basic", "cookie", "foreign cookie"),
    *("csrf that is wrong", "in an address", *DATA),
)


@contextmanager
def make_story(
    folder: Path, room: ServerRoom, url: str, drive: Any, env: Mapping[str, str], **more: str
) -> Iterator[Story]:
    canaries = {name: draw() for name in NAMES} | more
    (folder / "secrets").mkdir()
    for name in ("used", "spilt"):
        (folder / "secrets" / name).write_text(canaries[name] + "\n")
    (folder / "secretive_steps.py").write_text(STEPS)
    settings = {
        "IAFLOW_DATABASE_URL": url,
        "IAFLOW_SECRET_KEY": canaries["key"],
        "IAFLOW_SECRETS_FOLDER": str(folder / "secrets"),
        "IAFLOW_STEP_MODULES": "secretive_steps",
        "IAFLOW_NOTIFY_URL": "http://127.0.0.1:9/",
        "IAFLOW_NOTIFY_SECRET": canaries["notify"],
        "IAFLOW_LOG_LEVEL": "DEBUG",
        **env,
    }
    with SessionManager(url, secret_key=canaries["key"], settings=Settings()) as sessions:
        sessions.accounts.create(
            "adele", roles=("admin",), password=canaries["password"], caller=Caller("test")
        )
    with HastyServer(room.guardian, folder, settings) as server:
        yield Story(server, settings, url, canaries, drive)


def run_doctor(story: Story) -> str:
    """Return all that `iaflow doctor` and other commands say of this deployment."""
    told = []
    for words in (["doctor"], ["users", "show", "adele"]):
        done = subprocess.run(
            [sys.executable, "-m", "iaflow.cli", *words],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **story.env, "PYTHONPATH": str(story.server.log.parent)},
            timeout=60,
        )
        told.append(done.stdout + done.stderr)
    assert "secret" in told[0].lower()
    return "\n".join(told)


@pytest.mark.slow
def test_no_canary_flies_on_sqlite(
    server_room: ServerRoom,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    migrator.upgrade(url)
    monkeypatch.syspath_prepend(str(tmp_path))
    caplog.set_level("DEBUG", logger="iaflow")

    def drive(run_ids: list[str]) -> None:
        settings = Settings.model_validate(
            {
                "IAFLOW_DATABASE_URL": url,
                "step_modules": ("secretive_steps",),
                "secrets_folder": tmp_path / "secrets",
                "secret_key": SecretStr(story.canaries["key"]),
            }
        )
        with closing(open_application(settings)) as app:

            async def work() -> None:
                async with open_local_executor(app) as executor:
                    for run_id in run_ids:
                        await executor.drive(run_id)

            asyncio.run(work())

    with make_story(tmp_path, server_room, url, drive, {}) as story:
        tell(story)
        story.sinks["doctor"] = run_doctor(story)
    story.sinks |= {"web": story.server.log.read_text(), "executor": caplog.text}
    judge(story)


@pytest.mark.slow
def test_no_canary_flies_on_postgres_and_redis(
    server_room: ServerRoom, tmp_path: Path, redis_url: str, start_worker: StartWorker
) -> None:
    database_word, broker_word = draw(), draw()
    server = server_room.open_postgres(durable=False)
    monitor = Monitor(redis_url)
    try:
        plain = server.create_database()
        parts = urlsplit(plain)
        url = parts._replace(
            netloc=f"postgres:{quote(database_word, safe='')}@{parts.hostname}:{parts.port}"
        ).geturl()
        migrator.upgrade(url)
        parts = urlsplit(redis_url)
        broker = parts._replace(
            netloc=f"default:{quote(broker_word, safe='')}@{parts.hostname}:{parts.port}"
        ).geturl()
        more = {"database": database_word, "broker": broker_word}
        env = {"IAFLOW_BROKER_URL": broker}

        def drive(run_ids: list[str]) -> None:
            wait_until(lambda: all(map(is_at_rest, run_ids)), PATIENCE, "the runs are at rest")

        def is_at_rest(run_id: str) -> bool:
            with engine.connect() as connection:
                text = "SELECT status FROM iaflow.runs WHERE run_id = :run_id"
                status = connection.execute(sa.text(text), {"run_id": run_id}).scalar_one()
            if status == "waiting":
                return not has_answer(run_id)
            return status in {one.value for one in END_OF_RUN}

        def has_answer(run_id: str) -> bool:
            text = "SELECT count(*) FROM iaflow.pauses WHERE run_id = :r AND status <> 'open'"
            with engine.connect() as connection:
                return bool(connection.execute(sa.text(text), {"r": run_id}).scalar_one())

        engine = open_engine(plain)
        with monitor, make_story(tmp_path, server_room, url, drive, env, **more) as story:
            worker = start_worker(
                database_url=url,
                redis_url=broker,
                modules="secretive_steps",
                pythonpath=[tmp_path],
                env={**story.env, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
                args=("-l", "DEBUG"),
            )
            tell(story)
            story.sinks["doctor"] = run_doctor(story)
            engine.dispose()
            server.stop("fast")
            admin = {"Cookie": f"__Host-iaflow={story.canaries['session']}"}
            for _ in range(2):
                story.ask("GET", f"{V1}/runs", admin, status=503)
                body = {"name": "adele", "password": story.canaries["password"]}
                story.ask("POST", f"{V1}/session", body=body, status=503)
                story.ask("GET", f"/l/{story.canaries['link']}", status=503)
                story.ask("GET", "/readyz", status=503)
            story.sinks["doctor without database"] = run_doctor(story)
            server.start()
            wait_until(
                lambda: httpx2.get(f"{story.server.url}/readyz").status_code == 200,
                PATIENCE,
                "it is ready again",
            )
            worker.kill()
        story.sinks |= {
            "web": story.server.log.read_text(),
            "worker": worker.log.read_text(),
            "monitor": monitor.text,
        }
        assert "iaflow.run_step" in monitor.text
        judge(story)
        assert story.statuses[503] >= 8
    finally:
        server.close()


class Monitor:
    """Hears every command that Redis is given; a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard = bytearray()

    def __enter__(self) -> None:
        parts = urlsplit(self._url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 6379), PATIENCE)
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        wait_until(lambda: self._heard.startswith(b"+OK"), PATIENCE, "Redis lets us listen")

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._socket.close()

    def _listen(self) -> None:
        with suppress(OSError):
            self._socket.settimeout(None)
            while part := self._socket.recv(65536):
                self._heard += part

    @property
    def text(self) -> str:
        return self._heard.decode(errors="replace")
