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

_TRY = Statement(
    "iaflow_try_lock",
    sa.select(sa.func.pg_try_advisory_lock(sa.bindparam("number", type_=sa.BigInteger))),
)
_UNLOCK = Statement(
    "iaflow_unlock",
    sa.select(sa.func.pg_advisory_unlock(sa.bindparam("number", type_=sa.BigInteger))),
)


def lock_number(database: Database, duty: str) -> int:
    """Return the number of a duty's advisory lock: one per schema, the same in every process."""
    name = f"iaflow:{database.schema}:{duty}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)


def try_exclusively(database: Database, duty: str, work: Callable[[], T]) -> T | None:
    """
    Do `work` unless another process is at the same duty; None then.

    The lock belongs to this thread's connection, so it is freed when the process dies.
    On SQLite there is no lock to take: each change in `work` is guarded in any case.
    """
    if database.dialect != POSTGRES:
        return work()
    number = lock_number(database, duty)
    if not database.fetch(_TRY, number=number)[0][0]:
        return None
    try:
        return work()
    finally:
        database.fetch(_UNLOCK, number=number)
