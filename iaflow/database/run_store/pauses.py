"""Questions to people: open, answer, expire, settle.

Decides which guarded statement each change of a pause is, so that exactly one of answer,
expiry and cancel wins; never whether an answer is right. Called by the engine and
maintenance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.records import NewPause, PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.run_store.questions import QuestionStore, list_pause_columns, read_pause
from iaflow.database.run_store.waits import select_of_family
from iaflow.database.statements import (
    POSTGRES,
    Statement,
    dump_json,
    literal_word,
    read_instant,
)

__all__ = ["PauseStore", "UnsettledPause"]


@dataclass(frozen=True, slots=True)
class UnsettledPause:
    """A pause that was answered or expired, and whose step has not been settled yet."""

    pause_id: str
    run_id: str
    slug: str


class PauseStore:
    """
    The pauses of all runs.

    Attributes:
        questions: those of them that people are asked, as they are looked through.
    """

    def __init__(self, database: Database) -> None:
        self.questions = QuestionStore(database)
        self._database = database
        self._sql = _Statements(database)

    def insert_open(
        self,
        tx: Connection,
        *,
        pause_id: str,
        run_id: str,
        step_id: str,
        index: int,
        slug: str,
        pause: NewPause,
        now: datetime,
    ) -> None:
        """nothing -> open, in the transaction that makes the step wait."""
        expires_at = None
        if pause.expires_in is not None:
            expires_at = now + timedelta(seconds=pause.expires_in)
        tx.queue(
            self._sql.insert_open,
            pause_id=pause_id,
            run_id=run_id,
            step_id=step_id,
            item_index=index,
            slug=slug,
            status=PauseStatus.OPEN.value,
            ui_schema=dump_json(pause.ui_schema),
            shown=dump_json(pause.shown),
            assignees=dump_json(pause.assignees),
            digest=pause.digest,
            expires_at=expires_at,
            created_at=now,
            quorum=pause.quorum,
            exclude_starter=pause.exclude_starter,
            event=pause.event,
            notice_at=None if pause.notice_in is None else now + timedelta(seconds=pause.notice_in),
        )

    def find_to_remind(self, *, now: datetime, run_id: str | None = None) -> list[str]:
        """Return open questions whose next reminder or escalation is due, the longest due first."""
        statement = self._sql.to_remind if run_id is None else self._sql.to_remind_of_run
        given = {"now": now} if run_id is None else {"now": now, "run_id": run_id}
        return [str(row[0]) for row in self._database.fetch(statement, **given)]

    def next_notice(self, run_id: str | None = None) -> datetime | None:
        """Return when the next reminder or escalation is due; None if none is."""
        statement = self._sql.next_notice if run_id is None else self._sql.next_notice_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return read_instant(self._database.fetch(statement, **given)[0][0])

    def lock_to_remind(
        self, tx: Connection, pause_id: str, *, now: datetime
    ) -> tuple[int, dict[str, Any]] | None:
        """
        Lock a question that is open and wants a notice now.

        Returns:
            How many it has had, and who may answer; None if it is open or due no more.
        """
        rows = tx.fetch(self._sql.lock_to_remind, pause_id=pause_id, now=now)
        return (rows[0][0], json.loads(rows[0][1])) if rows else None

    def mark_reminded(
        self,
        tx: Connection,
        pause_id: str,
        *,
        done: int,
        assignees: Mapping[str, Any],
        notice_at: datetime | None,
    ) -> None:
        """open -> open: so many notices are done, these may answer, and this is when the next is."""
        tx.queue(
            self._sql.mark_reminded,
            pause_id=pause_id,
            notices_done=done,
            assignees=dump_json(assignees),
            notice_at=notice_at,
        )

    def reassign(
        self, tx: Connection, pause_id: str, *, assignees: Mapping[str, Any], now: datetime
    ) -> int | None:
        """
        open -> open: these are asked from now on, in the place of those before.

        Returns:
            How often it has been changed while it was open; None: it is open no more.
        """
        rows = tx.fetch(
            self._sql.reassign, pause_id=pause_id, assignees=dump_json(assignees), now=now
        )
        return rows[0][0] if rows else None

    def mark_answered(
        self,
        tx: Connection,
        pause_id: str,
        *,
        answer: Mapping[str, Any],
        key: str | None,
        answered_by: str,
        now: datetime,
    ) -> bool:
        """open -> answered, if it has not expired. False: somebody or something was first."""
        return bool(
            tx.fetch(
                self._sql.mark_answered,
                pause_id=pause_id,
                answer=dump_json(answer),
                answer_key=key,
                answered_by=answered_by,
                answered_at=now,
                now=now,
            )
        )

    def insert_answer(
        self,
        tx: Connection,
        pause_id: str,
        *,
        answer: Mapping[str, Any],
        key: str | None,
        answered_by: str,
        now: datetime,
    ) -> int | None:
        """
        Keep one person's answer to a pause that wants several.

        Returns:
            How many have answered; None if it is closed, or this person has answered before.
        """
        if not tx.fetch(self._sql.lock_open, pause_id=pause_id, now=now):
            return None
        kept = tx.fetch(
            self._sql.insert_answer,
            pause_id=pause_id,
            answered_by=answered_by,
            answer=dump_json(answer),
            answer_key=key,
            answered_at=now,
        )
        if not kept:
            return None
        count: int = tx.fetch(self._sql.count_answers, pause_id=pause_id)[0][0]
        return count

    def read_answers(self, tx: Connection, pause_id: str) -> tuple[dict[str, Any], ...]:
        """Return all answers to a pause, the first one first, with who gave them and when."""
        rows = tx.fetch(self._sql.read_answers, pause_id=pause_id)
        return tuple(
            {
                **json.loads(row[1]),
                "_answered_by": row[0],
                "_answered_at": _isoformat(read_instant(row[2])),
            }
            for row in rows
        )

    def find_answer(self, pause_id: str, answered_by: str) -> tuple[str | None, Any] | None:
        """Return the key and the answer that a person gave to a pause, if any."""
        rows = self._database.fetch(
            self._sql.find_answer, pause_id=pause_id, answered_by=answered_by
        )
        return (rows[0][0], json.loads(rows[0][1])) if rows else None

    def list_open(self, *, run_id: str | None = None, limit: int = 200) -> list[PauseRecord]:
        """Return open questions, the oldest first; of a run and those below it if given."""
        return self.questions.list_open(run_id=run_id, limit=limit)

    def list_events(self, run_id: str) -> list[PauseRecord]:
        """Return the events that a run waits for, or has waited for."""
        return [read_pause(row) for row in self._database.fetch(self._sql.events, run_id=run_id)]

    def list_open_events(self, run_id: str, limit: int = 200) -> list[PauseRecord]:
        """Return the events that a run and the runs below it wait for, the oldest first."""
        rows = self._database.fetch(self._sql.open_events, run_id=run_id, limit=limit)
        return [read_pause(row) for row in rows]

    def count_answers(self, pause_id: str) -> int:
        """Return how many people have answered a question that wants several."""
        rows = self._database.fetch(self._sql.count_answers, pause_id=pause_id)
        count: int = rows[0][0]
        return count

    def mark_expired(self, *, now: datetime, run_id: str | None = None) -> list[UnsettledPause]:
        """open -> expired for all whose time is over; of one run if `run_id` is given."""
        statement = self._sql.mark_expired if run_id is None else self._sql.mark_expired_of_run
        given = {"now": now} if run_id is None else {"now": now, "run_id": run_id}
        return [_unsettled(row) for row in self._database.fetch(statement, **given)]

    def mark_settled(self, tx: Connection, pause_id: str) -> None:
        """The step has got its end from this pause."""
        tx.queue(self._sql.mark_settled, pause_id=pause_id)

    def find_unsettled(
        self, *, run_id: str | None = None, limit: int = 100
    ) -> list[UnsettledPause]:
        """Return answered and expired pauses whose step still waits; of one run if given."""
        if run_id is None:
            rows = self._database.fetch(self._sql.unsettled, limit=limit)
        else:
            rows = self._database.fetch(self._sql.unsettled_of_run, run_id=run_id, limit=limit)
        return [_unsettled(row) for row in rows]

    def has_unsettled(self, tx: Connection, run_id: str, *, but: str) -> bool:
        """Tell whether another pause of a run was answered or expired, and its step still waits."""
        rows = tx.fetch(self._sql.unsettled_of_run, run_id=run_id, limit=2)
        return any(str(row[0]) != but for row in rows)

    def read(self, pause_id: str) -> PauseRecord | None:
        """Return a pause, or None if there is none of that id."""
        rows = self._database.fetch(self._sql.read, pause_id=pause_id)
        return read_pause(rows[0]) if rows else None

    def read_answer_key(self, pause_id: str) -> str | None:
        """Return the key that the accepted answer came with."""
        rows = self._database.fetch(self._sql.read_key, pause_id=pause_id)
        return rows[0][0] if rows else None


def _unsettled(row: Row) -> UnsettledPause:
    return UnsettledPause(str(row[0]), str(row[1]), row[2])


def _isoformat(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


class _Statements:
    """The statements on pauses, for one database's tables."""

    def __init__(self, database: Database) -> None:
        pauses = database.tables.pauses
        bind = sa.bindparam
        columns = list_pause_columns(pauses)
        is_open = pauses.c.status == literal_word(PauseStatus.OPEN)
        this = pauses.c.pause_id == bind("pause_id")
        of_run = pauses.c.run_id == bind("run_id")
        short = (pauses.c.pause_id, pauses.c.run_id, pauses.c.slug)
        plain = (
            "pause_id",
            "run_id",
            "step_id",
            "item_index",
            "slug",
            "status",
            "digest",
            "expires_at",
            "created_at",
            "quorum",
            "exclude_starter",
            "event",
            "notice_at",
        )
        self.insert_open = Statement(
            "iaflow_insert_pause",
            sa.insert(pauses).values(
                {name: bind(name) for name in plain}
                | {name: bind(name) for name in ("ui_schema", "shown", "assignees")}
            ),
        )
        self.mark_answered = Statement(
            "iaflow_mark_answered",
            sa.update(pauses)
            .where(
                this,
                is_open,
                sa.or_(pauses.c.expires_at.is_(None), pauses.c.expires_at > bind("now")),
            )
            .values(
                status=literal_word(PauseStatus.ANSWERED),
                answer=bind("answer"),
                answer_key=bind("answer_key"),
                answered_by=bind("answered_by"),
                answered_at=bind("answered_at"),
            )
            .returning(pauses.c.pause_id),
        )
        expire = (
            sa.update(pauses)
            .where(is_open, pauses.c.expires_at <= bind("now"))
            .values(status=literal_word(PauseStatus.EXPIRED), answered_at=pauses.c.expires_at)
        )
        self.mark_expired = Statement("iaflow_mark_expired", expire.returning(*short))
        self.mark_expired_of_run = Statement(
            "iaflow_mark_expired_of_run", expire.where(of_run).returning(*short)
        )
        self.mark_settled = Statement(
            "iaflow_mark_settled", sa.update(pauses).where(this).values(is_settled=sa.true())
        )
        decided = pauses.c.status.in_(
            [literal_word(PauseStatus.ANSWERED), literal_word(PauseStatus.EXPIRED)]
        )
        unsettled = (
            sa.select(*short)
            .where(decided, sa.not_(pauses.c.is_settled))
            .order_by(pauses.c.answered_at)
            .limit(bind("limit"))
        )
        self.unsettled = Statement("iaflow_unsettled", unsettled)
        self.unsettled_of_run = Statement("iaflow_unsettled_of_run", unsettled.where(of_run))
        self.read = Statement("iaflow_read_pause", sa.select(*columns).where(this))
        self.read_key = Statement(
            "iaflow_read_answer_key", sa.select(pauses.c.answer_key).where(this)
        )
        is_question = pauses.c.event.is_(None)
        open_events = sa.select(*columns).where(is_open, sa.not_(is_question))
        self.open_events = Statement(
            "iaflow_list_open_events",
            select_of_family(database, open_events, pauses.c.run_id, limit="limit"),
        )
        self.events = Statement(
            "iaflow_list_events",
            sa.select(*columns)
            .where(of_run, pauses.c.event.is_not(None))
            .order_by(pauses.c.created_at),
        )
        self._answers(database)
        self._notices(database)

    def _notices(self, database: Database) -> None:
        pauses = database.tables.pauses
        bind = sa.bindparam
        is_open = pauses.c.status == literal_word(PauseStatus.OPEN)
        this = pauses.c.pause_id == bind("pause_id")
        of_run = pauses.c.run_id == bind("run_id")
        is_due = sa.and_(is_open, pauses.c.notice_at <= bind("now"))
        due = sa.select(pauses.c.pause_id).where(is_due).order_by(pauses.c.notice_at).limit(1000)
        self.to_remind = Statement("iaflow_to_remind", due)
        self.to_remind_of_run = Statement("iaflow_to_remind_of_run", due.where(of_run))
        following = sa.select(sa.func.min(pauses.c.notice_at)).where(
            is_open, pauses.c.notice_at.is_not(None)
        )
        self.next_notice = Statement("iaflow_next_notice_at", following)
        self.next_notice_of_run = Statement("iaflow_next_notice_at_of_run", following.where(of_run))
        not_over = sa.or_(pauses.c.expires_at.is_(None), pauses.c.expires_at > bind("now"))
        self.lock_to_remind = Statement(
            "iaflow_lock_to_remind",
            sa.select(pauses.c.notices_done, sa.cast(pauses.c.assignees, sa.Text()))
            .where(this, is_due, not_over)
            .with_for_update(),
        )
        names = ("notices_done", "assignees", "notice_at")
        self.mark_reminded = Statement(
            "iaflow_mark_reminded",
            sa.update(pauses)
            .where(this, is_open)
            .values(revision=pauses.c.revision + 1, **{name: bind(name) for name in names}),
        )
        not_over = sa.or_(pauses.c.expires_at.is_(None), pauses.c.expires_at > bind("now"))
        self.reassign = Statement(
            "iaflow_reassign",
            sa.update(pauses)
            .where(this, is_open, pauses.c.event.is_(None), not_over)
            .values(revision=pauses.c.revision + 1, assignees=bind("assignees"))
            .returning(pauses.c.revision),
        )

    def _answers(self, database: Database) -> None:
        pauses, answers = database.tables.pauses, database.tables.pause_answers
        bind = sa.bindparam
        text = sa.Text()
        of_pause = answers.c.pause_id == bind("pause_id")
        self.lock_open = Statement(
            "iaflow_lock_pause",
            sa.update(pauses)
            .where(
                pauses.c.pause_id == bind("pause_id"),
                pauses.c.status == literal_word(PauseStatus.OPEN),
                sa.or_(pauses.c.expires_at.is_(None), pauses.c.expires_at > bind("now")),
            )
            .values(revision=pauses.c.revision + 1)
            .returning(pauses.c.pause_id),
        )
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        names = ("pause_id", "answered_by", "answer", "answer_key", "answered_at")
        self.insert_answer = Statement(
            "iaflow_insert_answer",
            insert(answers)
            .values({name: bind(name) for name in names})
            .on_conflict_do_nothing()
            .returning(answers.c.answered_by),
        )
        self.count_answers = Statement(
            "iaflow_count_answers", sa.select(sa.func.count()).select_from(answers).where(of_pause)
        )
        self.read_answers = Statement(
            "iaflow_read_answers",
            sa.select(answers.c.answered_by, sa.cast(answers.c.answer, text), answers.c.answered_at)
            .where(of_pause)
            .order_by(answers.c.answered_at, answers.c.answered_by),
        )
        self.find_answer = Statement(
            "iaflow_find_answer",
            sa.select(answers.c.answer_key, sa.cast(answers.c.answer, text)).where(
                of_pause, answers.c.answered_by == bind("answered_by")
            ),
        )
