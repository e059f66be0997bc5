"""Which revision the schema of a database has, and how it comes to the newest one.

Decides when migrations run, under which lock, and what a brand-new SQLite database gets
instead; never what the tables are. Called by the composition root, the CLI and the manager.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

import iaflow
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.locks import lock_number
from iaflow.database.statements import SQLITE, Statement
from iaflow.errors import SchemaOutdated

if TYPE_CHECKING:
    # Alembic costs a fifth of a second; who runs a step must never pay for it.
    from alembic.config import Config

__all__ = [
    "HEAD_REVISION",
    "SchemaState",
    "alembic_config",
    "check",
    "downgrade",
    "make_schema",
    "migrated_schema",
    "require_current",
    "upgrade",
]

HEAD_REVISION = "iaflow_0004"
"""The newest revision; the prefix keeps it apart from those of a host's own Alembic."""

OLDEST_REVISION = "iaflow_0003"
"""The oldest release, by its revision, that can work on the tables of this one."""

SCRIPTS = Path(iaflow.__file__).parent / "pipeline" / "migrations"

Ask = Callable[..., Sequence[Sequence[Any]]]

_PREFIX = "iaflow_"
_HOST_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """
    What revision a database has, beside the one that this iaflow works on.

    Attributes:
        current: the database's revision; None if iaflow has no tables there.
        head: the revision that this version of iaflow needs.
        is_current: True if they are the same.
        is_usable: True if work can begin: a newer schema that only added to ours serves as well.
        message: a sentence for people, which says what to run if anything must be.
        is_kept_by_host: True if a host application's own Alembic made the tables.
    """

    current: str | None
    head: str
    is_current: bool
    is_usable: bool
    message: str
    is_kept_by_host: bool = False


def check(database: Database | str, *, schema: str = "iaflow") -> SchemaState:
    """
    Read the revision of `database`; writes nothing and never loads Alembic.

    Args:
        database: an open database, or the URL of one.
        schema: the Postgres schema of the tables, if a URL is given.

    Raises:
        NotReachable: the database cannot be connected to.
    """
    with _opened(database, schema) as opened, opened.transaction(write=False) as tx:
        return _read_state(_through(tx), opened.schema)


def require_current(database: Database | str, *, schema: str = "iaflow") -> None:
    """
    Return if this version of iaflow can work on `database`.

    Raises:
        SchemaOutdated: its revision is older, or too new; the sentence says what to run.
        NotReachable: the database cannot be connected to.
    """
    state = check(database, schema=schema)
    if not state.is_usable:
        raise SchemaOutdated(state.message)


def upgrade(database: Database | str, *, schema: str = "iaflow") -> None:
    """
    Bring the tables of `database` to the newest revision; does nothing if they have it.

    Everything happens in one transaction, and processes that upgrade at once wait for each
    other. On Postgres the schema is made if it is not there. A SQLite database without our
    tables gets them directly, because an embedded run should not wait for Alembic.

    Args:
        database: an open database, or the URL of one.
        schema: the Postgres schema of the tables, if a URL is given.

    Raises:
        SchemaOutdated: the revision is newer than this iaflow, a host's own Alembic keeps
            these tables, or tables of other makers have their names.
        NotReachable: the database cannot be connected to.
    """
    with _opened(database, schema) as opened:
        if check(opened).is_usable:
            return
        if opened.dialect == SQLITE and _create_at_once(opened):
            return
        _upgrade_by_scripts(opened)


def downgrade(database: Database | str, revision: str = "base", *, schema: str = "iaflow") -> None:
    """
    Take the tables of `database` back to an older revision; ``base`` removes them all.

    What the tables held is lost with them. For tests and for going back after a failed
    release; the arguments and errors are those of `upgrade`.
    """
    from alembic import command

    with _opened(database, schema) as opened, _alone(opened) as connection:
        command.downgrade(alembic_config(connection, opened.schema), revision)


def alembic_config(connection: sa.Connection | None, schema: str | None) -> Config:
    """
    Return Alembic's configuration for our scripts.

    Args:
        connection: inside a transaction, which the caller commits; None to read scripts only.
        schema: the Postgres schema of the tables; None on SQLite.
    """
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["iaflow_schema"] = schema
    config.attributes["iaflow_version_table"] = _version_table(schema)
    return config


def migrated_schema(context: Any) -> str | None:
    """
    Return the schema that a script of ours works in; None on SQLite. For the scripts.

    A host whose Alembic runs them names another one than ``iaflow`` by ``iaflow_schema`` in
    its ini file or in ``config.attributes``.

    Args:
        context: Alembic's migration context, from ``op.get_context()``.
    """
    if context.dialect.name == SQLITE:
        return None
    config = context.config
    named = config and (
        config.attributes.get("iaflow_schema") or config.get_main_option("iaflow_schema")
    )
    return str(named or "iaflow")


def make_schema(connection: sa.Connection, schema: str) -> None:
    """Make the Postgres schema of our tables if it is not there. For the scripts."""
    # Asked first, since IF NOT EXISTS wants the right to create even if it need not.
    there = sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if connection.execute(there, {"name": schema}).first() is None:
        connection.execute(sa.schema.CreateSchema(schema))


# --- reading the revision


def _read_state(ask: Ask, schema: str | None) -> SchemaState:
    ours = _read_revision(ask, schema, _version_table(schema), on_postgres=schema is not None)
    # Where a host's Alembic ran our scripts, it noted them in its own table.
    hosts = None if ours else _read_revision(ask, None, _HOST_TABLE, on_postgres=schema is not None)
    current = ours or hosts
    is_usable = current == HEAD_REVISION
    if current is not None and current > HEAD_REVISION:
        place = f"{_quote(schema)}.schema_info" if schema else "schema_info"
        # Its maker says which releases the newer tables still serve.
        oldest = ask(f"SELECT oldest_revision FROM {place}")  # noqa: S608  quoted above
        is_usable = bool(oldest) and oldest[0][0] <= HEAD_REVISION
    return SchemaState(
        current=current,
        head=HEAD_REVISION,
        is_current=current == HEAD_REVISION,
        is_usable=is_usable,
        message=_advise(current, kept_by_host=hosts is not None, is_usable=is_usable),
        is_kept_by_host=hosts is not None,
    )


def _advise(current: str | None, *, kept_by_host: bool, is_usable: bool) -> str:
    run = (
        "your own Alembic (`alembic upgrade iaflow@head`)"
        if kept_by_host
        else "`iaflow db upgrade`"
    )
    if current is None:
        return f"the database has no tables of iaflow yet: run {run}"
    # Revisions are numbered, so their order is that of their names.
    if current < HEAD_REVISION:
        return (
            f"the database's schema is {current}, older than {HEAD_REVISION}, "
            f"which this iaflow needs: run {run}"
        )
    if current > HEAD_REVISION and is_usable:
        return (
            f"the database's schema is {current}, newer than {HEAD_REVISION}, which this iaflow "
            "was made for; it only adds, so this iaflow works on it"
        )
    if current > HEAD_REVISION:
        return (
            f"the database's schema is {current}, newer than {HEAD_REVISION}, the newest that "
            "this iaflow knows: install the iaflow that upgraded it"
        )
    return f"the database's schema is {current}, as this iaflow needs it"


def _read_revision(ask: Ask, schema: str | None, table: str, *, on_postgres: bool) -> str | None:
    """Return the newest of our revisions that a version table names; None if there is none."""
    place = f"{_quote(schema)}.{_quote(table)}" if schema else _quote(table)
    if on_postgres:
        found = ask("SELECT 1 WHERE to_regclass(:name) IS NOT NULL", name=place)
    else:
        found = ask("SELECT 1 FROM sqlite_master WHERE name = :name", name=table)
    if not found:
        return None
    # Only our own constants and the schema, quoted, come into the text.
    rows = ask(f"SELECT version_num FROM {place}")  # noqa: S608
    return max((row[0] for row in rows if row[0].startswith(_PREFIX)), default=None)


def _version_table(schema: str | None) -> str:
    # SQLite has no schemas: an application's own Alembic may keep its table in the same file.
    return "alembic_version" if schema else "iaflow_alembic_version"


# --- a brand-new SQLite database


def _create_at_once(database: Database) -> bool:
    """Make all tables and note the newest revision; False if the database is not brand-new."""
    with database.transaction() as tx:
        ask = _through(tx)
        if _read_state(ask, None).current is not None or _taken_names(ask, database):
            return False
        for text in _sqlite_ddl(database):
            ask(text)
        # As Alembic itself would make it, so that it finds its own later.
        table = _version_table(None)
        ask(
            f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {table}_pkc PRIMARY KEY (version_num))"
        )
        insert = f"INSERT INTO {table} (version_num) VALUES (:head)"  # noqa: S608  our constant
        ask(insert, head=HEAD_REVISION)
        ask("INSERT INTO schema_info (oldest_revision) VALUES (:oldest)", oldest=OLDEST_REVISION)
    return True


def _sqlite_ddl(database: Database) -> Iterator[str]:
    spoken = sqlite.dialect()
    for table in database.tables.metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=spoken))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=spoken))


def _taken_names(ask: Ask, database: Database) -> list[str]:
    """Return the names of ours that tables of the database already have."""
    if database.schema is None:
        rows = ask("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    else:
        rows = ask(
            "SELECT CAST(table_name AS text) FROM information_schema.tables "
            "WHERE table_schema = :name",
            name=database.schema,
        )
    ours = {table.name for table in database.tables.metadata.sorted_tables}
    return sorted(ours & {row[0] for row in rows})


# --- by Alembic's scripts


def _upgrade_by_scripts(database: Database) -> None:
    from alembic import command

    with _alone(database) as connection:
        # Read again under the lock: another process may have been first.
        ask = _through(connection)
        state = _read_state(ask, database.schema)
        if state.is_usable:
            return
        _refuse_what_is_not_ours(state, _taken_names(ask, database))
        if database.schema is not None:
            make_schema(connection, database.schema)
        command.upgrade(alembic_config(connection, database.schema), "head")


def _refuse_what_is_not_ours(state: SchemaState, taken: Sequence[str]) -> None:
    if state.is_kept_by_host or (state.current or "") > HEAD_REVISION:
        raise SchemaOutdated(state.message)
    if state.current is None and taken:
        raise SchemaOutdated(
            f"the database already has tables that iaflow did not make: {', '.join(taken)}; "
            "give iaflow a schema (Postgres) or a file (SQLite) of its own"
        )


@contextmanager
def _alone(database: Database) -> Iterator[sa.Connection]:
    """Give a connection in a transaction that no other upgrade can run beside."""
    with database.alone(), database.engine.connect() as connection:
        if database.dialect == SQLITE:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            lock = sa.text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(lock, {"number": lock_number(database, "migrations")})
        yield connection
        connection.commit()


# --- statements of this room, run once in a process's life


def _through(connection: Connection | sa.Connection) -> Ask:
    """Return a function that runs a text with parameters on `connection` and returns its rows."""

    def ask(text: str, **params: Any) -> Sequence[Sequence[Any]]:
        if isinstance(connection, sa.Connection):
            return connection.execute(sa.text(text), params).all()
        name = f"iaflow_schema_{zlib.crc32(text.encode()):08x}"
        return connection.fetch(Statement(name, sa.text(text)), **params)

    return ask


def _quote(name: str | None) -> str:
    return '"' + str(name).replace('"', '""') + '"'


@contextmanager
def _opened(database: Database | str, schema: str) -> Iterator[Database]:
    if isinstance(database, Database):
        yield database
        return
    opened = Database(database, schema=schema)
    try:
        yield opened
    finally:
        opened.close()
