"""What people and callers ask of runs: read, never written.

Decides which columns and in which order; never what they mean. Called by the client, the
executors (a run's state) and the engine (a run's header).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from iaflow.data.records import NO_INDEX, DecisionRecord, EventRecord, RunRecord, StepRecord
from iaflow.data.status import END_OF_RUN, RunStatus, StepEnd, StepStatus, WaitsFor
from iaflow.database.connections import Row
from iaflow.database.dialects import Database
from iaflow.database.run_store.settles import read_item_counts
from iaflow.database.statements import Statement, literal_word, read_instant

__all__ = ["ReadStore", "RunHeader", "list_run_columns", "read_run", "read_step", "select_steps"]


@dataclass(frozen=True, slots=True)
class RunHeader:
    """
    What never changes in a run once it has begun: may be kept in memory for ever.

    Attributes:
        began_at: None while it waits for its turn.
        parent: the step that it runs for, as (run id, step id, index).
        depth: how many runs are above it.
        waited_for: the step waits for its end.
    """

    slug: str
    content_hash: str
    began_at: datetime | None
    parameters: Mapping[str, Any]
    source_folder: str | None
    started_by: str | None = None
    parent: tuple[str, str, int] | None = None
    depth: int = 0
    waited_for: bool = False


class ReadStore:
    """Reads of runs; each is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def header(self, run_id: str) -> RunHeader | None:
        """Return what never changes in a run, or None if there is none of that id."""
        rows = self._database.fetch(self._sql.header, run_id=run_id)
        if not rows:
            return None
        slug, content_hash, began_at, parameters, folder, starter, *above, depth, attempt = rows[0]
        return RunHeader(
            slug,
            content_hash,
            read_instant(began_at),
            json.loads(parameters),
            folder,
            starter,
            (str(above[0]), above[1], above[2]) if above[0] is not None else None,
            depth,
            attempt is not None,
        )

    def run_status(self, run_id: str) -> RunStatus | None:
        """Return a run's status alone, or None if there is none of that id."""
        rows = self._database.fetch(self._sql.run_status, run_id=run_id)
        return RunStatus(rows[0][0]) if rows else None

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run, or None if there is none of that id."""
        rows = self._database.fetch(self._sql.run, run_id=run_id)
        return read_run(rows[0]) if rows else None

    def find_by_prefix(self, prefix: str, limit: int = 6) -> list[str]:
        """Return the ids of runs that begin with `prefix`, as git does with commits."""
        if not prefix or set(prefix) - set("0123456789abcdef-"):
            return []
        least, most = (_fill_uuid(prefix, digit) for digit in "0f")
        rows = self._database.fetch(self._sql.between, least=least, most=most, limit=limit)
        return [str(row[0]) for row in rows if str(row[0]).startswith(prefix)]

    def unfinished(self, limit: int = 1000) -> list[str]:
        """Return the ids of runs that have not ended, the oldest first."""
        return [str(r[0]) for r in self._database.fetch(self._sql.unfinished, limit=limit)]

    def is_overdue(self, run_id: str, *, now: datetime) -> bool:
        """Tell whether a run has not ended and its `run_timeout` is over."""
        return bool(self._database.fetch(self._sql.is_overdue, run_id=run_id, now=now))

    def find_overdue(self, *, now: datetime, limit: int = 100) -> list[str]:
        """Return the ids of unfinished runs whose `run_timeout` is over."""
        return [str(r[0]) for r in self._database.fetch(self._sql.overdue, now=now, limit=limit)]

    def steps(self, run_id: str, *, items: bool = True, payloads: bool = True) -> list[StepRecord]:
        """
        Return the steps of a run that have a row.

        Args:
            items: those of a foreach too; they may be a hundred thousand.
            payloads: inputs and outputs too; without them only errors are read.
        """
        statement = self._sql.steps[items, payloads]
        return [read_step(row) for row in self._database.fetch(statement, run_id=run_id)]

    def failed_items(self, run_id: str, step_id: str, limit: int = 10) -> list[StepRecord]:
        """Return the first items of a step that failed, without inputs and outputs."""
        rows = self._database.fetch(
            self._sql.failed_items, run_id=run_id, step_id=step_id, limit=limit
        )
        return [read_step(row) for row in rows]

    def children(self, run_id: str, limit: int = 200) -> list[RunRecord]:
        """Return the runs that steps of a run have started, the newest first."""
        return [
            read_run(row)
            for row in self._database.fetch(self._sql.children, run_id=run_id, limit=limit)
        ]

    def decisions(self, run_id: str, target: str | None = None) -> list[DecisionRecord]:
        """Return a run's decisions in the order they were made; into one step if given."""
        if target is None:
            rows = self._database.fetch(self._sql.decisions, run_id=run_id)
        else:
            rows = self._database.fetch(self._sql.decisions_into, run_id=run_id, target=target)
        return [_decision(row) for row in rows]

    def events(self, run_id: str, after: int = 0, limit: int = 1000) -> list[EventRecord]:
        """Return a run's events with a higher sequence number than `after`, in order."""
        rows = self._database.fetch(self._sql.events, run_id=run_id, after=after, limit=limit)
        return [EventRecord(str(r[0]), r[1], _instant(r[2]), json.loads(r[3])) for r in rows]


def _instant(value: Any) -> datetime:
    instant = read_instant(value)
    assert instant is not None
    return instant


def _fill_uuid(prefix: str, digit: str) -> str:
    pattern = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".replace("x", digit)
    return (prefix + pattern[len(prefix) :])[: len(pattern)]


def list_run_columns(runs: sa.FromClause, payloads: sa.FromClause) -> list[ColumnElement[Any]]:
    """Return the columns of a run, in the order that `read_run` reads."""
    text = sa.Text()
    return [
        runs.c.run_id,
        runs.c.slug,
        runs.c.content_hash,
        runs.c.status,
        runs.c.seq,
        runs.c.live,
        runs.c.paused,
        runs.c.handled,
        runs.c.unhandled,
        runs.c.error_step_id,
        runs.c.error_code,
        runs.c.error_message,
        runs.c.created_at,
        runs.c.finished_at,
        runs.c.source_folder,
        sa.cast(payloads.c.parameters, text),
        sa.cast(payloads.c.outputs, text),
        runs.c.started_by,
        runs.c.started_at,
        runs.c.parent_run_id,
        runs.c.parent_step_id,
        runs.c.parent_index,
        runs.c.parent_attempt,
        runs.c.rerun_of,
    ]


def read_run(row: Row) -> RunRecord:
    """Return a run from the columns of `list_run_columns`."""
    return RunRecord(
        run_id=str(row[0]),
        slug=row[1],
        content_hash=row[2],
        status=RunStatus(row[3]),
        seq=row[4],
        live=row[5],
        paused=row[6],
        handled=row[7],
        unhandled=row[8],
        error_step_id=row[9],
        error_code=row[10],
        error_message=row[11],
        created_at=_instant(row[12]),
        finished_at=read_instant(row[13]),
        source_folder=row[14],
        parameters=json.loads(row[15]),
        outputs=json.loads(row[16]) if row[16] is not None else None,
        started_by=row[17],
        started_at=read_instant(row[18]),
        parent_run_id=str(row[19]) if row[19] is not None else None,
        parent_step_id=row[20],
        parent_index=row[21],
        parent_attempt=row[22],
        rerun_of=str(row[23]) if row[23] is not None else None,
    )


def read_step(row: Row) -> StepRecord:
    """Return a step from the columns of `select_steps`."""
    return StepRecord(
        run_id=str(row[0]),
        step_id=row[1],
        index=row[2],
        status=StepStatus(row[3]),
        end=StepEnd(row[4]) if row[4] else None,
        attempt=row[5],
        worker_losses=row[6],
        worker=row[7],
        handled=bool(row[8]),
        due_at=read_instant(row[9]),
        started_at=read_instant(row[10]),
        finished_at=read_instant(row[11]),
        inputs=json.loads(row[12]) if row[12] is not None else None,
        output=json.loads(row[13]) if row[13] is not None else None,
        error=json.loads(row[14]) if row[14] is not None else None,
        waits_for=WaitsFor(row[15]) if row[15] else None,
        items=read_item_counts(row[16]),
        concurrency_key=row[17],
        is_held=row[3] == StepStatus.READY and row[18] is None,
        hindrance=row[19] if row[3] == StepStatus.READY else None,
    )


def _decision(row: Row) -> DecisionRecord:
    return DecisionRecord(
        run_id=str(row[0]),
        transition=row[1],
        source=row[2],
        target=row[3],
        taken=bool(row[4]),
        seq=row[5],
        reason=json.loads(row[6]),
        decided_at=_instant(row[7]),
        superseded=row[8] > 0,
    )


def select_steps(database: Database, *, payloads: bool) -> sa.Select[Any]:
    """Return the select of steps, in the order that `read_step` reads; errors are always there."""
    steps, kept = database.tables.steps, database.tables.step_payloads
    text = sa.Text()
    inputs, output = (
        (sa.cast(column, text) if payloads else sa.null())
        for column in (kept.c.inputs, kept.c.output)
    )
    this = sa.and_(
        kept.c.run_id == steps.c.run_id,
        kept.c.step_id == steps.c.step_id,
        kept.c.item_index == steps.c.item_index,
    )
    return sa.select(
        steps.c.run_id,
        steps.c.step_id,
        steps.c.item_index,
        steps.c.status,
        steps.c.end,
        steps.c.attempt,
        steps.c.worker_losses,
        steps.c.worker,
        steps.c.handled,
        steps.c.due_at,
        steps.c.started_at,
        steps.c.finished_at,
        inputs,
        output,
        sa.cast(kept.c.error, text),
        steps.c.waits_for,
        sa.cast(steps.c["items"], text),
        steps.c.concurrency_key,
        steps.c.published_at,
        steps.c.hindrance,
    ).select_from(steps.outerjoin(kept, this))


class _Statements:
    """The reading statements, for one database's tables."""

    def __init__(self, database: Database) -> None:
        t = database.tables
        bind = sa.bindparam
        text = sa.Text()
        runs, payloads = t.runs, t.run_payloads
        with_payload = runs.join(payloads, payloads.c.run_id == runs.c.run_id)
        self._run = sa.select(*list_run_columns(runs, payloads)).select_from(with_payload)
        this = runs.c.run_id == bind("run_id")
        self.header = Statement(
            "iaflow_header",
            sa.select(
                runs.c.slug,
                runs.c.content_hash,
                # A process of the release before begins runs without saying when.
                sa.case(
                    (runs.c.status == literal_word(RunStatus.PENDING), runs.c.started_at),
                    else_=sa.func.coalesce(runs.c.started_at, runs.c.created_at),
                ),
                sa.cast(payloads.c.parameters, text),
                runs.c.source_folder,
                runs.c.started_by,
                runs.c.parent_run_id,
                runs.c.parent_step_id,
                runs.c.parent_index,
                runs.c.depth,
                runs.c.parent_attempt,
            )
            .select_from(with_payload)
            .where(this),
        )
        self.run_status = Statement("iaflow_run_status", sa.select(runs.c.status).where(this))
        self.run = Statement("iaflow_run", self._run.where(this))
        is_unfinished = runs.c.status.in_(
            [literal_word(status) for status in RunStatus if status not in END_OF_RUN]
        )
        self.unfinished = Statement(
            "iaflow_unfinished",
            sa.select(runs.c.run_id)
            .where(is_unfinished)
            .order_by(runs.c.run_id)
            .limit(bind("limit")),
        )
        self.between = Statement(
            "iaflow_between",
            sa.select(runs.c.run_id)
            .where(runs.c.run_id >= bind("least"), runs.c.run_id <= bind("most"))
            .order_by(runs.c.run_id)
            .limit(bind("limit")),
        )
        self.is_overdue = Statement(
            "iaflow_is_overdue",
            sa.select(runs.c.run_id).where(
                runs.c.run_id == bind("run_id"), is_unfinished, runs.c.deadline_at <= bind("now")
            ),
        )
        self.overdue = Statement(
            "iaflow_overdue",
            sa.select(runs.c.run_id)
            .where(is_unfinished, runs.c.deadline_at <= bind("now"))
            .order_by(runs.c.deadline_at)
            .limit(bind("limit")),
        )
        self.children = Statement(
            "iaflow_children",
            self._run.where(runs.c.parent_run_id == bind("run_id"))
            .order_by(runs.c.run_id.desc())
            .limit(bind("limit")),
        )
        # Of a run that is being removed nothing is read, rather than what is left of it.
        is_whole = sa.exists().where(payloads.c.run_id == bind("run_id"))
        of_run = sa.and_(t.steps.c.run_id == bind("run_id"), is_whole)
        is_item = t.steps.c.item_index > NO_INDEX
        self.steps = {
            (items, payloads): Statement(
                f"iaflow_steps_{items:d}{payloads:d}",
                select_steps(database, payloads=payloads).where(
                    of_run, *([] if items else [t.steps.c.item_index == NO_INDEX])
                ),
            )
            for items in (False, True)
            for payloads in (False, True)
        }
        failed = t.steps.c.status == literal_word(StepStatus.FAILED)
        self.failed_items = Statement(
            "iaflow_failed_items",
            select_steps(database, payloads=False)
            .where(of_run, t.steps.c.step_id == bind("step_id"), is_item, failed)
            .order_by(t.steps.c.item_index)
            .limit(bind("limit")),
        )
        decisions = t.decisions
        listed = (
            sa.select(
                decisions.c.run_id,
                decisions.c.transition,
                decisions.c.source,
                decisions.c.target,
                decisions.c.taken,
                decisions.c.seq,
                sa.cast(decisions.c.reason, text),
                decisions.c.decided_at,
                decisions.c.superseded,
            )
            .where(decisions.c.run_id == bind("run_id"), is_whole)
            .order_by(decisions.c.seq, decisions.c.transition)
        )
        self.decisions = Statement("iaflow_decisions", listed)
        self.decisions_into = Statement(
            "iaflow_decisions_into", listed.where(decisions.c.target == bind("target"))
        )
        events = t.events
        self.events = Statement(
            "iaflow_events",
            sa.select(events.c.run_id, events.c.seq, events.c.at, sa.cast(events.c.changes, text))
            .where(events.c.run_id == bind("run_id"), events.c.seq > bind("after"), is_whole)
            .order_by(events.c.seq)
            .limit(bind("limit")),
        )
