"""Accounts: users, sessions, tokens, tries to sign in, links to answers, and who did what.

Adds alone, and lets two indexes reach further: processes of the release before work on, and see
none of it. Loaded by Alembic, ours or a host's.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Boolean, Column, ForeignKey, Integer, String, Text
from sqlalchemy.dialects import postgresql

from iaflow.database.migrator import migrated_schema

revision = "iaflow_0004"
down_revision = "iaflow_0003"
branch_labels = None
depends_on = None

UUID = String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
INSTANT = String(32).with_variant(sa.DateTime(timezone=True), "postgresql")
JSON_TEXT = Text().with_variant(postgresql.JSON(), "postgresql")

INDEXES = (
    ("runs_by_slug_status", "runs", ("slug", "status", "run_id")),
    ("runs_by_starter", "runs", ("started_by", "slug", "status", "run_id")),
    ("sessions_of_user", "sessions", ("user_id", "created_at")),
    ("sessions_expiry", "sessions", ("expires_at",)),
    ("api_tokens_of_user", "api_tokens", ("user_id", "created_at")),
    ("sign_ins_by_name", "sign_ins", ("name_hash", "at")),
    ("sign_ins_by_address", "sign_ins", ("address", "at")),
    ("sign_ins_age", "sign_ins", ("at",)),
    ("answer_links_of_pause", "answer_links", ("pause_id",)),
    ("audit_by_actor", "audit_events", ("actor", "event_id")),
    ("audit_by_target", "audit_events", ("target", "event_id")),
)

LISTS = (
    ("runs_top", "runs", ("slug", "status", "run_id"), "parent_run_id IS NULL"),
    (
        "runs_unfinished_children",
        "runs",
        ("parent_run_id",),
        "parent_run_id IS NOT NULL AND status IN ('pending', 'running', 'waiting')",
    ),
    ("runs_by_parent", "runs", ("parent_run_id", "run_id"), "parent_run_id IS NOT NULL"),
    ("pauses_open", "pauses", ("created_at", "pause_id"), "status = 'open'"),
)
"""Partial indexes for lists; the last two stand in the place of those of one column."""


def upgrade() -> None:
    """Add six tables, a column, and indexes, some of them for lists of runs and questions."""
    schema = migrated_schema(op.get_context())
    op.add_column(
        "pauses", Column("revision", Integer, nullable=False, server_default="0"), schema=schema
    )
    _add_accounts(schema)
    op.create_table(
        "sign_ins",
        Column("sign_in_id", UUID, primary_key=True),
        Column("name_hash", String(64), nullable=False),
        Column("address", Text, nullable=False),
        Column("at", INSTANT, nullable=False),
        Column("succeeded", Boolean, nullable=False),
        schema=schema,
    )
    op.create_table(
        "answer_links",
        Column("token_hash", String(64), primary_key=True),
        Column("link_id", UUID, nullable=False, unique=True),
        _reference(schema, "pause_id", "pauses"),
        Column("person", Text, nullable=False),
        Column("action", JSON_TEXT, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        Column("expires_at", INSTANT, nullable=False),
        Column("used_at", INSTANT),
        schema=schema,
    )
    op.create_table(
        "audit_events",
        Column("event_id", UUID, primary_key=True),
        Column("at", INSTANT, nullable=False),
        Column("actor", Text),
        Column("action", String(64), nullable=False),
        Column("target", Text, nullable=False, server_default=""),
        Column("address", Text, nullable=False, server_default=""),
        Column("request_id", Text, nullable=False, server_default=""),
        Column("detail", JSON_TEXT, nullable=False),
        schema=schema,
    )
    for name, table, columns in INDEXES:
        op.create_index(name, table, list(columns), schema=schema)
    for name, table, _, _ in LISTS[2:]:
        op.drop_index(name, table, schema=schema)
    for name, table, columns, condition in LISTS:
        _create_partial(name, table, columns, condition, schema)


def downgrade() -> None:
    """Take away what `upgrade` added."""
    schema = migrated_schema(op.get_context())
    for name, table, _, _ in LISTS:
        op.drop_index(name, table, schema=schema)
    for name, table, columns, condition in LISTS[2:]:
        _create_partial(name, table, columns[:1], condition, schema)
    op.drop_column("pauses", "revision", schema=schema)
    for name, table, _ in reversed(INDEXES):
        op.drop_index(name, table, schema=schema)
    for table in ("audit_events", "answer_links", "sign_ins", "api_tokens", "sessions", "users"):
        op.drop_table(table, schema=schema)


def _create_partial(
    name: str, table: str, columns: tuple[str, ...], condition: str, schema: str | None
) -> None:
    op.create_index(
        name,
        table,
        list(columns),
        schema=schema,
        postgresql_where=sa.text(condition),
        sqlite_where=sa.text(condition),
    )


def _add_accounts(schema: str | None) -> None:
    op.create_table(
        "users",
        Column("user_id", UUID, primary_key=True),
        Column("name", Text, nullable=False, unique=True),
        Column("password_hash", Text),
        Column("password_changed_at", INSTANT),
        Column("roles", JSON_TEXT, nullable=False),
        Column("pipelines", JSON_TEXT, nullable=False),
        Column("is_disabled", Boolean, nullable=False, server_default=sa.false()),
        Column("setup_hash", String(64)),
        Column("setup_expires_at", INSTANT),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
        schema=schema,
    )
    op.create_table(
        "sessions",
        Column("token_hash", String(64), primary_key=True),
        Column("session_id", UUID, nullable=False, unique=True),
        _reference(schema, "user_id", "users"),
        Column("created_at", INSTANT, nullable=False),
        Column("seen_at", INSTANT, nullable=False),
        Column("expires_at", INSTANT, nullable=False),
        Column("address", Text, nullable=False, server_default=""),
        Column("user_agent", Text, nullable=False, server_default=""),
        schema=schema,
    )
    op.create_table(
        "api_tokens",
        Column("token_id", String(32), primary_key=True),
        _reference(schema, "user_id", "users"),
        Column("name", Text, nullable=False),
        Column("secret_hash", String(64), nullable=False),
        Column("scopes", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        Column("expires_at", INSTANT, nullable=False),
        Column("last_used_at", INSTANT),
        schema=schema,
    )


def _reference(schema: str | None, column: str, table: str) -> Column[str]:
    place = f"{schema}.{table}" if schema else table
    return Column(column, UUID, ForeignKey(f"{place}.{column}", ondelete="CASCADE"), nullable=False)
