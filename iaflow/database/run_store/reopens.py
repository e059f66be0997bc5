"""A run that goes on after its end, and a new run that begins with another's outputs.

Decides the SQL of making rows pending again and of copying them; never which. Used by the
engine, inside its transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from iaflow.data.records import NO_INDEX, ItemCounts
from iaflow.data.status import StepEnd, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, among, dump_json, literal_word

__all__ = ["PastRow", "ReopenStore"]


@dataclass(frozen=True, slots=True)
class PastRow:
    """A step's row at its run's end; `code` and `by` are its error's."""

    step_id: str
    status: StepStatus
    end: StepEnd | None
    handled: bool
    code: str | None
    by: str | None


class ReopenStore:
    """Rows of ended runs; every method wants an open transaction."""

    def __init__(self, database: Database) -> None:
        self._sql = _Statements(database)

    def read_steps(self, tx: Connection, run_id: str) -> list[PastRow]:
        """Return the rows of a run's steps, without those of items."""
        return [
            PastRow(
                row[0],
                StepStatus(row[1]),
                StepEnd(row[2]) if row[2] else None,
                bool(row[3]),
                row[4],
                row[5],
            )
            for row in tx.fetch(self._sql.steps, run_id=run_id)
        ]

    def read_decisions(self, tx: Connection, run_id: str) -> dict[int, tuple[bool, str]]:
        """Return a run's decisions in force: transition to taken, and the kind of its reason."""
        rows = tx.fetch(self._sql.decisions, run_id=run_id)
        return {row[0]: (bool(row[1]), row[2]) for row in rows}

    def read_items(self, tx: Connection, run_id: str) -> dict[str, dict[StepStatus, int]]:
        """Return how many items of each step have which status."""
        found: dict[str, dict[StepStatus, int]] = {}
        for step_id, status, count in tx.fetch(self._sql.items, run_id=run_id):
            found.setdefault(step_id, {})[StepStatus(status)] = count
        return found

    def copy(self, tx: Connection, run_id: str, *, source: str) -> None:
        """Give a run that begins the rows of another, whose steps have all ended."""
        for statement in self._sql.copies:
            tx.queue(statement, run_id=run_id, source=source)

    def mark_reopened(
        self,
        tx: Connection,
        run_id: str,
        *,
        handled: int,
        unhandled: int,
        deadline_at: datetime | None,
    ) -> None:
        """failed -> (what the plan says): the run's error and end are taken back."""
        tx.queue(
            self._sql.run,
            run_id=run_id,
            handled=handled,
            unhandled=unhandled,
            deadline_at=deadline_at,
        )

    def mark_pending(
        self, tx: Connection, run_id: str, counts: Mapping[str, tuple[int, int]]
    ) -> None:
        """Any end -> pending: these steps go on; what was kept of them is kept no more."""
        listed = dump_json(list(counts))
        tx.queue(self._sql.pending, run_id=run_id, wanted=listed)
        tx.queue(self._sql.payloads, run_id=run_id, wanted=listed)
        for step_id, (decided, taken) in counts.items():
            if decided:
                tx.queue(
                    self._sql.counts, run_id=run_id, step_id=step_id, decided=decided, taken=taken
                )

    def mark_items_pending(
        self, tx: Connection, run_id: str, step_id: str, counts: ItemCounts
    ) -> None:
        """failed, cancelled -> pending: these items go on, and their step with them."""
        tx.queue(self._sql.item_payloads, run_id=run_id, step_id=step_id)
        tx.queue(self._sql.pending_items, run_id=run_id, step_id=step_id)
        tx.queue(self._sql.running, run_id=run_id, step_id=step_id, items=dump_json(asdict(counts)))

    def delete_items(self, tx: Connection, run_id: str, step_id: str) -> None:
        """The step asks for its items once more."""
        tx.queue(self._sql.delete_item_payloads, run_id=run_id, step_id=step_id)
        tx.queue(self._sql.delete_items, run_id=run_id, step_id=step_id)

    def supersede(self, tx: Connection, run_id: str, transitions: Collection[int]) -> None:
        """Keep these decisions for people, in force no more."""
        tx.queue(self._sql.supersede, run_id=run_id, wanted=dump_json(list(map(str, transitions))))

    def put_inputs(self, tx: Connection, run_id: str, step_id: str, inputs: str) -> None:
        """Let a step's next attempt see these inputs, as a retry sees those of the one before."""
        tx.queue(self._sql.inputs, run_id=run_id, step_id=step_id, inputs=inputs)


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        steps, payloads, decisions, runs = t.steps, t.step_payloads, t.decisions, t.runs
        bind = sa.bindparam
        of_run = steps.c.run_id == bind("run_id")
        whole = steps.c.item_index == NO_INDEX
        is_item = steps.c.item_index > NO_INDEX
        error = payloads.c.error

        def member(column: Any, name: str) -> Any:
            if database.dialect == POSTGRES:
                return sa.cast(column, postgresql.JSON()).op("->>")(
                    sa.literal_column(f"'{name}'", sa.Text())
                )
            return sa.func.json_extract(column, sa.literal_column(f"'$.{name}'"))

        self.steps = Statement(
            "iaflow_past_steps",
            sa.select(
                steps.c.step_id,
                steps.c.status,
                steps.c.end,
                steps.c.handled,
                member(error, "code"),
                member(error, "by"),
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
            .where(of_run, whole),
        )
        in_force = sa.and_(decisions.c.run_id == bind("run_id"), decisions.c.superseded == 0)
        self.decisions = Statement(
            "iaflow_past_decisions",
            sa.select(
                decisions.c.transition, decisions.c.taken, member(decisions.c.reason, "kind")
            ).where(in_force),
        )
        self.items = Statement(
            "iaflow_past_items",
            sa.select(steps.c.step_id, steps.c.status, sa.func.count())
            .where(of_run, is_item)
            .group_by(steps.c.step_id, steps.c.status),
        )
        self.run = Statement(
            "iaflow_reopen_run",
            sa.update(runs)
            .where(runs.c.run_id == bind("run_id"))
            .values(
                handled=bind("handled"),
                unhandled=bind("unhandled"),
                error_step_id=sa.null(),
                error_code=sa.null(),
                error_message=sa.null(),
                finished_at=sa.null(),
                deadline_at=bind("deadline_at"),
            ),
        )
        afresh: dict[str, Any] = {
            "status": literal_word(StepStatus.PENDING),
            "end": sa.null(),
            "token": sa.null(),
            "lease_until": sa.null(),
            "due_at": sa.null(),
            "waits_for": sa.null(),
            "concurrency_key": sa.null(),
            "published_at": sa.null(),
            "finished_at": sa.null(),
            "worker_losses": sa.literal_column("0"),
            "earlier_attempts": steps.c.attempt,
        }
        more = {
            "decided": sa.literal_column("0"),
            "taken": sa.literal_column("0"),
            "is_end": sa.false(),
            "handled": sa.false(),
            "items": sa.null(),
        }
        self.pending = Statement(
            "iaflow_reopen_steps",
            sa.update(steps)
            .where(of_run, whole, among(steps.c.step_id, "wanted"))
            .values({**afresh, **more}),
        )
        of_payloads = payloads.c.run_id == bind("run_id")
        forgotten = {name: sa.null() for name in ("inputs", "output", "error", "judged")}
        self.payloads = Statement(
            "iaflow_reopen_payloads",
            sa.update(payloads)
            .where(
                of_payloads,
                payloads.c.item_index == NO_INDEX,
                among(payloads.c.step_id, "wanted"),
            )
            .values(forgotten),
        )
        of_step = steps.c.step_id == bind("step_id")
        self.counts = Statement(
            "iaflow_reopen_counts",
            sa.update(steps)
            .where(of_run, of_step, whole)
            .values(decided=bind("decided"), taken=bind("taken")),
        )
        redone = steps.c.status.in_(
            [literal_word(StepStatus.FAILED), literal_word(StepStatus.CANCELLED)]
        )
        # An item's key was rendered from its value, and stays.
        item = {name: value for name, value in afresh.items() if name != "concurrency_key"}
        self.pending_items = Statement(
            "iaflow_reopen_items",
            sa.update(steps).where(of_run, of_step, is_item, redone).values(item),
        )
        this_item = sa.and_(of_payloads, payloads.c.step_id == bind("step_id"))
        self.item_payloads = Statement(
            "iaflow_reopen_item_payloads",
            sa.update(payloads)
            .where(
                this_item,
                payloads.c.item_index.in_(
                    sa.select(steps.c.item_index).where(of_run, of_step, is_item, redone)
                ),
            )
            .values(forgotten),
        )
        self.delete_item_payloads = Statement(
            "iaflow_delete_item_payloads",
            sa.delete(payloads).where(this_item, payloads.c.item_index > NO_INDEX),
        )
        self.delete_items = Statement(
            "iaflow_delete_items", sa.delete(steps).where(of_run, of_step, is_item)
        )
        self.running = Statement(
            "iaflow_reopen_foreach",
            sa.update(steps)
            .where(of_run, of_step, whole)
            .values(
                status=literal_word(StepStatus.RUNNING),
                items=bind("items"),
            ),
        )
        older = decisions.alias("older")
        latest = (
            sa.select(sa.func.max(older.c.superseded) + 1)
            .where(
                older.c.run_id == decisions.c.run_id,
                older.c.transition == decisions.c.transition,
            )
            .scalar_subquery()
        )
        self.supersede = Statement(
            "iaflow_supersede",
            sa.update(decisions)
            .where(in_force, among(sa.cast(decisions.c.transition, sa.Text), "wanted"))
            .values(superseded=latest),
        )
        self.inputs = Statement(
            "iaflow_put_inputs",
            sa.update(payloads)
            .where(this_item, payloads.c.item_index == NO_INDEX)
            .values(inputs=bind("inputs")),
        )
        self.copies = tuple(
            _copy(table, f"iaflow_copy_{table.name}") for table in (steps, payloads, decisions)
        )


def _copy(table: sa.Table, name: str) -> Statement:
    """Return the statement that copies a run's rows to another; of decisions, those in force."""
    columns = [column for column in table.columns if column.name != "run_id"]
    # In the new run all of it has happened by its first event: numbers of the old one are none.
    values = [sa.literal_column("1") if c.name in {"seq", "ready_seq"} else c for c in columns]
    chosen = sa.select(sa.cast(sa.bindparam("run_id"), table.c.run_id.type), *values).where(
        table.c.run_id == sa.bindparam("source")
    )
    if "superseded" in table.c:
        chosen = chosen.where(table.c.superseded == 0)
    return Statement(
        name,
        sa.insert(table).from_select(["run_id", *(column.name for column in columns)], chosen),
    )
