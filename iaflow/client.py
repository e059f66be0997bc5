"""What services, pages and commands ask of iaflow: start, read, answer, cancel.

Decides how a request becomes a verb of the engine and a message; never executes a step.
Made by the composition root.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from iaflow.data.records import (
    DecisionRecord,
    EventRecord,
    PauseRecord,
    PipelineRecord,
    RunRecord,
    StepRecord,
)
from iaflow.data.status import RunStatus
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.engine import Engine, Settled, Started
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.runner import keep_version, waiting_payload

__all__ = ["Client"]


class Client:
    """
    Runs, pipelines and questions of one database.

    Args:
        engine: the verbs.
        executor: carries ready steps to workers; without one, the caller drives its runs.
    """

    def __init__(self, engine: Engine, executor: Executor | None = None) -> None:
        self._engine = engine
        self._executor = executor
        self._pipelines = PipelineStore(engine.database)

    # -- definitions

    def save(self, graph: Graph) -> None:
        """Keep the version of a definition, without making it the one its slug runs."""
        keep_version(self._engine, graph)

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
    ) -> Started:
        """
        Start a run of an imported pipeline's current version.

        Args:
            given: the run's input, laid over the definition's parameters.
            key: idempotency key; the same key and input give the same run.

        Raises:
            NotFound: no such pipeline.
            InputRefused: the input does not fit; no run was made.
            Conflict: the key stands for another start.
        """
        graph = self._engine.library.graph(self.pipeline(slug).content_hash)
        return self.start_graph(graph, given, key=key, started_by=started_by)

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

    def steps(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run, in document order; those without a row are left out."""
        order = {step: place for place, step in enumerate(self.graph_of(run_id).nodes)}
        found = self._engine.reads.steps(run_id)
        return sorted(found, key=lambda step: (order.get(step.step_id, len(order)), step.index))

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
            return self._engine.cancel_run(run_id, why)
        settled = self._engine.cancel_step(run_id, step_id, why)
        if self._executor is not None:
            self._executor.submit(settled.tasks)
        return settled

    # -- people

    def inbox(self, run_id: str | None = None) -> list[PauseRecord]:
        """Return the open questions, the oldest first; of one run if given."""
        return self._engine.pauses.list_open(run_id=run_id)

    def pause(self, pause_id: str) -> PauseRecord:
        """Return a question; raises NotFound."""
        return self._engine.read_pause(pause_id)

    def waiting_payload(self, run_id: str) -> dict[str, Any]:
        """Return what a caller needs to ask the people that a run waits for."""
        return waiting_payload(self._engine, run_id)

    def answer(
        self,
        pause_id: str,
        answer: Mapping[str, Any],
        *,
        answered_by: str,
        key: str | None = None,
        digest: str | None = None,
    ) -> Settled | None:
        """
        Accept an answer and let the run go on.

        Returns:
            None if a worker was told to go on; else what it led to: the caller drives on.

        Raises:
            NotFound, AnswerRefused, Conflict: see `Engine.answer`.
        """
        pause = self._engine.answer(
            pause_id, dict(answer), answered_by=answered_by, key=key, digest=digest
        )
        if self._executor is not None:
            self._executor.submit_resume(pause_id, pause.slug)
            return None
        return self._engine.resume(pause_id)
