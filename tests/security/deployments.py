"""A deployment for tests: a session manager in virtual time, and people whose passwords are known.

Decides who there is; never what a test asks of them. Used by the fixtures of this folder.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
import uuid_utils

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.auth.sessions import SignedIn
from iaflow.data.accounts import AuditRecord, UserRecord
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.statements import POSTGRES
from iaflow.errors import IaflowError
from iaflow.settings import Settings

T = TypeVar("T")

HERE = "192.0.2.10"
ANN, BOB = "ann", "bob"
PASSWORDS = {ANN: "zwoelf Kamele im Zoo", BOB: "ein Zebra trinkt Tee"}
OPERATOR = Caller("root", "command line")


class VirtualClock:
    """Time that passes by `move` alone."""

    def __init__(self) -> None:
        self.instant = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    async def sleep(self, seconds: float) -> None:
        self.move(seconds=seconds)
        await asyncio.sleep(0)

    def move(self, **times: float) -> None:
        self.instant += timedelta(**times)


class Deployment:
    """One database, one manager, and what tests ask of both."""

    def __init__(self, url: str, key: str, *, passwords: Passwords | None = None) -> None:
        self.url = url
        self.key = key
        self.clock = VirtualClock()
        self.passwords = passwords or Passwords(time_cost=1, memory_kib=8)
        self.sessions = self.open()
        self.accounts = self.sessions.accounts
        self.ann = self.add(ANN, "admin")
        self.bob = self.add(BOB, "viewer")

    def open(self, **options: Any) -> SessionManager:
        """Open another manager on the same database, as another process has one."""
        given: dict[str, Any] = {
            "secret_key": self.key,
            "settings": Settings(),
            "clock": self.clock,
            "passwords": self.passwords,
        }
        return SessionManager(self.url, **(given | options))

    def close(self) -> None:
        self.sessions.close()

    def leave(self) -> None:
        """Close, with no row left in a database that others use after."""
        database = self.sessions.database
        if database.dialect == POSTGRES:
            tables = database.tables
            with database.engine.begin() as connection:
                for table in (tables.users, tables.sign_ins, tables.audit_events, tables.pauses):
                    connection.execute(table.delete())
        self.close()

    def add(self, name: str, *roles: str, **options: Any) -> UserRecord:
        given = {"password": PASSWORDS.get(name), "caller": OPERATOR} | options
        return self.accounts.create(name, roles=roles, **given)

    def sign_in(self, name: str = ANN, *, address: str = HERE, **options: Any) -> SignedIn:
        return self.sessions.sign_in(name, PASSWORDS[name], address=address, **options)

    def at_once(self, count: int, act: Callable[[int], T]) -> list[T | Exception]:
        """Do something in so many threads at once; return what each got, or was refused with."""
        start = threading.Barrier(count)

        def do(at: int) -> T | Exception:
            start.wait()
            try:
                return act(at)
            except IaflowError as error:
                return error
            finally:
                self.sessions.database.release_thread()

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(do, range(count)))

    def audited(self, **filters: Any) -> list[AuditRecord]:
        return list(self.sessions.audit.list(limit=1000, **filters))

    def actions(self, **filters: Any) -> list[str]:
        """Return what was audited, the oldest first."""
        return [event.action for event in reversed(self.audited(**filters))]

    def dump(self) -> str:
        """Return every row of every table as text."""
        text = []
        with self.sessions.database.engine.connect() as connection:
            for table in self.sessions.database.tables.metadata.sorted_tables:
                text += [repr(row) for row in connection.execute(sa.select(table))]
        return "\n".join(text)

    def ask_people(self, *, expires_in: timedelta | None = None, event: str | None = None) -> str:
        """Open a question, as a run does that waits for people; return the pause's id."""
        tables, now = self.sessions.database.tables, self.clock.now()
        pause_id, run_id, digest = str(uuid_utils.uuid7()), str(uuid_utils.uuid7()), "0" * 64

        def spell(instant: datetime | None) -> Any:
            on_sqlite = self.sessions.database.dialect == "sqlite"
            return instant.isoformat(timespec="microseconds") if on_sqlite and instant else instant

        PipelineStore(self.sessions.database).publish(
            content_hash=digest,
            slug="invoice",
            version="1",
            name="Invoice",
            description="",
            document="{}",
            now=now,
        )
        common = {"slug": "invoice", "created_at": spell(now)}
        with self.sessions.database.engine.begin() as connection:
            connection.execute(
                tables.runs.insert(),
                common
                | {"run_id": run_id, "content_hash": digest, "status": "waiting"}
                | {"seq": 1, "live": 1, "paused": 1},
            )
            connection.execute(
                tables.pauses.insert(),
                common
                | {"pause_id": pause_id, "run_id": run_id, "step_id": "ask", "item_index": -1}
                | {"status": "open", "ui_schema": "{}", "shown": "{}", "assignees": "{}"}
                | {"digest": digest, "event": event}
                | {"expires_at": spell(expires_in and now + expires_in)},
            )
        return pause_id
