"""What `iaflow doctor` looks at: settings, database, clocks, modules; the rest beside it.

Decides what is in order, what is doubtful and what must be mended, and how; never mends
anything. Called by the doctor command.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from iaflow.cli.findings import Finding, guarded
from iaflow.cli.surroundings import (
    find_in_broker,
    find_in_flower,
    find_in_notifier,
    find_in_web,
    is_open_line,
)
from iaflow.cli.terminal import as_clause, format_seconds
from iaflow.clock import SystemClock
from iaflow.errors import IaflowError
from iaflow.settings import Settings, hide_password

if TYPE_CHECKING:
    from iaflow.database.dialects import Database

__all__ = ["find_all", "list_settings"]

CLOCK_TOLERANCE_SECONDS: Final = 2.0


def list_settings(settings: Settings, *, db: str | None) -> list[dict[str, str]]:
    """Return every setting with its value and where it comes from; secrets stay hidden."""
    listed = []
    for name in type(settings).model_fields:
        source = "set" if name in settings.model_fields_set else "default"
        if name == "database_url" and db is not None:
            source = "--db"
        variable = "IAFLOW_SCHEMA" if name == "schema_name" else f"IAFLOW_{name.upper()}"
        listed.append({"name": variable, "value": _spell(name, settings), "source": source})
    return listed


def find_all(settings: Settings, *, do_import: bool) -> Iterator[Finding]:
    """
    Look at everything, the next thing even if the one before failed.

    Args:
        do_import: import the modules that steps may come from; else they are only looked for.
    """
    figures: dict[str, Mapping[str, float]] = {}
    yield from _find_in_database(settings, figures)
    yield from guarded("broker", partial(find_in_broker, settings, figures))
    yield from guarded("web", partial(find_in_web, settings))
    yield from guarded("flower", partial(find_in_flower, settings))
    yield from guarded("notifier", partial(find_in_notifier, settings))
    yield from _find_in_modules(settings, do_import)


def _spell(name: str, settings: Settings) -> str:
    value: Any = getattr(settings, name)
    if value is None:
        return "(none)"
    if isinstance(value, SecretStr):
        return "(set, not shown)"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    return hide_password(value) if name.endswith("_url") else str(value)


# --- database


def _find_in_database(
    settings: Settings, figures: dict[str, Mapping[str, float]]
) -> Iterator[Finding]:
    from iaflow.database.dialects import Database

    shown = hide_password(settings.database_url)
    try:
        database = Database(
            settings.database_url,
            schema=settings.schema_name,
            prepare=settings.prepare_statements,
        )
        database.read_clock()
    except IaflowError as error:
        yield Finding("database", "fail", as_clause(str(error)), _advise_on_connecting(str(error)))
        return
    try:
        yield Finding("database", "ok", f"{shown} answers")
        yield from guarded("schema", partial(_find_schema, database))
        yield from guarded("durability", partial(_find_durability, database))
        yield from guarded("connection", partial(_find_connection, database, settings))
        yield from guarded("clock", partial(_find_clock, database))
        yield from guarded("steps", partial(_find_steps, database, settings, figures))
    finally:
        database.close()


def _advise_on_connecting(message: str) -> str:
    if "unsupported startup parameter" in message:
        return (
            "a pooler stands before it: connect to Postgres itself, or let it pass on, or ignore, "
            "the parameter `options`"
        )
    return "see IAFLOW_DATABASE_URL, or --db"


def _find_schema(database: Database) -> Iterator[Finding]:
    from iaflow.database import migrator

    state = migrator.check(database)
    if state.is_usable:
        yield Finding("schema", "ok", as_clause(state.message))
    elif database.dialect == "sqlite" and state.current is None:
        yield Finding("schema", "ok", "no tables yet; the first run makes them")
    else:
        yield Finding("schema", "fail", as_clause(state.message), "iaflow db upgrade")


def _find_durability(database: Database) -> Iterator[Finding]:
    from iaflow.database.health import read_server_settings

    found = read_server_settings(database)
    if database.dialect == "sqlite":
        if database.is_memory:
            yield Finding("durability", "warn", "in memory: runs end with this process")
        elif found["journal_mode"] != "wal":
            message = f"journal_mode is {found['journal_mode']}, not wal"
            yield Finding("durability", "warn", message, "keep the file on a local disk")
        else:
            yield Finding("durability", "ok", f"SQLite {found['version']}, journal_mode wal")
        return
    off = [name for name in ("fsync", "full_page_writes") if found.get(name) == "off"]
    if off:
        message = f"{' and '.join(off)} off: a crash of the server can lose or tear runs"
        yield Finding("durability", "fail", message, "turn it on in postgresql.conf")
    elif found.get("synchronous_commit") == "off":
        message = "synchronous_commit is off: a crash forgets the last settled steps"
        yield Finding("durability", "warn", message, "set it to on for iaflow's role")
    else:
        message = (
            f"Postgres {found.get('server_version')}, fsync and full_page_writes on, "
            f"synchronous_commit {found.get('synchronous_commit')}"
        )
        yield Finding("durability", "ok", message)


def _find_connection(database: Database, settings: Settings) -> Iterator[Finding]:
    """Look at what lies between: a pooler, an open line."""
    from iaflow.database.health import read_connection

    if database.dialect == "sqlite":
        return
    way = read_connection(database)
    if not way.has_our_options:
        message = "a pooler stands between: what a connection asks for at its start is not in force"
        advice = "connect to Postgres itself"
        if settings.prepare_statements:
            advice += ", or set IAFLOW_PREPARE_STATEMENTS=false if it lends out transactions"
        yield Finding("connection", "warn", message, advice)
    if not way.is_encrypted and is_open_line(settings.database_url):
        message = "what is said to the database can be read on the way: the line is not encrypted"
        advice = "put ?sslmode=verify-full behind IAFLOW_DATABASE_URL, and TLS on the server"
        yield Finding("connection", "warn", message, advice)


def _find_steps(
    database: Database, settings: Settings, figures: dict[str, Mapping[str, float]]
) -> Iterator[Finding]:
    """Look at what waits and is lost; `figures` is filled for those who look at workers."""
    from iaflow.database import migrator
    from iaflow.database.run_store.gauges import GaugeStore

    if settings.broker_url is None or not migrator.check(database).is_usable:
        return
    figures.update((one.name, one.values) for one in GaugeStore(database, settings.queues).read())
    lost = int(figures["iaflow_lost_leases"][""])
    running = int(figures["iaflow_running_steps"][""])
    if lost:
        message = f"{lost} of {running} running steps have not been heard of for a whole lease"
        advice = "a worker's sweep takes them up again: is any worker there? see below"
        yield Finding("steps", "warn", message, advice)
    else:
        yield Finding("steps", "ok", f"{running} run, none is lost")


def _find_clock(database: Database) -> Iterator[Finding]:
    here = SystemClock()
    before = here.now()
    there = database.read_clock()
    after = here.now()
    # The reading lies somewhere between; the middle of it is the best guess.
    difference = (there - before - (after - before) / 2).total_seconds()
    words = f"this machine's clock is {format_seconds(abs(difference))} off the database's"
    if abs(difference) <= CLOCK_TOLERANCE_SECONDS:
        yield Finding("clock", "ok", words)
    else:
        advice = "synchronise the clocks (NTP); leases are safe, times in logs are not"
        yield Finding("clock", "warn", words, advice)


# --- modules


def _find_in_modules(settings: Settings, do_import: bool) -> Iterator[Finding]:
    if not settings.step_modules:
        message = "IAFLOW_STEP_MODULES names none: only local files bring steps of their own"
        verdict = "ok" if settings.broker_url is None else "warn"
        yield Finding("modules", verdict, message)
    for listed in settings.step_modules:
        name = listed.removesuffix(".*")
        if do_import:
            yield _import(name)
        elif _is_there(name):
            yield Finding("modules", "ok", f"{listed} is there (not imported; see --import)")
        else:
            message = f"{listed} is not there"
            yield Finding("modules", "fail", message, "install it, or see IAFLOW_STEP_MODULES")


def _import(name: str) -> Finding:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  a module may raise anything while imported
        message = f"{name} cannot be imported: {type(error).__name__}: {as_clause(str(error))}"
        return Finding("modules", "fail", message, "mend the module, or see IAFLOW_STEP_MODULES")
    return Finding("modules", "ok", f"{name} can be imported")


def _is_there(name: str) -> bool:
    """Look for the top-level package alone: to look deeper would import it."""
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
