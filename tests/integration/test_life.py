"""What the engine promises of one run, on every database that a run may live in.

Each test asks one behaviour of a run driven in this process, in memory, on a SQLite file and on
Postgres. After each, every run that it made is audited: events without gaps, counters that can be
recounted, one decision for each transition.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field

from iaflow.clock import Clock, ReferenceClock, SystemClock
from iaflow.data.filters import RunFilter
from iaflow.data.records import EventRecord, Failed, PauseRecord, RunRecord, StepRecord, Succeeded
from iaflow.data.status import END_OF_RUN, LIVE_STEP, PauseStatus, RunStatus, StepEnd, StepStatus
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.statements import POSTGRES
from iaflow.errors import (
    AnswerRefused,
    Conflict,
    Fail,
    InputRefused,
    NotFound,
    Retry,
    RunCancelled,
    RunFailed,
    Skip,
)
from iaflow.pipeline import Step
from iaflow.pipeline.check import compile_definition, merge_parameters
from iaflow.pipeline.engine import Claimed, Engine, Settled, Started
from iaflow.pipeline.executors.local import POLL_SECONDS, LocalExecutor
from iaflow.pipeline.judging import conclude_alone
from iaflow.pipeline.loader import Library, StepLoader
from iaflow.pipeline.maintenance import sweep
from iaflow.pipeline.runner import create_pipeline_from_json
from iaflow.pipeline.services import ServiceRegistry
from tests.servers import ServerRoom

KINDS = ("memory", "sqlite", "postgres")
SHARED_KINDS = ("sqlite", "postgres")
DEADLINE = 30.0

# --- the steps


class Journal:
    """What the steps of a test say of themselves, outside the engine."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int, Any]] = []
        self.begun = threading.Event()
        self.stopped = threading.Event()

    def attempts(self, step_id: str) -> list[int]:
        return [attempt for _, step, attempt, _ in self.entries if step == step_id]

    def data(self, step_id: str) -> list[Any]:
        return [data for _, step, _, data in self.entries if step == step_id]


journal = Journal()


class Noted(Step):
    """A step that leaves an entry in the journal at every attempt."""

    def note(self, data: Any) -> None:
        kept = json.loads(json.dumps(data)) if isinstance(data, dict) else data
        context = self.context
        journal.entries.append((context.run_id, context.step_id, context.attempt, kept))


class Emit(Noted):
    async def work(self, data: Any) -> Any:
        self.note(data)
        return self.config.get("values", {})


class Flaky(Noted):
    """Fails `times` times; spoils what it was given each time."""

    async def work(self, data: Any) -> Any:
        self.note(data)
        data["spoiled"] = True
        if self.context.attempt <= self.config["times"]:
            raise OSError(f"attempt {self.context.attempt}")
        return {"attempt": self.context.attempt}


class Dawdles(Step):
    """Takes a moment, and leaves no entry: there are many of them."""

    async def work(self, data: Any) -> Any:
        await asyncio.sleep(0.03)
        return {}


class Plain(Noted):
    """A plain `def`: it must not sit on the event loop."""

    def work(self, data: Any) -> Any:
        self.note(data)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return {"on_the_loop": False}
        return {"on_the_loop": True}


class Hangs(Noted):
    async def work(self, data: Any) -> Any:
        self.note(data)
        journal.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            journal.stopped.set()


class Obeys(Noted):
    """A plain `def` that looks whether it was cancelled."""

    def work(self, data: Any) -> Any:
        self.note(data)
        journal.begun.set()
        pause = threading.Event()
        while not self.context.cancelled:
            pause.wait(0.01)
        journal.stopped.set()
        return {}


class Raises(Noted):
    async def work(self, data: Any) -> Any:
        self.note(data)
        error = ERRORS[self.config["error"]]
        raise error()


class RaisesOnce(Noted):
    async def work(self, data: Any) -> Any:
        self.note(data)
        if self.context.attempt == 1:
            error = ERRORS[self.config["error"]]
            raise error()
        return {}


class Returns(Noted):
    async def work(self, data: Any) -> Any:
        self.note(data)
        return OUTPUTS[self.config["output"]]()


class Order(BaseModel):
    """What the step `Typed` takes."""

    amount: int = Field(ge=1)
    name: str = "nobody"


class Receipt(BaseModel):
    """What the step `Typed` gives."""

    total: int
    paid_at: datetime


class Typed(Noted):
    Input: ClassVar[type[Any] | None] = Order
    Output: ClassVar[type[Any] | None] = Receipt

    async def work(self, data: Order) -> Any:
        self.note(data)
        total = self.config.get("total", data.amount * 2)
        return {"total": total, "paid_at": datetime(2030, 1, 1, tzinfo=UTC)}


class Asks(Noted):
    """Asks for services."""

    async def work(self, data: Any) -> Any:
        self.note(data)
        return {"mail": self.get_service("mail"), "none": self.get_service("none", "a default")}


class CodedError(Exception):
    """An exception with a code of its own."""

    code = "bank_closed"


def _cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"in": value}
    return value


ERRORS: dict[str, Callable[[], BaseException]] = {
    "retry": lambda: Retry(5),
    "fail": lambda: Fail("it is closed for ever", code="closed"),
    "skip": lambda: Skip("there is nothing to do"),
    "coded": lambda: CodedError("come back tomorrow"),
    "unwritable": lambda: ValueError("NUL \x00 and half a pair \ud800 " + "x" * 100_000),
    "exit": lambda: SystemExit(3),
    "cancelled": asyncio.CancelledError,
}

OUTPUTS: dict[str, Callable[[], Any]] = {
    "not a number": lambda: {"x": float("nan")},
    "infinity": lambda: {"x": [float("-inf")]},
    "NUL": lambda: {"x": "a\x00b"},
    "NUL in a key": lambda: {"a\x00b": 1},
    "lone surrogate": lambda: {"x": "\ud800"},
    "5,000 digits": lambda: {"x": 10**5000},
    "a list": lambda: [1],
    "nothing": lambda: None,
    "a text": lambda: "done",
    "bytes": lambda: {"x": b"raw"},
    "a set": lambda: {"x": {1}},
    "an object": lambda: {"x": object()},
    "a key that is no text": lambda: {1: "x"},
    "too deep": lambda: _nested(33),
    "far too deep": lambda: _nested(20_000),
    "a text too long": lambda: {"x": "x" * (256 * 1024 + 1)},
    "too large": lambda: {str(n): "x" * 100_000 for n in range(11)},
    "cyclic": _cyclic,
}

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
        self.engine = Engine(
            self.database,
            clock,
            Library(PipelineStore(self.database).read_document),
            draw=lambda: 0.5,
            lease_seconds=lease_seconds,
        )
        self.services = ServiceRegistry()
        self.started: list[str] = []

    def start(
        self, document: Mapping[str, Any], given: Mapping[str, Any] | None = None, **more: Any
    ) -> Started:
        graph = compile_definition(dict(document))
        self.engine.keep_version(graph)
        parameters = merge_parameters(graph.definition, dict(given or {}))
        started = self.engine.start(graph, parameters, **more)
        if started.is_new:
            self.started.append(started.run_id)
        return started

    def drive(self, run_id: str) -> RunRecord:
        async def drive() -> None:
            loader = StepLoader([__name__])
            async with LocalExecutor(self.engine, loader, self.services) as executor:
                await asyncio.wait_for(executor.drive(run_id), DEADLINE)

        asyncio.run(drive())
        return self.read(run_id)

    def run(self, document: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> RunRecord:
        return self.drive(self.start(document, given).run_id)

    def read(self, run_id: str) -> RunRecord:
        run = self.engine.reads.run(run_id)
        assert run is not None
        return run

    def steps(self, run_id: str) -> dict[str, StepRecord]:
        return {step.step_id: step for step in self.engine.reads.steps(run_id)}

    def statuses(self, run_id: str) -> dict[str, str]:
        return {name: step.status.value for name, step in self.steps(run_id).items()}

    def events(self, run_id: str) -> list[EventRecord]:
        events: list[EventRecord] = []
        while more := self.engine.reads.events(run_id, after=events[-1].seq if events else 0):
            events += more
        return events

    def pause(self, run_id: str) -> PauseRecord:
        (pause,) = self.engine.pauses.list_open(run_id=run_id)
        return pause

    def sweep(self) -> Counter[str]:
        """Sweep and conclude every duty; return how many rows of each kind there were."""
        swept = sweep(self.engine, republish_seconds=1000)
        for duty in swept.duties:
            conclude_alone(duty.verb)
        return Counter(swept.counts) + Counter(duty.name for duty in swept.duties)

    def claim(self, run_id: str, step_id: str, worker: str = "test") -> Claimed:
        tasks = {task.step_id: task for task in self.engine.claims.ready_of_run(run_id)}
        claimed = self.engine.claim(tasks[step_id], worker)
        assert claimed is not None
        return claimed

    def finish(self, run_id: str, step_id: str, **output: Any) -> Settled:
        text = json.dumps(output)
        return self.engine.settle(self.claim(run_id, step_id), Succeeded(output, text))

    def ask(self, statement: str, **values: Any) -> list[Any]:
        schema = "iaflow." if self.database.dialect == POSTGRES else ""
        with self.database.alone(), self.database.engine.connect() as connection:
            return list(connection.execute(sa.text(statement.format(schema)), values))

    def leave(self) -> None:
        """Audit the runs as they stand and as they are once cancelled, and close."""
        self.audit()
        for run_id in self.started:
            self.engine.cancel_run(run_id, "the test is over")
        self.audit()
        self.database.close()

    def audit(self) -> None:
        for run_id in self.started:
            self.audit_run(self.read(run_id))

    def audit_run(self, run: RunRecord) -> None:
        """Assert what holds for every run at every moment between two transactions."""
        graph = self.engine.graph_of(run.run_id)
        assert graph is not None
        assert [event.seq for event in self.events(run.run_id)] == list(range(1, run.seq + 1))
        statuses = Counter(step.status for step in self.steps(run.run_id).values())
        assert run.live == sum(statuses[status] for status in LIVE_STEP)
        assert run.paused == statuses[StepStatus.WAITING]
        assert (run.finished_at is not None) is (run.status in END_OF_RUN)
        decisions = self.engine.reads.decisions(run.run_id)
        decided = [decision.transition for decision in decisions]
        assert len(set(decided)) == len(decided)
        assert all(1 <= decision.seq <= run.seq for decision in decisions)
        if run.status in END_OF_RUN:
            assert run.live == 0
            assert sorted(decided) == [edge.index for edge in graph.edges]
            assert self.engine.pauses.list_open(run_id=run.run_id) == []
        routed = [
            (event.seq, transition, taken)
            for event in self.events(run.run_id)
            for transition, taken in event.changes["transitions"]
        ]
        assert sorted(routed) == [(d.seq, d.transition, d.taken) for d in decisions]


@pytest.fixture(scope="module")
def life_postgres_url(server_room: ServerRoom, postgres_template: str) -> Iterator[str]:
    """One database for all tests of this file: they share it as a deployment's runs do."""
    url = server_room.create_database(postgres_template)
    yield url
    server_room.postgres.drop_database(url)


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    match kind:
        case "memory":
            return "sqlite://"
        case "sqlite":
            return f"sqlite:///{folder / 'runs.db'}"
        case _:
            url: str = request.getfixturevalue("life_postgres_url")
            return url


@pytest.fixture(autouse=True)
def _new_journal() -> None:
    global journal  # noqa: PLW0603  the steps find it by its name
    journal = Journal()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock) -> Iterator[House]:
    """A house in virtual time, audited after the test."""
    house = House(url_of(request.param, request, tmp_path), clock)
    yield house
    house.leave()


@pytest.fixture(params=SHARED_KINDS)
def shared_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A house in real time with a lease of a second, on a database that several threads share."""
    house = House(url_of(request.param, request, tmp_path), lease_seconds=1.0)
    yield house
    house.leave()


def document(
    steps: Mapping[str, Mapping[str, Any]], edges: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a definition: steps by id, `class` for short; transitions as tuples."""
    listed = []
    for step_id, step in steps.items():
        step = dict(step)
        name = step.pop("class", "Emit")
        is_task = step.get("type", "task") == "task"
        place = {"module": __name__, "step_class": name} if is_task else {}
        listed.append({"id": step_id, **place, **step})
    transitions = [
        {"from": edge[0], "to": edge[1], **(edge[2] if len(edge) > 2 else {})}
        for edge in edges or []
    ]
    return {
        "name": "life",
        "steps": listed,
        "flow": {"start_at": next(iter(steps)), "transitions": transitions},
        **more,
    }


def question(**config: Any) -> dict[str, Any]:
    """Return a step that asks a person for a decision and a note."""
    fields = [
        {"name": "decision", "type": "radio", "options": ["yes", "no"]},
        {"name": "note", "type": "text"},
    ]
    return {"type": "human_input", "config": {"ui_schema": {"fields": fields}, **config}}


# --- inputs


def test_without_inputs_a_step_gets_parameters_and_the_taken_sources(house: House) -> None:
    """Absent `inputs`: parameters, overlaid in document order with what was taken alone."""
    steps = {
        "start": {"config": {"values": {"from_start": 1}}},
        "late": {"config": {"values": {"who": "late", "late": 1}}},
        "early": {"config": {"values": {"who": "early", "early": 1, "p": "laid over"}}},
        "refused": {"config": {"values": {"who": "refused", "refused": 1}}},
        "join": {},
    }
    edges = [
        ("start", "early"),
        ("start", "late"),
        ("start", "refused"),
        ("early", "join"),
        ("late", "join"),
        ("refused", "join", {"condition": "parameter:off"}),
    ]
    run = house.run(
        document(steps, edges, parameters={"p": "given", "q": [1.0], "off": False}), {"more": None}
    )

    assert run.status is RunStatus.SUCCEEDED
    # `early` stands after `late` in the document, whichever of them ended first.
    expected = {
        "p": "laid over",
        "q": [1.0],
        "off": False,
        "more": None,
        "who": "early",
        "late": 1,
        "early": 1,
    }
    assert journal.data("join") == [expected]
    assert house.steps(run.run_id)["join"].inputs == expected


def test_empty_inputs_are_empty(house: House) -> None:
    """`inputs: {}` gives `{}`, whatever the parameters are."""
    house.run(document({"only": {"inputs": {}}}, parameters={"p": 1}))
    assert journal.data("only") == [{}]


def test_inputs_keep_numbers_as_given(house: House) -> None:
    """`1.0` stays `1.0` and a big integer stays whole, through rows and templates."""
    values = {"float": 1.0, "big": 10**30, "tiny": 1e-9, "text": "1.0", "none": None, "é": "☃"}
    steps = {
        "give": {"config": {"values": values}},
        "take": {"inputs": {"all": "{{ give }}", "said": "{{ give.float }} and {{ give.big }}"}},
    }
    run = house.run(document(steps, [("give", "take")]))
    (taken,) = journal.data("take")
    assert taken == {"all": values, "said": f"1.0 and {10**30}"}
    assert isinstance(taken["all"]["float"], float)
    assert list(taken["all"]) == list(values)
    assert run.outputs == {}


def test_a_missing_reference_fails_the_step(house: House) -> None:
    """A path that a succeeded step does not have is `reference_missing`; it is not worked on."""
    steps = {"give": {}, "take": {"inputs": {"x": "{{ give.nothing }}"}}}
    run = house.run(document(steps, [("give", "take")]))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "reference_missing")
    assert run.error_step_id == "take"
    assert journal.attempts("take") == []


# --- retries


def test_retries_come_after_their_delays(house: House, clock: VirtualClock) -> None:
    """Delay k is `retry_delay * backoff^(k-1)` up to `max_delay`; the run does nothing between."""
    policy = {"retries": 4, "retry_delay": 10, "backoff": 2, "max_delay": 35}
    steps = {"flaky": {"class": "Flaky", "config": {"times": 4}, "error_handling": policy}}
    began = clock.now()
    run = house.run(document(steps, parameters={"x": 1}))

    assert run.status is RunStatus.SUCCEEDED
    assert run.outputs == {"attempt": 5}
    assert journal.attempts("flaky") == [1, 2, 3, 4, 5]
    at = [(event.at - began).total_seconds() for event in house.events(run.run_id)]
    assert at == pytest.approx([0, 0, 10, 30, 65, 100], abs=0.001)
    step = house.steps(run.run_id)["flaky"]
    assert (step.attempt, step.worker_losses, step.due_at) == (5, 0, None)


def test_every_attempt_sees_the_same_inputs(house: House) -> None:
    """What an attempt does to its data is not seen by the next one."""
    policy = {"retries": 2}
    steps = {"flaky": {"class": "Flaky", "config": {"times": 2}, "error_handling": policy}}
    run = house.run(document(steps, parameters={"x": {"deep": [1.0]}}))
    assert run.status is RunStatus.SUCCEEDED
    assert journal.data("flaky") == [{"x": {"deep": [1.0]}}] * 3


def test_a_join_that_fired_early_sees_no_more_when_retried(house: House) -> None:
    """A branch that ends after a join's first claim adds nothing to its later attempts."""
    steps: dict[str, Any] = {
        "root": {},
        "quick": {},
        "slow": {},
        "join": {"join": "any", "error_handling": {"retries": 1}},
    }
    edges = [("root", "quick"), ("root", "slow"), ("quick", "join"), ("slow", "join")]
    run_id = house.start(document(steps, edges)).run_id
    house.finish(run_id, "root")
    house.finish(run_id, "quick", quick=1)
    first = house.claim(run_id, "join")
    house.finish(run_id, "slow", slow=1)
    house.engine.settle(first, Failed("OSError", "once"))
    house.engine.claims.stage_due(now=house.clock.now(), run_id=run_id)
    second = house.claim(run_id, "join")

    assert first.inputs.data == second.inputs.data == {"quick": 1}
    assert second.claim.try_number == 2
    house.engine.settle(second, Succeeded({}, "{}"))
    assert house.read(run_id).status is RunStatus.SUCCEEDED


def test_retries_that_are_used_up_fail_the_run(house: House) -> None:
    """`retries: N` is N + 1 attempts, and the last error is the run's."""
    steps = {
        "coded": {"class": "Raises", "config": {"error": "coded"}, "error_handling": {"retries": 2}}
    }
    run = house.run(document(steps))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "bank_closed")
    assert run.error_message == "come back tomorrow"
    assert journal.attempts("coded") == [1, 2, 3]
    error = house.steps(run.run_id)["coded"].error
    assert error is not None
    assert (error["attempts"], "CodedError" in error["trace"]) == (3, True)


@pytest.mark.parametrize(
    ("policy", "attempts"),
    (
        ({"retries": 3, "retry_on": ["OSError"]}, 4),
        ({"retries": 3, "retry_on": ["Exception"]}, 4),
        ({"retries": 3, "retry_on": ["ValueError"]}, 1),
        ({"retries": 3, "give_up_on": ["OSError"]}, 1),
        ({"retries": 3, "retry_on": ["OSError"], "give_up_on": ["Exception"]}, 1),
    ),
)
def test_only_the_named_errors_are_retried(
    house: House, policy: dict[str, Any], attempts: int
) -> None:
    """`retry_on` and `give_up_on` know an exception by its class and its bases."""
    steps = {"flaky": {"class": "Flaky", "config": {"times": 9}, "error_handling": policy}}
    run = house.run(document(steps))
    assert run.status is RunStatus.FAILED
    assert len(journal.attempts("flaky")) == attempts


# --- what a step may raise


def test_retry_asks_for_its_own_delay(house: House, clock: VirtualClock) -> None:
    """`Retry(after)` uses a retry and replaces the delay."""
    policy = {"retries": 1, "retry_delay": 1000}
    steps = {
        "once": {"class": "RaisesOnce", "config": {"error": "retry"}, "error_handling": policy}
    }
    began = clock.now()
    run = house.run(document(steps))
    assert run.status is RunStatus.SUCCEEDED
    assert journal.attempts("once") == [1, 2]
    assert (clock.now() - began).total_seconds() == pytest.approx(5, abs=0.001)


def test_fail_is_never_retried(house: House) -> None:
    """`Fail(reason)` ends the step at once with its code."""
    steps = {
        "x": {"class": "Raises", "config": {"error": "fail"}, "error_handling": {"retries": 5}}
    }
    run = house.run(document(steps))
    assert (run.error_code, run.error_message) == ("closed", "it is closed for ever")
    assert journal.attempts("x") == [1]


def test_skip_is_an_end_of_its_own(house: House) -> None:
    """`Skip(reason)`: only `on: skipped` goes on, and the run is not failed by it."""
    steps = {"x": {"class": "Raises", "config": {"error": "skip"}}, "a": {}, "b": {}, "c": {}}
    edges = [("x", "a"), ("x", "b", {"on": "skipped"}), ("x", "c", {"on": "completed"})]
    run = house.run(document(steps, edges))
    assert run.status is RunStatus.SUCCEEDED
    assert house.statuses(run.run_id) == {
        "x": "skipped",
        "a": "skipped",
        "b": "succeeded",
        "c": "skipped",
    }


@pytest.mark.parametrize("error", ("unwritable", "cancelled", "exit"))
def test_every_error_can_be_recorded(house: House, error: str) -> None:
    """What no database keeps, a stray cancellation, `sys.exit()`: failures like others."""
    run = house.run(document({"x": {"class": "Raises", "config": {"error": error}}}))
    assert run.status is RunStatus.FAILED
    assert run.error_step_id == "x"
    codes = {"unwritable": "ValueError", "cancelled": "CancelledError", "exit": "SystemExit"}
    assert run.error_code == codes[error]
    assert len(run.error_message or "") < 5000


def test_a_failure_that_is_caught_does_not_fail_the_run(house: House) -> None:
    """A taken failure transition handles a failure, and its code can be read."""
    steps = {
        "x": {"class": "Raises", "config": {"error": "coded"}},
        "never": {},
        "care": {"inputs": {"code": "{{ errors.x.code }}", "out": "{{ x.y | default('none') }}"}},
    }
    run = house.run(document(steps, [("x", "never"), ("x", "care", {"on": "failure"})]))
    assert (run.status, run.handled, run.unhandled) == (RunStatus.SUCCEEDED, 1, 0)
    assert journal.data("care") == [{"code": "bank_closed", "out": "none"}]
    assert house.statuses(run.run_id)["never"] == "skipped"


def test_a_failure_stops_what_else_is_running(house: House) -> None:
    """fail_fast ends the run in the same transaction, and stops the neighbours' work."""
    steps = {
        "root": {},
        "hangs": {"class": "Hangs"},
        "fails": {"class": "Raises", "config": {"error": "coded"}},
        "after": {},
    }
    edges = [("root", "hangs"), ("root", "fails"), ("hangs", "after"), ("fails", "after")]
    run = house.run(document(steps, edges))
    assert (run.status, run.error_step_id) == (RunStatus.FAILED, "fails")
    assert journal.stopped.is_set()
    assert house.statuses(run.run_id) == {
        "root": "succeeded",
        "hangs": "cancelled",
        "fails": "failed",
        "after": "cancelled",
    }


# --- time


def test_an_attempt_that_takes_too_long_fails(house: House) -> None:
    """A timeout is a failed attempt with code `timeout`, retried like others."""
    policy = {"timeout": 0.05, "retries": 1}
    steps = {"hangs": {"class": "Hangs", "error_handling": policy}, "late": {}, "care": {}}
    edges = [("hangs", "late"), ("hangs", "care", {"on": "timeout"})]
    run = house.run(document(steps, edges))
    assert run.status is RunStatus.SUCCEEDED
    assert journal.attempts("hangs") == [1, 2]
    step = house.steps(run.run_id)["hangs"]
    assert step.end is StepEnd.TIMEOUT
    assert step.error is not None
    assert step.error["code"] == "timeout"
    assert house.statuses(run.run_id)["care"] == "succeeded"


def test_a_run_may_take_only_so_long(house: House, clock: VirtualClock) -> None:
    """`run_timeout` fails a run that waits for a retry, with all that is unfinished."""
    steps = {
        "flaky": {
            "class": "Flaky",
            "config": {"times": 9},
            "error_handling": {"retries": 9, "retry_delay": 60},
        },
        "after": {},
    }
    began = clock.now()
    run = house.run(document(steps, [("flaky", "after")], error_handling={"run_timeout": 150}))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "run_timeout")
    assert 150 <= (clock.now() - began).total_seconds() < 160
    assert house.statuses(run.run_id) == {"flaky": "cancelled", "after": "cancelled"}
    assert journal.attempts("flaky") == [1, 2, 3]


def test_a_run_that_is_overdue_is_ended_while_it_works(shared_house: House) -> None:
    """`run_timeout` does not wait for the step that takes too long."""
    handling = {"run_timeout": 1}
    run = shared_house.run(document({"hangs": {"class": "Hangs"}}, error_handling=handling))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "run_timeout")
    assert journal.stopped.is_set()


# --- outputs


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_cannot_be_kept_fails_the_step(house: House, output: str) -> None:
    """Whatever `work` returns has an end: `output_invalid`, once, and never a run that hangs."""
    policy = {"retries": 3}
    steps = {
        "bad": {"class": "Returns", "config": {"output": output}, "error_handling": policy},
        "after": {},
    }
    run = house.run(document(steps, [("bad", "after")]))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "output_invalid")
    assert run.error_step_id == "bad"
    step = house.steps(run.run_id)["bad"]
    assert (step.attempt, step.output) == (1, None)
    assert journal.attempts("bad") == [1]


def test_a_promised_output_must_be_given(house: House) -> None:
    """A step without one of its declared outputs fails with `output_missing`, once."""
    steps = {
        "x": {
            "config": {"values": {"given": 1}},
            "outputs": ["given", "promised"],
            "error_handling": {"retries": 3},
        }
    }
    run = house.run(document(steps))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "output_missing")
    assert "promised" in (run.error_message or "")
    assert journal.attempts("x") == [1]


def test_outputs_of_a_run_without_templates(house: House) -> None:
    """One end step gives its output, several an object by step id."""
    steps = {"root": {}, "a": {"config": {"values": {"x": 1}}}, "b": {}}
    several = house.run(document(steps, [("root", "a"), ("root", "b")]))
    assert several.outputs == {"a": {"x": 1}, "b": {}}
    one = house.run(document({"only": {"config": {"values": {"x": [1.0]}}}}))
    assert one.outputs == {"x": [1.0]}


# --- what a step class may declare


def test_models_of_a_step_are_kept(house: House) -> None:
    """`Input` arrives validated, `Output` leaves validated and as JSON."""
    steps = {"typed": {"class": "Typed", "inputs": {"amount": "{{ parameters.amount }}"}}}
    run = house.run(document(steps, parameters={"amount": 21}))
    assert journal.data("typed") == [Order(amount=21)]
    assert run.outputs == {"total": 42, "paid_at": "2030-01-01T00:00:00Z"}


def test_an_input_that_does_not_fit_its_model(house: House) -> None:
    """`Input` refuses: `input_invalid`, not retried, not worked on."""
    steps = {"typed": {"class": "Typed", "error_handling": {"retries": 2}}}
    run = house.run(document(steps, parameters={"amount": "many"}))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "input_invalid")
    assert journal.attempts("typed") == []


def test_an_output_that_does_not_fit_its_model(house: House) -> None:
    """`Output` refuses: `output_invalid`, not retried."""
    policy = {"retries": 2}
    steps = {"typed": {"class": "Typed", "config": {"total": "much"}, "error_handling": policy}}
    run = house.run(document(steps, parameters={"amount": 1}))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "output_invalid")
    assert journal.attempts("typed") == [1]


def test_a_plain_def_runs_off_the_event_loop(house: House) -> None:
    """`def work` works too, in a thread."""
    assert house.run(document({"plain": {"class": "Plain"}})).outputs == {"on_the_loop": False}


def test_a_missing_service_is_named(house: House) -> None:
    """A service that nobody registered fails the step with its name; a default stands in."""
    steps = {"asks": {"class": "Asks", "error_handling": {"retries": 2}}}
    run = house.run(document(steps))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "service_missing")
    assert "'mail'" in (run.error_message or "")
    assert journal.attempts("asks") == [1]
    house.services.register("mail", "a letter")
    assert house.run(document(steps)).outputs == {"mail": "a letter", "none": "a default"}


@pytest.mark.parametrize(
    ("place", "code"),
    (
        ({"module": "os", "step_class": "system"}, "module_not_allowed"),
        ({"module": __name__, "step_class": "House"}, "class_unknown"),
        ({"module": __name__, "step_class": "Absent"}, "class_unknown"),
    ),
)
def test_a_class_that_may_not_run(house: House, place: dict[str, str], code: str) -> None:
    """What is no allowed step class fails the step; nothing is imported for it."""
    definition = document({"x": {}})
    definition["steps"][0].update(place)
    run = house.run(definition)
    assert (run.status, run.error_code) == (RunStatus.FAILED, code)


# --- people


def test_a_person_is_asked_and_answers(house: House) -> None:
    """The step waits with what is shown; wrong answers leave it open; the right one is its output."""
    steps = {
        "give": {"config": {"values": {"total": 42}}},
        "ask": question(show={"total": "{{ give.total }} EUR"}),
        "after": {"inputs": {"who": "{{ ask._answered_by }}", "note": "{{ ask.note }}"}},
    }
    run_id = house.start(document(steps, [("give", "ask"), ("ask", "after")])).run_id
    run = house.drive(run_id)
    assert (run.status, run.live, run.paused) == (RunStatus.WAITING, 1, 1)
    pause = house.pause(run_id)
    assert (pause.step_id, pause.shown) == ("ask", {"total": "42 EUR"})
    house.audit()

    for wrong in ({}, {"decision": "perhaps"}, {"decision": "yes", "extra": 1}, "yes", None):
        with pytest.raises(AnswerRefused):
            house.engine.answer(pause.pause_id, wrong, answered_by="ann")
    with pytest.raises(Conflict):
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="x", digest="stale")
    assert house.pause(run_id) == pause
    assert house.read(run_id) == run

    answer = {"decision": "yes", "note": "☃ fine"}
    house.engine.answer(pause.pause_id, answer, answered_by="ann", digest=pause.digest)
    house.engine.resume(pause.pause_id)
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    output = house.steps(run_id)["ask"].output
    answered_at = house.clock.now().isoformat()
    assert output == {**answer, "_answered_by": "ann", "_answered_at": answered_at}
    assert journal.data("after") == [{"who": "ann", "note": "☃ fine"}]


def test_a_second_answer_is_refused(house: House) -> None:
    """One answer is accepted; the same one with the same key gets the same reply."""
    run_id = house.start(document({"ask": question()})).run_id
    house.drive(run_id)
    pause_id = house.pause(run_id).pause_id
    answer = {"decision": "no"}
    first = house.engine.answer(pause_id, answer, answered_by="ann", key="k")
    assert house.engine.answer(pause_id, answer, answered_by="ann", key="k") == first
    for other in ({"decision": "yes"}, answer):
        with pytest.raises(Conflict, match="answered by ann"):
            house.engine.answer(pause_id, other, answered_by="bob", key="other")
    with pytest.raises(Conflict):
        house.engine.answer(pause_id, {"decision": "yes"}, answered_by="ann", key="k")
    assert house.engine.resume(pause_id).is_stale is False
    assert house.engine.resume(pause_id).is_stale is True
    run = house.read(run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert run.outputs is not None
    assert run.outputs["decision"] == "no"


def test_an_answer_that_rejects(house: House) -> None:
    """`reject_when` ends the step as rejected; what was said stays readable."""
    steps = {
        "ask": question(reject_when="result.decision == 'no'"),
        "go": {},
        "care": {"inputs": {"note": "{{ ask.note }}", "code": "{{ errors.ask.code }}"}},
    }
    edges = [("ask", "go"), ("ask", "care", {"on": "rejected"})]
    run_id = house.start(document(steps, edges)).run_id
    house.drive(run_id)
    pause_id = house.pause(run_id).pause_id
    house.engine.answer(pause_id, {"decision": "no", "note": "why"}, answered_by="ann")
    house.engine.resume(pause_id)
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    step = house.steps(run_id)["ask"]
    assert (step.status, step.end) == (StepStatus.FAILED, StepEnd.REJECTED)
    assert journal.data("care") == [{"note": "why", "code": "rejected"}]
    assert house.statuses(run_id)["go"] == "skipped"


def test_a_question_that_nobody_answers(house: House, clock: VirtualClock) -> None:
    """After `expires_in` the pause is over: an answer is refused, `on: expired` goes on."""
    steps = {"ask": question(expires_in=3600), "go": {}, "care": {}}
    edges = [("ask", "go"), ("ask", "care", {"on": "expired"})]
    run_id = house.start(document(steps, edges)).run_id
    assert house.drive(run_id).status is RunStatus.WAITING
    pause = house.pause(run_id)
    assert pause.expires_at == clock.now() + timedelta(hours=1)

    clock.move(3599)
    assert house.drive(run_id).status is RunStatus.WAITING
    clock.move(1)
    with pytest.raises(Conflict, match="expired"):
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="late")
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    assert house.statuses(run_id) == {"ask": "failed", "go": "skipped", "care": "succeeded"}
    assert house.steps(run_id)["ask"].end is StepEnd.EXPIRED
    with pytest.raises(Conflict, match="expired"):
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="later")


def test_the_sweep_expires_questions_and_ends_overdue_runs(
    house: House, clock: VirtualClock
) -> None:
    """What time brings about needs no executor: any process's sweep does it."""
    asked = house.start(document({"ask": question(expires_in=10)})).run_id
    house.drive(asked)
    late = house.start(document({"x": {}}, error_handling={"run_timeout": 10})).run_id
    clock.move(11)
    found = house.sweep()
    assert (found["expired"], found["answered"], found["overdue"]) == (1, 1, 1)
    assert house.read(asked).error_code == "expired"
    assert house.read(late).error_code == "run_timeout"
    assert house.sweep().total() == 0


def test_cancelling_withdraws_the_question(house: House) -> None:
    """A cancelled run has no open pause, and an answer comes too late."""
    run_id = house.start(document({"ask": question()})).run_id
    house.drive(run_id)
    pause_id = house.pause(run_id).pause_id
    assert house.engine.cancel_run(run_id, "nobody cares").run_status is RunStatus.CANCELLED
    with pytest.raises(Conflict, match="withdrawn"):
        house.engine.answer(pause_id, {"decision": "yes"}, answered_by="ann")
    assert house.engine.read_pause(pause_id).status is PauseStatus.CANCELLED
    assert house.engine.cancel_run(run_id, "again").is_stale


def test_what_there_is_not_cannot_be_answered_or_cancelled(house: House) -> None:
    """Unknown ids are NotFound, never an error of the database."""
    absent = "00000000-0000-7000-8000-000000000000"
    for name in (absent, "no-uuid", ""):
        with pytest.raises(NotFound):
            house.engine.answer(name, {}, answered_by="ann")
        with pytest.raises(NotFound):
            house.engine.resume(name)
        with pytest.raises(NotFound):
            house.engine.cancel_run(name, "")


# --- cancel, lost claims, late results


@pytest.mark.parametrize("step_class", ("Hangs", "Obeys"))
def test_cancelling_stops_a_running_step(shared_house: House, step_class: str) -> None:
    """A cancel from elsewhere reaches a running step with its next heartbeat."""
    steps = {"work": {"class": step_class}, "after": {}}
    run_id = shared_house.start(document(steps, [("work", "after")])).run_id

    def cancel() -> None:
        assert journal.begun.wait(DEADLINE)
        shared_house.engine.cancel_run(run_id, "somebody thought better of it")
        shared_house.database.release_thread()

    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(cancel)
        run = shared_house.drive(run_id)
        cancelled.result()
    assert run.status is RunStatus.CANCELLED
    assert run.error_message == "somebody thought better of it"
    assert journal.stopped.wait(DEADLINE)
    assert shared_house.statuses(run_id) == {"work": "cancelled", "after": "cancelled"}


def test_a_late_result_is_kept_and_changes_nothing(house: House) -> None:
    """What a cancelled run's step still gives is recorded as discarded."""
    steps = {"work": {}, "after": {}}
    run_id = house.start(document(steps, [("work", "after")])).run_id
    claimed = house.claim(run_id, "work")
    house.engine.cancel_run(run_id, "")
    before = house.read(run_id)
    settled = house.engine.settle(claimed, Succeeded({"x": 1}, '{"x":1}'))
    assert (settled.is_stale, settled.tasks) == (True, ())
    assert house.read(run_id) == before
    step = house.steps(run_id)["work"]
    assert (step.status, step.output) == (StepStatus.CANCELLED, None)
    ((kept,),) = house.ask(
        "SELECT CAST(discarded AS TEXT) FROM {}step_payloads"
        " WHERE step_id = 'work' AND CAST(run_id AS TEXT) = :run_id",
        run_id=run_id,
    )
    assert json.loads(kept)["outcome"] == "succeeded"


def test_only_the_holder_of_the_claim_can_settle(house: House, clock: VirtualClock) -> None:
    """After its lease a claim is taken up by others; the first holder writes nothing more."""
    run_id = house.start(document({"work": {}})).run_id
    first = house.claim(run_id, "work", "first")
    clock.move(29)
    assert house.engine.extend_lease(first.claim)
    clock.move(29)
    assert house.sweep()["lost"] == 0
    clock.move(2)
    assert house.sweep()["lost"] == 1
    assert house.engine.extend_lease(first.claim) is False
    second = house.claim(run_id, "work", "second")
    assert (second.claim.attempt, second.claim.try_number) == (2, 1)

    for outcome in (Succeeded({"by": 1}, '{"by":1}'), Failed("late", "late")):
        assert house.engine.settle(first, outcome).is_stale
    assert house.steps(run_id)["work"].status is StepStatus.RUNNING
    house.engine.settle(second, Succeeded({"by": 2}, '{"by":2}'))
    assert house.engine.settle(first, Succeeded({"by": 1}, '{"by":1}')).is_stale
    assert house.read(run_id).outputs == {"by": 2}


def test_a_worker_may_be_lost_only_so_often(house: House, clock: VirtualClock) -> None:
    """Lost workers use no retry; after `max_worker_losses` re-takes the step is `worker_lost`."""
    policy = {"retries": 5, "max_worker_losses": 2}
    run_id = house.start(document({"work": {"error_handling": policy}})).run_id
    for losses in range(3):
        claimed = house.claim(run_id, "work")
        assert (claimed.claim.try_number, claimed.claim.worker_losses) == (1, losses)
        clock.move(31)
        house.sweep()
    run = house.read(run_id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "worker_lost")
    assert house.steps(run_id)["work"].attempt == 3


def test_cancelling_one_step_skips_what_depends_on_it(house: House) -> None:
    """A cancelled step refuses its transitions; the rest of the run goes on."""
    steps: dict[str, Any] = {"root": {}, "a": {}, "b": {}, "after_a": {}, "join": {}}
    edges = [("root", "a"), ("root", "b"), ("a", "after_a"), ("after_a", "join"), ("b", "join")]
    run_id = house.start(document(steps, edges)).run_id
    house.finish(run_id, "root")
    house.engine.cancel_step(run_id, "a", "not this one")
    run = house.drive(run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert house.statuses(run_id) == {
        "root": "succeeded",
        "a": "cancelled",
        "b": "succeeded",
        "after_a": "skipped",
        "join": "succeeded",
    }
    reasons = {d.source: d.reason for d in house.engine.reads.decisions(run_id) if not d.taken}
    assert reasons["after_a"]["kind"] == "end"


# --- starts


def test_a_key_stands_for_one_run(house: House) -> None:
    """Same key and body: the same run. Same key, another body: refused, and no run is made."""
    definition = document({"x": {}}, slug="life-keys", parameters={"p": 1})
    first = house.start(definition, {"p": 2, "q": 3}, key="order-1")
    again = house.start(definition, {"q": 3, "p": 2}, key="order-1")
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.run_id, again.tasks) == (first.run_id, ())
    with pytest.raises(Conflict, match="order-1"):
        house.start(definition, {"p": 3}, key="order-1")
    with pytest.raises(Conflict):
        house.start({**definition, "slug": "another"}, {"p": 2, "q": 3}, key="order-1")
    assert len(house.engine.listings.runs(RunFilter(slug="life-keys"))) == 1
    assert house.start(definition, {"p": 2, "q": 3}, key="order-2").is_new


def test_a_key_stands_for_one_run_in_a_race(shared_house: House) -> None:
    """Sixteen callers with the same key at the same moment get the same run, one of them new."""
    definition = document({"x": {}}, slug="life-race")
    shared_house.start(definition)
    for turn in range(5):
        barrier = threading.Barrier(16)

        def start(barrier: threading.Barrier = barrier, turn: int = turn) -> Started:
            barrier.wait(DEADLINE)
            try:
                return shared_house.start(definition, key=f"race-{turn}")
            finally:
                shared_house.database.release_thread()

        with ThreadPoolExecutor(16) as pool:
            started = [future.result() for future in [pool.submit(start) for _ in range(16)]]
        assert len({one.run_id for one in started}) == 1
        assert sum(one.is_new for one in started) == 1
    assert len(shared_house.engine.listings.runs(RunFilter(slug="life-race"))) == 6


def test_an_input_that_does_not_fit_makes_no_run(house: House) -> None:
    """`input_schema` refuses the start."""
    schema = {"properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
    with pytest.raises(InputRefused):
        house.start(document({"x": {}}, slug="life-input", input_schema=schema), {"amount": "many"})
    assert house.engine.listings.runs(RunFilter(slug="life-input")) == []


# --- the front door


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database, and the environment of an application whose steps stand here."""
    monkeypatch.setenv("IAFLOW_STEP_MODULES", __name__)
    return url_of(request.param, request, tmp_path)


def test_a_failed_run_raises_where_and_why(url: str) -> None:
    """`run` raises RunFailed with the run, the step, the code and the cause."""
    steps = {"good": {}, "bad": {"class": "Raises", "config": {"error": "coded"}}}
    pipeline = create_pipeline_from_json(document(steps, [("good", "bad")]), database_url=url)
    with pytest.raises(RunFailed) as raised:
        asyncio.run(pipeline.run())
    failed = raised.value
    assert (failed.step_id, failed.code, failed.cause) == (
        "bad",
        "bank_closed",
        "come back tomorrow",
    )
    assert failed.run_id == journal.entries[0][0]


@pytest.mark.parametrize("url", SHARED_KINDS, indirect=True)
def test_a_pipeline_waits_and_is_resumed(url: str) -> None:
    """`run` returns the waiting payload; `resume` refuses a wrong answer and goes on from a right one."""
    steps = {"ask": question(expires_in=60), "after": {"inputs": {"note": "{{ ask.note }}"}}}
    pipeline = create_pipeline_from_json(document(steps, [("ask", "after")]), database_url=url)

    waiting = asyncio.run(pipeline.run())
    assert (waiting["status"], set(waiting)) == (
        "waiting",
        {"status", "run_id", "pauses", "events"},
    )
    (pause,) = waiting["pauses"]
    assert (pause["step_id"], pause["shown"]) == ("ask", {})
    assert pause["ui_schema"]["fields"][0]["name"] == "decision"
    assert datetime.fromisoformat(pause["expires_at"]) > datetime.now(UTC)

    run_id, pause_id = waiting["run_id"], pause["pause_id"]
    with pytest.raises(AnswerRefused):
        asyncio.run(pipeline.resume(run_id, pause_id, {"decision": "perhaps"}))
    with pytest.raises(NotFound):
        asyncio.run(pipeline.resume(pause_id, pause_id, {"decision": "yes"}))
    answer = {"decision": "yes", "note": "n"}
    assert asyncio.run(pipeline.resume(run_id, pause_id, answer, answered_by="ann")) == {}
    with pytest.raises(Conflict):
        asyncio.run(pipeline.resume(run_id, pause_id, answer))


@pytest.mark.parametrize("url", SHARED_KINDS, indirect=True)
def test_a_cancelled_run_raises(url: str) -> None:
    """A caller that drives a run which somebody cancels gets RunCancelled."""
    pipeline = create_pipeline_from_json(document({"x": {"class": "Hangs"}}), database_url=url)

    def cancel() -> None:
        assert journal.begun.wait(DEADLINE)
        house = House(url)
        house.engine.cancel_run(journal.entries[0][0], "no more")
        house.database.close()

    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(cancel)
        # The heartbeat comes with a third of the default lease: longer than a test should take.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IAFLOW_LEASE_SECONDS", "1")
            pipeline = create_pipeline_from_json(
                document({"x": {"class": "Hangs"}}), database_url=url
            )
            with pytest.raises(RunCancelled, match="no more"):
                asyncio.run(pipeline.run())
        cancelled.result()


# --- the budget

# What one step of a chain costs, counted: this is the budget, to be lowered and never raised.
# A claim is one transaction whose commit is not flushed, a settle one whose commit is.
BUDGET = {
    "memory": {"statements": 9, "commits": 2, "round_trips": 0},
    "sqlite": {"statements": 9, "commits": 2, "round_trips": 0},
    "postgres": {"statements": 10, "commits": 2, "round_trips": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_a_chain_keeps_to_the_budget(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Statements, round trips and commits per step: the figures that speed is made of."""
    house = House(url_of(kind, request, tmp_path), VirtualClock())
    short, long = (count_chain(house, length) for length in (10, 60))
    house.leave()
    per_step = {name: (long[name] - short[name]) / 50 for name in short}
    assert all(per_step[name] <= limit for name, limit in BUDGET[kind].items()), per_step


def test_a_look_at_a_run_queues_nothing_twice(tmp_path: Path) -> None:
    """An executor that looks at its run while hundreds of steps are queued claims each of them once."""
    house = House(f"sqlite:///{tmp_path / 'runs.db'}")
    names = [f"s{n}" for n in range(400)]
    steps = {name: {"class": "Dawdles", "inputs": {}} for name in ("root", *names)}
    run_id = house.start(document(steps, [("root", name) for name in names])).run_id
    began, before = time.monotonic(), house.database.tally.commits
    run = house.drive(run_id)
    looks = (time.monotonic() - began) / POLL_SECONDS + 2
    assert run.status is RunStatus.SUCCEEDED
    # A claim and a settle for each step, some reads at each look: a claim in vain is a commit too,
    # and each step that a look queued again would be one.
    assert house.database.tally.commits - before <= 2.2 * len(steps) + 12 * looks
    house.leave()


def count_chain(house: House, length: int) -> dict[str, int]:
    """Return what the steps of a chain cost together, without the executor's own looks at it."""
    names = [f"s{n}" for n in range(length)]
    steps = {name: {"inputs": {}} for name in names}
    started = house.start(document(steps, list(itertools.pairwise(names))))
    tally = house.database.tally

    async def follow() -> None:
        tasks = started.tasks
        async with LocalExecutor(house.engine, StepLoader([__name__]), house.services) as executor:
            while tasks:
                settled = await executor.execute(tasks[0])
                assert settled is not None
                tasks = settled.tasks

    before = (tally.statements, tally.commits, tally.round_trips)
    asyncio.run(follow())
    after = (tally.statements, tally.commits, tally.round_trips)
    counted = zip(("statements", "commits", "round_trips"), before, after, strict=True)
    return {name: late - early for name, early, late in counted}
