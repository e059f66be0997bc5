"""What `iaflow doctor` looks at: settings, database, broker, modules, clocks.

Decides what is in order, what is doubtful and what must be mended, and how; never mends
anything. Called by the doctor command.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from iaflow.cli.terminal import as_clause, format_seconds
from iaflow.clock import SystemClock
from iaflow.errors import IaflowError
from iaflow.settings import Settings, hide_password

if TYPE_CHECKING:
    from iaflow.database.dialects import Database

__all__ = ["Finding", "find_all", "list_settings"]

CLOCK_TOLERANCE_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 3.0
SECRETS: Final = frozenset({"secret_key"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` says what to do, and is empty if nothing is."""

    name: str
    verdict: str  # ok, warn, fail
    message: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as an object."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "message": self.message,
            "advice": self.advice,
        }


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
    yield from _find_in_database(settings)
    yield from _find_in_broker(settings)
    yield from _find_in_modules(settings, do_import)


def _spell(name: str, settings: Settings) -> str:
    value: Any = getattr(settings, name)
    if value is None:
        return "(none)"
    if name in SECRETS:
        return "(set, not shown)"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    return hide_password(value) if name.endswith("_url") else str(value)


# --- database


def _find_in_database(settings: Settings) -> Iterator[Finding]:
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
        yield Finding("database", "fail", as_clause(str(error)), "see IAFLOW_DATABASE_URL, or --db")
        return
    try:
        yield Finding("database", "ok", f"{shown} answers")
        for look in (_find_schema, _find_durability, _find_clock):
            yield from _guarded(look, database)
    finally:
        database.close()


def _guarded(
    look: Callable[[Database], Iterator[Finding]], database: Database
) -> Iterator[Finding]:
    """Turn what goes wrong while looking into a finding: a doctor must not die of the patient."""
    try:
        yield from look(database)
    except Exception as error:  # noqa: BLE001  whatever a server answers is a finding
        name = look.__name__.removeprefix("_find_")
        yield Finding(name, "fail", f"{type(error).__name__}: {as_clause(str(error))}")


def _find_schema(database: Database) -> Iterator[Finding]:
    from iaflow.database import migrator

    state = migrator.check(database)
    if state.is_current:
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


# --- broker


def _find_in_broker(settings: Settings) -> Iterator[Finding]:
    if settings.broker_url is None:
        message = "none set: steps run in the process that starts a run"
        yield Finding("broker", "ok", message)
        return
    shown = hide_password(settings.broker_url)
    try:
        if urlsplit(settings.broker_url).scheme in ("redis", "rediss"):
            yield from _find_in_redis(settings.broker_url, settings.queues, shown)
        else:
            _connect(settings.broker_url)
            yield Finding("broker", "ok", f"{shown} answers")
    except Exception as error:  # noqa: BLE001  every transport has errors of its own
        message = f"{shown} does not answer: {as_clause(str(error))}"
        yield Finding("broker", "fail", message, "see IAFLOW_BROKER_URL; is the server up?")


def _find_in_redis(url: str, queues: tuple[str, ...], shown: str) -> Iterator[Finding]:
    import redis

    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=CONNECT_SECONDS,
        decode_responses=True,
    )
    try:
        client.ping()
        yield Finding("broker", "ok", f"{shown} answers")
        yield _judge_policy(client)
        for queue in queues:
            waiting = sum(client.llen(name) for name in _lists_of(queue))
            yield Finding("queue", "ok", f"{queue}: {waiting} messages wait for workers")
    finally:
        client.close()


def _lists_of(queue: str) -> list[str]:
    """Return the lists that a queue is on Redis: one for each class of priority (kombu's names)."""
    return [queue, *(f"{queue}\x06\x16{lowest}" for lowest in (3, 6, 9))]


def _judge_policy(client: Any) -> Finding:
    import redis

    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "unknown")
    except redis.ResponseError:
        message = "the server does not tell its maxmemory-policy"
        return Finding("eviction", "warn", message, "see to it that it is noeviction")
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy is noeviction")
    message = f"maxmemory-policy is {policy}: a full server would drop messages"
    return Finding("eviction", "fail", message, "redis-cli CONFIG SET maxmemory-policy noeviction")


def _connect(url: str) -> None:
    from kombu.connection import Connection

    open_connection: Callable[..., Any] = Connection
    with open_connection(url, connect_timeout=CONNECT_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)


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
