"""The first tables: definitions, runs, steps, decisions, pauses, events.

Decides what a database of the first release looks like, for ever: later changes are later
scripts. Loaded by Alembic, ours or a host's.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql

from iaflow.database.migrator import make_schema, migrated_schema

revision = "iaflow_0001"
down_revision = None
# A host with revisions of its own upgrades ours by `alembic upgrade iaflow@head`.
branch_labels = ("iaflow",)
depends_on = None

UUID = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
INSTANT = String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
JSON_TEXT = Text().with_variant(postgresql.JSON(), "postgresql")
BIG = sa.BigInteger().with_variant(Integer(), "sqlite")

TABLES = (
    "pipeline_versions",
    "pipelines",
    "runs",
    "run_payloads",
    "steps",
    "step_payloads",
    "decisions",
    "pauses",
    "events",
    "key_holds",
)


def upgrade() -> None:
    """Make the tables; on Postgres also their schema, if it is not there."""
    schema = migrated_schema(op.get_context())
    if schema is not None:
        make_schema(op.get_bind(), schema)
    _create_definitions(schema)
    _create_runs(schema)
    _create_steps(schema)
    _create_decisions(schema)
    _create_pauses(schema)
    _create_events(schema)
    _create_key_holds(schema)


def downgrade() -> None:
    """Remove the tables and everything in them; a schema stays, since others may use it."""
    schema = migrated_schema(op.get_context())
    for name in reversed(TABLES):
        op.drop_table(name, schema=schema)


def _create_definitions(schema: str | None) -> None:
    op.create_table(
        "pipeline_versions",
        Column("content_hash", String(64), primary_key=True),
        Column("slug", Text, nullable=False),
        Column("number", Integer, nullable=False),
        Column("version", Text, nullable=False),
        Column("name", Text, nullable=False),
        Column("document", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        UniqueConstraint("slug", "number", name="pipeline_versions_slug_number"),
        schema=schema,
    )
    op.create_table(
        "pipelines",
        Column("slug", Text, primary_key=True),
        Column("name", Text, nullable=False),
        Column("description", Text, nullable=False, server_default=""),
        Column("content_hash", String(64), _version(schema), nullable=False),
        Column("is_paused", Boolean, nullable=False, server_default=sa.false()),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
        schema=schema,
    )


def _create_runs(schema: str | None) -> None:
    op.create_table(
        "runs",
        Column("run_id", UUID, primary_key=True),
        Column("slug", Text, nullable=False),
        Column("content_hash", String(64), _version(schema), nullable=False),
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
        Column("parent_run_id", UUID),
        Column("parent_step_id", Text),
        Column("parent_index", Integer),
        Column("depth", SmallInteger, nullable=False, server_default="0"),
        Column("created_at", INSTANT, nullable=False),
        Column("deadline_at", INSTANT),
        Column("finished_at", INSTANT),
        CheckConstraint(
            "\"status\" IN ('pending', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')",
            name="runstatus_known",
        ),
        CheckConstraint("live >= 0 AND paused >= 0 AND paused <= live", name="runs_counters"),
        CheckConstraint(
            "status NOT IN ('succeeded', 'failed', 'cancelled') OR live = 0", name="runs_end"
        ),
        schema=schema,
        postgresql_with={"fillfactor": "80"},
    )
    _index(schema, "runs_key", "runs", "idempotency_key", unique=True)
    _index(schema, "runs_by_status", "runs", "status", "run_id")
    _index(schema, "runs_by_slug", "runs", "slug", "run_id")
    _index(schema, "runs_by_parent", "runs", "parent_run_id", where="parent_run_id IS NOT NULL")
    _index(
        schema,
        "runs_deadline",
        "runs",
        "deadline_at",
        where="status IN ('pending', 'running', 'waiting')",
    )
    op.create_table(
        "run_payloads",
        Column("run_id", UUID, _run(schema), primary_key=True),
        Column("parameters", JSON_TEXT, nullable=False),
        Column("outputs", JSON_TEXT),
        schema=schema,
    )


def _create_steps(schema: str | None) -> None:
    op.create_table(
        "steps",
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
        Column("decided", Integer, nullable=False),
        Column("taken", Integer, nullable=False),
        Column("ready_seq", BIG, nullable=False, server_default="0"),
        Column("is_end", Boolean, nullable=False, server_default=sa.false()),
        Column("handled", Boolean, nullable=False, server_default=sa.false()),
        Column("published_at", INSTANT),
        Column("publishes", Integer, nullable=False, server_default="0"),
        Column("started_at", INSTANT),
        Column("finished_at", INSTANT),
        PrimaryKeyConstraint("run_id", "step_id", "item_index", name="steps_pkey"),
        CheckConstraint(
            "\"status\" IN ('pending', 'ready', 'running', 'retrying', 'waiting', "
            "'succeeded', 'failed', 'skipped', 'cancelled')",
            name="stepstatus_known",
        ),
        CheckConstraint(
            "\"end\" IS NULL OR \"end\" IN ('success', 'failure', 'timeout', 'expired', "
            "'rejected', 'skipped', 'cancelled')",
            name="stepend_known",
        ),
        schema=schema,
        postgresql_with={"fillfactor": "80"},
    )
    _index(schema, "steps_ready", "steps", "published_at", where="status = 'ready'")
    _index(schema, "steps_lease", "steps", "lease_until", where="status = 'running'")
    _index(schema, "steps_due", "steps", "due_at", where="status IN ('retrying', 'waiting')")
    op.create_table(
        "step_payloads",
        Column("run_id", UUID, nullable=False),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("inputs", JSON_TEXT),
        Column("output", JSON_TEXT),
        Column("error", JSON_TEXT),
        Column("discarded", JSON_TEXT),
        PrimaryKeyConstraint("run_id", "step_id", "item_index", name="step_payloads_pkey"),
        schema=schema,
    )


def _create_decisions(schema: str | None) -> None:
    op.create_table(
        "decisions",
        Column("run_id", UUID, nullable=False),
        Column("transition", Integer, nullable=False),
        Column("superseded", Integer, nullable=False, server_default="0"),
        Column("source", Text, nullable=False),
        Column("target", Text, nullable=False),
        Column("taken", Boolean, nullable=False),
        Column("seq", BIG, nullable=False),
        Column("reason", JSON_TEXT, nullable=False),
        Column("decided_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("run_id", "transition", "superseded", name="decisions_pkey"),
        schema=schema,
    )


def _create_pauses(schema: str | None) -> None:
    op.create_table(
        "pauses",
        Column("pause_id", UUID, primary_key=True),
        Column("run_id", UUID, _run(schema), nullable=False),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("slug", Text, nullable=False),
        Column("status", String(16), nullable=False),
        Column("is_settled", Boolean, nullable=False, server_default=sa.false()),
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
        CheckConstraint(
            "\"status\" IN ('open', 'answered', 'expired', 'cancelled')",
            name="pausestatus_known",
        ),
        schema=schema,
    )
    _index(schema, "pauses_of_run", "pauses", "run_id")
    _index(schema, "pauses_open", "pauses", "created_at", where="status = 'open'")
    _index(schema, "pauses_expiry", "pauses", "expires_at", where="status = 'open'")
    _index(
        schema,
        "pauses_unsettled",
        "pauses",
        "answered_at",
        where="status IN ('answered', 'expired') AND NOT is_settled",
    )


def _create_events(schema: str | None) -> None:
    op.create_table(
        "events",
        Column("run_id", UUID, nullable=False),
        Column("seq", BIG, nullable=False),
        Column("at", INSTANT, nullable=False),
        Column("changes", JSON_TEXT, nullable=False),
        PrimaryKeyConstraint("run_id", "seq", name="events_pkey"),
        schema=schema,
    )


def _create_key_holds(schema: str | None) -> None:
    op.create_table(
        "key_holds",
        Column("concurrency_key", Text, primary_key=True),
        Column("run_id", UUID, _run(schema), nullable=False),
        Column("step_id", Text, nullable=False),
        Column("item_index", Integer, nullable=False),
        Column("held_since", INSTANT, nullable=False),
        schema=schema,
    )


def _version(schema: str | None) -> ForeignKey:
    return ForeignKey(_place(schema, "pipeline_versions.content_hash"))


def _run(schema: str | None) -> ForeignKey:
    return ForeignKey(_place(schema, "runs.run_id"), ondelete="CASCADE")


def _place(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _index(
    schema: str | None,
    name: str,
    table: str,
    *columns: str,
    unique: bool = False,
    where: str | None = None,
) -> None:
    partial: dict[str, Any] = {}
    if where is not None:
        partial = {"postgresql_where": sa.text(where), "sqlite_where": sa.text(where)}
    op.create_index(name, table, list(columns), unique=unique, schema=schema, **partial)
