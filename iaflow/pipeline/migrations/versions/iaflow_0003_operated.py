"""What operating runs needs: notices, schedules, hand-backs, pruning, and who may work on these.

Adds alone: processes of the release before work on, and see none of it. Loaded by Alembic,
ours or a host's.
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
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql

from iaflow.database.migrator import migrated_schema

revision = "iaflow_0003"
down_revision = "iaflow_0002"
branch_labels = None
depends_on = None

UUID = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
INSTANT = String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
JSON_TEXT = Text().with_variant(postgresql.JSON(), "postgresql")
BIG = sa.BigInteger().with_variant(Integer(), "sqlite")

ENDED_FAMILY = "finished_at IS NOT NULL AND parent_run_id IS NULL"
TO_BE_REMINDED = "status = 'open' AND notice_at IS NOT NULL"
TO_BE_FIRED = "next_at IS NOT NULL AND NOT is_paused"


def upgrade() -> None:
    """Add columns, four tables and their indexes."""
    schema = migrated_schema(op.get_context())
    _add(schema, "steps", Column("republished_at", INSTANT), Column("hindrance", Text))
    _add(
        schema,
        "pauses",
        Column("notice_at", INSTANT),
        Column("notices_done", Integer, nullable=False, server_default="0"),
    )
    _index(schema, "runs_ended", "runs", "finished_at", where=ENDED_FAMILY)
    _index(schema, "pauses_notice", "pauses", "notice_at", where=TO_BE_REMINDED)
    op.create_table(
        "notices",
        Column("notice_id", UUID, primary_key=True),
        Column(
            "run_id",
            UUID,
            ForeignKey(_place(schema, "runs.run_id"), ondelete="CASCADE"),
            nullable=False,
        ),
        Column("kind", String(32), nullable=False),
        Column("step_id", Text),
        Column("pause_id", UUID),
        Column("cause", Text, nullable=False),
        Column("body", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        Column("due_at", INSTANT),
        Column("tries", Integer, nullable=False, server_default="0"),
        Column("delivered_at", INSTANT),
        Column("error", Text),
        UniqueConstraint("run_id", "kind", "cause", name="notices_once"),
        schema=schema,
    )
    _index(schema, "notices_due", "notices", "due_at", where="due_at IS NOT NULL")
    _add_schedules(schema)
    info = op.create_table(
        "schema_info", Column("oldest_revision", String(32), primary_key=True), schema=schema
    )
    # What comes later and only adds leaves this row alone: this release works on it then.
    op.bulk_insert(info, [{"oldest_revision": revision}])


def downgrade() -> None:
    """Take away what `upgrade` added."""
    schema = migrated_schema(op.get_context())
    for table in ("schema_info", "schedule_fires", "schedules", "notices"):
        op.drop_table(table, schema=schema)
    for name, table in (("pauses_notice", "pauses"), ("runs_ended", "runs")):
        op.drop_index(name, table, schema=schema)
    for table, columns in (
        ("pauses", ("notices_done", "notice_at")),
        ("steps", ("hindrance", "republished_at")),
    ):
        for column in columns:
            op.drop_column(table, column, schema=schema)


def _add_schedules(schema: str | None) -> None:
    op.create_table(
        "schedules",
        Column("name", Text, primary_key=True),
        Column("slug", Text, nullable=False),
        Column("parameters", JSON_TEXT, nullable=False),
        Column("cron", Text),
        Column("zone", Text, nullable=False, server_default="UTC"),
        Column("interval_seconds", BIG),
        Column("misfire", String(16), nullable=False),
        Column("is_paused", Boolean, nullable=False, server_default=sa.false()),
        Column("starts_at", INSTANT, nullable=False),
        Column("ends_at", INSTANT),
        Column("instant_as", Text),
        Column("next_at", INSTANT),
        Column("created_by", Text),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
        CheckConstraint(
            "(cron IS NULL) <> (interval_seconds IS NULL)", name="schedules_cron_or_interval"
        ),
        CheckConstraint("\"misfire\" IN ('latest', 'all', 'skip')", name="misfire_known"),
        schema=schema,
    )
    _index(schema, "schedules_due", "schedules", "next_at", where=TO_BE_FIRED)
    op.create_table(
        "schedule_fires",
        Column(
            "name",
            Text,
            ForeignKey(_place(schema, "schedules.name"), ondelete="CASCADE"),
            nullable=False,
        ),
        Column("fire_at", INSTANT, nullable=False),
        Column("status", String(16), nullable=False),
        Column("run_id", UUID),
        Column("error", Text),
        Column("fired_at", INSTANT, nullable=False),
        PrimaryKeyConstraint("name", "fire_at", name="schedule_fires_pkey"),
        CheckConstraint("\"status\" IN ('started', 'missed', 'refused')", name="firestatus_known"),
        schema=schema,
    )


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
