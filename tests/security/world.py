"""A web with two halves: what its people see, and what nobody but one administrator sees.

`World` has people of every role, and things that are made on demand: in sight (`own`), out of
sight (`foreign`) or nowhere (`absent`). What is asked of them, route by route, is in
`recipes.py`. Nothing happens here by itself: runs go on when `drive` is told to.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

import sqlalchemy as sa
import uuid_utils

from iaflow.auth.accounts import principal_of
from iaflow.auth.audit import Caller
from iaflow.bootstrap import open_local_executor
from iaflow.data.accounts import Permission
from iaflow.database.dialects import Database
from tests.integration.houses import document, each, question
from tests.web.webs import PASSWORD, Visitor, Web

__all__ = [
    "FOREIGN",
    "NOWHERE",
    "OUTSIDERS",
    "OWN",
    "PEOPLE",
    "ROOT",
    "STEPS",
    "Where",
    "World",
    "make_pipeline",
]

T = TypeVar("T")

Where = Literal["own", "foreign", "absent"]

ROOT = Caller("root")
OWN, FOREIGN, NOWHERE = "mine-v1", "theirs-v1", "absent-v1"

PEOPLE: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "viewer": (("viewer",), ("mine-*",)),
    "operator": (("operator",), ("mine-*",)),
    "author": (("author",), ("mine-*",)),
    "approver": (("approver",), ("mine-*",)),
    "admin": (("admin",), ("mine-*",)),
    "admin-of-all": (("admin",), ("*",)),
    # A word of their own: it stands in the assignees of questions, and permits nothing.
    "finance": (("finance",), ("mine-*",)),
}
"""Who signs in: roles, and the pipelines that they see."""

OUTSIDERS = ("nobody", "expired", "revoked", "disabled", "signed-out")
"""Who is sent away everywhere but where everybody may ask; all but the first were somebody."""

STEPS = {"waiting": "ask", "failed": "bad", "items": "each", "event": "paid", "ended": "done"}
"""The step that a run of each kind is about."""


def make_pipeline(slug: str) -> dict[str, Any]:
    """A pipeline whose runs end up as their parameter `kind` says."""
    arrows = [("first", step, {"condition": f"result.kind == '{step}'"}) for step in STEPS.values()]
    return document(
        {
            "first": {"inputs": {"kind": "{{ parameters.kind }}"}},
            "ask": question(),
            "bad": {"config": {"fail": 99}},
            "each": each("{{ parameters.items }}"),
            "paid": {"type": "event", "config": {"name": "payment"}},
            "done": {},
        },
        arrows,
        name=slug,
        parameters={"kind": "done", "items": [1, 2]},
    )


class World(Web):
    """
    A server on one database, with the people of `PEOPLE` and things in sight and out of it.

    Attributes:
        is_fresh: things are made anew each time they are asked for, to be destroyed; else one of
            each kind is made, and kept.
    """

    def __init__(self, database_url: str, **options: Any) -> None:
        super().__init__(database_url, trusted_proxies=("127.0.0.1",), **options)
        self.is_fresh = False
        self._kept: dict[Any, Any] = {}
        self._number = 0
        self._session_ids: dict[str, str] = {}

    def __enter__(self) -> Self:
        # Nothing is swept or carried behind the tests' backs: they compare all that is stored.
        self.carrier.is_idle = True
        super().__enter__()
        for name, (roles, pipelines) in PEOPLE.items():
            self._create_user(name, roles, pipelines)
        self._create_user("stranger", ("operator", "approver"), ("elsewhere-*",))
        for slug in (OWN, FOREIGN):
            self._publish(slug)
        return self

    @contextmanager
    def fresh(self, is_fresh: bool = True) -> Iterator[None]:
        """Make things anew meanwhile, or not."""
        before, self.is_fresh = self.is_fresh, is_fresh
        try:
            yield
        finally:
            self.is_fresh = before

    def number(self) -> int:
        """Return a number that was not given before."""
        self._number += 1
        return self._number

    def address(self) -> str:
        """Return an address from which nobody has asked, for X-Forwarded-For."""
        number = self.number()
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    # -- who asks

    def person(self, name: str) -> Visitor:
        """Return one of `PEOPLE` or `OUTSIDERS` with a session (or what is left of one)."""
        if name in OUTSIDERS:
            return self._keep(("outsider", name), lambda: self._outsider(name), always=True)
        return self._keep(("person", name), lambda: self._sign_in(name), always=True)

    def clone(self, name: str) -> Visitor:
        """Return somebody new who may what this one may: whose session may end."""
        return self._sign_in(self.twin(name))

    def twin(self, name: str) -> str:
        """Make somebody new who may what this one may; return the name."""
        roles, pipelines = PEOPLE[name]
        return self.account("own", roles=roles, pipelines=pipelines, fresh=True)

    def program(self, name: str, *scopes: str, days: int = 30) -> Visitor:
        """Return a program of a user's, with a token of these scopes; of all without any."""
        return self.make_token(name, *scopes, days=days)[0]

    def make_token(self, name: str, *scopes: str, days: int = 30) -> tuple[Visitor, str]:
        """Return a program of a user's, and the id of its token."""
        record, text = self.sessions.tokens.create(
            principal_of(self.sessions.accounts.get_by_name(name)),
            "a program",
            scopes or [one.value for one in Permission],
            days,
            caller=Caller(name),
        )
        return Visitor(self, name, {"Authorization": f"Bearer {text}"}), record.token_id

    def _outsider(self, name: str) -> Visitor:
        match name:
            case "nobody":
                return self.nobody
            case "signed-out":
                visitor = self._sign_in("admin-of-all")
                self.sessions.sign_out(self.session_of(visitor))
                return Visitor(self, name, visitor.headers)
            case "disabled":
                user = self.account("own", roles=("admin",), pipelines=("*",), fresh=True)
                visitor = self.program(user)
                accounts = self.sessions.accounts
                accounts.set(accounts.get_by_name(user).user_id, is_disabled=True, caller=ROOT)
                return visitor
        visitor, token_id = self.make_token("admin-of-all")
        if name == "revoked":
            self.sessions.tokens.revoke(token_id, caller=ROOT)
            return visitor
        tokens = self.database.tables.api_tokens
        over = sa.update(tokens).where(tokens.c.token_id == token_id)
        with self.database.engine.begin() as connection:
            connection.execute(over.values(expires_at=tokens.c.created_at))
        return visitor

    def _create_user(self, name: str, roles: tuple[str, ...], pipelines: tuple[str, ...]) -> None:
        self.sessions.accounts.create(
            name, roles=roles, pipelines=pipelines, password=PASSWORD, caller=ROOT
        )

    def _sign_in(self, name: str) -> Visitor:
        signed_in = self.sessions.sign_in(name, PASSWORD, address=self.address())
        headers = {
            "Cookie": f"{self.sessions.cookie_name}={signed_in.token}",
            "X-CSRF-Token": signed_in.csrf_token,
            "Origin": self.url,
        }
        self._session_ids[headers["Cookie"]] = signed_in.session.session_id
        return Visitor(self, name, headers)

    def session_of(self, visitor: Visitor) -> str:
        """Return the id of the session that somebody has, or had."""
        return self._session_ids[visitor.headers["Cookie"]]

    # -- things in sight and out of it

    def slug(self, where: Where) -> str:
        """Return a pipeline; one that may be paused or have another version, where it is fresh."""
        if not self.is_fresh:
            return {"own": OWN, "foreign": FOREIGN, "absent": NOWHERE}[where]
        word = {"own": "mine", "foreign": "theirs", "absent": "absent"}[where]
        slug = f"{word}-{self.number():05}"
        if where != "absent":
            self._publish(slug)
        return slug

    def _publish(self, slug: str) -> None:
        self.publish(make_pipeline(slug))
        # A second version, to be compared with the first.
        self.publish({**make_pipeline(slug), "version": "2.0.0"})

    def run(self, where: Where, kind: str = "ended") -> str:
        """
        Return a run.

        Args:
            kind: `running` (its first step is ready), or one of `STEPS`.
        """
        if where == "absent":
            return self.absent_id()
        return self._keep(("run", where, kind), lambda: self._run(where, kind))

    def _run(self, where: Where, kind: str) -> str:
        slug = OWN if where == "own" else FOREIGN
        started = self.client.start(slug, {"kind": STEPS.get(kind, "done")}, started_by="somebody")
        if kind != "running":
            self.drive(started.run_id)
        return started.run_id

    def drive(self, *run_ids: str) -> None:
        """Execute runs until they end, or wait for somebody outside."""

        async def drive() -> None:
            async with open_local_executor(self.application) as executor:
                for run_id in run_ids:
                    await executor.drive(run_id)

        asyncio.run(drive())

    def pause(self, where: Where) -> str:
        """Return an open question that is asked of nobody by name."""
        if where == "absent":
            return self.absent_id()

        def make() -> str:
            with self.fresh():
                [pause] = self.client.inbox(self.run(where, "waiting"))
            return pause.pause_id

        return self._keep(("pause", where), make)

    def link(self, pause_id: str) -> tuple[str, str]:
        """Return the id and the token of a one-time link to a question."""

        def make() -> tuple[str, str]:
            link, token = self.sessions.links.create(pause_id, "maria", caller=ROOT)
            return link.link_id, token

        return self._keep(("link", pause_id), make)

    def schedule(self, where: Where) -> str:
        """Return the name of a schedule, which has fired once."""
        # No two are near enough for "did you mean".
        name = secrets.token_hex(16)
        if where == "absent":
            return name

        def make() -> str:
            slug = OWN if where == "own" else FOREIGN
            self.client.schedules.put(name, slug, cron="30 2 * * *")
            self.client.schedules.fire(name)
            return name

        return self._keep(("schedule", where), make)

    def account(
        self,
        where: Where,
        *,
        roles: tuple[str, ...] = ("viewer",),
        pipelines: tuple[str, ...] = ("mine-*",),
        fresh: bool = False,
    ) -> str:
        """Return the name of a user, whom nobody needs any more."""
        if where == "absent":
            return f"absent-{self.number():05}"

        def make() -> str:
            name = f"person-{self.number():05}"
            self._create_user(name, roles, pipelines)
            return name

        return make() if fresh else self._keep(("user", roles, pipelines), make)

    def setup(self, where: Where) -> str:
        """Return a token with which somebody sets a password."""
        if where == "absent":
            return "absent-v1"
        accounts = self.sessions.accounts
        user = accounts.get_by_name(self.account("own", fresh=True))
        return self._keep("setup", lambda: accounts.make_setup(user.user_id, caller=ROOT))

    def token_of(self, name: str) -> str:
        """Return the id of an API token of a user."""
        return self._keep(("token", name), lambda: self.make_token(name)[1])

    def absent_id(self) -> str:
        """Return an id that nothing has."""
        return str(uuid_utils.uuid7())

    def _keep(self, key: Any, make: Callable[[], T], *, always: bool = False) -> T:
        if self.is_fresh and not always:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    # -- what is stored

    @property
    def database(self) -> Database:
        return self.application.database

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """
        Return all that is stored, but for what mere asking may change.

        That is the audit, when a session was seen last, and when a token was used last.
        """
        tables = self.database.tables
        left_out = {tables.sessions.c.seen_at, tables.api_tokens.c.last_used_at}
        found: dict[str, list[tuple[Any, ...]]] = {}
        with self.database.engine.connect() as connection:
            for table in tables.metadata.sorted_tables:
                if table is not tables.audit_events:
                    columns = [sa.type_coerce(c, sa.Text) for c in table.c if c not in left_out]
                    rows = connection.execute(sa.select(*columns))
                    found[table.name] = sorted(tuple(map(repr, row)) for row in rows)
        return found
