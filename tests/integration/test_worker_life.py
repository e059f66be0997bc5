"""The life of a worker: what it cannot execute, what it cannot stop, and how it leaves.

Real workers on real servers. Steps say in a ledger outside the engine what they do.
"""

from __future__ import annotations

import os
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.data.records import StepRecord
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.pipeline.check import compile_definition
from iaflow.settings import load_settings
from tests.servers import WorkerProcess, wait_until
from tests.servers.fixtures import StartWorker

pytestmark = pytest.mark.timeout(240)

DEADLINE = 60.0

STEPS = '''
"""Steps that keep a ledger."""

import asyncio
import os
import time
from pathlib import Path

from iaflow.pipeline import Step

ROOM = Path(os.environ["LIFE_ROOM"])


def note(kind, context):
    handle = os.open(ROOM / "ledger", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, f"{kind} {context.step_id} {context.attempt}\\n".encode())
    os.close(handle)


class Works(Step):
    async def work(self, data):
        note("begun", self.context)
        return {}


class Pays(Step):
    async def work(self, data):
        self.get_service("till")
        await asyncio.sleep(0.05)
        note("begun", self.context)
        return {"pid": os.getpid()}


class Waits(Step):
    """Waits for the test to open the gate."""

    async def work(self, data):
        note("begun", self.context)
        while not (ROOM / "open").exists():
            await asyncio.sleep(0.02)
        note("ended", self.context)
        return {}


class WaitsInThread(Step):
    def work(self, data):
        note("begun", self.context)
        while not (ROOM / "open").exists():
            time.sleep(0.02)
        return {}


class Blocks(Step):
    """Keeps the event loop to itself, as a careless library does."""

    async def work(self, data):
        note("begun", self.context)
        while not (ROOM / "open").exists():
            time.sleep(0.02)
        return {}


class Refuses(Step):
    """Catches its own cancellation, and goes on."""

    async def work(self, data):
        note("begun", self.context)
        while not (ROOM / "open").exists():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                pass
        return {}
'''

EXTRA = '''
"""A module that one worker lacks."""

from iaflow.pipeline import Step
from life_steps import note


class Rare(Step):
    async def work(self, data):
        note("begun", self.context)
        return {}


def is_fine(context):
    return True
'''


SERVICES = '''
"""A service that says where it is built and closed."""

import os

from iaflow.pipeline.services import ServiceRegistry
from life_steps import ROOM


def note(kind):
    handle = os.open(ROOM / "services", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, f"{kind} {os.getpid()}\\n".encode())
    os.close(handle)


class Till:
    def __init__(self):
        note("built")

    async def aclose(self):
        note("closed")


def make():
    note("asked")
    registry = ServiceRegistry()
    registry.provide("till", Till)
    return registry
'''


class House:
    """A folder with steps and their ledger, an application, and workers on the same servers."""

    def __init__(
        self, folder: Path, urls: dict[str, str], app: Application, start_worker: StartWorker
    ) -> None:
        self.folder = folder
        self.app = app
        self.urls = urls
        self._start_worker = start_worker
        (folder / "life_steps.py").write_text(STEPS)
        (folder / "extra").mkdir()
        (folder / "extra" / "life_extra.py").write_text(EXTRA)

    def worker(self, *, extra: bool = True, grace: float = 1.0, **options: Any) -> WorkerProcess:
        paths = [self.folder, self.folder / "extra"] if extra else [self.folder]
        env = {
            "LIFE_ROOM": str(self.folder),
            "IAFLOW_LEASE_SECONDS": "3",
            "IAFLOW_SWEEP_SECONDS": "0.3",
            "IAFLOW_REPUBLISH_SECONDS": "2",
            "IAFLOW_GRACE_SECONDS": str(grace),
            **options.pop("env", {}),
        }
        return self._start_worker(
            **self.urls,
            modules=("life_steps", "life_extra"),
            pythonpath=paths,
            env=env,
            **options,
        )

    def start(self, *steps: dict[str, Any], condition: Any = None) -> str:
        """Start a run of steps in a row; each is a class of `life_steps`, or says more."""
        edges: list[dict[str, Any]] = [
            {"from": one["id"], "to": other["id"]} for one, other in pairwise(steps)
        ]
        if condition is not None:
            edges[0]["condition"] = condition
        document = {
            "name": "life",
            "steps": [{"module": "life_steps", "inputs": {}, **step} for step in steps],
            "flow": {"start_at": steps[0]["id"], "transitions": edges},
        }
        graph = compile_definition(document)
        self.app.client.save(graph)
        return self.app.client.start_graph(graph).run_id

    def ledger(self) -> Counter[tuple[str, str, int]]:
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        split = (line.split(" ") for line in lines)
        return Counter((kind, step_id, int(attempt)) for kind, step_id, attempt in split)

    def wait_for(self, step_id: str) -> None:
        wait_until(
            lambda: any(k == "begun" and s == step_id for k, s, _ in self.ledger()),
            DEADLINE,
            f"{step_id} to begin",
        )

    def open_gate(self) -> None:
        (self.folder / "open").touch()

    def step(self, run_id: str, step_id: str) -> StepRecord:
        return {step.step_id: step for step in self.app.client.steps(run_id)}[step_id]

    def end_of(self, run_id: str, seconds: float = DEADLINE) -> RunStatus:
        wait_until(
            lambda: self.app.client.run(run_id).status in END_OF_RUN, seconds, "the run's end"
        )
        return self.app.client.run(run_id).status


@pytest.fixture
def house(
    tmp_path: Path,
    postgres_url: str,
    redis_url: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[House]:
    monkeypatch.setenv("IAFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("IAFLOW_BROKER_URL", redis_url)
    app = open_application(load_settings())
    urls = {"database_url": postgres_url, "redis_url": redis_url}
    yield House(tmp_path, urls, app, start_worker)
    app.close()


def life(step_class: str, **more: Any) -> dict[str, Any]:
    return {"id": step_class.lower(), "step_class": step_class, **more}


RARE = {"id": "rare", "module": "life_extra", "step_class": "Rare"}

# --- what a worker cannot execute


def test_a_worker_without_a_module_leaves_the_step_to_one_that_has_it(house: House) -> None:
    """RELIABILITY I18: neither failed nor discarded, no attempt burned, and it says what is missing."""
    house.worker(extra=False)
    run_id = house.start(life("Works"), RARE)
    wait_until(
        lambda: (
            house.step(run_id, "works").status is StepStatus.SUCCEEDED
            and house.step(run_id, "rare").hindrance is not None
        ),
        DEADLINE,
        "the worker to hand the step back",
    )
    rare = house.step(run_id, "rare")
    assert (rare.status, rare.attempt) == (StepStatus.READY, 0)
    assert "module_missing: module 'life_extra' is allowed but is not there" in str(rare.hindrance)
    assert house.app.client.run(run_id).status is RunStatus.RUNNING

    house.worker()
    assert house.end_of(run_id) is RunStatus.SUCCEEDED
    rare = house.step(run_id, "rare")
    assert (rare.attempt, rare.worker_losses, rare.hindrance) == (1, 0, None)
    assert house.ledger()["begun", "rare", 1] == 1


def test_while_half_of_the_workers_lack_a_module_every_step_is_executed_once(house: House) -> None:
    """A rolling deployment: 20 runs of a new step beside a worker of the release before."""
    old = house.worker(extra=False)
    new = house.worker()
    runs = [house.start(RARE) for _ in range(20)]
    for run_id in runs:
        assert house.end_of(run_id) is RunStatus.SUCCEEDED
    handed_back = old.read_log().count("step handed back")
    print(f"handed back {handed_back} times")
    assert handed_back >= 5
    assert "step handed back" not in new.read_log()
    assert house.ledger() == Counter({("begun", "rare", 1): 20})


def test_a_key_is_free_while_its_step_finds_no_worker(house: House) -> None:
    """Another step with the same key need not wait for a worker that may never come."""
    house.worker(extra=False)
    stuck = house.start({**RARE, "concurrency_key": "one"})
    wait_until(lambda: house.step(stuck, "rare").hindrance is not None, DEADLINE, "a hand-back")
    other = house.start(life("Works", concurrency_key="one"))
    assert house.end_of(other) is RunStatus.SUCCEEDED
    house.worker()
    assert house.end_of(stuck) is RunStatus.SUCCEEDED


def test_a_worker_without_a_condition_leaves_the_step_before_it(house: House) -> None:
    """What follows from a step is judged by the worker that executes it."""
    condition = {"type": "function", "config": {"module": "life_extra", "function": "is_fine"}}
    house.worker(extra=False)
    run_id = house.start(life("Works"), life("Waits"), condition=condition)
    wait_until(lambda: house.step(run_id, "works").hindrance is not None, DEADLINE, "a hand-back")
    assert house.ledger() == Counter()
    house.open_gate()
    house.worker()
    assert house.end_of(run_id) is RunStatus.SUCCEEDED


# --- what a worker cannot stop


@pytest.mark.parametrize("step_class", ("Blocks", "Refuses", "WaitsInThread"))
@pytest.mark.parametrize("pool", ("prefork", "threads"))
def test_a_step_that_nothing_stops_times_out_all_the_same(
    house: House, step_class: str, pool: str
) -> None:
    """Its end is recorded in time, and the worker's next step is executed."""
    worker = house.worker(args=("--pool", pool))
    run_id = house.start(life(step_class, error_handling={"timeout": 0.5}))
    began = time.monotonic()
    assert house.end_of(run_id, 15) is RunStatus.FAILED
    assert time.monotonic() - began < 10
    run = house.app.client.run(run_id)
    assert (run.error_code, run.error_step_id) == ("timeout", step_class.lower())
    assert house.step(run_id, step_class.lower()).worker_losses == 0
    if pool == "threads" and step_class != "WaitsInThread":
        # Nothing else can be executed beside it: its supervisor starts another worker.
        wait_until(lambda: not worker.is_running, 15, "the worker to leave")
        worker = house.worker(args=("--pool", pool))
    after = house.start(life("Works"))
    assert house.end_of(after) is RunStatus.SUCCEEDED
    assert house.step(after, "works").worker_losses == 0
    house.open_gate()


def test_the_neighbours_of_a_step_that_blocks_are_given_back(house: House) -> None:
    """In one process with others, it costs them neither an attempt nor a loss."""
    worker = house.worker(args=("--pool", "threads"), concurrency=4)
    neighbours = [house.start(life("Waits")) for _ in range(2)]
    wait_until(lambda: house.ledger()["begun", "waits", 1] == 2, DEADLINE, "both to begin")
    culprit = house.start(life("Blocks", error_handling={"timeout": 0.5}))
    assert house.end_of(culprit, 15) is RunStatus.FAILED
    wait_until(lambda: not worker.is_running, 15, "the worker to leave")
    for run_id in neighbours:
        waits = house.step(run_id, "waits")
        assert (waits.status, waits.attempt, waits.worker_losses) == (StepStatus.READY, 0, 0)
    house.open_gate()
    house.worker()
    assert {house.end_of(run_id) for run_id in neighbours} == {RunStatus.SUCCEEDED}


# --- what its steps are given


@pytest.mark.parametrize(("pool", "processes"), (("prefork", 2), ("threads", 1), ("solo", 1)))
def test_services_are_built_once_in_each_process_and_closed(
    house: House, pool: str, processes: int
) -> None:
    (house.folder / "life_services.py").write_text(SERVICES)
    env = {"IAFLOW_SERVICES": "life_services:make"}
    worker = house.worker(args=("--pool", pool), concurrency=2, env=env)
    head = worker.pids[0]
    runs = [house.start(life("Pays")) for _ in range(20)]
    assert {house.end_of(run_id) for run_id in runs} == {RunStatus.SUCCEEDED}
    used = {(house.step(run_id, "pays").output or {})["pid"] for run_id in runs}
    assert worker.terminate(20) == 0
    told = (house.folder / "services").read_text().splitlines()
    print(f"{pool}: 20 steps in {len(used)} processes; {Counter(told)}")
    assert len(used) == processes
    assert (head in used) is (pool != "prefork")
    for kind in ("asked", "built", "closed"):
        assert sorted(f"{kind} {pid}" for pid in used) == sorted(
            line for line in told if line.startswith(kind)
        )


# --- how it leaves


@pytest.mark.parametrize("pool", ("prefork", "threads", "solo"))
def test_a_step_that_ends_within_the_grace_is_not_disturbed(house: House, pool: str) -> None:
    worker = house.worker(args=("--pool", pool), grace=20)
    run_id = house.start(life("Waits"))
    house.wait_for("waits")
    send_term(worker)
    house.open_gate()
    assert worker.terminate(20) == 0
    assert house.app.client.run(run_id).status is RunStatus.SUCCEEDED
    assert house.ledger() == Counter({("begun", "waits", 1): 1, ("ended", "waits", 1): 1})


@pytest.mark.parametrize(
    ("pool", "step_class"),
    (
        ("prefork", "Waits"),
        ("prefork", "WaitsInThread"),
        ("prefork", "Blocks"),
        ("prefork", "Refuses"),
        ("threads", "Waits"),
        ("threads", "WaitsInThread"),
        ("threads", "Blocks"),
        ("solo", "Waits"),
    ),
)
def test_what_does_not_end_within_the_grace_goes_back(
    house: House, pool: str, step_class: str
) -> None:
    """RELIABILITY I28: no attempt is burned, and the worker is gone soon after its grace."""
    worker = house.worker(args=("--pool", pool), grace=1)
    run_id = house.start(life(step_class))
    step_id = step_class.lower()
    house.wait_for(step_id)
    began = time.monotonic()
    worker.terminate(15)
    took = time.monotonic() - began
    print(f"left after {took:.1f} s")
    assert took < 1 + 2 + 4
    step = house.step(run_id, step_id)
    assert (step.status, step.attempt, step.worker_losses) == (StepStatus.READY, 0, 0)

    house.open_gate()
    house.worker()
    assert house.end_of(run_id) is RunStatus.SUCCEEDED
    assert house.ledger()["begun", step_id, 1] == 2
    assert house.step(run_id, step_id).attempt == 1


def test_a_rolling_restart_under_load_burns_no_attempt(house: House) -> None:
    """RELIABILITY F26 in small: one worker after the other is replaced while 60 runs go on."""
    workers = [house.worker(concurrency=2, grace=5) for _ in range(2)]
    runs = [house.start(life("Works"), life("Works", id="more")) for _ in range(60)]
    for place in range(2):
        assert workers[place].terminate(20) == 0
        workers[place] = house.worker(concurrency=2, grace=5)
    for run_id in runs:
        assert house.end_of(run_id) is RunStatus.SUCCEEDED
        assert {step.worker_losses for step in house.app.client.steps(run_id)} == {0}
    assert house.ledger() == Counter({("begun", "works", 1): 60, ("begun", "more", 1): 60})


def test_a_step_that_is_on_its_way_to_a_child_holds_up_no_stop(house: House) -> None:
    """What Celery's head has written to a child and dropped when it closed is executed all the same."""
    worker = house.worker(grace=5)
    assert house.end_of(house.start(life("Works", id="first"))) is RunStatus.SUCCEEDED
    [child] = worker.pids[1:]
    os.kill(child, signal.SIGSTOP)
    run_id = house.start(life("Works"))
    wait_until(lambda: worker.read_log().count("received") == 2, DEADLINE, "the message's receipt")
    # It has written the message to the child once it has nothing more to do, look after look.
    waits_in = Path(f"/proc/{worker.pids[0]}/wchan")
    for _ in range(10):
        wait_until(lambda: "poll" in waits_in.read_text(), DEADLINE, "the head to be idle")
    send_term(worker)
    wait_until(
        lambda: waits_in.read_text() == "do_wait", DEADLINE, "the head to wait for its child alone"
    )
    os.kill(child, signal.SIGCONT)
    wait_until(lambda: not worker.is_running, 12, "the worker to have left")
    assert house.ledger()["begun", "works", 1] == 1
    assert house.end_of(run_id) is RunStatus.SUCCEEDED


# --- a worker that hears nothing


DEAF = '''
"""The worker's app, and a way to make it deaf: it stops listening without an error."""

import os
import threading
import time
from pathlib import Path

from celery import signals

from iaflow.worker import watchdog

watchdog.DEAF_SECONDS = 2.0
from iaflow.worker import app as worker_app  # noqa: E402

app = worker_app.create_app()


@signals.worker_ready.connect(weak=False)
def listen(sender, **_):
    def wait():
        while not (Path(os.environ["LIFE_ROOM"]) / "deaf").exists():
            time.sleep(0.02)
        sender.hub.call_soon(sender.task_consumer.cancel)

    threading.Thread(target=wait, daemon=True).start()
'''


def test_a_deaf_worker_leaves_so_that_another_is_started(house: House) -> None:
    (house.folder / "deaf_app.py").write_text(textwrap.dedent(DEAF))
    worker = house.worker(application="deaf_app")
    first = house.start(life("Works"))
    assert house.end_of(first) is RunStatus.SUCCEEDED
    (house.folder / "deaf").touch()
    time.sleep(0.5)  # the hub's next turn: only then a message must stay where it is
    second = house.start(life("Works"))
    wait_until(lambda: not worker.is_running, 25, "the deaf worker to leave")
    assert worker.terminate() == 70
    assert "worker is deaf" in worker.read_log()
    house.worker()
    assert house.end_of(second) is RunStatus.SUCCEEDED


def send_term(worker: WorkerProcess) -> None:
    os.kill(worker.pids[0], signal.SIGTERM)
