"""RELIABILITY F22: a broker in hostile hands. No message becomes code, none starts what is not due.

Raw messages are put into the workers' list, whatever Celery would make of them, under runs that
must go as if nothing had happened; a supervisor starts a worker again that has left.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from iaflow.data.status import RunStatus, StepStatus
from iaflow.pipeline.executors.celery import RESUME_RUN, RUN_STEP, START_RUN, SWEEP
from tests.integration.fleets import (
    ABSENT,
    Fleet,
    chain,
    count,
    document,
    start,
    steps_of,
    wait_for_end,
)
from tests.servers import WorkerProcess, wait_until

pytestmark = pytest.mark.timeout(240)

QUEUE = "iaflow\x06\x169"
"""The list of steps without a priority."""

RUNS = 40
DEEP = "[" * 100_000 + "]" * 100_000
LARGE = 20_000_000


def envelope(
    task: Any = RUN_STEP,
    args: Any = (),
    *,
    body: bytes | None = None,
    content_type: str = "application/json",
    headers: dict[str, Any] | None = None,
    embed: Any = None,
) -> bytes:
    """Return a message as kombu writes it to Redis, with whatever somebody puts into it."""
    identity = str(uuid.uuid4())
    if body is None:
        embed = embed or {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        body = json.dumps([args, {}, embed]).encode()
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": content_type,
        "headers": {"lang": "py", "task": task, "id": identity, "root_id": identity}
        | (headers or {}),
        "properties": {
            "correlation_id": identity,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "iaflow"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": identity,
        },
    }
    return json.dumps(message).encode()


def make_messages(trap: str) -> dict[str, bytes]:
    """Return messages by what is wrong with them; one would make a file named `trap`."""
    unpickled = f"cbuiltins\nopen\n(V{trap}\nVw\ntR.".encode()
    revived = {"__type__": "uuid", "__value__": {"hex": "no"}}
    step = (ABSENT, "s0", -1, 0)
    whole = json.loads(envelope(args=step))
    return {
        "bytes": b"\x80\xff\x00\xfe",
        "no JSON": b"hello",
        "no object": b"[]",
        "null": b"null",
        "a number": b"17",
        "no envelope": b"{}",
        "no properties": json.dumps({"body": "", "headers": {}}).encode(),
        "no headers": json.dumps({**whole, "headers": None}).encode(),
        "no base64": json.dumps({**whole, "body": "!!!"}).encode(),
        "no task": envelope(None),
        "an unknown task": envelope("iaflow.no_such_task", step),
        "a task that is an object": envelope({"a": 1}, step),
        "a body that is no JSON": envelope(body=b"\x00\x01"),
        "a body that is an object": envelope(body=b'{"a": 1}'),
        "a body that is empty": envelope(body=b""),
        "a deep body": envelope(body=DEEP.encode()),
        "a deep message": DEEP.encode(),
        "a large body": envelope(args=("x" * LARGE, "s0", -1, 0)),
        "pickle": envelope(body=unpickled, content_type="application/x-python-serialize"),
        "pickle as yaml": envelope(body=unpickled, content_type="application/x-yaml"),
        "a value to be revived": envelope(args=(revived, "s0", -1, 0)),
        "a body to be revived": envelope(body=json.dumps(revived).encode()),
        "a chain behind it": envelope(
            args=step, embed={"chain": [{"task": "os.system", "args": [f"touch {trap}"]}]}
        ),
        "callbacks": envelope(args=step, embed={"callbacks": [{"task": SWEEP}], "chord": {"a": 1}}),
        "limits": envelope(args=step, headers={"timelimit": ["x", {}], "retries": "many"}),
        "an instant that is none": envelope(args=step, headers={"eta": "tomorrow", "expires": "x"}),
        "an id that is an object": envelope(args=step, headers={"id": {"a": 1}}),
        "names that are objects": envelope(
            args=step, headers={"shadow": {"a": 1}, "argsrepr": [1], "root_id": {}, "group": {}}
        ),
        "an old protocol": envelope(
            body=json.dumps({"task": RUN_STEP, "id": "x", "args": 7, "timelimit": "y"}).encode(),
            headers={"task": {}},
        ),
        "an answer that is none": envelope(RESUME_RUN, ("\x00",)),
        "a start that is none": envelope(START_RUN, ("no-such", DEEP)),
    }


@contextmanager
def supervising(fleet: Fleet) -> Iterator[list[WorkerProcess]]:
    """Start a worker again whenever it has left, as a supervisor does; give all there were."""
    workers = [fleet.worker(concurrency=2)]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if not workers[-1].is_running:
                workers.append(fleet.worker(concurrency=2))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield workers
    finally:
        over.set()
        thread.join()


def test_hostile_messages_change_nothing(fleet: Fleet) -> None:
    """Each kind seven times, some 200 in all, amid 40 runs, which go as if there were none."""
    trap = fleet.room.folder / "trap"
    messages = make_messages(str(trap))
    sent: Counter[str] = Counter()
    with redis.Redis.from_url(fleet.broker.url) as client, supervising(fleet) as workers:
        runs = []
        for turn in range(7):
            for kind, message in messages.items():
                # The largest ones as often would only fill the machine.
                if len(message) < 10_000_000 or turn == 3:
                    client.lpush(QUEUE, message)
                    sent[kind] += 1
            runs += [start(fleet.app, chain(length=3)) for _ in range(RUNS // 7 + 1)]
        ended = wait_for_end(fleet.app, *runs)
        assert all(run.status is RunStatus.SUCCEEDED for run in ended)
        fleet.wait_until_drained()
        began = time.monotonic()
        after = start(fleet.app, chain(length=1, name="after"))
        wait_for_end(fleet.app, after)
        took = time.monotonic() - began
        left = len(workers) - 1
        print(
            f"{sum(sent.values())} messages; a worker left {left} times; then a run took {took:.1f} s"
        )
    assert not trap.exists()
    assert sum(sent.values()) >= 180
    fleet.room.assert_executed(
        Counter(dict.fromkeys(fleet.room.entries("ended"), 1)) | count(runs, length=3)
    )
    assert left == 0, "a message ended a worker"


def test_forged_hints_start_nothing_that_is_not_due(fleet: Fleet) -> None:
    """A step that waits for a key, one behind a question, one that retries later: all stay."""
    fields = [{"name": "ok", "type": "boolean"}]
    ask = {"type": "human_input", "config": {"ui_schema": {"fields": fields}}}
    held = {"concurrency_key": "one"}
    later = {"step_class": "Wavers", "error_handling": {"retries": 5, "retry_delay": 3600}}
    fleet.worker(concurrency=2)
    holder = start(fleet.app, document({"s0": {**held, "config": {"gate": True}}}, name="holder"))
    fleet.room.wait_at_gate(holder, "s0")
    waiter = start(fleet.app, document({"s0": held}, name="waiter"))
    retried = start(fleet.app, document({"s0": later}, name="later"))
    asks = document({"ask": {}, "s1": {}}, name="asks")
    asks["steps"][0] = {"id": "ask", **ask}
    asked = start(fleet.app, asks)
    wait_until(lambda: fleet.app.client.inbox(asked), 60, "the question")
    wait_until(
        lambda: steps_of(fleet.app, retried)["s0"].status is StepStatus.RETRYING, 60, "the retry"
    )

    def state() -> list[Any]:
        client = fleet.app.client
        return [(client.run(one), client.steps(one)) for one in (waiter, retried, asked)]

    before = state()
    for run_id, step_id in ((waiter, "s0"), (retried, "s0"), (asked, "ask"), (asked, "s1")):
        for attempt in range(4):
            fleet.send(RUN_STEP, run_id, step_id, -1, attempt)
    for pause in fleet.app.client.inbox(asked):
        fleet.send(RESUME_RUN, pause.pause_id)
    fleet.wait_until_drained()
    begun = fleet.room.entries("begun")
    assert (begun[waiter, "s0"], begun[retried, "s0"], begun[asked, "s1"]) == (0, 1, 0)
    assert state() == before
    fleet.room.open_gates()
    ended = wait_for_end(fleet.app, holder, waiter)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    print("17 forged hints for 4 steps that were not due: none began")
