"""How a database is set up: what durability rests on, as the server itself says it.

Decides what is asked; never whether the answers are good ones. Called by `iaflow doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from iaflow.database.dialects import Database
from iaflow.database.statements import SQLITE, Statement

__all__ = ["ConnectionState", "read_connection", "read_server_settings"]

_CONNECTION = Statement(
    "iaflow_connection",
    sa.text(
        "SELECT current_setting('enable_seqscan'),"
        " COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)"
    ),
)

_POSTGRES = Statement(
    "iaflow_server_settings",
    sa.text(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('fsync', 'full_page_writes', 'server_version', 'synchronous_commit')"
    ),
)
_SQLITE = {
    "journal_mode": Statement("iaflow_journal_mode", sa.text("PRAGMA journal_mode")),
    "synchronous": Statement("iaflow_synchronous", sa.text("PRAGMA synchronous")),
    "version": Statement("iaflow_version", sa.text("SELECT sqlite_version()")),
}


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """
    How a connection to Postgres reaches it.

    Attributes:
        has_our_options: what the connection asked for at its start is in force; if it is not,
            another program took the request.
        is_encrypted: the server's own end of it speaks TLS.
    """

    has_our_options: bool
    is_encrypted: bool


def read_connection(database: Database) -> ConnectionState:
    """Return how this thread's connection reaches Postgres."""
    scans, is_encrypted = database.fetch(_CONNECTION)[0]
    return ConnectionState(scans == "off", bool(is_encrypted))


def read_server_settings(database: Database) -> dict[str, str]:
    """
    Return the settings of the server that durability rests on, by the server's names for them.

    On Postgres `fsync`, `full_page_writes`, `synchronous_commit`, `server_version`; on SQLite
    `journal_mode`, `synchronous` (a number), `version`.

    Raises:
        NotReachable: the database cannot be connected to.
    """
    if database.dialect == SQLITE:
        with database.transaction(write=False) as tx:
            return {name: str(tx.fetch(asked)[0][0]) for name, asked in _SQLITE.items()}
    return {str(name): str(value) for name, value in database.fetch(_POSTGRES)}
