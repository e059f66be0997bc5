"""How tries to sign in are kept, and counted in sliding windows.

Decides which tries a window has; never what follows from their number. Called by
`auth.sessions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from iaflow.database.dialects import Database
from iaflow.database.statements import Statement, read_instant

__all__ = ["SignInStore", "Tries"]

_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Tries:
    """
    What the windows hold, as of one instant.

    Attributes:
        pair, pair_at: failures of this name from this address, and when the last was.
        pair_day: the same, in the longest window.
        name, name_at: failures of this name from anywhere, and when the last was.
        address, address_at: tries from this address, whatever the name, and when the first was.
        is_known: this name has signed in from this address before.
    """

    pair: int = 0
    pair_at: datetime | None = None
    pair_day: int = 0
    name: int = 0
    name_at: datetime | None = None
    address: int = 0
    address_at: datetime | None = None
    is_known: bool = False


class SignInStore:
    """The tries of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def count(
        self,
        name_hash: str,
        address: str,
        *,
        pair_since: datetime,
        day_since: datetime,
        name_since: datetime,
        address_since: datetime,
        but: str = _NOBODY,
    ) -> Tries:
        """Count the tries of each window, in one statement; `but` is one that is left out."""
        row = self._database.fetch(
            self._sql.count,
            name_hash=name_hash,
            address=address,
            pair_since=pair_since,
            day_since=day_since,
            name_since=name_since,
            address_since=address_since,
            but=but,
        )[0]
        return Tries(
            pair=row[0],
            pair_at=read_instant(row[1]),
            pair_day=row[2],
            name=row[3],
            name_at=read_instant(row[4]),
            address=row[5],
            address_at=read_instant(row[6]),
            is_known=bool(row[7]),
        )

    def insert(self, sign_in_id: str, name_hash: str, address: str, *, now: datetime) -> None:
        """Keep a try, which counts as failed from now on: before it costs anything."""
        self._database.fetch(
            self._sql.insert,
            sign_in_id=sign_in_id,
            name_hash=name_hash,
            address=address,
            at=now,
            succeeded=False,
        )

    def mark_succeeded(self, sign_in_id: str) -> None:
        """failed -> succeeded."""
        self._database.fetch(self._sql.mark_succeeded, sign_in_id=sign_in_id)

    def withdraw(self, sign_in_id: str) -> None:
        """Forget a try that was not made in the end."""
        self._database.fetch(self._sql.withdraw, sign_in_id=sign_in_id)

    def prune(self, *, failed_before: datetime, succeeded_before: datetime) -> None:
        """Remove tries that no window will ever hold again."""
        self._database.fetch(
            self._sql.prune,
            durable=False,
            failed_before=failed_before,
            succeeded_before=succeeded_before,
        )


class _Statements:
    def __init__(self, database: Database) -> None:
        tries = database.tables.sign_ins
        bind = sa.bindparam
        failed = sa.not_(tries.c.succeeded)
        other = tries.c.sign_in_id != bind("but")
        by_name = tries.c.name_hash == bind("name_hash")
        by_address = tries.c.address == bind("address")
        pair = (by_name, by_address, failed, other, tries.c.at > bind("pair_since"))
        day = (by_name, by_address, failed, other, tries.c.at > bind("day_since"))
        name = (by_name, failed, other, tries.c.at > bind("name_since"))
        address = (by_address, other, tries.c.at > bind("address_since"))
        count, first, last = sa.func.count(), sa.func.min(tries.c.at), sa.func.max(tries.c.at)

        def ask(
            what: sa.ColumnElement[Any], where: tuple[sa.ColumnElement[bool], ...]
        ) -> sa.ScalarSelect[Any]:
            return sa.select(what).select_from(tries).where(*where).scalar_subquery()

        self.count = Statement(
            "iaflow_count_sign_ins",
            sa.select(
                ask(count, pair),
                ask(last, pair),
                ask(count, day),
                ask(count, name),
                ask(last, name),
                ask(count, address),
                ask(first, address),
                sa.exists().where(by_name, by_address, tries.c.succeeded),
            ),
        )
        this = tries.c.sign_in_id == bind("sign_in_id")
        self.insert = Statement(
            "iaflow_insert_sign_in",
            sa.insert(tries).values({column.name: bind(column.name) for column in tries.c}),
        )
        self.mark_succeeded = Statement(
            "iaflow_mark_sign_in_succeeded",
            sa.update(tries).where(this, failed).values(succeeded=sa.true()),
        )
        self.withdraw = Statement("iaflow_withdraw_sign_in", sa.delete(tries).where(this))
        self.prune = Statement(
            "iaflow_prune_sign_ins",
            sa.delete(tries).where(
                sa.or_(
                    sa.and_(failed, tries.c.at < bind("failed_before")),
                    tries.c.at < bind("succeeded_before"),
                )
            ),
        )
