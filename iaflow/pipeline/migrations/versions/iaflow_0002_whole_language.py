"""What the rest of the language needs: items, waits, quorums, rates, child runs that wait.

Adds alone: processes of the release before work on, and see none of it. Loaded by Alembic,
ours or a host's.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, ForeignKey, Integer, PrimaryKeyConstraint, String, Text
from sqlalchemy.dialects import postgresql

from iaflow.database.migrator import migrated_schema

revision = "iaflow_0002"
down_revision = "iaflow_0001"
branch_labels = None
depends_on = None

UUID = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
INSTANT = String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
JSON_TEXT = Text().with_variant(postgresql.JSON(), "postgresql")

UNFINISHED = "status IN ('pending', 'running', 'waiting')"
NEXT_ITEM = "status = 'pending' AND item_index >= 0"
HELD = "status = 'ready' AND published_at IS NULL"


def upgrade() -> None:
    """Add columns, two tables and four indexes."""
    schema = migrated_schema(op.get_context())
    _add(
        schema,
        "runs",
        Column("started_at", INSTANT),
        Column("parent_attempt", Integer),
        Column("rerun_of", UUID),
    )
    _add(
        schema,
        "steps",
        Column("waits_for", String(16)),
        Column("earlier_attempts", Integer, nullable=False, server_default="0"),
        Column("items", JSON_TEXT),
    )
    _add(schema, "step_payloads", Column("item", JSON_TEXT), Column("judged", JSON_TEXT))
    _add(
        schema,
        "pauses",
        Column("quorum", Integer, nullable=False, server_default="1"),
        Column("exclude_starter", Boolean, nullable=False, server_default=sa.false()),
        Column("event", Text),
    )
    _fill(schema)
    _index(schema, "runs_unfinished", "runs", "slug", "status", "run_id", where=UNFINISHED)
    _index(schema, "steps_held", "steps", "due_at", where=HELD)
    _index(schema, "steps_next_item", "steps", "run_id", "step_id", "item_index", where=NEXT_ITEM)
    _index(schema, "steps_by_key", "steps", "concurrency_key", "run_id", "ready_seq", where=HELD)
    op.create_table(
        "pause_answers",
        Column(
            "pause_id",
            UUID,
            ForeignKey(_place(schema, "pauses.pause_id"), ondelete="CASCADE"),
            nullable=False,
        ),
        Column("answered_by", Text, nullable=False),
        Column("answer", JSON_TEXT, nullable=False),
        Column("answer_key", Text),
        Column("answered_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("pause_id", "answered_by", name="pause_answers_pkey"),
        schema=schema,
    )
    op.create_table(
        "rate_slots",
        Column("name", Text, primary_key=True),
        Column("next_at", INSTANT, nullable=False),
        schema=schema,
    )


def downgrade() -> None:
    """Take away what `upgrade` added."""
    schema = migrated_schema(op.get_context())
    for table in ("rate_slots", "pause_answers"):
        op.drop_table(table, schema=schema)
    for name, table in (
        ("steps_by_key", "steps"),
        ("steps_next_item", "steps"),
        ("steps_held", "steps"),
        ("runs_unfinished", "runs"),
    ):
        op.drop_index(name, table, schema=schema)
    for table, columns in (
        ("pauses", ("event", "exclude_starter", "quorum")),
        ("step_payloads", ("judged", "item")),
        ("steps", ("items", "earlier_attempts", "waits_for")),
        ("runs", ("rerun_of", "parent_attempt", "started_at")),
    ):
        for column in columns:
            op.drop_column(table, column, schema=schema)


def _fill(schema: str | None) -> None:
    """Give the rows of the release before what they would have: nothing waited behind a limit."""
    runs = sa.table(
        "runs", sa.column("started_at"), sa.column("created_at"), sa.column("status"), schema=schema
    )
    steps = sa.table("steps", sa.column("waits_for"), sa.column("status"), schema=schema)
    op.execute(runs.update().values(started_at=runs.c.created_at))
    op.execute(steps.update().where(steps.c.status == "waiting").values(waits_for="people"))


def _add(schema: str | None, table: str, *columns: Column[Any]) -> None:
    for column in columns:
        op.add_column(table, column, schema=schema)


def _place(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _index(schema: str | None, name: str, table: str, *columns: str, where: str) -> None:
    partial: dict[str, Any] = {
        "postgresql_where": sa.text(where),
        "sqlite_where": sa.text(where),
    }
    op.create_index(name, table, list(columns), schema=schema, **partial)
