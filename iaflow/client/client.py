"""The client: opened on a database, it starts runs, and has all that the other rooms ask.

Decides how a start becomes a verb of the engine and a message, also inside a caller's own
transaction; never executes a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from iaflow.client.control import ControlRequests
from iaflow.client.core import leave
from iaflow.client.people import PeopleRequests
from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.database import migrator
from iaflow.database.callers import call_at_commit, joined
from iaflow.database.dialects import is_duplicate_key
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.core import refuse_paused
from iaflow.pipeline.engine import Engine, Started
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.runner import open_database, open_engine, open_executor
from iaflow.publishing import LatePublisher
from iaflow.scheduling import Schedules
from iaflow.settings import Settings, load_settings

__all__ = ["Client"]

PATIENCE_SECONDS = 5.0
"""How long a request tries again while the database is gone, before it says so."""


class Client(PeopleRequests, ControlRequests):
    """
    Runs, pipelines and questions of one database: what a service needs to start and answer.

    Safe to use from any number of threads; close it at the end (or use it in a `with`).

    Args:
        database_url: where iaflow lives; by default ``IAFLOW_DATABASE_URL``.
        broker_url: where workers are told; by default ``IAFLOW_BROKER_URL``. Without one, what
            is started is published by the sweep of a worker.
        settings: all others; by default those of the environment.
        engine, executor: parts that are open already, in the place of all these; who opened
            them closes them. Without an executor the caller drives its runs.

    Attributes:
        schedules: what starts runs by the clock.

    Raises:
        NotReachable, SchemaOutdated, SettingsRefused: it cannot work.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        broker_url: str | None = None,
        settings: Settings | None = None,
        engine: Engine | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._is_owner = engine is None
        if engine is None:
            settings = (settings or load_settings()).with_database(database_url)
            if broker_url is not None:
                settings = settings.model_copy(update={"broker_url": broker_url})
            database = open_database(settings, patience_seconds=PATIENCE_SECONDS)
            engine, executor = open_engine(database, settings), open_executor(settings)
        super().__init__(engine, executor)
        publish = executor.submit if executor is not None else leave
        self.schedules = Schedules(engine, publish)
        self._late = LatePublisher(
            lambda run_id: engine.reads.run_status(run_id) is not None,
            publish,
            engine.database.release_thread,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Publish what waits for its commit, and close what this client has opened."""
        self._late.close()
        if self._is_owner:
            self._engine.database.close()

    def check(self) -> None:
        """
        Return if the database answers, and has the tables that this version works on.

        Raises:
            NotReachable, SchemaOutdated: it cannot work now.
        """
        migrator.require_current(self._engine.database)

    def start(
        self,
        slug: str,
        given: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        started_by: str | None = None,
        connection: Any = None,
        sight: Sight = EVERYTHING,
    ) -> Started:
        """
        Start a run of an imported pipeline's current version.

        It needs no broker: while that is away, the sweep publishes what was started.

        Args:
            given: the run's input, laid over the definition's parameters.
            key: idempotency key; the same key and input give the same run.
            connection: an open transaction on the same database to start in: a SQLAlchemy
                `Connection` or `Session`, or a psycopg2 connection. The run exists if and only
                if that is committed. SQLAlchemy tells of the commit; after one of psycopg2
                call `notify`, or the sweep of a worker finds the run.

        Raises:
            NotFound: no such pipeline.
            InputRefused: the input does not fit; no run was made.
            Conflict: the key stands for another start, or the pipeline is paused.
            SettingsRefused: the connection cannot be used; nothing was written.
        """
        pipeline = self.pipeline(slug, sight=sight)
        graph = self._engine.library.graph(pipeline.content_hash)
        if pipeline.is_paused:
            # Read in one statement with the version to start: a pause that is committed before
            # stops the start, and one that comes behind finds it on its way, as it finds all
            # that began before.
            return self._find_started(graph, given, key)
        if connection is not None:
            return self._start_within(connection, graph, given, key=key, started_by=started_by)
        return self.start_graph(graph, given, key=key, started_by=started_by)

    def notify(self) -> int:
        """
        Publish what was started inside callers' transactions that are committed by now.

        Returns:
            How many runs these were.
        """
        return self._late.publish_now()

    def start_graph(
        self,
        graph: Graph,
        given: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        started_by: str | None = None,
        source_folder: str | None = None,
    ) -> Started:
        """
        Start a run of a definition whose version is kept; see `start`.

        It is run as it is: what is paused is the imported pipeline of its slug.
        """
        parameters = merge_parameters(graph.definition, dict(given or {}))
        started = self._engine.start(
            graph, parameters, key=key, started_by=started_by, source_folder=source_folder
        )
        self._publish(started.tasks)
        return started

    def _find_started(
        self, graph: Graph, given: Mapping[str, Any] | None, key: str | None
    ) -> Started:
        """Return the run of a request that comes again, after its pipeline was paused."""
        parameters = merge_parameters(graph.definition, dict(given or {}))
        earlier = None if key is None else self._engine.find_started(graph, parameters, key)
        if earlier is None:
            raise refuse_paused(graph.definition.slug)
        return earlier

    def _start_within(
        self,
        connection: Any,
        graph: Graph,
        given: Mapping[str, Any] | None,
        *,
        key: str | None,
        started_by: str | None,
    ) -> Started:
        parameters = merge_parameters(graph.definition, dict(given or {}))
        begin = partial(self._engine.start, graph, parameters, key=key, started_by=started_by)
        try:
            with joined(connection, self._engine.database) as tx:
                started = begin(within=tx)
        except Exception as error:
            if key is None or not is_duplicate_key(error):
                raise
            # Another transaction used the key first; by now it is committed, and can be read.
            with joined(connection, self._engine.database) as tx:
                started = begin(within=tx)
        if started.is_new:
            self._late.keep(started.run_id, started.tasks)
            call_at_commit(connection, partial(self._late.publish_soon, started.run_id))
        return started
