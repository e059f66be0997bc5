"""People of every kind who ask a web, each with an account of their own.

`People` makes accounts, questions and definitions in the house of `webs.py`; an `Asker` is one who
asks, and keeps the cookie that a reply gives, as a browser does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from iaflow.auth.accounts import principal_of
from iaflow.auth.audit import Caller
from iaflow.data.accounts import Principal
from iaflow.data.records import PauseRecord
from iaflow.data.status import RunStatus
from iaflow.errors import NotFound
from tests.web.webs import PASSWORD, Web

__all__ = ["PASSWORD", "ROOT", "Asker", "People", "approval"]

ROOT = Caller("root")
HOST_COOKIE = "__Host-iaflow"

FIELDS: list[dict[str, Any]] = [
    {"name": "decision", "type": "radio", "options": ["approve", "reject"], "required": True},
    {"name": "comment", "type": "textarea"},
    {"name": "count", "type": "integer", "minimum": 0},
]


def approval(slug: str = "approval-v1", **config: Any) -> dict[str, Any]:
    """Return a definition that asks once; `config` is laid over the step's."""
    asking = {
        "ui_schema": {"title": "Approve <this>?", "fields": FIELDS},
        "show": {"amount": "{{ parameters.amount }}"},
        **config,
    }
    return {
        "name": "Approval",
        "slug": slug,
        "version": "1.0.0",
        "parameters": {"amount": 1.0},
        "steps": [{"id": "ask", "type": "human_input", "config": asking}],
        "flow": {"start_at": "ask", "transitions": []},
    }


@dataclass
class Asker:
    """One who asks the web: by a cookie, by a token, or as nobody."""

    http: httpx2.Client
    headers: dict[str, str] = field(default_factory=dict)
    cookie: str | None = None
    csrf: str | None = None

    def __call__(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        if self.cookie is not None:
            headers.setdefault("Cookie", f"{HOST_COOKIE}={self.cookie}")
            if method not in ("GET", "HEAD"):
                headers.setdefault("Origin", str(self.http.base_url).rstrip("/"))
                headers.setdefault("X-CSRF-Token", self.csrf or "")
        replied = self.http.request(method, path, headers=headers, **options)
        given = replied.headers.get("set-cookie", "").partition(";")[0].partition("=")
        if given[0] == HOST_COOKIE:
            self.cookie = given[2] or None
        with suppress(ValueError, AttributeError):
            self.csrf = replied.json().get("csrf_token", self.csrf)
        return replied

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

    def read(self, path: str, **params: Any) -> Any:
        replied = self.get(path, params=params)
        assert replied.status_code == 200, replied.text
        return replied.json()

    def pages(self, path: str, **params: Any) -> Iterator[list[Any]]:
        """Yield the pages of a list."""
        while True:
            told = self.read(path, **params)
            yield told["items"]
            if told["next"] is None:
                return
            params["cursor"] = told["next"]


@dataclass
class People:
    """Makes people, and what they ask about, in a web."""

    web: Web
    http: httpx2.Client
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def nobody(self, **headers: str) -> Asker:
        """Return one who has not signed in."""
        return Asker(self.http, headers)

    def name(self, stem: str = "user") -> str:
        """Return a name that nobody has yet."""
        return f"{stem}-{next(self.numbers)}"

    def account(self, *roles: str, pipelines: tuple[str, ...] = ("*",)) -> str:
        """Make an account; return its name."""
        name = self.name("-".join(roles) or "nobody")
        self.web.sessions.accounts.create(
            name, roles=roles, pipelines=pipelines, password=PASSWORD, caller=ROOT
        )
        return name

    def sign_in(self, name: str, password: str = PASSWORD) -> Asker:
        """Return one who has signed in by the API."""
        asker = self.nobody()
        replied = asker.post("/api/v1/session", {"name": name, "password": password})
        assert replied.status_code == 201, replied.text
        return asker

    def person(self, *roles: str, pipelines: tuple[str, ...] = ("*",)) -> Asker:
        """Return a new user of these roles, signed in."""
        return self.as_user(self.account(*roles, pipelines=pipelines))

    def as_user(self, name: str) -> Asker:
        """Return a user, signed in."""
        # An address each: one from which many sign in would have to wait.
        address = f"10.0.{next(self.numbers) % 250}.1"
        signed = self.web.sessions.sign_in(name, PASSWORD, address=address)
        return Asker(self.http, {}, signed.token, signed.csrf_token)

    def principal(self, name: str) -> Principal:
        return principal_of(self.web.sessions.accounts.get_by_name(name))

    def by_token(self, name: str, *scopes: str) -> Asker:
        """Return a program that asks in a user's name by a token."""
        tokens = self.web.sessions.tokens
        _, text = tokens.create(self.principal(name), "t", scopes, 1, caller=ROOT)
        return self.nobody(Authorization=f"Bearer {text}")

    def disable(self, name: str) -> None:
        accounts = self.web.sessions.accounts
        accounts.set(accounts.get_by_name(name).user_id, is_disabled=True, caller=ROOT)

    def keep(self, definition: Mapping[str, Any]) -> str:
        """Import a definition; return its slug."""
        return self.web.publish(definition)

    def ask(
        self, slug: str | None = None, *, started_by: str | None = None, **config: Any
    ) -> PauseRecord:
        """Start a run that asks, and return its question."""
        slug = self.keep(approval(slug or self.name("approval"), **config))
        run_id = self.web.client.start(slug, started_by=started_by).run_id
        self.web.wait_for(run_id, RunStatus.WAITING)
        [pause] = self.web.client.inbox(run_id)
        return pause

    def is_open(self, pause: PauseRecord) -> bool:
        try:
            return self.web.client.pause(pause.pause_id).answered_by is None
        except NotFound:
            return False
