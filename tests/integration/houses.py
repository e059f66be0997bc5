"""Engines to test on every database: what their steps do, how they are driven, what is audited.

A run is driven as the embedded executor does, or by messages alone as workers do, with crashes
between a commit and what it leads to. After each test all runs of the house, and the runs below
them, are counted anew from their rows. Used by the tests of items, children, holds and signals.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from iaflow.clock import Clock, ReferenceClock, SystemClock
from iaflow.data.records import (
    NO_INDEX,
    EventRecord,
    Failed,
    PauseRecord,
    RunRecord,
    StepRecord,
    StepTask,
    Succeeded,
)
from iaflow.data.status import END_OF_RUN, LIVE_STEP, WAITS_FOR_OUTSIDE, RunStatus, StepStatus
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.statements import POSTGRES
from iaflow.errors import Fail, Retry, Skip
from iaflow.pipeline import Step
from iaflow.pipeline.attempt import Attempt
from iaflow.pipeline.check import compile_definition, merge_parameters
from iaflow.pipeline.engine import Claimed, Engine, Settled, Started
from iaflow.pipeline.executors.local import LocalExecutor
from iaflow.pipeline.judging import ConditionContext, Judge, conclude_alone
from iaflow.pipeline.loader import Library, StepLoader
from iaflow.pipeline.maintenance import sweep
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.services import ServiceRegistry

DEADLINE = 30.0
ROUNDS = 2_000

# --- what steps and conditions do


class Journal:
    """What the steps of a test say of themselves, outside the engine."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: list[tuple[str, int | None, int, Any]] = []
        self.at_work = 0
        self.most_at_work = 0
        self.asked: list[Any] = []

    def attempts(self, step_id: str, index: int | None = None) -> list[int]:
        return [a for step, item, a, _ in self.entries if (step, item) == (step_id, index)]

    def data(self, step_id: str) -> list[Any]:
        return [data for step, _, _, data in self.entries if step == step_id]


journal = Journal()


def renew_journal() -> Journal:
    global journal  # noqa: PLW0603  the steps find it by its name
    journal = Journal()
    return journal


class Work(Step):
    """
    Does what its data says: `fail` so many attempts, `raise` an error, `skip`, `give` an output.

    Without any of these it gives `config.values`, or its data.
    """

    async def work(self, data: Any) -> Any:
        context = self.context
        kept = json.loads(json.dumps(data))
        with journal.lock:
            journal.entries.append((context.step_id, context.item_index, context.attempt, kept))
            journal.at_work += 1
            journal.most_at_work = max(journal.most_at_work, journal.at_work)
        try:
            await asyncio.sleep(self.config.get("seconds", 0))
            return self._conclude(data)
        finally:
            with journal.lock:
                journal.at_work -= 1

    def _conclude(self, data: Any) -> Any:
        rule = {**self.config, **data} if isinstance(data, dict) else self.config
        if rule.get("skip"):
            raise Skip("there is nothing to do")
        if rule.get("give_up"):
            raise Fail("never", code="never")
        if rule.get("later"):
            if self.context.attempt == 1:
                raise Retry(rule["later"])
            return {"attempt": self.context.attempt}
        if rule.get("fail", 0) >= self.context.attempt:
            raise OSError(f"attempt {self.context.attempt}")
        if "key" in rule:
            return {"key": self.context.idempotency_key}
        return rule.get("give", self.config.get("values", data))


class Hangs(Step):
    async def work(self, data: Any) -> Any:
        with journal.lock:
            journal.entries.append((self.context.step_id, self.context.item_index, 1, data))
        await asyncio.Event().wait()


def says_yes(context: ConditionContext) -> bool:
    journal.asked.append(context)
    return True


def says_no(context: ConditionContext) -> bool:
    journal.asked.append(context)
    return False


async def is_big(context: ConditionContext) -> bool:
    journal.asked.append(context)
    size: int = context.result["n"]
    least: int = context.arguments["least"]
    return size >= least


def says_nothing(context: ConditionContext) -> Any:
    journal.asked.append(context)


def breaks(context: ConditionContext) -> bool:
    journal.asked.append(context)
    raise ValueError("no idea")


class Oracle:
    """A routing service that gives the answers it was given, one for each question asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, list[str], ConditionContext]] = []

    async def choose(self, question: str, choices: list[str], context: ConditionContext) -> Any:
        self.asked.append((question, choices, context))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


# --- definitions


def document(
    steps: Mapping[str, Mapping[str, Any]],
    edges: list[Any] | None = None,
    *,
    name: str = "house",
    **more: Any,
) -> dict[str, Any]:
    """Return a definition: steps by id, `class` for short; transitions as tuples."""
    listed = []
    for step_id, step in steps.items():
        step = dict(step)
        step_class = step.pop("class", "Work")
        is_task = step.get("type", "task") == "task"
        place = {"module": __name__, "step_class": step_class} if is_task else {}
        listed.append({"id": step_id, **place, **step})
    transitions = [
        {"from": edge[0], "to": edge[1], **(edge[2] if len(edge) > 2 else {})}
        for edge in edges or []
    ]
    flow = {"start_at": next(iter(steps)), "transitions": transitions}
    return {"name": name, "slug": name, "steps": listed, "flow": flow, **more}


def each(items: Any, **more: Any) -> dict[str, Any]:
    """Return a step over items; what belongs into `foreach` goes there."""
    rules = {
        key: more.pop(key) for key in ("max_parallel", "tolerated_failures", "n") if key in more
    }
    return {"foreach": {"items": items, **rules}, **more}


def question(**config: Any) -> dict[str, Any]:
    """Return a step that asks a person for a decision and a note."""
    fields = [
        {"name": "decision", "type": "radio", "options": ["yes", "no"]},
        {"name": "note", "type": "text"},
    ]
    return {"type": "human_input", "config": {"ui_schema": {"fields": fields}, **config}}


def child(slug: str, **more: Any) -> dict[str, Any]:
    """Return a step that runs another pipeline."""
    return {"type": "pipeline", "pipeline": slug, **more}


# --- the house


class VirtualClock:
    """Time that passes only where somebody waits for it, or by `move`."""

    def __init__(self) -> None:
        self.instant = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)
        await asyncio.sleep(0)

    def move(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


class House:
    """An engine on one database, and what a test asks of it."""

    def __init__(
        self, url: str, clock: Clock | None = None, *, lease_seconds: float = 30.0
    ) -> None:
        self.database = Database(url)
        if self.database.dialect != POSTGRES:
            migrator.upgrade(self.database)
        if clock is None:
            is_shared = self.database.dialect == POSTGRES
            clock = ReferenceClock(self.database.read_clock) if is_shared else SystemClock()
        self.clock = clock
        self.pipelines = PipelineStore(self.database)
        self.engine = Engine(
            self.database,
            clock,
            Library(self.pipelines.read_document),
            draw=lambda: 0.5,
            lease_seconds=lease_seconds,
        )
        self.loader = StepLoader([__name__])
        self.services = ServiceRegistry()
        self.started: list[str] = []

    # -- what a test does

    def publish(self, definition: Mapping[str, Any]) -> str:
        """Make a definition the one that its slug runs; return the slug."""
        known = compile_definition(dict(definition)).definition
        self.pipelines.publish(
            content_hash=known.content_hash,
            slug=known.slug,
            version=known.version,
            name=known.name,
            description="",
            document=known.text,
            now=self.clock.now(),
        )
        return known.slug

    def start(
        self, definition: Mapping[str, Any], given: Mapping[str, Any] | None = None, **more: Any
    ) -> str:
        return self.begin(definition, given, **more).run_id

    def begin(
        self, definition: Mapping[str, Any], given: Mapping[str, Any] | None = None, **more: Any
    ) -> Started:
        graph = compile_definition(dict(definition))
        self.engine.keep_version(graph)
        parameters = merge_parameters(graph.definition, dict(given or {}))
        started = self.engine.start(graph, parameters, **more)
        if started.is_new:
            self.started.append(started.run_id)
        return started

    def drive(self, run_id: str, seconds: float = DEADLINE) -> RunRecord:
        """Let the embedded executor carry a run to where it rests."""

        async def drive() -> None:
            async with self.executor() as executor:
                await asyncio.wait_for(executor.drive(run_id), seconds)

        asyncio.run(drive())
        return self.read(run_id)

    def run(
        self, definition: Mapping[str, Any], given: Mapping[str, Any] | None = None
    ) -> RunRecord:
        return self.drive(self.start(definition, given))

    def executor(self) -> LocalExecutor:
        return LocalExecutor(self.engine, self.loader, self.services)

    def serve(self, *run_ids: str, tasks: Iterable[StepTask] = (), seconds: float = 3600) -> None:
        """Work as workers do until these runs rest: on messages, which sweeps send again."""

        async def serve() -> None:
            async with self.executor() as executor:
                await _serve(self, executor, run_ids, deque(tasks), seconds)

        asyncio.run(serve())

    @contextmanager
    def crashing(self) -> Iterator[None]:
        """Every process ends right after its commit: what that leads to elsewhere is lost."""
        engine: Any = self.engine
        engine.follow_up = lambda settled: settled
        try:
            yield
        finally:
            del engine.follow_up

    def claim(self, run_id: str, step_id: str, index: int = NO_INDEX) -> Claimed:
        tasks = {(t.step_id, t.index): t for t in self.engine.claims.ready_of_run(run_id)}
        claimed = self.engine.claim(tasks[step_id, index], "test")
        assert claimed is not None
        return claimed

    def work(self, run_id: str, step_id: str, index: int = NO_INDEX) -> Settled:
        """Claim a step or an item, let its class work, and settle what came of it."""
        claimed = self.claim(run_id, step_id, index)
        outcome = asyncio.run(Attempt(claimed, self.engine, self.loader, self.services).run())
        assert outcome is not None
        return self.engine.settle(claimed, outcome)

    def finish(self, run_id: str, step_id: str, index: int = NO_INDEX, **output: Any) -> Settled:
        claimed = self.claim(run_id, step_id, index)
        return self.engine.settle(claimed, Succeeded(output, json.dumps(output)))

    def fail(self, run_id: str, step_id: str, index: int = NO_INDEX) -> Settled:
        claimed = self.claim(run_id, step_id, index)
        return self.engine.settle(claimed, Failed("OSError", "broken", names=("OSError",)))

    def judge(self, settled: Settled) -> Judged:
        """Let code judge what a verb asks for, as a worker does."""
        return asyncio.run(Judge(self.engine, self.loader, self.services).answer(settled))

    def sweep(self) -> Counter[str]:
        """Sweep and conclude every duty; return how many rows of each kind there were."""
        swept = sweep(self.engine, republish_seconds=1_000)
        for duty in swept.duties:
            conclude_alone(duty.verb)
        return Counter(swept.counts) + Counter(duty.name for duty in swept.duties)

    def pass_time(self, seconds: float) -> None:
        assert isinstance(self.clock, VirtualClock)
        self.clock.move(seconds)

    # -- what a test reads

    def read(self, run_id: str) -> RunRecord:
        run = self.engine.reads.run(run_id)
        assert run is not None
        return run

    def steps(self, run_id: str) -> dict[str, StepRecord]:
        found = self.engine.reads.steps(run_id)
        return {step.step_id: step for step in found if step.index == NO_INDEX}

    def items(self, run_id: str, step_id: str = "each") -> list[StepRecord]:
        found = self.engine.reads.steps(run_id)
        rows = [step for step in found if step.step_id == step_id and step.index != NO_INDEX]
        return sorted(rows, key=lambda step: step.index)

    def statuses(self, run_id: str) -> dict[str, str]:
        return {name: step.status.value for name, step in self.steps(run_id).items()}

    def item_statuses(self, run_id: str, step_id: str = "each") -> list[str]:
        return [item.status.value for item in self.items(run_id, step_id)]

    def ready(self, run_id: str) -> list[tuple[str, int]]:
        """Return the steps and items of a run that a worker may claim now."""
        return sorted((t.step_id, t.index) for t in self.engine.claims.ready_of_run(run_id))

    def events(self, run_id: str) -> list[EventRecord]:
        events: list[EventRecord] = []
        while more := self.engine.reads.events(run_id, after=events[-1].seq if events else 0):
            events += more
        return events

    def pause(self, run_id: str) -> PauseRecord:
        (pause,) = self.engine.pauses.list_open(run_id=run_id)
        return pause

    def children(self, run_id: str) -> list[str]:
        """Return the runs that steps of a run have started, the oldest first."""
        rows = self.ask(
            "SELECT CAST(run_id AS TEXT) FROM {}runs"
            " WHERE CAST(parent_run_id AS TEXT) = :run_id ORDER BY run_id",
            run_id=run_id,
        )
        return [row[0] for row in rows]

    def holders(self) -> list[tuple[str, str, int]]:
        """Return who holds keys: run, step, item."""
        rows = self.ask("SELECT CAST(run_id AS TEXT), step_id, item_index FROM {}key_holds")
        return [(row[0], row[1], row[2]) for row in rows]

    def ask(self, statement: str, **values: Any) -> list[Any]:
        schema = "iaflow." if self.database.dialect == POSTGRES else ""
        with self.database.alone(), self.database.engine.connect() as connection:
            return list(connection.execute(sa.text(statement.replace("{}", schema)), values))

    # -- the audit

    def family(self, run_id: str) -> list[str]:
        found = [run_id]
        for below in self.children(run_id):
            found += self.family(below)
        return found

    def all_runs(self) -> list[str]:
        return [below for run_id in self.started for below in self.family(run_id)]

    def leave(self) -> None:
        """Audit the runs as they stand and as they are once cancelled, and close."""
        self.audit()
        for run_id in self.all_runs():
            conclude_alone(partial(self._cancel, run_id))
        self.audit()
        mine = set(self.all_runs())
        assert [held for held in self.holders() if held[0] in mine] == []
        self.database.close()

    def _cancel(self, run_id: str, _judged: Judged) -> Settled:
        return self.engine.cancel_run(run_id, "it is over")

    def audit(self) -> None:
        for run_id in self.all_runs():
            self.audit_run(self.read(run_id))

    def audit_run(self, run: RunRecord) -> None:
        """Assert what holds for every run at every moment between two transactions."""
        graph = self.engine.graph_of(run.run_id)
        assert graph is not None
        assert [event.seq for event in self.events(run.run_id)] == list(range(1, run.seq + 1))
        rows = self.engine.reads.steps(run.run_id)
        counted = [row for row in rows if row.items is None]
        assert run.live == sum(row.status in LIVE_STEP for row in counted)
        assert run.paused == sum(_is_outside(row) for row in counted)
        for row in rows:
            if row.items is not None:
                self._audit_items(row, self.items(run.run_id, row.step_id))
        assert (run.finished_at is not None) is (run.status in END_OF_RUN)
        decisions = [d for d in self.engine.reads.decisions(run.run_id) if not d.superseded]
        decided = [decision.transition for decision in decisions]
        assert len(set(decided)) == len(decided)
        if run.status in END_OF_RUN:
            assert run.live == 0
            assert sorted(decided) == [edge.index for edge in graph.edges]
            assert self.engine.pauses.list_open(run_id=run.run_id) == []
            assert all(row.status not in LIVE_STEP for row in rows)
            assert all(row.status is not StepStatus.PENDING for row in rows)
            assert run.run_id not in [held[0] for held in self.holders()]

    def _audit_items(self, step: StepRecord, items: list[StepRecord]) -> None:
        counts = step.items
        assert counts is not None
        by_status = Counter(item.status for item in items)
        assert counts.total == len(items)
        assert counts.started - counts.ended == sum(by_status[one] for one in LIVE_STEP)
        assert counts.total - counts.started == by_status[StepStatus.PENDING]
        assert counts.succeeded == by_status[StepStatus.SUCCEEDED]
        assert counts.failed == by_status[StepStatus.FAILED]
        assert counts.paused == sum(map(_is_outside, items))


async def _serve(
    house: House,
    executor: LocalExecutor,
    run_ids: tuple[str, ...],
    messages: deque[StepTask],
    seconds: float,
) -> None:
    rests = (*END_OF_RUN, RunStatus.WAITING)
    end = house.clock.now() + timedelta(seconds=seconds)
    for _ in range(ROUNDS):
        while messages:
            batch = [messages.popleft() for _ in range(min(16, len(messages)))]
            for settled in await asyncio.gather(*map(executor.execute, batch)):
                messages.extend(settled.tasks if settled is not None else ())
        swept = sweep(house.engine, republish_seconds=0.5)
        messages.extend(swept.tasks)
        for duty in swept.duties:
            messages.extend((await executor.conclude(duty.verb)).tasks)
        if messages or swept.duties:
            continue
        if all(house.engine.reads.run_status(run_id) in rests for run_id in run_ids):
            return
        assert house.clock.now() < end, "the runs do not come to rest"
        await house.clock.sleep(1.0)
    raise AssertionError("the runs do not come to rest")


def _is_outside(row: StepRecord) -> bool:
    return row.status is StepStatus.WAITING and (
        row.waits_for is None or row.waits_for in WAITS_FOR_OUTSIDE
    )


def race(calls: Iterable[Callable[[], Any]], house: House) -> list[Any]:
    """Make all calls at the same moment, each in a thread of its own; return their results."""
    listed = list(calls)
    barrier = threading.Barrier(len(listed))
    results: list[Any] = [None] * len(listed)

    def call(place: int) -> None:
        barrier.wait(DEADLINE)
        try:
            results[place] = listed[place]()
        except Exception as error:  # noqa: BLE001  the test looks at what was raised
            results[place] = error
        finally:
            house.database.release_thread()

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(listed))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    return results
