"""Races for one run: joins, cancels and answers that arrive at the same moment.

Each race is released by a barrier over threads with connections of their own, or over processes,
on Postgres and on a SQLite file. What must hold is counted in the rows afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from iaflow.clock import ReferenceClock, SystemClock
from iaflow.data.records import NewPause, Paused, StepTask, Succeeded
from iaflow.data.status import PauseStatus, RunStatus, StepStatus
from iaflow.database import migrator
from iaflow.database.dialects import POSTGRES, Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import Conflict
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.engine import Claimed, Engine, Settled
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.loader import Library
from tests.servers import wait_until
from tests.servers.worker import ROOT

T = TypeVar("T")

WIDTH = 16
CALLERS = 50
DEADLINE = 60.0
NEARLY = timedelta(milliseconds=2)
NAMES = tuple(f"b{n:02}" for n in range(WIDTH))
WAITING_STATUSES = {StepStatus.READY, StepStatus.RUNNING, StepStatus.RETRYING, StepStatus.WAITING}


class Races:
    """An engine whose verbs are called by many threads at the same moment."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        is_shared = self.database.dialect == POSTGRES
        if not is_shared:
            migrator.upgrade(self.database)
        self.engine = Engine(
            self.database,
            ReferenceClock(self.database.read_clock) if is_shared else SystemClock(),
            Library(PipelineStore(self.database).read_document),
            draw=lambda: 0.5,
        )
        self.rounds = 200 if is_shared else 12
        self.few = 34 if is_shared else 6
        self._threads = ThreadPoolExecutor(CALLERS)

    def release(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make all calls at the same moment, each in a thread of its own; return their results."""
        barrier = threading.Barrier(len(calls))

        def call(one: Callable[[], T]) -> T:
            barrier.wait(DEADLINE)
            return one()

        return [future.result() for future in [self._threads.submit(call, one) for one in calls]]

    def keep(self, document: dict[str, Any]) -> Graph:
        graph = compile_definition(document)
        self.engine.keep_version(graph)
        return graph

    def begin(self, graph: Graph) -> tuple[str, tuple[StepTask, ...]]:
        """Start a run and finish its root; return the run and the tasks of its branches."""
        started = self.engine.start(graph, {})
        (root,) = started.tasks
        return started.run_id, self.finish(root).tasks

    def take(self, task: StepTask) -> Claimed:
        claimed = self.engine.claim(task, "race")
        assert claimed is not None
        return claimed

    def give(self, claimed: Claimed) -> Settled:
        output = {claimed.claim.step_id: 1}
        return self.engine.settle(claimed, Succeeded(output, json.dumps(output)))

    def finish(self, task: StepTask) -> Settled:
        return self.give(self.take(task))

    def statuses(self, run_id: str) -> dict[str, StepStatus]:
        return {step.step_id: step.status for step in self.engine.reads.steps(run_id)}

    def status(self, run_id: str) -> RunStatus | None:
        return self.engine.reads.run_status(run_id)

    def audit(self, run_id: str) -> None:
        """Assert that the run's events have no gap and its counter can be recounted."""
        run = self.engine.reads.run(run_id)
        assert run is not None
        events = self.engine.reads.events(run_id)
        assert [event.seq for event in events] == list(range(1, run.seq + 1))
        live = [one for one in self.statuses(run_id).values() if one in WAITING_STATUSES]
        assert run.live == len(live)

    def close(self) -> None:
        self.release([self.database.release_thread] * CALLERS)
        self._threads.shutdown()
        self.database.close()


@pytest.fixture(params=("sqlite", "postgres"))
def races(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Races]:
    """An engine on a database that many threads share."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    races = Races(url)
    yield races
    races.close()


def fan(join: Any = "all_taken") -> dict[str, Any]:
    """Return a definition: a root, sixteen branches, and the join of them all."""
    place = {"module": "steps", "step_class": "Nothing"}
    edges = [{"from": "root", "to": name} for name in NAMES]
    edges += [{"from": name, "to": "join"} for name in NAMES]
    return {
        "name": f"fan {json.dumps(join)}",
        "steps": [
            *({"id": name, **place} for name in ("root", *NAMES)),
            {"id": "join", "join": join, **place},
        ],
        "flow": {"start_at": "root", "transitions": edges},
    }


# --- joins


@pytest.mark.timeout(600)
def test_a_join_fires_once_after_all_its_inputs(races: Races) -> None:
    """Sixteen branches that end at the same moment, twice each: the join is ready once."""
    graph = races.keep(fan())
    for _ in range(races.rounds):
        run_id, tasks = races.begin(graph)
        assert len(tasks) == WIDTH
        taken = [races.take(task) for task in tasks]

        def settle_twice(claimed: Claimed) -> tuple[Settled, Settled]:
            return races.give(claimed), races.give(claimed)

        pairs = races.release([lambda one=one: settle_twice(one) for one in taken])
        assert not any(first.is_stale for first, _ in pairs)
        assert all(second.is_stale and second.tasks == () for _, second in pairs)
        fired = [task for first, _ in pairs for task in first.tasks]
        assert [task.step_id for task in fired] == ["join"]

        # One for the start, one for the root, sixteen branches: the last of them fired it.
        events = races.engine.reads.events(run_id)
        assert [event.seq for event in events] == list(range(1, WIDTH + 3))
        ready = [event.seq for event in events if ["join", "ready"] in event.changes["steps"]]
        assert ready == [WIDTH + 2]
        decisions = races.engine.reads.decisions(run_id)
        assert len(decisions) == len({d.transition for d in decisions}) == 2 * WIDTH
        assert all(decision.taken for decision in decisions)

        join = races.take(fired[0])
        assert join.inputs.data == dict.fromkeys(NAMES, 1)
        assert races.engine.claim(fired[0], "a duplicate message") is None
        assert races.give(join).run_status is RunStatus.SUCCEEDED
        races.audit(run_id)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("n", (1, 5, 16))
def test_a_counting_join_fires_once(races: Races, n: int) -> None:
    """`n_of_m` fires at the n-th arrival, and the later ones change nothing."""
    graph = races.keep(fan({"type": "n_of_m", "n": n}))
    for _ in range(races.few):
        run_id, tasks = races.begin(graph)
        taken = [races.take(task) for task in tasks]
        settled = races.release([lambda one=one: races.give(one) for one in taken])
        fired = [task for one in settled for task in one.tasks]
        assert [task.step_id for task in fired] == ["join"]
        assert len(races.engine.reads.decisions(run_id)) == 2 * WIDTH

        (ready,) = (
            event.seq
            for event in races.engine.reads.events(run_id)
            if ["join", "ready"] in event.changes["steps"]
        )
        assert ready == n + 2
        join = races.take(fired[0])
        # What it sees are those that had come when it fired, not those that came since.
        assert len(join.inputs.data) == n
        assert races.give(join).run_status is RunStatus.SUCCEEDED
        races.audit(run_id)


@pytest.mark.timeout(600)
def test_a_step_is_claimed_once(races: Races) -> None:
    """Sixteen workers with the same message: one of them has the step."""
    graph = races.keep(fan())
    for _ in range(races.few):
        started = races.engine.start(graph, {})
        (root,) = started.tasks
        claims = races.release([lambda root=root: races.engine.claim(root, "race")] * WIDTH)
        (claimed,) = [claimed for claimed in claims if claimed is not None]
        assert claimed.claim.attempt == 1
        settled = races.release([lambda one=claimed: races.give(one)] * WIDTH)
        assert sorted(one.is_stale for one in settled) == [False] + [True] * (WIDTH - 1)
        races.audit(started.run_id)


# --- cancels


@pytest.mark.timeout(600)
def test_nothing_starts_after_a_cancel(races: Races) -> None:
    """A cancel among sixteen ends: once it is committed, no step of the run is ready or running."""
    graph = races.keep(fan())
    cancelled = 0
    for turn in range(races.few):
        run_id, tasks = races.begin(graph)
        taken = [races.take(task) for task in tasks]
        arrived = threading.Semaphore(0)
        after_cancel: list[dict[str, StepStatus]] = []

        def settle(one: Claimed, arrived: threading.Semaphore = arrived) -> Settled:
            settled = races.give(one)
            arrived.release()
            # Whoever made the join ready would now send its message: somebody takes it.
            for task in settled.tasks:
                races.engine.claim(task, "race")
            return settled

        def cancel(
            run_id: str = run_id,
            arrived: threading.Semaphore = arrived,
            after: int = turn % (WIDTH + 1),
            seen: list[dict[str, StepStatus]] = after_cancel,
        ) -> Settled:
            for _ in range(after):
                assert arrived.acquire(timeout=DEADLINE)
            settled = races.engine.cancel_run(run_id, "a race")
            seen.append(races.statuses(run_id))
            return settled

        *settled, ended = races.release([*(lambda one=one: settle(one) for one in taken), cancel])
        assert ended.run_status is RunStatus.CANCELLED
        assert not ended.is_stale
        cancelled += sum(one.is_stale for one in settled)
        for statuses in (*after_cancel, races.statuses(run_id)):
            assert not WAITING_STATUSES & set(statuses.values())
        assert races.engine.claims.ready_of_run(run_id) == []
        assert races.status(run_id) is RunStatus.CANCELLED
        decisions = races.engine.reads.decisions(run_id)
        assert len(decisions) == len({d.transition for d in decisions}) == 2 * WIDTH
        races.audit(run_id)
    assert cancelled, "no cancel ever came before an end: nothing was raced"


# --- people


def ask() -> dict[str, Any]:
    """Return a definition that asks one person one thing."""
    fields = [{"name": "who", "type": "integer"}]
    config = {"ui_schema": {"fields": fields}}
    return {
        "name": "ask",
        "steps": [{"id": "ask", "type": "human_input", "config": config}],
        "flow": {"start_at": "ask"},
    }


def open_pause(races: Races, graph: Graph) -> tuple[str, str]:
    """Start a run and open its pause as an attempt does; return both ids."""
    started = races.engine.start(graph, {})
    claimed = races.take(started.tasks[0])
    ui_schema = claimed.node.step.config["ui_schema"]
    settled = races.engine.settle(claimed, Paused(NewPause(ui_schema, {}, "d" * 64)))
    assert settled.run_status is RunStatus.WAITING
    (pause,) = races.engine.pauses.list_open(run_id=started.run_id)
    return started.run_id, pause.pause_id


def test_one_of_many_answers_is_accepted(races: Races) -> None:
    """RELIABILITY F9: fifty people answer at the same moment; one is accepted, the others refused."""
    graph = races.keep(ask())
    questions = 50 if races.database.dialect == POSTGRES else 10
    for _ in range(questions):
        run_id, pause_id = open_pause(races, graph)

        def answer(who: int, pause_id: str = pause_id) -> int | None:
            try:
                races.engine.answer(pause_id, {"who": who}, answered_by=f"p{who}")
            except Conflict:
                return None
            return who

        accepted = races.release([lambda who=who: answer(who) for who in range(CALLERS)])
        (winner,) = [who for who in accepted if who is not None]
        resumed = races.release([lambda one=pause_id: races.engine.resume(one)] * 8)
        assert sorted(one.is_stale for one in resumed) == [False] + [True] * 7
        run = races.engine.reads.run(run_id)
        assert run is not None
        assert run.status is RunStatus.SUCCEEDED
        assert run.outputs is not None
        assert (run.outputs["who"], run.outputs["_answered_by"]) == (winner, f"p{winner}")
        races.audit(run_id)
    print(f"{questions} questions, {CALLERS} answers each at once, one accepted each")


def test_an_answer_and_an_expiry_agree_who_won(races: Races) -> None:
    """An answer and the end of its time at the same moment: one of them ends the step."""
    graph = races.keep(ask())
    ends: Counter[str] = Counter()
    for _ in range(races.few):
        started = races.engine.start(graph, {})
        claimed = races.take(started.tasks[0])
        pause = NewPause(claimed.node.step.config["ui_schema"], {}, "d" * 64, expires_in=0.05)
        races.engine.settle(claimed, Paused(pause))
        (opened,) = races.engine.pauses.list_open(run_id=started.run_id)
        expires_at = opened.expires_at
        assert expires_at is not None

        def answer(pause_id: str = opened.pause_id, at: datetime = expires_at) -> bool:
            wait_until(lambda: races.engine.clock.now() >= at - NEARLY, 5)
            try:
                races.engine.answer(pause_id, {"who": 1}, answered_by="ann")
            except Conflict:
                return False
            return True

        def expire(run_id: str = started.run_id, at: datetime = expires_at) -> bool:
            wait_until(lambda: races.engine.clock.now() >= at, 5)
            return bool(races.engine.pauses.mark_expired(now=at, run_id=run_id))

        accepted, expired = races.release([answer, expire])
        if not accepted and not expired:
            # The answer came too late, and the sweep looked too early: it looks again.
            expired = expire()
        assert accepted is not expired
        ended = races.engine.read_pause(opened.pause_id)
        assert ended.status is (PauseStatus.ANSWERED if accepted else PauseStatus.EXPIRED)
        races.release([lambda one=opened.pause_id: races.engine.resume(one)] * 4)
        assert races.status(started.run_id) is (
            RunStatus.SUCCEEDED if accepted else RunStatus.FAILED
        )
        ends[ended.status.value] += 1
        races.audit(started.run_id)
    print(dict(ends))


def test_an_answer_and_a_cancel_agree_who_won(races: Races) -> None:
    """An answer, its resume and a cancel at the same moment: the run has one end, and no pause."""
    graph = races.keep(ask())
    ends: Counter[tuple[str, str]] = Counter()
    for _ in range(races.few):
        run_id, pause_id = open_pause(races, graph)

        def answer(pause_id: str = pause_id) -> bool:
            try:
                races.engine.answer(pause_id, {"who": 1}, answered_by="ann")
            except Conflict:
                return False
            races.engine.resume(pause_id)
            return True

        def cancel(run_id: str = run_id) -> bool:
            return not races.engine.cancel_run(run_id, "a race").is_stale

        accepted, cancelled = races.release([answer, cancel])
        status = races.status(run_id)
        pause = races.engine.read_pause(pause_id)
        assert status is (RunStatus.CANCELLED if cancelled else RunStatus.SUCCEEDED)
        assert pause.status is (PauseStatus.ANSWERED if accepted else PauseStatus.CANCELLED)
        assert accepted or cancelled
        assert races.engine.resume(pause_id).is_stale
        ends[status.value, pause.status.value] += 1
        races.audit(run_id)
    assert sum(ends.values()) == races.few


# --- processes

DRIVER = """
import asyncio
import os
import sys
from pathlib import Path

from iaflow.bootstrap import open_application, open_local_executor
from iaflow.settings import load_settings


async def main() -> None:
    app = open_application(load_settings())
    async with open_local_executor(app) as executor:
        Path(sys.argv[1]).touch()
        sys.stdin.readline()
        for run_id in sys.argv[2:]:
            print(run_id, await executor.drive(run_id), flush=True)
    app.close()


asyncio.run(main())
"""

STEPS = """
import os

from iaflow.pipeline import Step


class Nothing(Step):
    async def work(self, data):
        line = f"{self.context.run_id} {self.context.step_id}\\n".encode()
        handle = os.open(os.environ["LEDGER"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(handle, line)
        os.close(handle)
        return {self.context.step_id: 1}
"""


@pytest.mark.timeout(600)
def test_processes_share_a_run(races: Races, tmp_path: Path) -> None:
    """Four processes that drive the same runs at once execute each step once."""
    (tmp_path / "steps.py").write_text(STEPS)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    ledger = tmp_path / "ledger"
    graph = races.keep(fan())
    run_ids = [races.engine.start(graph, {}).run_id for _ in range(3)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))),
        "IAFLOW_DATABASE_URL": races.database.url.render_as_string(hide_password=False),
        "IAFLOW_STEP_MODULES": "steps",
        "LEDGER": str(ledger),
    }
    drivers = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / f"up{n}"), *run_ids],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    try:
        for n in range(len(drivers)):
            wait_until((tmp_path / f"up{n}").exists, DEADLINE, f"driver {n}")
        replies = races.release(
            [lambda one=one: one.communicate("go\n", timeout=DEADLINE)[0] for one in drivers]
        )
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    assert all(driver.returncode == 0 for driver in drivers)
    assert replies == ["".join(f"{run_id} succeeded\n" for run_id in run_ids)] * 4
    executed = Counter(ledger.read_text().splitlines())
    expected = {f"{run_id} {name}" for run_id in run_ids for name in ("root", *NAMES, "join")}
    assert executed == Counter(expected)
    for run_id in run_ids:
        races.audit(run_id)
