"""A broker that is away costs a caller next to nothing: a run is started, its message is not.

The broker refuses connections, is frozen amid them, or only listens. What starts and answers take
is measured one by one; afterwards every run ends, since the sweep sends what was never sent.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from iaflow.bootstrap import Application
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.breaker import Breaker
from iaflow.pipeline.executors.celery import CeleryExecutor
from tests.integration.fleets import Broker, Fleet, Room, chain, document, start, wait_for_end
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.valkey import OwnRedisServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]

BURST, CALLERS, PACED = 40, 8, 10
PACE_SECONDS = 0.25
"""So that a breaker, which lets somebody through once a second, does so several times."""

MOST_SECONDS = 3.0
"""What a start may take at the very most; the figure that is aimed at is a second."""

FIELDS = [{"name": "ok", "type": "boolean", "required": True}]


@contextmanager
def refusing(broker: Broker) -> Iterator[str]:
    broker.stop()
    yield broker.url
    broker.start()


@contextmanager
def frozen(broker: Broker) -> Iterator[str]:
    """Connections are accepted by the kernel, and those there were stay open: nobody answers."""
    assert isinstance(broker.server, OwnRedisServer)
    [pid] = broker.server.pids
    os.kill(pid, signal.SIGSTOP)
    try:
        yield broker.url
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def silent(scheme: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/"


FAULTS: dict[str, Callable[[Broker], object]] = {
    "refusing": refusing,
    "frozen": frozen,
    "silent-redis": lambda broker: silent("redis"),
    "silent-rabbitmq": lambda broker: silent("amqp"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_starts_do_not_wait_for_a_broker_that_is_away(
    fault: str,
    broker: Broker,
    postgres_url: str,
    room: Room,
    open_app: Callable[..., Application],
    start_worker: StartWorker,
) -> None:
    """Forty at once, then ten one by one: each is quick, and each run ends once a worker comes."""
    app = open_app(postgres_url, broker.url)
    # A connection that is in use breaks in another way than one that is never made.
    runs = [start(app, chain(length=1, name="before"))]
    graph = compile_definition(chain(length=2))
    app.client.save(graph)
    took: list[float] = []

    def start_one(away: Application) -> str:
        began = time.perf_counter()
        run_id = away.client.start_graph(graph).run_id
        took.append(time.perf_counter() - began)
        away.database.release_thread()
        return run_id

    with ExitStack() as stack:
        url = stack.enter_context(FAULTS[fault](broker))  # type: ignore[arg-type]
        away = app if url == broker.url else open_app(postgres_url, url)
        with ThreadPoolExecutor(CALLERS) as pool:
            runs += pool.map(start_one, [away] * BURST)
        for _ in range(PACED):
            time.sleep(PACE_SECONDS)
            runs.append(start_one(away))
    executor = app.executor
    assert isinstance(executor, CeleryExecutor)
    reached = wait_until(lambda: executor.depth() is not None, 10, "the broker") and (
        executor.depth() or 0
    )
    slowest = sorted(took)
    print(
        f"{fault}: {len(took)} starts, of whose messages {max(reached - 1, 0)} arrived; "
        f"median {slowest[len(took) // 2]:.3f} s, p99 and max {slowest[-1]:.3f} s"
    )
    assert len(took) == BURST + PACED
    assert reached <= len(took) // 2, "the broker was there all the time"
    assert slowest[-1] <= MOST_SECONDS

    fleet = Fleet(app, room, start_worker, broker)
    fleet.worker(concurrency=2)
    ended = wait_for_end(app, *runs)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    begun = room.entries("begun")
    assert all(begun[run_id, "s0"] == 1 for run_id in runs)


def test_an_answer_does_not_wait_for_a_broker_that_is_away(fleet: Fleet, broker: Broker) -> None:
    """Answers are accepted at once while the broker is frozen, and the runs go on afterwards."""
    question = {"type": "human_input", "config": {"ui_schema": {"fields": FIELDS}}}
    fleet.worker()
    runs = [
        start(fleet.app, document({"before": {}, "ask": question, "after": {}})) for _ in range(5)
    ]
    client = fleet.app.client
    pauses = [
        wait_until(lambda run_id=run_id: client.inbox(run_id), 60, "the question")[0]
        for run_id in runs
    ]
    took: list[float] = []
    with frozen(broker):
        for pause in pauses:
            time.sleep(PACE_SECONDS)
            began = time.perf_counter()
            client.answer(pause.pause_id, {"ok": True}, answered_by="somebody")
            took.append(time.perf_counter() - began)
        assert all(client.run(run_id).status is not RunStatus.SUCCEEDED for run_id in runs)
    print(f"{len(took)} answers while the broker was frozen, max {max(took):.3f} s")
    assert max(took) <= MOST_SECONDS
    assert all(run.status is RunStatus.SUCCEEDED for run in wait_for_end(fleet.app, *runs))


def test_a_breaker_closes_again_by_itself() -> None:
    """After a failure nobody is admitted, then one, then all: also if that one never says."""
    breaker = Breaker(0.2)
    assert [breaker.admits(), breaker.admits()] == [True, True]
    breaker.note_failure()
    assert breaker.is_open
    assert not breaker.admits()
    wait_until(breaker.admits, 5, "the breaker to let one through")
    assert not breaker.admits(), "the others wait for the one"
    wait_until(breaker.admits, 5, "the breaker to let the next one through")
    breaker.note_success()
    assert [breaker.admits(), breaker.admits()] == [True, True]
