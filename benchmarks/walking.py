"""Steps beside a long past: a chain that is walked in this process, on Postgres.

Decides how a past is made and how steps are taken through the engine as a worker takes them:
claim, work, settle; never how turns are taken or counted. Used by `workloads`.
"""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

from benchmarks.contenders import chain_document, iaflow_settings, migrate
from benchmarks.history import copy_run, lengthen_run
from iaflow.data.records import StepTask
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.runner import make_executor, open_database, open_engine

__all__ = ["Walker"]

PAST_CHAIN = 10


class Walker:
    """
    A run of a long chain, some steps of which are taken in each turn.

    Args:
        database_url: an empty database on Postgres.
        length: how many steps there are to be taken in all turns together.
    """

    def __init__(self, database_url: str, length: int) -> None:
        migrate(database_url)
        settings = iaflow_settings(database_url)
        self.database = open_database(settings)
        self._engine = open_engine(self.database, settings)
        self._executor = make_executor(self._engine, settings)
        self._runner = asyncio.Runner()
        self._tasks: tuple[StepTask, ...] = ()
        self.run_id = self._start(length)

    def add_past_runs(self, rows: int) -> int:
        """Fill the database with runs that ended, of `rows` rows together; return how many runs."""
        ours, tasks = self.run_id, self._tasks
        past = self._start(PAST_CHAIN)
        self.walk(PAST_CHAIN)
        self.run_id, self._tasks = ours, tasks
        tables = self.database.tables
        with self.database.engine.begin() as connection:
            each = sum(
                connection.execute(
                    sa.select(sa.func.count()).where(table.c.run_id == past)
                ).scalar_one()
                for table in tables.metadata.sorted_tables
                if "run_id" in table.c
            )
            copy_run(connection, tables, past, rows // each)
        self._analyze()
        return rows // each

    def add_own_past(self, rows: int) -> None:
        """Let the run itself have a past of so many rows."""
        with self.database.engine.begin() as connection:
            lengthen_run(connection, self.database.tables, self.run_id, rows)
        self._analyze()

    def walk(self, steps: int) -> None:
        """Take so many steps."""
        self._runner.run(self._walk(steps))

    def close(self) -> None:
        """Close the database."""
        self._runner.run(self._executor.close())
        self._runner.close()
        self.database.close()

    def _start(self, length: int) -> str:
        graph = compile_definition(chain_document(length, None))
        self._engine.keep_version(graph)
        started = self._engine.start(graph, {"n": 0})
        self._tasks = tuple(started.tasks)
        return started.run_id

    async def _walk(self, steps: int) -> None:
        for _ in range(steps):
            settled = await self._executor.execute(self._tasks[0])
            assert settled is not None
            self._tasks = tuple(settled.tasks)

    def _analyze(self) -> None:
        """Do what autovacuum would have done while all that was written."""
        with self.database.engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone.exec_driver_sql("VACUUM ANALYZE")
            alone.exec_driver_sql("CHECKPOINT")
