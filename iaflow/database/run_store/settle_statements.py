"""The statements that lock a run, read what a planning needs, and write a plan.

Decides the SQL alone, on both dialects; never when it runs. Used by the settle store.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.records import NO_INDEX
from iaflow.data.status import END_OF_STEP, PauseStatus, StepStatus
from iaflow.database.dialects import Database
from iaflow.database.run_store.readable import is_readable
from iaflow.database.statements import (
    POSTGRES,
    WANTED,
    Statement,
    among,
    json_row,
    literal_word,
    look_up_each,
)

__all__ = ["SettleStatements"]


class SettleStatements:
    """The statements on runs and plans, for one database's tables."""

    def __init__(self, database: Database) -> None:
        t = database.tables
        bind = sa.bindparam
        runs, steps, payloads = t.runs, t.steps, t.step_payloads
        of_run = steps.c.run_id == bind("run_id")
        whole = steps.c.item_index == NO_INDEX
        this = sa.and_(
            of_run, steps.c.step_id == bind("step_id"), steps.c.item_index == bind("item_index")
        )
        view = (
            steps.c.step_id,
            steps.c.status,
            steps.c.decided,
            steps.c.taken,
            steps.c.waits_for,
            sa.cast(steps.c["items"], sa.Text),
        )
        wanted = among(steps.c.step_id, "wanted")
        near = steps.alias("near")
        successors = look_up_each(
            "wanted",
            sa.select(
                json_row(
                    near.c.status, near.c.decided, near.c.taken, near.c.waits_for, near.c["items"]
                )
            )
            .where(
                near.c.run_id == bind("run_id"),
                near.c.step_id == WANTED,
                near.c.item_index == NO_INDEX,
            )
            .scalar_subquery(),
        )
        settled = steps.alias("settled")
        self.lock_run = Statement(
            "iaflow_lock_run",
            sa.select(sa.literal_column("1"))
            .select_from(runs)
            .where(runs.c.run_id == bind("run_id"))
            .with_for_update(key_share=True),
        )
        self.lock_step = Statement(
            "iaflow_lock_step",
            sa.select(sa.literal_column("1"))
            .select_from(steps)
            .where(this)
            .with_for_update(key_share=True),
        )
        self.snapshot = Statement(
            "iaflow_snapshot",
            sa.select(
                runs.c.status,
                runs.c.seq,
                runs.c.live,
                runs.c.paused,
                runs.c.handled,
                runs.c.unhandled,
                sa.func.coalesce(runs.c.started_at, runs.c.created_at),
                settled.c.status,
                settled.c.token,
                settled.c.lease_until,
                settled.c.waits_for,
                settled.c.due_at,
                settled.c.attempt,
                settled.c.worker_losses,
                settled.c.earlier_attempts,
                successors,
            )
            .select_from(
                runs.outerjoin(
                    settled,
                    sa.and_(
                        settled.c.run_id == runs.c.run_id,
                        settled.c.step_id == bind("step_id"),
                        settled.c.item_index == bind("item_index"),
                    ),
                )
            )
            .where(runs.c.run_id == bind("run_id")),
        )
        self.read_steps = Statement(
            "iaflow_read_steps", sa.select(*view).where(of_run, whole, wanted)
        )
        self.read_all = Statement("iaflow_read_all", sa.select(*view).where(of_run, whole))
        self.read_decided = Statement(
            "iaflow_read_decided",
            sa.select(t.decisions.c.transition).where(
                t.decisions.c.run_id == bind("run_id"), t.decisions.c.superseded == 0
            ),
        )
        joined = payloads.join(
            steps,
            sa.and_(
                steps.c.run_id == payloads.c.run_id,
                steps.c.step_id == payloads.c.step_id,
                steps.c.item_index == payloads.c.item_index,
            ),
        )
        self.read_outputs = Statement(
            "iaflow_read_outputs",
            sa.select(payloads.c.step_id, sa.cast(payloads.c.output, sa.Text))
            .select_from(joined)
            .where(of_run, whole, wanted, is_readable(steps)),
        )
        self.read_errors = Statement(
            "iaflow_read_errors",
            sa.select(payloads.c.step_id, sa.cast(payloads.c.error, sa.Text))
            .select_from(joined)
            .where(
                of_run,
                whole,
                wanted,
                steps.c.status == literal_word(StepStatus.FAILED),
                payloads.c.error.is_not(None),
            ),
        )
        self.read_ends = Statement(
            "iaflow_read_ends",
            sa.select(steps.c.step_id).where(of_run, whole, steps.c.is_end.is_(sa.true())),
        )
        self.read_taken_sources = Statement(
            "iaflow_read_taken_sources",
            sa.select(t.decisions.c.source)
            .distinct()
            .where(
                t.decisions.c.run_id == bind("run_id"),
                t.decisions.c.target == bind("step_id"),
                t.decisions.c.superseded == 0,
                t.decisions.c.taken.is_(sa.true()),
                t.decisions.c.seq <= bind("ready_seq"),
            ),
        )
        self.find_key = Statement(
            "iaflow_find_key",
            sa.select(runs.c.run_id, runs.c.body_hash).where(
                runs.c.idempotency_key == bind("idempotency_key")
            ),
        )
        self._writes(database)

    def _writes(self, database: Database) -> None:
        t = database.tables
        bind = sa.bindparam
        runs, steps, payloads = t.runs, t.steps, t.step_payloads
        self.insert_run = Statement(
            "iaflow_insert_run",
            sa.insert(runs).values(
                {
                    name: bind(name)
                    for name in (
                        "run_id",
                        "slug",
                        "content_hash",
                        "status",
                        "seq",
                        "live",
                        "paused",
                        "idempotency_key",
                        "body_hash",
                        "started_by",
                        "source_folder",
                        "created_at",
                        "deadline_at",
                        "started_at",
                        "parent_run_id",
                        "parent_step_id",
                        "parent_index",
                        "parent_attempt",
                        "depth",
                        "rerun_of",
                    )
                }
            ),
        )
        self.insert_run_payload = Statement(
            "iaflow_insert_run_payload",
            sa.insert(t.run_payloads).values(run_id=bind("run_id"), parameters=bind("parameters")),
        )
        # Should the lock ever fail, a stale `before` moves no row here, and the event of the
        # same number then meets its primary key: the transaction is undone and planned anew.
        self.update_run = Statement(
            "iaflow_update_run",
            sa.update(runs)
            .where(runs.c.run_id == bind("run_id"), runs.c.seq == bind("before"))
            .values(
                {name: bind(name) for name in ("seq", "status", "live", "paused", "handled")}
                | {
                    "unhandled": bind("unhandled"),
                    "finished_at": bind("finished_at"),
                    # the first failure that nobody handled stays the run's
                    "error_step_id": _first(runs.c.error_step_id, "error_step_id"),
                    "error_code": _first(runs.c.error_code, "error_code"),
                    "error_message": _first(runs.c.error_message, "error_message"),
                }
            ),
        )
        self.set_outputs = Statement(
            "iaflow_set_outputs",
            sa.update(t.run_payloads)
            .where(t.run_payloads.c.run_id == bind("run_id"))
            .values(outputs=bind("outputs")),
        )
        columns = ("run_id", "step_id", "item_index", "status", "end", "decided", "taken")
        more = ("is_end", "handled", "due_at", "finished_at", "waits_for")
        publish = ("ready_seq", "queue", "priority", "published_at", "concurrency_key")
        self.insert_step = Statement(
            "iaflow_insert_step",
            sa.insert(steps).values({name: bind(name) for name in (*columns, *more, *publish)}),
        )
        of_step = sa.and_(
            steps.c.run_id == bind("run_id"),
            steps.c.step_id == bind("step_id"),
            steps.c.item_index == NO_INDEX,
        )
        self.mark_ready = Statement(
            "iaflow_mark_ready",
            sa.update(steps)
            .where(of_step, steps.c.status == literal_word(StepStatus.PENDING))
            .values(
                {name: bind(name) for name in ("decided", "taken", "due_at", *publish)}
                | {"status": literal_word(StepStatus.READY)}
            ),
        )
        moved: dict[str, Any] = {
            name: bind(name) for name in ("status", "end", "decided", "taken", *more)
        } | {
            "token": sa.null(),
            "lease_until": sa.null(),
        }
        this = sa.and_(
            steps.c.run_id == bind("run_id"),
            steps.c.step_id == bind("step_id"),
            steps.c.item_index == bind("item_index"),
        )
        self.move_step = Statement(
            "iaflow_move_step",
            sa.update(steps).where(this, steps.c.status == bind("before")).values(moved),
        )
        self.set_items = Statement(
            "iaflow_set_items", sa.update(steps).where(of_step).values(items=bind("items"))
        )
        # A claim or a staged retry may have moved it among these since it was read: they
        # take no lock on the run. Whatever it is by now, the run's end has the last word.
        unfinished = steps.c.status.in_(
            [literal_word(status) for status in StepStatus if status not in END_OF_STEP]
        )
        self.mark_cancelled = Statement(
            "iaflow_mark_cancelled", sa.update(steps).where(this, unfinished).values(moved)
        )
        upsert = _upsert(database, payloads)
        self.put_payload = Statement("iaflow_put_payload", upsert)
        of_payload = sa.and_(
            payloads.c.run_id == bind("run_id"),
            payloads.c.step_id == bind("step_id"),
            payloads.c.item_index == NO_INDEX,
        )
        self.read_judged = Statement(
            "iaflow_read_judged",
            sa.select(sa.cast(payloads.c.judged, sa.Text)).where(of_payload),
        )
        self.put_judged = Statement("iaflow_put_judged", _upsert_judged(database, payloads))
        self.insert_decision = Statement(
            "iaflow_insert_decision",
            sa.insert(t.decisions).values(
                {
                    name: bind(name)
                    for name in (
                        "run_id",
                        "transition",
                        "source",
                        "target",
                        "taken",
                        "seq",
                        "decided_at",
                    )
                }
                | {"reason": bind("reason")}
            ),
        )
        self.insert_event = Statement(
            "iaflow_insert_event",
            sa.insert(t.events).values(
                run_id=bind("run_id"),
                seq=bind("seq"),
                at=bind("at"),
                changes=bind("changes"),
            ),
        )
        self.discard = Statement(
            "iaflow_discard",
            sa.update(payloads)
            .where(
                payloads.c.run_id == bind("run_id"),
                payloads.c.step_id == bind("step_id"),
                payloads.c.item_index == bind("item_index"),
            )
            .values(discarded=bind("discarded")),
        )
        cancel = sa.update(t.pauses).values(status=literal_word(PauseStatus.CANCELLED))
        is_open = t.pauses.c.status == literal_word(PauseStatus.OPEN)
        of_pauses = t.pauses.c.run_id == bind("run_id")
        self.cancel_pauses = Statement("iaflow_cancel_pauses", cancel.where(of_pauses, is_open))
        self.cancel_pauses_of_step = Statement(
            "iaflow_cancel_pauses_of_step",
            cancel.where(of_pauses, t.pauses.c.step_id == bind("step_id"), is_open),
        )


def _first(column: sa.Column[Any], parameter: str) -> Any:
    return sa.func.coalesce(column, sa.bindparam(parameter, type_=sa.Text()))


def _upsert_judged(database: Database, payloads: sa.Table) -> Any:
    insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
    statement = insert(payloads).values(
        run_id=sa.bindparam("run_id"),
        step_id=sa.bindparam("step_id"),
        item_index=sa.literal_column(str(NO_INDEX)),
        judged=sa.bindparam("judged"),
    )
    return statement.on_conflict_do_update(
        index_elements=["run_id", "step_id", "item_index"],
        set_={"judged": statement.excluded.judged},
    )


def _upsert(database: Database, payloads: sa.Table) -> Any:
    insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
    written = ("inputs", "output", "error")
    statement = insert(payloads).values(
        {name: sa.bindparam(name) for name in ("run_id", "step_id", "item_index")}
        | {name: sa.bindparam(name) for name in written}
    )
    return statement.on_conflict_do_update(
        index_elements=["run_id", "step_id", "item_index"],
        set_={
            "inputs": sa.func.coalesce(statement.excluded.inputs, payloads.c.inputs),
            "output": statement.excluded.output,
            "error": statement.excluded.error,
        },
    )
