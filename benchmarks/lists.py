"""What people look at in a database with a long past: lists of runs, a run's page, the inbox.

Decides how such a past is made, by SQL, and which queries there are; never how long one may take.
Used by the workload `lists` and by the test that looks at the plans.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from benchmarks.contenders import chain_document, iaflow_settings, migrate
from benchmarks.history import lengthen_run
from iaflow.client import Client
from iaflow.data.accounts import Asked, Sight
from iaflow.data.filters import RunFilter
from iaflow.data.status import RunStatus, StepStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.runner import open_database, open_engine
from tests.servers import ServerRoom

__all__ = ["MOST_MILLISECONDS", "PAGE", "QUERIES", "QUESTIONS", "SLUGS", "Archive", "measure_lists"]

MOST_MILLISECONDS: Final = 50.0
"""The bar of every query, as its caller waits for it."""

PAGE: Final = 50
SLUGS: Final = 40
EVERY: Final = 10_000
"""Of so many runs one is of a rare pipeline, one was cancelled, and one is of a rare starter."""

QUESTIONS: Final = 10_000


def measure_lists(room: ServerRoom, *, runs: int, rounds: int) -> dict[str, float]:
    """Return how long each query takes, in milliseconds: the median of so many rounds."""
    archive = Archive(room.open_postgres(durable=True).create_database(prefix="benchmark"))
    try:
        archive.fill(runs)
        spent: dict[str, list[float]] = {name: [] for name in QUERIES}
        for _ in range(rounds):
            for name, query in QUERIES.items():
                began = time.perf_counter()
                query(archive)
                spent[name].append((time.perf_counter() - began) * 1000)
    finally:
        archive.close()
    return {name: statistics.median(times) for name, times in spent.items()}


class Archive:
    """
    A client on a database on Postgres that has been at work for long.

    Its connection has prepared every query while the tables were nearly empty, as in a deployment
    that has just begun.

    Args:
        database_url: an empty database.
    """

    def __init__(self, database_url: str) -> None:
        migrate(database_url)
        settings = iaflow_settings(database_url)
        self.database = open_database(settings)
        self.engine = open_engine(self.database, settings)
        self.client = Client(engine=self.engine)
        chain = chain_document(50, None)
        graphs = {
            slug: compile_definition({**chain, "slug": slug, "name": slug})
            for slug in ("rare", *(f"past-{n:02}" for n in range(SLUGS)))
        }
        for graph in graphs.values():
            self.engine.keep_version(graph)
        self._hash = graphs["past-00"].definition.content_hash
        self.run_id = self.engine.start(graphs["rare"], {"n": 0}).run_id
        self.parent_id = self.engine.start(graphs["past-00"], {"n": 0}).run_id
        self.end = datetime.now(UTC)
        self.begin = self.end
        for query in QUERIES.values():
            query(self)

    def fill(self, runs: int) -> None:
        """Add so many runs that ended, a quarter of them children of one run, and questions."""
        self.begin = self.end - timedelta(seconds=runs)
        tables = self.database.tables
        with self.database.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL synchronous_commit TO off"))
            values = {
                "runs": runs,
                "begin": self.begin,
                "every": EVERY,
                "slugs": SLUGS,
                "hash": self._hash,
                "parent": self.parent_id,
                "questions": QUESTIONS,
                "run": self.run_id,
            }
            schema = tables.runs.schema
            for text in (_RUNS, _PAYLOADS, _OLD_PAUSES, _QUESTIONS):
                connection.execute(sa.text(text.replace("iaflow.", f"{schema}.")), values)
            lengthen_run(connection, tables, self.run_id, 20_000)
        with self.database.engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone.exec_driver_sql("VACUUM ANALYZE")

    def close(self) -> None:
        """Close the database."""
        self.client.close()
        self.database.close()


_ID = "(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0') || '{kind}' || lpad(to_hex(n), 15, '0'))::uuid"
_AT = "(CAST(:begin AS timestamptz) + n * interval '1 second')"

_RUNS: Final = f"""
INSERT INTO iaflow.runs (run_id, slug, content_hash, status, seq, live, paused, started_by,
    parent_run_id, parent_step_id, parent_index, created_at, started_at, finished_at)
SELECT {_ID.format(at=_AT, kind="70008")},
    CASE WHEN n % :every = 0 THEN 'rare' ELSE 'past-' || lpad((n % :slugs)::text, 2, '0') END,
    CAST(:hash AS text),
    CASE WHEN n % :every = 7 THEN 'cancelled' WHEN n % 50 = 3 THEN 'failed' ELSE 'succeeded' END,
    3, 0, 0,
    CASE WHEN n % :every = 9 THEN 'ada' WHEN n % 2 = 0 THEN 'api' END,
    CASE WHEN n % 4 = 1 THEN CAST(:parent AS uuid) END,
    CASE WHEN n % 4 = 1 THEN 's1' END, CASE WHEN n % 4 = 1 THEN -1 END,
    {_AT}, {_AT}, {_AT} + interval '1 second'
FROM generate_series(1, :runs) n
"""

_PAYLOADS: Final = """
INSERT INTO iaflow.run_payloads (run_id, parameters, outputs)
SELECT run_id, '{"n": 0}', '{"n": 50}' FROM iaflow.runs ON CONFLICT DO NOTHING
"""

_PAUSE: Final = """
INSERT INTO iaflow.pauses (pause_id, run_id, step_id, item_index, slug, status, is_settled,
    ui_schema, shown, assignees, digest, created_at, answered_at)
"""

_FORM: Final = """'{"title":"Approve?","fields":[{"name":"decision","type":"radio","options":["yes","no"]}]}'"""

_OLD_PAUSES: Final = (
    _PAUSE
    + f"""
SELECT {_ID.format(at="created_at", kind="70009")}, run_id, 's1', -1, slug, 'answered', true,
    {_FORM}, '{{}}', '{{"users":["ada"]}}', repeat('0', 64), created_at, finished_at
FROM (SELECT *, row_number() OVER () AS n FROM iaflow.runs WHERE status <> 'running') old
"""
)

_QUESTIONS: Final = (
    _PAUSE
    + f"""
SELECT {_ID.format(at=_AT, kind="7000a")}, CAST(:run AS uuid), 's1', -1,
    'past-' || lpad((n % :slugs)::text, 2, '0'), 'open', false,
    {_FORM}, json_build_object('text', repeat('shown ', 100)),
    CASE n % 10
        WHEN 0 THEN CAST('{{}}' AS json)
        WHEN 1 THEN CAST('{{"roles":["finance","legal"]}}' AS json)
        ELSE CAST('{{"users":["user-' || n % 100 || '","user-' || n % 77 || '"],"roles":["team-'
            || n % 30 || '"]}}' AS json) END,
    repeat('0', 64), {_AT}, NULL
FROM generate_series(1, :questions) n
"""
)


_NARROW: Final = Sight(("past-01", "past-02", "rare", "none-*"))
_WIDE: Final = Sight(("past-*",))


def _runs(sight: Sight | None = None, **wanted: Any) -> Callable[[Archive], Any]:
    more = {} if sight is None else {"sight": sight}
    return lambda archive: archive.client.runs(RunFilter(**wanted), limit=PAGE, **more)


def _inbox(name: str, *roles: str, sight: Sight | None = None) -> Callable[[Archive], Any]:
    asked = Asked(name, roles, sight=Sight() if sight is None else sight)
    return lambda archive: archive.client.inbox(asked=asked, limit=PAGE)


_FAILED, _CANCELLED = RunStatus.FAILED, RunStatus.CANCELLED

QUERIES: Final[Mapping[str, Callable[[Archive], Any]]] = {
    "runs": _runs(),
    "runs, a page in the middle": lambda a: a.client.runs(before=_id_at(a, 0.5), limit=PAGE),
    "runs of a status": _runs(status=_CANCELLED),
    "runs of a pipeline": _runs(slug="past-01"),
    "runs of a rare pipeline": _runs(slug="rare"),
    "runs of a pipeline in a status": _runs(slug="past-07", status=_CANCELLED),
    "runs of a starter": _runs(started_by="api"),
    "runs of a rare starter": _runs(started_by="ada"),
    "runs of a starter in a status": _runs(started_by="api", status=_CANCELLED),
    "runs of a starter and a pipeline": _runs(started_by="api", slug="rare"),
    "runs of all three": _runs(started_by="api", slug="past-02", status=_FAILED),
    "runs at the top": _runs(is_top_level=True),
    "runs at the top in a status": _runs(is_top_level=True, status=_CANCELLED),
    "runs at the top of a pipeline": _runs(is_top_level=True, slug="past-02"),
    "runs of a day": lambda a: a.client.runs(_day_of(a), limit=PAGE),
    "runs of a pipeline on a day": lambda a: a.client.runs(_day_of(a, slug="past-03"), limit=PAGE),
    "runs of a parent": lambda a: a.client.runs(RunFilter(parent_run_id=a.parent_id), limit=PAGE),
    "runs in sight": _runs(_NARROW),
    "runs in a wide sight": _runs(_WIDE),
    "runs in no sight": _runs(Sight(("none-*",))),
    "runs in sight in a status": _runs(_NARROW, status=_CANCELLED),
    "runs in sight at the top": _runs(_NARROW, is_top_level=True),
    "runs in sight of a starter": _runs(_NARROW, started_by="api"),
    "runs in sight of a pipeline": _runs(_NARROW, slug="rare"),
    "runs in sight of a parent": lambda a: a.client.runs(
        RunFilter(parent_run_id=a.parent_id), sight=Sight(("past-01", "past-05")), limit=PAGE
    ),
    "a run": lambda a: a.client.run(a.run_id),
    "a run in sight": lambda a: a.client.run(a.run_id, sight=_NARROW),
    "its steps": lambda a: a.client.steps(a.run_id, items=False, payloads=False),
    "a step": lambda a: a.client.step(a.run_id, "s0"),
    "its items": lambda a: a.engine.listings.items(a.run_id, "past", limit=PAGE),
    "its failed items": lambda a: a.engine.listings.items(
        a.run_id, "past", limit=PAGE, status=StepStatus.FAILED
    ),
    "its decisions": lambda a: a.client.decisions(a.run_id),
    "its events": lambda a: a.client.events(a.run_id, after=5000),
    "its children": lambda a: a.client.children(a.parent_id, limit=PAGE),
    "its questions": lambda a: a.client.inbox(a.run_id, limit=PAGE),
    "its notices": lambda a: a.client.notices(a.run_id),
    "how far runs are": lambda a: a.client.watch([a.run_id, a.parent_id]),
    "the inbox": lambda a: a.client.inbox(limit=PAGE),
    "the inbox of a user": _inbox("user-12", "team-1"),
    "the inbox of a role": _inbox("eve", "finance", sight=Sight(())),
    "the inbox of nobody": _inbox("eve", "sales", "press", sight=Sight(("none-*",))),
    "the inbox in sight": _inbox("eve", sight=_NARROW),
    "the inbox of an administrator": lambda a: a.client.inbox(
        asked=Asked("root", ("admin",), True, Sight(("past-39",))), limit=PAGE
    ),
    "the inbox's mark": lambda a: a.client.inbox_mark(),
}
"""Each is asked as the faces ask it."""


def _id_at(archive: Archive, part: float) -> str:
    at = archive.begin + (archive.end - archive.begin) * part
    digits = f"{int(at.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def _day_of(archive: Archive, **wanted: Any) -> RunFilter:
    middle = archive.begin + (archive.end - archive.begin) / 2
    return RunFilter(since=middle, until=middle + timedelta(days=1), **wanted)
