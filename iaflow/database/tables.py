"""The tables, for one schema, on either dialect.

Decides columns, keys, checks and indexes; never reads or writes a row. Used by the stores
(statements) and the migrations (which must arrive at the same tables).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from iaflow.data.status import (
    FireStatus,
    Misfire,
    PauseStatus,
    RunStatus,
    StepEnd,
    StepStatus,
)
from iaflow.database import account_tables as accounts
from iaflow.database.columns import BIG, INSTANT, JSON_TEXT, UUID

__all__ = ["Tables", "build_tables"]

ENDED_FAMILY = "finished_at IS NOT NULL AND parent_run_id IS NULL"
UNFINISHED = "status IN ('pending', 'running', 'waiting')"
IS_CHILD = "parent_run_id IS NOT NULL"
UNFINISHED_CHILD = f"{IS_CHILD} AND {UNFINISHED}"
TO_BE_REMINDED = "status = 'open' AND notice_at IS NOT NULL"
TO_BE_FIRED = "next_at IS NOT NULL AND NOT is_paused"


@dataclass(frozen=True, slots=True)
class Tables:
    """Every table of iaflow in one schema (None: the connection's own, as on SQLite)."""

    metadata: MetaData
    pipelines: Table
    versions: Table
    runs: Table
    run_payloads: Table
    steps: Table
    step_payloads: Table
    decisions: Table
    pauses: Table
    pause_answers: Table
    events: Table
    key_holds: Table
    rate_slots: Table
    notices: Table
    schedules: Table
    schedule_fires: Table
    users: Table
    sessions: Table
    api_tokens: Table
    sign_ins: Table
    answer_links: Table
    audit_events: Table
    schema_info: Table


@cache
def build_tables(schema: str | None) -> Tables:
    """Return the tables for `schema`; the same object for the same name."""
    metadata = MetaData(schema=schema)
    versions = _versions(metadata)
    pipelines = _pipelines(metadata, versions)
    runs = _runs(metadata, versions)
    pauses = _pauses(metadata, runs)
    schedules = _schedules(metadata)
    users = accounts.users(metadata)
    return Tables(
        metadata=metadata,
        pipelines=pipelines,
        versions=versions,
        runs=runs,
        run_payloads=_run_payloads(metadata, runs),
        steps=_steps(metadata),
        step_payloads=_step_payloads(metadata),
        decisions=_decisions(metadata),
        pauses=pauses,
        pause_answers=_pause_answers(metadata, pauses),
        events=_events(metadata),
        key_holds=_key_holds(metadata, runs),
        rate_slots=_rate_slots(metadata),
        notices=_notices(metadata, runs),
        schedules=schedules,
        schedule_fires=_schedule_fires(metadata, schedules),
        users=users,
        sessions=accounts.sessions(metadata, users),
        api_tokens=accounts.api_tokens(metadata, users),
        sign_ins=accounts.sign_ins(metadata),
        answer_links=accounts.answer_links(metadata, pauses),
        audit_events=accounts.audit_events(metadata),
        schema_info=_schema_info(metadata),
    )


def _versions(metadata: MetaData) -> Table:
    return Table(
        "pipeline_versions",
        metadata,
        Column("content_hash", String(64), primary_key=True),
        Column("slug", Text, nullable=False),
        Column("number", Integer, nullable=False),
        Column("version", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("document", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        UniqueConstraint("slug", "number", name="pipeline_versions_slug_number"),
    )


def _pipelines(metadata: MetaData, versions: Table) -> Table:
    return Table(
        "pipelines",
        metadata,
        Column("slug", Text, primary_key=True),
        Column("name", Text, nullable=False),
        Column("description", Text, nullable=False, server_default=""),
        Column("content_hash", String(64), ForeignKey(versions.c.content_hash), nullable=False),
        Column("is_paused", Boolean, nullable=False, server_default=false()),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
    )


def _runs(metadata: MetaData, versions: Table) -> Table:
    unfinished = text(UNFINISHED)
    return Table(
        "runs",
        metadata,
        Column("run_id", UUID, primary_key=True),
        Column("slug", Text, nullable=False),
        Column("content_hash", String(64), ForeignKey(versions.c.content_hash), nullable=False),
        Column("status", String(16), nullable=False),
        Column("seq", BIG, nullable=False),
        Column("live", Integer, nullable=False),
        Column("paused", Integer, nullable=False),
        Column("handled", Integer, nullable=False, server_default="0"),
        Column("unhandled", Integer, nullable=False, server_default="0"),
        Column("error_step_id", Text),
        Column("error_code", Text),
        Column("error_message", Text),
        Column("idempotency_key", Text),
        Column("body_hash", String(64)),
        Column("started_by", Text),
        Column("source_folder", Text),
        # a child run of a `pipeline` step
        Column("parent_run_id", UUID),
        Column("parent_step_id", Text),
        Column("parent_index", Integer),
        Column("depth", SmallInteger, nullable=False, server_default="0"),
        Column("created_at", INSTANT, nullable=False),
        Column("deadline_at", INSTANT),
        Column("finished_at", INSTANT),
        # null while it is pending, behind `max_concurrent_runs`
        Column("started_at", INSTANT),
        Column("parent_attempt", Integer),
        # the run whose recorded outputs it began with
        Column("rerun_of", UUID),
        _one_of("status", RunStatus),
        CheckConstraint("live >= 0 AND paused >= 0 AND paused <= live", name="runs_counters"),
        CheckConstraint(
            "status NOT IN ('succeeded', 'failed', 'cancelled') OR live = 0", name="runs_end"
        ),
        Index("runs_key", "idempotency_key", unique=True),
        Index("runs_by_status", "status", "run_id"),
        Index("runs_by_slug", "slug", "run_id"),
        # lists of one pipeline's runs in one status, and of what somebody has started
        Index("runs_by_slug_status", "slug", "status", "run_id"),
        Index("runs_by_starter", "started_by", "slug", "status", "run_id"),
        Index("runs_top", "slug", "status", "run_id", **_where(text("parent_run_id IS NULL"))),
        Index("runs_by_parent", "parent_run_id", "run_id", **_where(text(IS_CHILD))),
        Index("runs_unfinished_children", "parent_run_id", **_where(text(UNFINISHED_CHILD))),
        Index("runs_deadline", "deadline_at", **_where(unfinished)),
        Index("runs_unfinished", "slug", "status", "run_id", **_where(unfinished)),
        # families that ended, for pruning
        Index("runs_ended", "finished_at", **_where(text(ENDED_FAMILY))),
        postgresql_with={"fillfactor": "80"},
    )


def _run_payloads(metadata: MetaData, runs: Table) -> Table:
    return Table(
        "run_payloads",
        metadata,
        _run_id(runs, primary_key=True),
        Column("parameters", JSON_TEXT, nullable=False),
        Column("outputs", JSON_TEXT),
    )


def _steps(metadata: MetaData) -> Table:
    # No foreign key to the run here and in the other tables that every step writes: each
    # would cost one look-up and one row lock per row. Every writer holds the run's lock,
    # and pruning removes a run from all of them in one transaction.
    held = text("status = 'ready' AND published_at IS NULL")
    return Table(
        "steps",
        metadata,
        Column("run_id", UUID, nullable=False),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("status", String(16), nullable=False),
        Column("end", String(16)),
        Column("attempt", Integer, nullable=False, server_default="0"),
        Column("worker_losses", Integer, nullable=False, server_default="0"),
        Column("token", UUID),
        Column("worker", Text),
        Column("lease_until", INSTANT),
        Column("due_at", INSTANT),
        Column("queue", Text),
        Column("priority", SmallInteger),
        Column("concurrency_key", Text),
        # incoming transitions: how many are decided, and taken
        Column("decided", Integer, nullable=False),
        Column("taken", Integer, nullable=False),
        Column("ready_seq", BIG, nullable=False, server_default="0"),
        Column("is_end", Boolean, nullable=False, server_default=false()),
        Column("handled", Boolean, nullable=False, server_default=false()),
        Column("published_at", INSTANT),
        Column("publishes", Integer, nullable=False, server_default="0"),
        Column("started_at", INSTANT),
        Column("finished_at", INSTANT),
        Column("waits_for", String(16)),
        # executions before `retry` reopened the run: they count no more
        Column("earlier_attempts", Integer, nullable=False, server_default="0"),
        # of a foreach: how far its items are
        Column("items", JSON_TEXT),
        # when a later message was sent, because nobody had followed the first
        Column("republished_at", INSTANT),
        # why the last worker that took it gave it back
        Column("hindrance", Text),
        PrimaryKeyConstraint("run_id", "step_id", "item_index", name="steps_pkey"),
        _one_of("status", StepStatus),
        _one_of("end", StepEnd, nullable=True),
        Index("steps_ready", "published_at", **_where(text("status = 'ready'"))),
        Index("steps_lease", "lease_until", **_where(text("status = 'running'"))),
        Index("steps_due", "due_at", **_where(text("status IN ('retrying', 'waiting')"))),
        # ready, but behind a key or a rate: without a message
        Index("steps_held", "due_at", **_where(held)),
        # items of a foreach that wait for others to end
        Index(
            "steps_next_item",
            "run_id",
            "step_id",
            "item_index",
            **_where(text("status = 'pending' AND item_index >= 0")),
        ),
        Index("steps_by_key", "concurrency_key", "run_id", "ready_seq", **_where(held)),
        postgresql_with={"fillfactor": "80"},
    )


def _step_payloads(metadata: MetaData) -> Table:
    return Table(
        "step_payloads",
        metadata,
        Column("run_id", UUID, nullable=False),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("inputs", JSON_TEXT),
        Column("output", JSON_TEXT),
        Column("error", JSON_TEXT),
        # a result that came after the run's end: kept for people, without effect
        Column("discarded", JSON_TEXT),
        # the value that an item of a foreach is about
        Column("item", JSON_TEXT),
        # what routing services answered about the step's end
        Column("judged", JSON_TEXT),
        PrimaryKeyConstraint("run_id", "step_id", "item_index", name="step_payloads_pkey"),
    )


def _decisions(metadata: MetaData) -> Table:
    return Table(
        "decisions",
        metadata,
        Column("run_id", UUID, nullable=False),
        Column("transition", Integer, nullable=False),
        # 0 is in force; `retry` moves older ones to 1, 2, …
        Column("superseded", Integer, nullable=False, server_default="0"),
        Column("source", Text, nullable=False),
        Column("target", Text, nullable=False),
        Column("taken", Boolean, nullable=False),
        Column("seq", BIG, nullable=False),
        Column("reason", JSON_TEXT, nullable=False),
        Column("decided_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("run_id", "transition", "superseded", name="decisions_pkey"),
    )


def _pauses(metadata: MetaData, runs: Table) -> Table:
    return Table(
        "pauses",
        metadata,
        Column("pause_id", UUID, primary_key=True),
        _run_id(runs),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("slug", Text, nullable=False),
        Column("status", String(16), nullable=False),
        Column("is_settled", Boolean, nullable=False, server_default=false()),
        Column("ui_schema", JSON_TEXT, nullable=False),
        Column("shown", JSON_TEXT, nullable=False),
        Column("assignees", JSON_TEXT, nullable=False),
        Column("digest", String(64), nullable=False),
        Column("answer", JSON_TEXT),
        Column("answer_key", Text),
        Column("answered_by", Text),
        Column("answered_at", INSTANT),
        Column("expires_at", INSTANT),
        Column("created_at", INSTANT, nullable=False),
        Column("quorum", Integer, nullable=False, server_default="1"),
        Column("exclude_starter", Boolean, nullable=False, server_default=false()),
        # the signal's name, if an event is waited for and no person
        Column("event", Text),
        # when the next reminder or escalation is due, and how many were
        Column("notice_at", INSTANT),
        Column("notices_done", Integer, nullable=False, server_default="0"),
        # how often it has changed while it was open: other people, one more of several answers
        Column("revision", Integer, nullable=False, server_default="0"),
        _one_of("status", PauseStatus),
        Index("pauses_of_run", "run_id"),
        Index("pauses_open", "created_at", "pause_id", **_where(text("status = 'open'"))),
        Index("pauses_expiry", "expires_at", **_where(text("status = 'open'"))),
        Index("pauses_notice", "notice_at", **_where(text(TO_BE_REMINDED))),
        Index(
            "pauses_unsettled",
            "answered_at",
            **_where(text("status IN ('answered', 'expired') AND NOT is_settled")),
        ),
    )


def _pause_answers(metadata: MetaData, pauses: Table) -> Table:
    return Table(
        "pause_answers",
        metadata,
        Column(
            "pause_id",
            UUID,
            ForeignKey(pauses.c.pause_id, ondelete="CASCADE"),
            nullable=False,
        ),
        Column("answered_by", Text, nullable=False),
        Column("answer", JSON_TEXT, nullable=False),
        Column("answer_key", Text),
        Column("answered_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("pause_id", "answered_by", name="pause_answers_pkey"),
    )


def _events(metadata: MetaData) -> Table:
    return Table(
        "events",
        metadata,
        Column("run_id", UUID, nullable=False),
        Column("seq", BIG, nullable=False),
        Column("at", INSTANT, nullable=False),
        Column("changes", JSON_TEXT, nullable=False),
        PrimaryKeyConstraint("run_id", "seq", name="events_pkey"),
    )


def _key_holds(metadata: MetaData, runs: Table) -> Table:
    return Table(
        "key_holds",
        metadata,
        Column("concurrency_key", Text, primary_key=True),
        _run_id(runs),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("held_since", INSTANT, nullable=False),
    )


def _rate_slots(metadata: MetaData) -> Table:
    return Table(
        "rate_slots",
        metadata,
        Column("name", Text, primary_key=True),
        Column("next_at", INSTANT, nullable=False),
    )


def _notices(metadata: MetaData, runs: Table) -> Table:
    return Table(
        "notices",
        metadata,
        Column("notice_id", UUID, primary_key=True),
        _run_id(runs),
        Column("kind", String(32), nullable=False),
        Column("step_id", Text),
        Column("pause_id", UUID),
        # what makes it one of a kind: told twice, it is kept once
        Column("cause", Text, nullable=False),
        Column("body", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        # when it is to be delivered (again); null once it was, or was given up
        Column("due_at", INSTANT),
        Column("tries", Integer, nullable=False, server_default="0"),
        Column("delivered_at", INSTANT),
        Column("error", Text),
        UniqueConstraint("run_id", "kind", "cause", name="notices_once"),
        Index("notices_due", "due_at", **_where(text("due_at IS NOT NULL"))),
    )


def _schedules(metadata: MetaData) -> Table:
    return Table(
        "schedules",
        metadata,
        Column("name", Text, primary_key=True),
        Column("slug", Text, nullable=False),
        Column("parameters", JSON_TEXT, nullable=False),
        # either a cron expression in a zone, or an interval from `starts_at` on
        Column("cron", Text),
        Column("zone", Text, nullable=False, server_default="UTC"),
        Column("interval_seconds", BIG),
        Column("misfire", String(16), nullable=False),
        Column("is_paused", Boolean, nullable=False, server_default=false()),
        Column("starts_at", INSTANT, nullable=False),
        Column("ends_at", INSTANT),
        # the input that is given the instant; null if none is
        Column("instant_as", Text),
        # the next instant that fires; null if none does any more
        Column("next_at", INSTANT),
        Column("created_by", Text),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
        CheckConstraint(
            "(cron IS NULL) <> (interval_seconds IS NULL)", name="schedules_cron_or_interval"
        ),
        _one_of("misfire", Misfire),
        Index("schedules_due", "next_at", **_where(text(TO_BE_FIRED))),
    )


def _schedule_fires(metadata: MetaData, schedules: Table) -> Table:
    return Table(
        "schedule_fires",
        metadata,
        Column(
            "name",
            Text,
            ForeignKey(schedules.c.name, ondelete="CASCADE"),
            nullable=False,
        ),
        Column("fire_at", INSTANT, nullable=False),
        Column("status", String(16), nullable=False),
        # no foreign key: a pruned run leaves its fire
        Column("run_id", UUID),
        Column("error", Text),
        Column("fired_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("name", "fire_at", name="schedule_fires_pkey"),
        _one_of("status", FireStatus),
    )


def _schema_info(metadata: MetaData) -> Table:
    # One row: the oldest release, by its revision, that can work on the tables as they are.
    return Table(
        "schema_info",
        metadata,
        Column("oldest_revision", String(32), primary_key=True),
    )


def _run_id(runs: Table, *, primary_key: bool = False) -> Column[str]:
    return Column(
        "run_id",
        UUID,
        ForeignKey(runs.c.run_id, ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
    )


def _one_of(column: str, words: type[StrEnum], *, nullable: bool = False) -> CheckConstraint:
    listed = ", ".join(f"'{word.value}'" for word in words)
    check = f'"{column}" IN ({listed})'
    if nullable:
        check = f'"{column}" IS NULL OR {check}'
    return CheckConstraint(check, name=f"{words.__name__.lower()}_known")


def _where(condition: object) -> dict[str, Any]:
    return {"postgresql_where": condition, "sqlite_where": condition}
