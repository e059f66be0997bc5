"""A past of any size: copies of a run that ended, and a run of any number of rows, made by SQL.

Decides how rows are multiplied so that they look like those the engine wrote; never what is
measured beside them. Used by the workload `history` and by the tests of pruning.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from iaflow.database.tables import Tables

__all__ = ["copy_run", "lengthen_run"]


def copy_run(connection: sa.Connection, tables: Tables, run_id: str, copies: int) -> None:
    """
    Insert copies of a run with all its rows, on Postgres; each is a millisecond older.

    Args:
        run_id: has no key, no question and no child, whose ids would have to be others.
    """
    connection.execute(_MAKE_COPIES, {"copies": copies})
    made = sa.table("copies", sa.column("n"), sa.column("copy_id"))
    older = made.c.n * sa.text("interval '1 millisecond'")
    for table in tables.metadata.sorted_tables:
        if "run_id" not in table.c:
            continue
        columns: dict[str, sa.ColumnElement[Any]] = {column.name: column for column in table.c}
        columns["run_id"] = made.c.copy_id
        if table is tables.runs:
            columns["created_at"] = table.c.created_at.op("-")(older)
            columns["finished_at"] = table.c.finished_at.op("-")(older)
        copied = sa.select(*columns.values()).select_from(table.join(made, sa.true()))
        chosen = copied.where(table.c.run_id == run_id)
        connection.execute(sa.insert(table).from_select(list(columns), chosen))
    connection.execute(sa.text("DROP TABLE copies"))


def lengthen_run(connection: sa.Connection, tables: Tables, run_id: str, rows: int) -> None:
    """
    Give a run, on Postgres, a past of `rows` rows: half are events, half items and their payloads.

    What it does next is numbered behind them. The items are of a step that no definition has.
    """
    runs, events = tables.runs, tables.events
    count = rows // 2
    # What is there moves behind its new past.
    for table in (events, runs):
        moved = sa.update(table).where(table.c.run_id == run_id)
        connection.execute(moved.values(seq=table.c.seq + count))
    number: Any = sa.func.generate_series(1, count).column_valued("n")
    now = sa.func.now()
    _insert(connection, events, run_id=run_id, seq=number, at=now, changes=_json("[]"))
    number = sa.func.generate_series(1, rows // 4).column_valued("n")
    past = {"run_id": run_id, "step_id": "past", "item_index": number}
    counts = {"attempt": 1, "decided": 0, "taken": 0}
    end = {"status": "succeeded", "end": "success", "finished_at": now}
    _insert(connection, tables.steps, **past, **end, **counts)
    _insert(connection, tables.step_payloads, **past, output=_json('{"n": 1}'))


def _insert(connection: sa.Connection, table: sa.Table, **columns: Any) -> None:
    given = [
        value if isinstance(value, sa.ColumnElement) else sa.literal(value, table.c[name].type)
        for name, value in columns.items()
    ]
    connection.execute(sa.insert(table).from_select(list(columns), sa.select(*given)))


def _json(text: str) -> sa.ColumnElement[Any]:
    return sa.cast(sa.literal(text), postgresql.JSON())


_MAKE_COPIES = sa.text(
    "CREATE TEMPORARY TABLE copies AS SELECT n, (lpad(to_hex(1000000000000 + n), 12, '0')"
    " || '70008' || lpad(to_hex(n), 15, '0'))::uuid AS copy_id FROM generate_series(1, :copies) n"
)
