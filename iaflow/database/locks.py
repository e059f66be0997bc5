"""Duties that one process at a time has: advisory locks on Postgres.

Decides who has a duty now; never what it is. Called by maintenance in workers and by
migrations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement

__all__ = ["lock_number", "try_exclusively"]

T = TypeVar("T")

MOST_SECONDS = 30.0
"""How long a duty is kept without a word from its process. What takes longer goes on, and another
process may be at it too: each change in it is guarded in any case."""

_IS_FREE = Statement(
    "iaflow_is_free",
    sa.select(sa.func.pg_try_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger))),
)


def lock_number(database: Database, duty: str) -> int:
    """Return the number of a duty's advisory lock: one per schema, the same in every process."""
    name = f"iaflow:{database.schema}:{duty}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)


def try_exclusively(database: Database, duty: str, work: Callable[[], T]) -> T | None:
    """
    Do `work` unless another process is at the same duty; None then.

    The lock belongs to a transaction on a connection of its own, which the server ends when the
    process has died, and when it has said nothing for `MOST_SECONDS`: a process that is frozen
    amid its duty, whose connections the kernel keeps alive, keeps nobody from it for ever.
    On SQLite there is no lock to take: each change in `work` is guarded in any case.
    """
    if database.dialect != POSTGRES:
        return work()
    number = lock_number(database, duty)
    # Asked first on the connection that there is: mostly somebody else is at it.
    if not database.fetch(_IS_FREE, number=number)[0][0]:
        return None
    with database.holding(number, seconds=MOST_SECONDS) as is_held:
        return work() if is_held else None
