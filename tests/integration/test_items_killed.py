"""Workers killed amid items, keys, child runs, a timer, a signal and a quorum: all ends right.

Two Celery workers carry one definition with all of it; each is ended by SIGKILL in the middle and
replaced. A ledger that the steps keep in a file says who worked when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.settings import load_settings
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.worker import WorkerProcess

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

DEADLINE = 120.0
ITEMS = 200
LANES = 4
CHILDREN = 6

STEPS = '''
"""Steps that keep a ledger of when they worked, on which lane."""

import asyncio
import os
import time
from pathlib import Path

from iaflow.pipeline import Step

LEDGER = Path(os.environ["LEDGER"])


def enter(kind, context, lane):
    line = f"{kind} {os.getpid()} {context.run_id} {context.step_id} {context.item_index} {lane}\\n"
    handle = os.open(LEDGER, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, line.encode())
    os.close(handle)


class Work(Step):
    async def work(self, data):
        lane = data.get("lane", "-")
        enter("begun", self.context, lane)
        await asyncio.sleep(0.01)
        enter("ended", self.context, lane)
        return {"n": data.get("n", 0)}
'''


def document(
    name: str, steps: dict[str, dict[str, Any]], edges: list[tuple[str, str]], **more: Any
) -> dict[str, Any]:
    listed = []
    for step_id, step in steps.items():
        is_task = step.get("type", "task") == "task"
        place = {"module": "ledger_steps", "step_class": "Work"} if is_task else {}
        listed.append({"id": step_id, **place, **step})
    transitions = [{"from": source, "to": target} for source, target in edges]
    flow = {"start_at": next(iter(steps)), "transitions": transitions}
    return {"name": name, "slug": name, "steps": listed, "flow": flow, **more}


CHILD = document(
    "child",
    {
        "first": {"concurrency_key": "lane-0", "inputs": {"lane": 0}},
        "second": {"inputs": {"n": "{{ parameters.n }}"}},
    },
    [("first", "second")],
    parameters={"n": 0},
    max_concurrent_runs=2,
)

FORM = {"fields": [{"name": "ok", "type": "boolean"}]}
BRANCHES = ("each", "kids", "timer", "paid", "ask")
PARENT = document(
    "parent",
    {
        "root": {"inputs": {}},
        "each": {
            "foreach": {"items": "{{ parameters.items }}", "max_parallel": 30},
            "concurrency_key": "lane-{{ item.lane }}",
            "error_handling": {"max_worker_losses": 9},
        },
        "kids": {
            "type": "pipeline",
            "pipeline": "child",
            "foreach": {"items": list(range(CHILDREN))},
            "inputs": {"n": "{{ item }}"},
        },
        "timer": {"type": "wait", "config": {"seconds": 3}},
        "paid": {"type": "event", "config": {"name": "paid"}},
        "ask": {"type": "human_input", "config": {"ui_schema": FORM, "quorum": 2}},
        "join": {
            "inputs": {"n": "{{ paid.n }}", "lane": "-"},
        },
    },
    [("root", name) for name in BRANCHES] + [(name, "join") for name in BRANCHES],
    parameters={"items": []},
)


class Ledger:
    """What the steps wrote, line by line: what, pid, run, step, item, lane."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        return [line.split() for line in self.path.read_text().splitlines()]

    def count(self, kind: str) -> int:
        return sum(line[0] == kind for line in self.lines())

    def assert_alone(self, killed: set[int]) -> None:
        """Assert that nobody began on a lane where another was at work and alive."""
        inside: dict[str, list[str]] = {}
        for kind, pid, run_id, step_id, index, lane in self.lines():
            if lane == "-":
                continue
            if kind == "ended":
                inside.pop(lane, None)
                continue
            assert lane not in inside or int(inside[lane][0]) in killed, (lane, inside[lane])
            inside[lane] = [pid, run_id, step_id, index]


@pytest.fixture
def app(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Application]:
    monkeypatch.setenv("IAFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("IAFLOW_BROKER_URL", redis_url)
    return lambda: open_application(load_settings())


def publish(app: Application, definition: dict[str, Any]) -> None:
    known = compile_definition(definition).definition
    app.engine.pipelines.publish(
        content_hash=known.content_hash,
        slug=known.slug,
        version=known.version,
        name=known.name,
        description="",
        document=known.text,
        now=app.engine.clock.now(),
    )


def test_killed_workers_amid_everything(
    app: Callable[[], Application],
    start_worker: StartWorker,
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "ledger_steps.py").write_text(STEPS)
    ledger = Ledger(tmp_path / "ledger")
    application = app()
    client = application.client

    def begin_worker() -> WorkerProcess:
        return start_worker(
            database_url=postgres_url,
            redis_url=redis_url,
            modules="ledger_steps",
            pythonpath=[tmp_path],
            concurrency=2,
            env={
                "LEDGER": str(ledger.path),
                "IAFLOW_LEASE_SECONDS": "1",
                "IAFLOW_SWEEP_SECONDS": "0.5",
                "IAFLOW_REPUBLISH_SECONDS": "1",
            },
        )

    publish(application, CHILD)
    graph = compile_definition(PARENT)
    client.save(graph)
    items = [{"n": n, "lane": n % LANES} for n in range(ITEMS)]
    run_id = client.start_graph(graph, {"items": items}).run_id
    workers = [begin_worker(), begin_worker()]
    killed: set[int] = set()

    def replace_worker(place: int) -> None:
        killed.update(workers[place].pids)
        workers[place].kill()
        workers[place] = begin_worker()

    def wait_for(amount: int) -> None:
        wait_until(lambda: ledger.count("ended") >= amount, DEADLINE, f"{amount} ends")

    wait_for(40)
    replace_worker(0)
    wait_until(lambda: client.inbox(run_id), DEADLINE, "the question")
    [pause] = client.inbox(run_id)
    client.answer(pause.pause_id, {"ok": True}, answered_by="ann")
    wait_for(90)
    replace_worker(1)
    waits = application.engine.pauses.list_events
    wait_until(lambda: waits(run_id), DEADLINE, "the event")
    client.signal(run_id, "paid", {"n": 42}, sent_by="bank")
    client.answer(pause.pause_id, {"ok": True}, answered_by="bob")
    wait_for(150)
    for place in (0, 1):
        replace_worker(place)
    wait_until(
        lambda: application.engine.reads.run_status(run_id) in END_OF_RUN, DEADLINE, "the end"
    )

    run = client.run(run_id)
    assert (run.status, run.outputs) == (RunStatus.SUCCEEDED, {"n": 42})
    assert (run.live, run.paused) == (0, 0)
    whole = {step.step_id: step for step in client.steps(run_id) if step.index < 0}
    assert whole["each"].output == {"results": [{"n": n} for n in range(ITEMS)]}
    assert whole["kids"].output == {"results": [{"n": n} for n in range(CHILDREN)]}
    assert whole["ask"].output is not None
    assert [one["_answered_by"] for one in whole["ask"].output["_answers"]] == ["ann", "bob"]
    ledger.assert_alone(killed)
    ended = Counter((line[2], line[3], line[4]) for line in ledger.lines() if line[0] == "ended")
    # An attempt that was killed between its last line and its settle has ended twice.
    assert sum(ended.values()) - len(ended) <= 8
    assert len(ended) == 1 + ITEMS + 2 * CHILDREN + 1
    runs = client.runs(limit=100)
    assert {one.status for one in runs} == {RunStatus.SUCCEEDED}
    assert len(runs) == 1 + CHILDREN
    with application.database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM iaflow.key_holds").all() == []
        open_pauses = "SELECT * FROM iaflow.pauses WHERE status = 'open' OR NOT is_settled"
        assert connection.exec_driver_sql(open_pauses).all() == []
    assert [event.seq for event in _all_events(client, run_id)] == list(range(1, run.seq + 1))
    application.close()


def _all_events(client: Any, run_id: str) -> list[Any]:
    events: list[Any] = []
    while more := client.events(run_id, events[-1].seq if events else 0):
        events += more
    return events
