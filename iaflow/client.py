"""What services, pages and commands ask of iaflow: start, read, answer, cancel.

Decides how a request becomes a verb of the engine and a message; never executes a step.
Opened by services, made by the composition root for the faces.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, Self

from iaflow.data.records import (
    DecisionRecord,
    EventRecord,
    NoticeRecord,
    PauseRecord,
    PipelineRecord,
    RunRecord,
    StepRecord,
    StepTask,
)
from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus
from iaflow.database.callers import call_at_commit, joined
from iaflow.database.dialects import is_duplicate_key
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.engine import Engine, Settled, Started
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.judging import conclude_alone
from iaflow.pipeline.runner import open_database, open_engine, open_executor, waiting_payload
from iaflow.publishing import LatePublisher
from iaflow.scheduling import Schedules
from iaflow.settings import Settings, load_settings

__all__ = ["Client"]

PATIENCE_SECONDS = 5.0
"""How long a request tries again while the database is gone, before it says so."""


FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.5


class Client:
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
        self._engine = engine
        self._executor = executor
        self._pipelines = PipelineStore(engine.database)
        publish = executor.submit if executor is not None else _leave
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

    # -- definitions

    def save(self, graph: Graph) -> None:
        """Keep the version of a definition, without making it the one its slug runs."""
        self._engine.keep_version(graph)

    def pipelines(self) -> list[PipelineRecord]:
        """Return all imported pipelines, by slug."""
        return self._pipelines.list_pipelines()

    def pipeline(self, slug: str) -> PipelineRecord:
        """
        Return an imported pipeline with its current version.

        Raises:
            NotFound: naming the nearest slugs.
        """
        found = self._pipelines.find(slug)
        if found is None:
            known = [pipeline.slug for pipeline in self._pipelines.list_pipelines()]
            near = difflib.get_close_matches(slug, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise NotFound(f"there is no pipeline {slug!r}{hint}")
        return found

    def graph_of(self, run_id: str) -> Graph:
        """Return the compiled definition that a run is pinned to."""
        graph = self._engine.graph_of(run_id)
        if graph is None:
            raise NotFound(f"there is no run {run_id}")
        return graph

    # -- runs

    def start(
        self,
        slug: str,
        given: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        started_by: str | None = None,
        connection: Any = None,
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
            Conflict: the key stands for another start.
            SettingsRefused: the connection cannot be used; nothing was written.
        """
        graph = self._engine.library.graph(self.pipeline(slug).content_hash)
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
        """Start a run of a definition whose version is kept; see `start`."""
        parameters = merge_parameters(graph.definition, dict(given or {}))
        started = self._engine.start(
            graph, parameters, key=key, started_by=started_by, source_folder=source_folder
        )
        if self._executor is not None:
            self._executor.submit(started.tasks)
        return started

    def wait(self, run_id: str, *, timeout: float | None = None) -> RunRecord:
        """
        Wait until a run has ended, or waits for somebody outside; return it as it stands then.

        Args:
            timeout: in seconds; None: as long as it takes.

        Raises:
            NotFound: no such run.
            TimeoutError: it was still on its way.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_POLL_SECONDS
        while not self.is_at_rest(run_id):
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {run_id} was still on its way after {timeout} s")
            left = pause if until is None else until - time.monotonic()
            time.sleep(max(0.0, min(pause, left)))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)
        return self.run(run_id)

    def is_at_rest(self, run_id: str) -> bool:
        """
        Tell whether a run has ended, or nothing in it moves before somebody outside does.

        An answer that no worker has picked up yet, or a child run whose end its parent has not
        been told, is something that still moves.
        """
        run = self.run(run_id)
        if run.status in END_OF_RUN:
            return True
        if run.status is not RunStatus.WAITING:
            return False
        engine = self._engine
        for one in engine.waits.family(run_id):
            if engine.pauses.find_unsettled(run_id=one) or engine.waits.find_unfollowed(run_id=one):
                return False
        # Read again last: what was seen above belongs to this moment only if nothing moved.
        return self.run(run_id).seq == run.seq

    def run(self, run_id: str) -> RunRecord:
        """Return a run; raises NotFound."""
        run = self._engine.reads.run(run_id)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run

    def runs(
        self,
        *,
        slug: str | None = None,
        status: RunStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """Return runs, the newest first; `before` is a run id, for the next page."""
        return self._engine.reads.runs(slug=slug, status=status, before=before, limit=limit)

    def unfinished(self) -> list[str]:
        """Return the ids of runs that have not ended, the oldest first."""
        return self._engine.reads.unfinished()

    def find(self, prefix: str) -> str:
        """
        Return the one run id that begins with `prefix`.

        Raises:
            NotFound: none does.
            Conflict: several do.
        """
        found = self._engine.reads.find_by_prefix(prefix.lower())
        if not found:
            raise NotFound(f"there is no run {prefix!r}; `iaflow runs` lists them")
        if len(found) > 1:
            raise Conflict(f"several runs begin with {prefix!r}: {', '.join(found[:5])}, …")
        return found[0]

    def root_of(self, run_id: str) -> str:
        """Return the run at the top of a run's family: itself, if no step runs it."""
        return self._engine.root_of(run_id)

    def steps(self, run_id: str, *, items: bool = True, payloads: bool = True) -> list[StepRecord]:
        """
        Return the steps of a run, in document order; those without a row are left out.

        Args:
            items: those of a foreach too, each behind its step.
            payloads: inputs and outputs too; without them a run of many items is read quickly.
        """
        order = {step: place for place, step in enumerate(self.graph_of(run_id).nodes)}
        found = self._engine.reads.steps(run_id, items=items, payloads=payloads)
        return sorted(found, key=lambda step: (order.get(step.step_id, len(order)), step.index))

    def failed_items(self, run_id: str, step_id: str, limit: int = 10) -> list[StepRecord]:
        """Return the first items of a step that failed, without inputs and outputs."""
        return self._engine.reads.failed_items(run_id, step_id, limit)

    def children(self, run_id: str, limit: int = 200) -> list[RunRecord]:
        """Return the runs that steps of a run have started, the newest first."""
        return self._engine.reads.children(run_id, limit)

    def holder_of(self, key: str) -> tuple[str, str] | None:
        """Return the (run id, step id) that holds a concurrency key; None if nobody does."""
        return self._engine.holds.read_holder(key)

    def decisions(self, run_id: str, step_id: str | None = None) -> list[DecisionRecord]:
        """Return a run's decisions in the order they were made; into one step if given."""
        return self._engine.reads.decisions(run_id, step_id)

    def events(self, run_id: str, after: int = 0) -> list[EventRecord]:
        """Return a run's events after number `after`, in order."""
        return self._engine.reads.events(run_id, after)

    def cancel(self, run_id: str, *, step_id: str | None = None, reason: str = "") -> Settled:
        """
        Cancel a run, or one step of it. `is_stale` in the result: nothing was changed.

        Raises:
            NotFound: no such run or step.
        """
        why = reason or "somebody asked for it"
        if step_id is None:
            verb = partial(self._engine.cancel_run, run_id, why)
        else:
            verb = partial(self._engine.cancel_step, run_id, step_id, why)
        # What stops needs no code of the pipeline's, here or in the runs below.
        settled = conclude_alone(lambda _judged: verb())
        if self._executor is not None:
            self._executor.submit(settled.tasks)
        return settled

    def retry(self, run_id: str) -> Settled:
        """
        Reopen a failed run: what did not succeed goes on; see `Engine.retry_run`.

        Raises:
            NotFound: there is no such run.
            Conflict: it has not failed, or it is a step's child.
        """
        settled = conclude_alone(partial(self._engine.retry_run, run_id))
        return self._hand_out(settled)

    def rerun(
        self,
        run_id: str,
        step_id: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        started_by: str | None = None,
    ) -> Settled:
        """
        Make a new run from a step on, with the recorded outputs before it; see `Engine.rerun`.

        Args:
            inputs: what the step is given in the place of its `inputs`.

        Returns:
            What it began with; `run_id` in it is the new run's.

        Raises:
            NotFound, Conflict, InputRefused.
        """
        again = partial(self._engine.rerun, run_id, step_id, inputs=inputs, started_by=started_by)
        return self._hand_out(conclude_alone(lambda judged: again(judged=judged)))

    def _hand_out(self, settled: Settled) -> Settled:
        if settled.questions:
            raise Conflict(
                "a condition that needs code was undecided at this run's end: use a process that "
                "has the pipeline's modules"
            )
        if self._executor is not None:
            self._executor.submit(settled.tasks)
        return settled

    # -- people

    def inbox(self, run_id: str | None = None) -> list[PauseRecord]:
        """Return the open questions, the oldest first; of one run if given."""
        return self._engine.pauses.list_open(run_id=run_id)

    def notices(self, run_id: str) -> list[NoticeRecord]:
        """Return what people were told of a run, or are to be, with what became of it."""
        return self._engine.notices.of_run(run_id)

    def pause(self, pause_id: str) -> PauseRecord:
        """Return a question; raises NotFound."""
        return self._engine.read_pause(pause_id)

    def answers_to(self, pause_id: str) -> int:
        """Return how many people have answered a question that wants several."""
        return self._engine.pauses.count_answers(pause_id)

    def waiting_payload(self, run_id: str) -> dict[str, Any]:
        """Return what a run waits for: its questions to people, and its events."""
        return waiting_payload(self._engine, run_id)

    def answer(
        self,
        pause_id: str,
        answer: Mapping[str, Any],
        *,
        answered_by: str,
        roles: Collection[str] = (),
        is_admin: bool = False,
        key: str | None = None,
        digest: str | None = None,
    ) -> PauseRecord:
        """
        Accept an answer and let the run go on: by a worker, else when its run is driven again.

        Args:
            roles, is_admin: what who answers may do; see `Engine.answer`.

        Returns:
            The pause as it stands: still open if it wants more people's answers.

        Raises:
            NotFound, NotAllowed, AnswerRefused, Conflict: see `Engine.answer`.
        """
        pause = self._engine.answer(
            pause_id,
            dict(answer),
            answered_by=answered_by,
            roles=roles,
            is_admin=is_admin,
            key=key,
            digest=digest,
            publish=self._executor.submit if self._executor is not None else _leave,
        )
        self._go_on((pause,))
        return pause

    def signal(
        self,
        run_id: str,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        sent_by: str,
        key: str | None = None,
    ) -> tuple[PauseRecord, ...]:
        """
        Give a signal to a run, whose waiting steps of that name go on as after an answer.

        Returns:
            The events that it ended.

        Raises:
            NotFound, AnswerRefused, Conflict: see `Engine.signal`.
        """
        events = self._engine.signal(
            run_id,
            name,
            {} if payload is None else payload,
            sent_by=sent_by,
            key=key,
            publish=self._executor.submit if self._executor is not None else _leave,
        )
        self._go_on(events)
        return events

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

    def _go_on(self, pauses: Iterable[PauseRecord]) -> None:
        for pause in pauses:
            if pause.status is PauseStatus.ANSWERED and self._executor is not None:
                self._executor.submit_resume(pause.pause_id, pause.slug)


def _leave(tasks: Iterable[StepTask]) -> None:
    """Without workers, whoever drives the run finds what is ready."""
