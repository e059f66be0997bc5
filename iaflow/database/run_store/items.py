"""The rows of a step's items, by sets: a hundred thousand cost a few statements.

Decides the SQL of making, starting, dropping and reading items; never how many there are.
Used by the settle store, inside its transactions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from iaflow.data.records import NO_INDEX, NewItems
from iaflow.data.status import END_OF_STEP, StepEnd, StepStatus
from iaflow.database.columns import INSTANT, UUID
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, dump_json, literal_word

__all__ = ["ItemStore"]


class ItemStore:
    """Items of steps; every method wants an open transaction."""

    def __init__(self, database: Database) -> None:
        self._sql = _Statements(database)

    def insert(
        self,
        tx: Connection,
        run_id: str,
        new: NewItems,
        items: Iterable[tuple[str, str | None]],
        *,
        seq: int,
        now: datetime,
        queue: str | None,
        priority: int | None,
        is_held: bool,
        slots: Sequence[datetime] = (),
    ) -> None:
        """
        nothing -> ready for the first ones, -> pending for the others; with their values.

        Args:
            items: the value as JSON text and the concurrency key of each, in order.
            is_held: something must be free before they may be published.
            slots: of those that are ready, when each may be published; empty: at once.
        """
        due = (slot.isoformat(timespec="microseconds") for slot in slots)
        pairs = dump_json([[*item, at] for item, at in zip_longest(items, due)])
        tx.queue(
            self._sql.insert,
            run_id=run_id,
            step_id=new.step_id,
            items=pairs,
            started=new.started,
            ready_seq=seq,
            queue=queue,
            priority=priority,
            published_at=None if is_held else now,
        )
        tx.queue(self._sql.insert_values, run_id=run_id, step_id=new.step_id, items=pairs)

    def start(
        self,
        tx: Connection,
        run_id: str,
        step_id: str,
        count: int,
        *,
        seq: int,
        now: datetime,
        is_held: bool,
    ) -> list[tuple[int, str | None]]:
        """pending -> ready for the first `count`; return their indexes and keys, in order."""
        rows = tx.fetch(
            self._sql.start,
            run_id=run_id,
            step_id=step_id,
            count=count,
            ready_seq=seq,
            published_at=None if is_held else now,
        )
        return sorted((row[0], row[1]) for row in rows)

    def hold(
        self, tx: Connection, run_id: str, step_id: str, index: int, *, until: datetime | None
    ) -> None:
        """ready -> ready, published at an instant to come."""
        tx.queue(self._sql.hold, run_id=run_id, step_id=step_id, item_index=index, due_at=until)

    def drop(self, tx: Connection, run_id: str, step_id: str, now: datetime) -> None:
        """Whatever is unfinished -> cancelled."""
        tx.queue(self._sql.drop, run_id=run_id, step_id=step_id, finished_at=now)

    def read_results(self, tx: Connection, run_id: str, step_id: str) -> tuple[Any, ...]:
        """Return the outputs of a step's items in order; None for those that did not succeed."""
        rows = tx.fetch(self._sql.results, run_id=run_id, step_id=step_id)
        return tuple(json.loads(row[1]) if row[1] is not None else None for row in rows)


class _Statements:
    def __init__(self, database: Database) -> None:
        steps, payloads = database.tables.steps, database.tables.step_payloads
        bind = sa.bindparam
        place, value, key, due_at = _unnest(database)
        is_first = place < bind("started", type_=sa.Integer())
        ready, pending = literal_word(StepStatus.READY), literal_word(StepStatus.PENDING)
        never = sa.null()
        self.insert = Statement(
            "iaflow_insert_items",
            sa.insert(steps).from_select(
                [
                    "run_id",
                    "step_id",
                    "item_index",
                    "status",
                    "decided",
                    "taken",
                    "ready_seq",
                    "queue",
                    "priority",
                    "concurrency_key",
                    "published_at",
                    "due_at",
                ],
                sa.select(
                    sa.cast(bind("run_id"), UUID),
                    sa.cast(bind("step_id"), sa.Text),
                    place,
                    sa.case((is_first, ready), else_=pending),
                    sa.literal_column("0"),
                    sa.literal_column("0"),
                    sa.cast(bind("ready_seq"), sa.BigInteger),
                    sa.cast(bind("queue"), sa.Text),
                    sa.cast(bind("priority"), sa.SmallInteger),
                    key,
                    sa.case((is_first, sa.cast(bind("published_at"), INSTANT)), else_=never),
                    sa.cast(due_at, INSTANT),
                ),
            ),
        )
        self.insert_values = Statement(
            "iaflow_insert_item_values",
            sa.insert(payloads).from_select(
                ["run_id", "step_id", "item_index", "item"],
                sa.select(
                    sa.cast(bind("run_id"), UUID),
                    sa.cast(bind("step_id"), sa.Text),
                    place,
                    sa.cast(value, postgresql.JSON()) if database.dialect == POSTGRES else value,
                ),
            ),
        )
        of_step = sa.and_(
            steps.c.run_id == bind("run_id"),
            steps.c.step_id == bind("step_id"),
            steps.c.item_index > NO_INDEX,
        )
        other = steps.alias("waiting")
        first = (
            sa.select(other.c.item_index)
            .where(
                other.c.run_id == bind("run_id"),
                other.c.step_id == bind("step_id"),
                # As the partial index says it.
                other.c.item_index >= sa.literal_column("0"),
                other.c.status == pending,
            )
            .order_by(other.c.item_index)
            .limit(bind("count"))
        )
        # Postgres finds the few by their key only if they are an array; as a subquery it would
        # look at all items of the step for each.
        chosen = (
            steps.c.item_index == sa.any_(sa.func.array(first.scalar_subquery()))
            if database.dialect == POSTGRES
            else steps.c.item_index.in_(first)
        )
        self.start = Statement(
            "iaflow_start_items",
            sa.update(steps)
            .where(of_step, chosen)
            .values(status=ready, ready_seq=bind("ready_seq"), published_at=bind("published_at"))
            .returning(steps.c.item_index, steps.c.concurrency_key),
        )
        self.hold = Statement(
            "iaflow_hold_item",
            sa.update(steps)
            .where(of_step, steps.c.item_index == bind("item_index"))
            .values(due_at=bind("due_at"), published_at=never),
        )
        unfinished = [literal_word(status) for status in StepStatus if status not in END_OF_STEP]
        self.drop = Statement(
            "iaflow_drop_items",
            sa.update(steps)
            .where(of_step, steps.c.status.in_(unfinished))
            .values(
                {
                    "status": literal_word(StepStatus.CANCELLED),
                    "end": literal_word(StepEnd.CANCELLED),
                    "token": never,
                    "lease_until": never,
                    "due_at": never,
                    "waits_for": never,
                    "finished_at": bind("finished_at"),
                }
            ),
        )
        succeeded = steps.c.status == literal_word(StepStatus.SUCCEEDED)
        self.results = Statement(
            "iaflow_item_results",
            sa.select(
                steps.c.item_index,
                sa.case((succeeded, sa.cast(payloads.c.output, sa.Text)), else_=never),
            )
            .select_from(
                steps.outerjoin(
                    payloads,
                    sa.and_(
                        payloads.c.run_id == steps.c.run_id,
                        payloads.c.step_id == steps.c.step_id,
                        payloads.c.item_index == steps.c.item_index,
                    ),
                )
            )
            .where(of_step)
            .order_by(steps.c.item_index),
        )


def _unnest(database: Database) -> tuple[Any, Any, Any, Any]:
    """Return place, value, key and instant of each entry in the JSON array `items`."""
    items: sa.BindParameter[str] = sa.bindparam("items", type_=postgresql.JSON())
    if database.dialect == POSTGRES:
        table = (
            sa.func.json_array_elements(items)
            .table_valued(
                sa.column("pair", postgresql.JSON()), with_ordinality="place", name="given"
            )
            .render_derived()
        )
        return (
            sa.cast(table.c.place - 1, sa.Integer),
            table.c.pair.op("->>")(sa.literal_column("0")),
            table.c.pair.op("->>")(sa.literal_column("1")),
            table.c.pair.op("->>")(sa.literal_column("2")),
        )
    table = sa.func.json_each(items).table_valued("key", "value", name="given")
    pair = table.c.value
    return (
        table.c.key,
        sa.func.json_extract(pair, sa.literal_column("'$[0]'")),
        sa.func.json_extract(pair, sa.literal_column("'$[1]'")),
        sa.func.json_extract(pair, sa.literal_column("'$[2]'")),
    )
