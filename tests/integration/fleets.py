"""Fleets: workers, a broker and an application, and steps that keep a ledger outside the engine.

Decides how such a deployment is put together for a test and how its faults are made; never judges
one. Used by the tests of killed processes, lost messages and brokers that are away.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from iaflow.bootstrap import Application
from iaflow.data.records import RunRecord, StepRecord
from iaflow.data.status import END_OF_RUN
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.celery import CeleryExecutor, make_app
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.worker import ROOT, WorkerProcess

DEADLINE = 90.0
ABSENT = "00000000-0000-7000-8000-000000000000"

STEPS = '''
"""Steps that keep a ledger, and wait at a gate where the test asks them to."""

import asyncio
import os
import sys
from pathlib import Path

from iaflow.pipeline import Step

ROOM = Path(os.environ["KILL_ROOM"])


def enter(kind, context):
    line = f"{kind} {context.run_id} {context.step_id}\\n".encode()
    handle = os.open(ROOM / "ledger", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, line)
    os.close(handle)


class Work(Step):
    async def work(self, data):
        enter("begun", self.context)
        if self.config.get("gate"):
            # Whoever finds the gate's file is a later attempt: it goes through.
            gate = ROOM / f"{self.context.run_id}.{self.context.step_id}"
            if not gate.exists():
                gate.touch()
                while not (ROOM / "open").exists():
                    await asyncio.sleep(0.01)
        enter("ended", self.context)
        return {self.context.step_id: 1}


class Dies(Step):
    async def work(self, data):
        enter("begun", self.context)
        os._exit(9)


class Wavers(Step):
    async def work(self, data):
        enter("begun", self.context)
        if self.context.attempt < 3:
            raise RuntimeError("not yet")
        return {}


class Exits(Step):
    async def work(self, data):
        enter("begun", self.context)
        sys.exit("a step that leaves")
'''

RUN = """
import asyncio
import sys
from pathlib import Path

from iaflow.pipeline.runner import create_pipeline_from_json

print(asyncio.run(create_pipeline_from_json(Path(sys.argv[1]).read_text()).run()))
"""

DRIVE = """
import asyncio
import sys

from iaflow.bootstrap import open_application, open_local_executor
from iaflow.settings import load_settings


async def main() -> None:
    app = open_application(load_settings())
    async with open_local_executor(app) as executor:
        for run_id in app.client.unfinished():
            print(await executor.drive(run_id), flush=True)
    app.close()


asyncio.run(main())
"""


class Room:
    """A folder with the steps, their ledger and gates, and the environment of their processes."""

    def __init__(self, folder: Path, guardian: Any) -> None:
        self.folder = folder
        self._guardian = guardian
        self._started: list[subprocess.Popen[str]] = []
        for name, text in (("kill_steps", STEPS), ("run", RUN), ("drive", DRIVE)):
            (folder / f"{name}.py").write_text(text)
        self.environment = {
            "KILL_ROOM": str(folder),
            "IAFLOW_LEASE_SECONDS": "1",
            "IAFLOW_SWEEP_SECONDS": "0.5",
            "IAFLOW_REPUBLISH_SECONDS": "1",
        }

    # -- what the steps say

    def entries(self, kind: str) -> Counter[tuple[str, str]]:
        """Return how often each step of each run has begun, or ended."""
        ledger = self.folder / "ledger"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        split = (line.split(" ") for line in lines)
        return Counter((run_id, step_id) for what, run_id, step_id in split if what == kind)

    def wait_at_gate(self, run_id: str, step_id: str) -> None:
        """Wait until a step is in its middle."""
        wait_until((self.folder / f"{run_id}.{step_id}").exists, DEADLINE, f"{step_id} to begin")

    def open_gates(self) -> None:
        (self.folder / "open").touch()

    def assert_executed(self, expected: Counter[tuple[str, str]]) -> None:
        """Assert how often each step began, and that each ended once."""
        assert self.entries("begun") == expected
        assert self.entries("ended") == Counter(set(expected))

    # -- embedded processes

    def spawn(self, script: str, url: str, *args: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join((str(self.folder), str(ROOT)))
        settings = {"IAFLOW_DATABASE_URL": url, "IAFLOW_STEP_MODULES": "kill_steps"}
        process = subprocess.Popen(
            [sys.executable, str(self.folder / f"{script}.py"), *args],
            env={**os.environ, **self.environment, **settings, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._guardian.watch(process.pid)
        self._started.append(process)
        return process

    def drive_all(self, url: str) -> list[str]:
        """Let a process of its own finish all unfinished runs; return their statuses."""
        process = self.spawn("drive", url)
        said, complaints = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, complaints
        return said.split()

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
            self._guardian.forget(process.pid)


def chain(*gates: str, length: int = 5, name: str = "chain") -> dict[str, Any]:
    """Return a definition of steps in a row; those in `gates` wait to be killed."""
    names = [f"s{n}" for n in range(length)]
    return document({one: {"config": {"gate": one in gates}} for one in names}, name=name)


def document(
    steps: Mapping[str, dict[str, Any]],
    edges: list[tuple[str, str]] | None = None,
    *,
    name: str = "kills",
) -> dict[str, Any]:
    if edges is None:
        edges = list(pairwise(steps))
    return {
        "name": name,
        "steps": [
            {"id": one, "module": "kill_steps", "step_class": "Work", "inputs": {}, **more}
            for one, more in steps.items()
        ],
        "flow": {
            "start_at": next(iter(steps)),
            "transitions": [{"from": source, "to": target} for source, target in edges],
        },
    }


def start(app: Application, definition: dict[str, Any]) -> str:
    """Start a run, with a message if the application has a broker."""
    graph = compile_definition(definition)
    app.client.save(graph)
    return app.client.start_graph(graph).run_id


def wait_for_end(app: Application, *run_ids: str) -> list[RunRecord]:
    def ended() -> bool:
        return all(app.engine.reads.run_status(run_id) in END_OF_RUN for run_id in run_ids)

    wait_until(ended, DEADLINE, f"the end of {len(run_ids)} runs")
    return [app.client.run(run_id) for run_id in run_ids]


def steps_of(app: Application, run_id: str) -> dict[str, StepRecord]:
    return {step.step_id: step for step in app.client.steps(run_id)}


class BrokerServer(Protocol):
    """What a test does with a broker, whichever it is."""

    def stop(self, *, crash: bool = False) -> None: ...

    def start(self) -> None: ...

    def flush(self, url: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that a test may stop, start and empty, and the URL of the test's own part of it."""

    server: BrokerServer
    url: str

    def stop(self) -> None:
        """End it, in good order."""
        self.server.stop()

    def start(self) -> None:
        """Start it again, where it was."""
        self.server.start()

    def flush(self) -> None:
        """Let it lose every message."""
        self.server.flush(self.url)


class Fleet:
    """Workers on one database and one broker, and the application that gives them runs."""

    def __init__(self, app: Application, room: Room, begin: StartWorker, broker: Broker) -> None:
        self.app = app
        self.room = room
        self.broker = broker
        self._begin = begin
        database_url = app.settings.database_url
        self._urls = {"database_url": database_url, "redis_url": broker.url}
        assert isinstance(app.executor, CeleryExecutor)
        self.executor = app.executor
        self.producer = make_app(app.settings)

    def worker(self, **options: Any) -> WorkerProcess:
        return self._begin(
            modules="kill_steps",
            pythonpath=[self.room.folder],
            env=self.room.environment,
            **self._urls,
            **options,
        )

    def send(self, task: str, *args: Any, **kwargs: Any) -> None:
        self.producer.send_task(task, args=args, kwargs=kwargs, queue="iaflow")

    def wait_until_drained(self) -> None:
        """Wait until every message that was sent before now has been worked on."""
        marker = start(self.app, chain(length=1, name="marker"))
        wait_for_end(self.app, marker)
        wait_until(lambda: self.executor.depth() == 0, DEADLINE, "the queue to be empty")

    def close(self) -> None:
        self.producer.close()


def count(run_ids: list[str], *twice: tuple[str, str], length: int = 5) -> Counter[tuple[str, str]]:
    """Return how often each step of some chains should have begun."""
    once = Counter({(run_id, f"s{n}"): 1 for run_id in run_ids for n in range(length)})
    return once + Counter(twice)
