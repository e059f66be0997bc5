"""Killed processes, lost and doubled messages: nothing is lost, nothing completed is repeated.

Embedded processes, Celery workers and their children are ended by SIGKILL in the middle of a step,
Redis and RabbitMQ are emptied and stopped. What was executed is counted in a ledger that the steps keep outside
the engine, a file that they append to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.celery import RESUME_RUN, RUN_STEP, CeleryExecutor
from tests.integration.fleets import (
    ABSENT,
    DEADLINE,
    Broker,
    Fleet,
    Room,
    chain,
    count,
    document,
    start,
    steps_of,
    wait_for_end,
)
from tests.servers import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=("sqlite", "postgres"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that outlives a process."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


# --- embedded


def test_a_killed_process_leaves_a_run_that_another_finishes(
    url: str, room: Room, open_app: Callable[..., Application]
) -> None:
    """SIGKILL in the middle of a step, three times: the later process goes on from there."""
    (room.folder / "chain.json").write_text(json.dumps(chain("s1", "s3", "s4", length=6)))
    first = room.spawn("run", url, str(room.folder / "chain.json"))
    killed, script = ("s1", "s3", "s4"), first
    run_id = ""
    for step_id in killed:
        run_id = wait_until(
            lambda step_id=step_id: next(
                (path.name.split(".")[0] for path in room.folder.glob(f"*.{step_id}")), ""
            ),
            DEADLINE,
            f"{step_id} to begin",
        )
        script.send_signal(signal.SIGKILL)
        assert script.wait(DEADLINE) == -signal.SIGKILL
        script = room.spawn("drive", url)
    said, complaints = script.communicate(timeout=DEADLINE)
    assert (said, script.returncode) == ("succeeded\n", 0), complaints

    expected = Counter({(run_id, f"s{n}"): 2 if f"s{n}" in killed else 1 for n in range(6)})
    room.assert_executed(expected)
    app = open_app(url)
    run = app.client.run(run_id)
    assert (run.status, run.outputs) == (RunStatus.SUCCEEDED, {"s5": 1})
    losses = {name: step.worker_losses for name, step in steps_of(app, run_id).items()}
    assert losses == {f"s{n}": int(f"s{n}" in killed) for n in range(6)}
    if url.startswith("sqlite"):
        with app.database.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_parallel_steps_of_a_killed_process_are_all_taken_up(
    url: str, room: Room, open_app: Callable[..., Application]
) -> None:
    """What ran side by side when the process was killed runs again; what had ended does not."""
    names = ("b0", "b1", "b2", "b3")
    steps: dict[str, dict[str, Any]] = {"root": {}, "quick": {}}
    steps |= {name: {"config": {"gate": True}} for name in names} | {"join": {}}
    middle = ("quick", *names)
    edges = [("root", name) for name in middle] + [(name, "join") for name in middle]
    app = open_app(url)
    run_id = start(app, document(steps, edges))
    process = room.spawn("drive", url)
    for name in names:
        room.wait_at_gate(run_id, name)
    wait_until(lambda: app.client.run(run_id).live == 4, DEADLINE, "the quick branch to end")
    process.kill()
    process.wait(DEADLINE)

    assert room.drive_all(url) == ["succeeded"]
    room.assert_executed(Counter({(run_id, name): 1 + (name in names) for name in steps}))


def test_a_process_that_is_asked_to_stop_burns_no_attempt(
    url: str, room: Room, open_app: Callable[..., Application]
) -> None:
    """SIGINT gives the step back: the next process takes it up at once, as the first attempt."""
    app = open_app(url)
    run_id = start(app, chain("s1", length=3))
    process = room.spawn("drive", url)
    room.wait_at_gate(run_id, "s1")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    step = steps_of(app, run_id)["s1"]
    assert (step.status.value, step.attempt, step.worker_losses) == ("ready", 0, 0)

    assert room.drive_all(url) == ["succeeded"]
    step = steps_of(app, run_id)["s1"]
    assert (step.attempt, step.worker_losses) == (1, 0)


def test_a_step_that_kills_its_process_every_time_is_given_up(
    url: str, room: Room, open_app: Callable[..., Application]
) -> None:
    """After `max_worker_losses` re-takes the step fails with `worker_lost`, and so does the run."""
    app = open_app(url)
    policy = {"retries": 5, "max_worker_losses": 1}
    steps = {"dies": {"step_class": "Dies", "error_handling": policy}}
    run_id = start(app, document(steps))
    for _ in range(2):
        process = room.spawn("drive", url)
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 9
    assert room.drive_all(url) == ["failed"]
    assert app.client.run(run_id).error_code == "worker_lost"
    assert room.entries("begun") == {(run_id, "dies"): 2}


# --- workers


on_both = pytest.mark.parametrize("broker", ("redis", "rabbitmq"), indirect=True)


@on_both
def test_a_killed_worker_is_replaced_by_another(fleet: Fleet) -> None:
    """SIGKILL of a worker with its children: a second one finishes what the first one had."""
    first = fleet.worker()
    held = start(fleet.app, chain("s2", name="held"))
    fleet.room.wait_at_gate(held, "s2")
    others = [start(fleet.app, chain()) for _ in range(5)]
    first.kill()
    fleet.worker()

    runs = wait_for_end(fleet.app, held, *others)
    assert all(run.status is RunStatus.SUCCEEDED for run in runs)
    fleet.room.assert_executed(count([held, *others], (held, "s2")))
    losses = {name: step.worker_losses for name, step in steps_of(fleet.app, held).items()}
    assert losses == {"s0": 0, "s1": 0, "s2": 1, "s3": 0, "s4": 0}


@on_both
def test_a_killed_child_is_replaced_by_its_worker(fleet: Fleet) -> None:
    """SIGKILL of the processes that work: the same worker goes on with new ones."""
    worker = fleet.worker(concurrency=2)
    held = [start(fleet.app, chain("s2", name="held")) for _ in range(2)]
    for run_id in held:
        fleet.room.wait_at_gate(run_id, "s2")
    others = [start(fleet.app, chain()) for _ in range(3)]
    assert worker.kill_children()

    runs = wait_for_end(fleet.app, *held, *others)
    assert all(run.status is RunStatus.SUCCEEDED for run in runs)
    fleet.room.assert_executed(count([*held, *others], *((run_id, "s2") for run_id in held)))
    assert worker.is_running


@on_both
def test_lost_messages_are_sent_again(fleet: Fleet) -> None:
    """The broker is emptied before and amid the work: every step runs, and runs once."""
    runs = [start(fleet.app, chain()) for _ in range(10)]
    assert fleet.executor.depth() == 10
    fleet.broker.flush()
    assert fleet.executor.depth() == 0
    fleet.worker(concurrency=2)
    for ended in (5, 15, 25, 35):
        wait_until(
            lambda ended=ended: fleet.room.entries("ended").total() >= ended,
            DEADLINE,
            f"{ended} steps to end",
        )
        fleet.broker.flush()
    assert all(run.status is RunStatus.SUCCEEDED for run in wait_for_end(fleet.app, *runs))
    fleet.room.assert_executed(count(runs))


@on_both
def test_a_killed_worker_whose_messages_are_lost_too(fleet: Fleet) -> None:
    """SIGKILL and an emptied broker together: the database alone brings everything back."""
    first = fleet.worker()
    held = start(fleet.app, chain("s1", name="held"))
    fleet.room.wait_at_gate(held, "s1")
    others = [start(fleet.app, chain()) for _ in range(3)]
    first.kill()
    fleet.broker.flush()
    fleet.worker()
    runs = wait_for_end(fleet.app, held, *others)
    assert all(run.status is RunStatus.SUCCEEDED for run in runs)
    fleet.room.assert_executed(count([held, *others], (held, "s1")))


@on_both
def test_a_start_succeeds_while_the_broker_is_down(fleet: Fleet) -> None:
    """Without a broker a run is kept all the same, and goes on once the broker is back."""
    worker = fleet.worker()
    before = start(fleet.app, chain("s1", name="held"))
    fleet.room.wait_at_gate(before, "s1")
    fleet.broker.stop()
    amid = start(fleet.app, chain())
    assert fleet.app.client.run(amid).status is RunStatus.RUNNING
    fleet.room.open_gates()
    wait_until(
        lambda: steps_of(fleet.app, before)["s1"].status.value == "succeeded",
        DEADLINE,
        "the step that was running to be settled without a broker",
    )
    fleet.broker.start()
    runs = wait_for_end(fleet.app, before, amid)
    assert all(run.status is RunStatus.SUCCEEDED for run in runs)
    fleet.room.assert_executed(count([before, amid]))
    assert worker.is_running


@on_both
def test_the_depth_is_counted_over_all_queues(fleet: Fleet) -> None:
    """An empty queue beside a full one hides nothing, and a broker that is away says nothing."""
    executor = CeleryExecutor(fleet.producer, ("empty", "iaflow", "urgent"))
    assert executor.depth() == 0
    for queue, messages in (("iaflow", 3), ("urgent", 2)):
        for _ in range(messages):
            fleet.producer.send_task(RUN_STEP, args=(), queue=queue)
    assert executor.depth() == 5
    fleet.broker.stop()
    assert executor.depth() is None


@on_both
def test_doubled_messages_run_a_step_once(fleet: Fleet) -> None:
    """Six messages for one step, before and while it runs: one execution."""
    graph = compile_definition(chain("s0", length=2))
    fleet.app.client.save(graph)
    started = fleet.app.client.start_graph(graph)
    fleet.executor.submit(started.tasks * 5)
    fleet.worker(concurrency=2)
    fleet.room.wait_at_gate(started.run_id, "s0")
    fleet.executor.submit(started.tasks * 5)
    wait_until(lambda: fleet.executor.depth() == 0, DEADLINE, "the doubles to be taken")
    fleet.room.open_gates()
    (run,) = wait_for_end(fleet.app, started.run_id)
    fleet.wait_until_drained()
    assert run.status is RunStatus.SUCCEEDED
    begun = fleet.room.entries("begun")
    assert [begun[started.run_id, name] for name in ("s0", "s1")] == [1, 1]
    assert {step.attempt for step in steps_of(fleet.app, started.run_id).values()} == {1}


def test_a_stale_message_changes_nothing(fleet: Fleet) -> None:
    """Messages for an ended run, old attempts, unknown steps and pauses: not a row is touched."""
    fleet.worker()
    graph = compile_definition(chain(length=2))
    fleet.app.client.save(graph)
    started = fleet.app.client.start_graph(graph)
    wait_for_end(fleet.app, started.run_id)
    fleet.wait_until_drained()

    def rows() -> tuple[Any, ...]:
        run_id = started.run_id
        client = fleet.app.client
        return (
            client.run(run_id),
            client.steps(run_id),
            client.decisions(run_id),
            client.events(run_id),
        )

    before = rows()
    fleet.executor.submit(started.tasks * 3)
    for step_id in ("s0", "s1", "absent"):
        for attempt in (0, 1, 7):
            fleet.send(RUN_STEP, started.run_id, step_id, -1, attempt)
    fleet.send(RUN_STEP, started.run_id, "s0", 3, 1)
    fleet.send(RUN_STEP, ABSENT, "s0", -1, 1)
    fleet.send(RESUME_RUN, ABSENT)
    fleet.wait_until_drained()
    assert rows() == before
    assert fleet.room.entries("begun")[started.run_id, "s0"] == 1


@on_both
def test_a_malformed_message_is_dropped(fleet: Fleet) -> None:
    """Nonsense in a message is said in the log, and the same worker goes on."""
    worker = fleet.worker()
    pids = worker.pids
    for args in ((), ("x",), (1, 2, 3, 4), ("x", "y", "z", 1), (None,) * 4, ([], {}, -1, 1)):
        fleet.send(RUN_STEP, *args)
    fleet.send(RUN_STEP, "no-uuid", "s0", -1, 1)
    fleet.send(RUN_STEP, "\x00", "\x00", -1, 1)
    fleet.send(RUN_STEP, ABSENT, "s0", 10**30, 1)
    fleet.send(RUN_STEP, run_id=ABSENT)
    for pause_id in ("no-uuid", None, 7, {"a": 1}, "\x00"):
        fleet.send(RESUME_RUN, pause_id)
    fleet.send(RESUME_RUN)
    fleet.send("iaflow.no_such_task", 1)
    run_id = start(fleet.app, chain())
    (run,) = wait_for_end(fleet.app, run_id)
    assert run.status is RunStatus.SUCCEEDED
    fleet.wait_until_drained()
    assert worker.pids == pids, "the same processes as before"
    assert "message dropped" in worker.read_log()


def test_a_step_that_kills_its_worker_every_time_does_not_starve_others(fleet: Fleet) -> None:
    """`os._exit` in a step: failed with `worker_lost`, and the runs beside it succeed."""
    worker = fleet.worker()
    policy = {"retries": 5, "max_worker_losses": 2}
    steps = {"dies": {"step_class": "Dies", "error_handling": policy}}
    poison = start(fleet.app, document(steps, name="poison"))
    others = [start(fleet.app, chain()) for _ in range(3)]
    lost, *good = wait_for_end(fleet.app, poison, *others)
    assert (lost.status, lost.error_code) == (RunStatus.FAILED, "worker_lost")
    assert all(run.status is RunStatus.SUCCEEDED for run in good)
    assert fleet.room.entries("begun")[poison, "dies"] == 3
    begun = fleet.room.entries("begun")
    assert all(begun[run_id, f"s{n}"] == 1 for run_id in others for n in range(5))
    assert worker.is_running


def test_the_most_urgent_step_is_taken_first(fleet: Fleet) -> None:
    """Of the messages that wait when a worker comes, those of priority 9 go first."""
    runs = {
        priority: start(fleet.app, document({"s": {"priority": priority} if priority else {}}))
        for priority in (None, 2, 9, 5)
    }
    fleet.worker(concurrency=1)
    wait_for_end(fleet.app, *runs.values())
    lines = (fleet.room.folder / "ledger").read_text().splitlines()
    begun = [line.split(" ")[1] for line in lines if line.startswith("begun")]
    assert begun == [runs[9], runs[5], runs[2], runs[None]]


def test_a_worker_refuses_a_database_without_tables(
    room: Room, empty_postgres_url: str, broker: Broker
) -> None:
    """It ends with a sentence that says what to run, instead of calling itself ready."""
    environment = {
        **os.environ,
        "IAFLOW_DATABASE_URL": empty_postgres_url,
        "IAFLOW_BROKER_URL": broker.url,
    }
    command = [sys.executable, "-m", "celery", "-A", "iaflow.worker.app:app", "worker", "-c", "1"]
    ended = subprocess.run(  # noqa: PLW1510  its exit code is what is looked at
        command, env=environment, cwd=room.folder, capture_output=True, text=True, timeout=DEADLINE
    )
    assert ended.returncode != 0
    assert "iaflow db upgrade" in ended.stdout + ended.stderr
    assert " ready." not in ended.stdout + ended.stderr


def test_a_retry_does_not_wait_for_the_sweep(fleet: Fleet) -> None:
    """Retries after 0.2 s come on time although no sweep comes within the test's deadline."""
    fleet.room.environment["IAFLOW_SWEEP_SECONDS"] = "600"
    policy = {"retries": 2, "retry_delay": 0.2}
    wavers = {"step_class": "Wavers", "error_handling": policy}
    fleet.worker()
    run_id = start(fleet.app, document({"wavers": wavers, "after": {}}))
    [run] = wait_for_end(fleet.app, run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert fleet.room.entries("begun")[run_id, "wavers"] == 3


def test_a_step_that_exits_ends_itself_alone(fleet: Fleet) -> None:
    """`sys.exit()` in a step is a failure of that step: the process goes on with the next one."""
    worker = fleet.worker()
    pids = worker.pids
    leaver = start(fleet.app, document({"exits": {"step_class": "Exits"}}, name="exits"))
    after = start(fleet.app, chain())
    left, good = wait_for_end(fleet.app, leaver, after)
    assert (left.status, left.error_code) == (RunStatus.FAILED, "SystemExit")
    assert good.status is RunStatus.SUCCEEDED
    assert worker.pids == pids


def test_a_worker_that_is_asked_to_stop_finishes_its_step(fleet: Fleet) -> None:
    """SIGTERM: the running step ends and counts, no attempt is burned, the next worker goes on."""
    first = fleet.worker()
    run_id = start(fleet.app, chain("s1", length=3))
    fleet.room.wait_at_gate(run_id, "s1")
    os.kill(first.pids[0], signal.SIGTERM)
    fleet.room.open_gates()
    assert first.terminate(DEADLINE) == 0
    assert steps_of(fleet.app, run_id)["s1"].status.value == "succeeded"
    fleet.worker()
    (run,) = wait_for_end(fleet.app, run_id)
    assert run.status is RunStatus.SUCCEEDED
    fleet.room.assert_executed(count([run_id], length=3))
    assert {step.worker_losses for step in steps_of(fleet.app, run_id).values()} == {0}
