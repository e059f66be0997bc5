"""Cases played by real Celery workers, with Postgres and a broker, in scaled real time.

Decides when a case's answers and controls are sent and when its run is over; never judges.
Called by the tests of this folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from iaflow.bootstrap import Application, open_application
from iaflow.data.records import NO_INDEX
from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus
from iaflow.errors import AnswerRefused, Conflict
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from tests.conformance.bodies import BODIES, MODULE, pair_log, read_log, scale_times
from tests.conformance.judge import Played
from tests.conformance.reading import Case, last_action
from tests.servers import WorkerProcess

__all__ = ["CELERY_SCALE", "Crew", "play_on_celery"]

CELERY_SCALE = 0.2
"""Real seconds for each second of a case: several times what a step costs on workers."""

AT_ONCE = 4
"""Runs on the workers at the same time: more would be late for their own script."""

LIMIT_SECONDS = 60.0
TICK_SECONDS = 0.02
QUEUES = ("iaflow", "alone")

STEPS = f"""
import importlib.util

from iaflow.pipeline import Step

spec = importlib.util.spec_from_file_location("bodies_of_cases", {str(BODIES)!r})
bodies = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bodies)
globals().update(bodies.classes(Step))
"""


class Crew:
    """
    The workers for all cases: two with many threads, and one that does a step at a time.

    Args:
        start_worker: starts a worker process.
        folder: an empty one, for the step module and the log of the bodies.
    """

    def __init__(
        self,
        start_worker: Callable[..., WorkerProcess],
        *,
        database_url: str,
        broker_url: str,
        folder: Path,
        with_lone_worker: bool,
    ) -> None:
        self.log_folder = folder / "log"
        self.log_folder.mkdir()
        (folder / f"{MODULE}.py").write_text(STEPS)
        crews: list[tuple[str, int]] = [("iaflow", 16), ("iaflow", 16)]
        crews += [("alone", 1)] if with_lone_worker else []
        with ThreadPoolExecutor() as pool:
            starting = [
                pool.submit(
                    start_worker,
                    database_url=database_url,
                    redis_url=broker_url,
                    modules=MODULE,
                    pythonpath=[folder],
                    concurrency=threads,
                    args=["--pool", "threads", "-Q", queue],
                    env={
                        "IAFLOW_QUEUES": ",".join(QUEUES),
                        "IAFLOW_SWEEP_SECONDS": "0.2",
                        "IAFLOW_LEASE_SECONDS": "3",
                        "FIXTURE_DIR": str(self.log_folder),
                        "FIXTURE_TIME_SCALE": str(CELERY_SCALE),
                    },
                )
                for queue, threads in crews
            ]
        self.workers = [worker.result() for worker in starting]
        self.settings = Settings().model_copy(
            update={"database_url": database_url, "broker_url": broker_url, "queues": QUEUES}
        )


def play_on_celery(crew: Crew, cases: Sequence[Case]) -> dict[str, Played | Exception]:
    """Play the cases, some at a time, the longest first; return how each went, by id."""
    app = open_application(crew.settings)
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            playing = {
                case.id: pool.submit(_Play(app, case).play)
                for case in sorted(cases, key=last_action, reverse=True)
            }
        played: dict[str, Played | Exception] = {}
        entries = read_log(crew.log_folder)
        for case_id, future in playing.items():
            error = future.exception()
            if isinstance(error, Exception):
                played[case_id] = error
            else:
                run_id, outcome = future.result()
                log = pair_log(entries.get(run_id, []), outcome.spans)
                played[case_id] = replace(outcome, executions=list(log))
        return played
    finally:
        app.close()


class _Play:
    """One case on its way."""

    def __init__(self, app: Application, case: Case) -> None:
        self._app = app
        self._client = app.client
        self._case = case
        self._refused: dict[int, str] = {}
        self._pauses: dict[str, str] = {}
        self._run_id = ""
        self._began = 0.0

    def play(self) -> tuple[str, Played]:
        try:
            graph = compile_definition(self._document(), queues=QUEUES)
            self._client.save(graph)
            for slug, document in (self._case.pipelines or {}).items():
                self._publish({"slug": slug, **document})
            self._run_id = self._client.start_graph(graph, self._case.params).run_id
            # What it takes to begin would make the script early.
            self._wait_for(self._has_begun)
            self._began = time.monotonic()
            for at, act in self._script():
                self._wait_for(lambda at=at: time.monotonic() >= self._began + at * CELERY_SCALE)
                act()
            self._wait_for(self._is_over)
            return self._run_id, self._describe(list(graph.nodes))
        finally:
            self._app.database.release_thread()

    def _publish(self, document: Any) -> None:
        definition = compile_definition(scale_times(document, CELERY_SCALE)).definition
        self._app.pipelines.publish(
            content_hash=definition.content_hash,
            slug=definition.slug,
            version=definition.version,
            name=definition.name,
            description=definition.description,
            document=definition.text,
            now=self._app.engine.clock.now(),
        )

    def _document(self) -> Any:
        document = scale_times(self._case.document, CELERY_SCALE)
        if self._case.workers == 1:
            queued = [{**step, "queue": "alone"} for step in document["steps"]]
            document = {**document, "steps": queued}
        return document

    def _script(self) -> list[tuple[float, Callable[[], None]]]:
        actions: list[tuple[float, Callable[[], None]]] = [
            (one.get("at", 0), lambda number=number: self._answer(number))  # type: ignore[misc]
            for number, one in enumerate(self._case.answers)
        ]
        actions += [
            (one.get("at", 0), lambda one=one: self._signal(one))  # type: ignore[misc]
            for one in self._case.signals
        ]
        actions += [
            (one.get("at", 0), lambda one=one: self._cancel(one))  # type: ignore[misc]
            for one in self._case.controls
        ]
        return sorted(actions, key=lambda action: action[0])

    def _answer(self, number: int) -> None:
        answer = self._case.answers[number]
        pause_id = self._pauses.get(answer["step"])
        if pause_id is None:
            self._refused[number] = f"step {answer['step']} does not wait for an answer yet"
            return
        try:
            by = answer.get("by", "somebody")
            self._client.answer(pause_id, answer["data"], answered_by=by)
        except (AnswerRefused, Conflict) as error:
            self._refused[number] = str(error)

    def _signal(self, signal: Any) -> None:
        with contextlib.suppress(AnswerRefused, Conflict):
            name, payload = signal["name"], signal.get("data") or {}
            self._client.signal(self._run_id, name, payload, sent_by="somebody")

    def _cancel(self, control: Any) -> None:
        self._client.cancel(self._run_id, step_id=control.get("step"))

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            for run_id in self._family() if self._case.answers else ():
                for pause in self._client.inbox(run_id):
                    self._pauses[pause.step_id] = pause.pause_id
            if is_so():
                return
            if time.monotonic() > deadline:
                run = self._client.run(self._run_id)
                raise AssertionError(f"the run is still {run.status} after {LIMIT_SECONDS:g} s")
            time.sleep(TICK_SECONDS)

    def _family(self) -> list[str]:
        """Return this run and those below it."""
        return [self._run_id, *self._app.engine.waits.family(self._run_id)[1:]]

    def _has_begun(self) -> bool:
        return any(step.started_at for step in self._client.steps(self._run_id))

    def _is_over(self) -> bool:
        if self._client.run(self._run_id).status in END_OF_RUN:
            return True
        engine = self._app.engine
        for run_id in self._family():
            before = self._client.run(run_id)
            # An accepted answer or a child's end is on its way, or time alone will move the run.
            pauses = [*self._client.inbox(run_id), *engine.pauses.list_events(run_id)]
            is_moved = (
                engine.pauses.find_unsettled(run_id=run_id)
                or engine.waits.find_unfollowed(run_id=run_id)
                or engine.claims.next_due(run_id) is not None
                or any(pause.expires_at for pause in pauses if pause.status is PauseStatus.OPEN)
            )
            after = self._client.run(run_id)
            # What was read between holds only if the run has not moved meanwhile.
            if is_moved or after.status is not RunStatus.WAITING or after.seq != before.seq:
                return False
        return True

    def _describe(self, step_ids: Sequence[str]) -> Played:
        run = self._client.run(self._run_id)
        rows = {
            row.step_id: row for row in self._client.steps(self._run_id) if row.index == NO_INDEX
        }
        return Played(
            status=str(run.status),
            steps={
                step_id: str(rows[step_id].status) if step_id in rows else "pending"
                for step_id in step_ids
            },
            attempts={step_id: row.attempt - row.worker_losses for step_id, row in rows.items()},
            outputs=run.outputs,
            elapsed=None,
            refused=[self._refused.get(number) for number in range(len(self._case.answers))],
            executions=(),
            spans={
                step_id: (
                    row.started_at.timestamp() if row.started_at else None,
                    row.finished_at.timestamp() if row.finished_at else None,
                )
                for step_id, row in rows.items()
            },
            error=(run.error_step_id, run.error_code, run.error_message),
            story="\n".join(
                f"{event.at:%H:%M:%S.%f}  {event.changes}"
                for event in self._client.events(self._run_id)
            ),
        )
