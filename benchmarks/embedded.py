"""W4: a chain in this very process, and the bare sqlite3 loop that it is compared with.

Decides what the floor does per step; never how often it is measured. Used by `workloads`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders import chain_document, iaflow_settings, migrate
from benchmarks.steps import work_on
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.runner import make_executor, open_database, open_engine

__all__ = ["BareLoop", "Embedded", "count_statements"]

FLOOR_SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY, state TEXT);
CREATE TABLE step (
    run_id INTEGER REFERENCES run (id), seq INTEGER, state TEXT, input TEXT, output TEXT, at REAL,
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;
"""


class BareLoop:
    """
    The floor: sqlite3 alone, one transaction per step (complete it, insert its successor).

    Args:
        path: a file; None keeps the database in memory.
        synchronous: SQLite's own setting.
        claims: a second transaction per step marks it as running before its body.
    """

    def __init__(
        self, path: Path | None, *, synchronous: str = "FULL", claims: bool = False
    ) -> None:
        self._claims = claims
        self._loop = asyncio.new_event_loop()
        self._sql = sqlite3.connect(path or ":memory:", isolation_level=None)
        if path is not None:
            self._sql.execute("PRAGMA journal_mode=WAL")
            self._sql.execute(f"PRAGMA synchronous={synchronous}")
        self._sql.execute("PRAGMA foreign_keys=ON")
        self._sql.executescript(FLOOR_SCHEMA)
        self._runs = 0

    def run_chain(self, length: int) -> None:
        """Run one chain to its end."""
        sql = self._sql
        self._runs += 1
        run = self._runs
        data = json.dumps({"n": 0})
        sql.execute("INSERT INTO run VALUES (?, 'running')", (run,))
        sql.execute("INSERT INTO step VALUES (?, 0, 'ready', ?, NULL, 0)", (run, data))
        for seq in range(length):
            here = (run, seq)
            if self._claims:
                sql.execute(
                    "UPDATE step SET state = 'running', at = ?"
                    " WHERE run_id = ? AND seq = ? AND state = 'ready'",
                    (time.time(), *here),
                )
            found = sql.execute("SELECT input FROM step WHERE run_id = ? AND seq = ?", here)
            data = json.dumps(self._loop.run_until_complete(_work(json.loads(found.fetchone()[0]))))
            sql.execute("BEGIN IMMEDIATE")
            sql.execute(
                "UPDATE step SET state = 'done', output = ?, at = ? WHERE run_id = ? AND seq = ?",
                (data, time.time(), *here),
            )
            if seq + 1 < length:
                sql.execute(
                    "INSERT INTO step VALUES (?, ?, 'ready', ?, NULL, ?)",
                    (run, seq + 1, data, time.time()),
                )
            else:
                sql.execute("UPDATE run SET state = 'done' WHERE id = ?", (run,))
            sql.execute("COMMIT")
        assert json.loads(data)["n"] == length

    def close(self) -> None:
        """Close the database and the loop."""
        self._sql.close()
        self._loop.close()


class Embedded:
    """
    iaflow in this process, on SQLite; opened once, as an application that runs many runs.

    Args:
        path: a file; None keeps the database in memory.
    """

    def __init__(self, path: Path | None) -> None:
        url = "sqlite://" if path is None else f"sqlite:///{path}"
        self._parts = _Parts(url)
        self._runner = asyncio.Runner()

    def run_chain(self, length: int) -> None:
        """Run one chain to its end."""
        self._runner.run(self._parts.drive(length))

    def close(self) -> None:
        """Close the database and the loop."""
        self._runner.close()
        self._parts.close()


def count_statements(database_url: str, length: int) -> dict[str, float]:
    """
    Return statements, round trips and commits per step of a chain, on Postgres.

    The engine runs in this process, because a worker's counters are its own; its verbs are
    called as the Celery tasks call them: claim, work, settle.
    """
    migrate(database_url)
    parts = _Parts(database_url)
    with asyncio.Runner() as runner:
        # The first chain prepares the statements, reads the clock and compiles.
        runner.run(parts.walk(length))
        tally = parts.database.tally
        before = (tally.statements, tally.round_trips, tally.commits)
        runner.run(parts.walk(length))
    after = (tally.statements, tally.round_trips, tally.commits)
    parts.close()
    names = ("statements", "round_trips", "commits")
    return {
        name: (late - early) / length
        for name, late, early in zip(names, after, before, strict=True)
    }


class _Parts:
    def __init__(self, url: str) -> None:
        settings = iaflow_settings(url)
        self.database = open_database(settings)
        self._engine = open_engine(self.database, settings)
        self._executor = make_executor(self._engine, settings)
        self._graphs: dict[int, Graph] = {}

    async def drive(self, length: int) -> None:
        """Run a chain as the runner does."""
        started = self._engine.start(self._graph(length), {"n": 0})
        status = await self._executor.drive(started.run_id, started.tasks)
        assert status is RunStatus.SUCCEEDED

    async def walk(self, length: int) -> None:
        """Run a chain step by step: what each message leads to."""
        started = self._engine.start(self._graph(length), {"n": 0})
        tasks, status = started.tasks, RunStatus.RUNNING
        while tasks:
            settled = await self._executor.execute(tasks[0])
            assert settled is not None
            tasks, status = settled.tasks, settled.run_status
        assert status is RunStatus.SUCCEEDED

    def close(self) -> None:
        asyncio.run(self._executor.close())
        self.database.close()

    def _graph(self, length: int) -> Graph:
        if length not in self._graphs:
            self._graphs[length] = compile_definition(chain_document(length, None))
            self._engine.keep_version(self._graphs[length])
        return self._graphs[length]


async def _work(data: dict[str, Any]) -> dict[str, Any]:
    return work_on(data)
