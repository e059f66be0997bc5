"""The tables of accounts: who may sign in, with what, and what they did.

Decides columns, keys and indexes; never reads or writes a row. Part of `tables`.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, MetaData, String, Table, Text, false

from iaflow.database.columns import INSTANT, JSON_TEXT, UUID

__all__ = ["answer_links", "api_tokens", "audit_events", "sessions", "sign_ins", "users"]


def users(metadata: MetaData) -> Table:
    """Return the table of who may sign in."""
    return Table(
        "users",
        metadata,
        Column("user_id", UUID, primary_key=True),
        # in small letters: two names that differ by case alone are one
        Column("name", Text, nullable=False, unique=True),
        # argon2id, with its own salt and costs; null until the person has set one
        Column("password_hash", Text),
        Column("password_changed_at", INSTANT),
        Column("roles", JSON_TEXT, nullable=False),
        # patterns of the slugs that the user sees
        Column("pipelines", JSON_TEXT, nullable=False),
        Column("is_disabled", Boolean, nullable=False, server_default=false()),
        # the hash of the one-time token with which the first password is set
        Column("setup_hash", String(64)),
        Column("setup_expires_at", INSTANT),
        Column("created_at", INSTANT, nullable=False),
        Column("updated_at", INSTANT, nullable=False),
    )


def sessions(metadata: MetaData, users: Table) -> Table:
    """Return the table of sign-ins that go on."""
    return Table(
        "sessions",
        metadata,
        # SHA-256 of 256 random bits: nothing that could be guessed
        Column("token_hash", String(64), primary_key=True),
        Column("session_id", UUID, nullable=False, unique=True),
        _user_id(users),
        Column("created_at", INSTANT, nullable=False),
        Column("seen_at", INSTANT, nullable=False),
        # whatever happens meanwhile
        Column("expires_at", INSTANT, nullable=False),
        Column("address", Text, nullable=False, server_default=""),
        Column("user_agent", Text, nullable=False, server_default=""),
        Index("sessions_of_user", "user_id", "created_at"),
        Index("sessions_expiry", "expires_at"),
    )


def api_tokens(metadata: MetaData, users: Table) -> Table:
    """Return the table of programs' keys."""
    return Table(
        "api_tokens",
        metadata,
        Column("token_id", String(32), primary_key=True),
        _user_id(users),
        Column("name", Text, nullable=False),
        Column("secret_hash", String(64), nullable=False),
        Column("scopes", JSON_TEXT, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        Column("expires_at", INSTANT, nullable=False),
        Column("last_used_at", INSTANT),
        Index("api_tokens_of_user", "user_id", "created_at"),
    )


def sign_ins(metadata: MetaData) -> Table:
    """Return the table of tries to sign in, by which guessing is slowed down."""
    # Failures of a day; what succeeded, of a month: from there guesses elsewhere do not count. Of
    # the name only a hash under the secret key: people type their password there.
    return Table(
        "sign_ins",
        metadata,
        Column("sign_in_id", UUID, primary_key=True),
        Column("name_hash", String(64), nullable=False),
        Column("address", Text, nullable=False),
        Column("at", INSTANT, nullable=False),
        Column("succeeded", Boolean, nullable=False),
        Index("sign_ins_by_name", "name_hash", "at"),
        Index("sign_ins_by_address", "address", "at"),
        Index("sign_ins_age", "at"),
    )


def answer_links(metadata: MetaData, pauses: Table) -> Table:
    """Return the table of one-time rights to answer."""
    return Table(
        "answer_links",
        metadata,
        Column("token_hash", String(64), primary_key=True),
        Column("link_id", UUID, nullable=False, unique=True),
        Column(
            "pause_id",
            UUID,
            ForeignKey(pauses.c.pause_id, ondelete="CASCADE"),
            nullable=False,
        ),
        Column("person", Text, nullable=False),
        # what may be answered: a JSON object of fields and the values they may have; {}: anything
        Column("action", JSON_TEXT, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("created_at", INSTANT, nullable=False),
        Column("expires_at", INSTANT, nullable=False),
        Column("used_at", INSTANT),
        Index("answer_links_of_pause", "pause_id"),
    )


def audit_events(metadata: MetaData) -> Table:
    """Return the table of who did what, or was refused."""
    return Table(
        "audit_events",
        metadata,
        Column("event_id", UUID, primary_key=True),
        Column("at", INSTANT, nullable=False),
        Column("actor", Text),
        Column("action", String(64), nullable=False),
        Column("target", Text, nullable=False, server_default=""),
        Column("address", Text, nullable=False, server_default=""),
        Column("request_id", Text, nullable=False, server_default=""),
        Column("detail", JSON_TEXT, nullable=False),
        Index("audit_by_actor", "actor", "event_id"),
        Index("audit_by_target", "target", "event_id"),
    )


def _user_id(users: Table) -> Column[str]:
    return Column("user_id", UUID, ForeignKey(users.c.user_id, ondelete="CASCADE"), nullable=False)
