"""What the stores of accounts share in reading their rows.

Decides how a row becomes a record; never which rows are read. Used by the stores beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from iaflow.data.accounts import UserRecord
from iaflow.database.connections import Row
from iaflow.database.statements import read_instant

__all__ = ["USER_COLUMNS", "instant_of", "is_id", "read_user", "read_words"]

USER_COLUMNS: Final = (
    *("user_id", "name", "roles", "pipelines", "is_disabled"),
    *("password_changed_at", "created_at", "updated_at"),
)
"""What `read_user` reads, in this order; whether there is a password comes behind it."""

_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Tell whether a text from a path can be an id: Postgres refuses to compare any other."""
    return _ID.fullmatch(text) is not None


def instant_of(value: Any) -> datetime:
    """Return an instant that is always there."""
    instant = read_instant(value)
    assert instant is not None
    return instant


def read_words(value: Any) -> tuple[str, ...]:
    """Return the words of a JSON array."""
    return tuple(json.loads(value) if isinstance(value, str) else value)


def read_user(row: Row | Sequence[Any]) -> UserRecord:
    """Return the user in the first columns of a row."""
    return UserRecord(
        user_id=str(row[0]),
        name=row[1],
        roles=read_words(row[2]),
        pipelines=read_words(row[3]),
        is_disabled=bool(row[4]),
        password_changed_at=read_instant(row[5]),
        created_at=instant_of(row[6]),
        updated_at=instant_of(row[7]),
        has_password=bool(row[8]),
    )
