"""What the rows of a result are to steps and applications: dictionaries by column.

Decides how values are handed out; never which statement ran. Called in the thread of the
connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

__all__ = ["all_rows", "count_rows", "first_row"]


def all_rows(result: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    """Return every row; none for a statement that returns no rows."""
    if not result.returns_rows:
        return []
    columns = _columns(result)
    return [_as_dict(columns, row) for row in result]


def first_row(result: sa.CursorResult[Any]) -> dict[str, Any] | None:
    """Return the first row, or None."""
    if not result.returns_rows:
        return None
    columns = _columns(result)
    row = result.first()
    return None if row is None else _as_dict(columns, row)


def count_rows(result: sa.CursorResult[Any]) -> int:
    """Return how many rows a statement touched, or returned."""
    # SQLite knows the count of a RETURNING only when its rows are read.
    return len(result.all()) if result.returns_rows else max(result.rowcount, 0)


def _columns(result: sa.CursorResult[Any]) -> Sequence[str]:
    columns = list(result.keys())
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"several columns are named {', '.join(twice)}: name them apart with AS")
    return columns


def _as_dict(columns: Sequence[str], row: sa.Row[Any]) -> dict[str, Any]:
    return {
        name: bytes(value) if isinstance(value, memoryview) else value
        for name, value in zip(columns, row, strict=True)
    }
