"""Who is measured on workers: iaflow and the two ways of chaining in Celery, each with its own.

Decides how each is started, given chains and waited for; never how often or in which order.
A contender has a worker, a broker database and a queue of its own; all stand at the same time,
idle but for the one that is measured. Used by `workloads`.

How the end is awaited: the last body pushes a note to a Redis list on which the client blocks
(F), or the client blocks on the result's own channel (canvas). For iaflow the note comes before
the last settle, so the client then reads the run's row until it has ended: nothing is polled
while steps are executed, and the last commit is inside the time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, Protocol

import redis
from celery import Celery, chain, chord

from benchmarks.app import CONTENDER_VARIABLE, EVENTS_VARIABLE, make_canvas, make_floor
from benchmarks.steps import NOTES_VARIABLE
from iaflow.bootstrap import open_application
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.graph import Graph
from iaflow.settings import Settings
from tests.servers import ServerRoom, WorkerProcess

__all__ = [
    "Canvas",
    "Contender",
    "Floor",
    "Iaflow",
    "Stage",
    "chain_document",
    "fan_document",
    "iaflow_settings",
    "make_document",
    "make_step",
    "migrate",
]

WAIT_SECONDS = 120
STEPS_MODULE = "benchmarks.steps"


class Stage:
    """
    The servers that all contenders share: a durable Postgres and a Redis, both our own.

    Args:
        events: whether workers send task events.
        worker_args: how each contender's worker executes, as `celery worker` is told it.
    """

    def __init__(self, room: ServerRoom, *, events: bool, worker_args: tuple[str, ...]) -> None:
        self.room = room
        self.postgres = room.open_postgres(durable=True)
        self.redis = room.open_redis()
        self.events = events
        self.worker_args = worker_args
        self.notes_url = self.redis.database_url(15)
        self.notes = redis.Redis.from_url(self.notes_url, socket_timeout=WAIT_SECONDS + 5)
        self._databases = 0

    def take_broker(self) -> str:
        """Return the URL of a Redis database that nobody else uses."""
        self._databases += 1
        return self.redis.database_url(self._databases)

    def start_worker(
        self, contender: str, *, broker: str, database_url: str = "", concurrency: int = 2
    ) -> WorkerProcess:
        """Start one worker of a contender and wait until it is ready."""
        return WorkerProcess(
            database_url=database_url,
            redis_url=broker,
            log_directory=self.room.make_directory("logs"),
            guardian=self.room.guardian,
            modules=STEPS_MODULE,
            concurrency=concurrency,
            application="benchmarks.app",
            args=self.worker_args,
            env={
                CONTENDER_VARIABLE: contender,
                EVENTS_VARIABLE: "on" if self.events else "off",
                NOTES_VARIABLE: self.notes_url,
            },
        )

    def await_notes(self, key: str, count: int) -> list[str]:
        """Block until `count` notes have come, and return them."""
        found = []
        for _ in range(count):
            popped = self.notes.brpop([key], WAIT_SECONDS)
            if popped is None:
                raise TimeoutError(f"no note {key!r} came within {WAIT_SECONDS} s")
            found.append(popped[1].decode())
        return found


class Contender(Protocol):
    """Somebody who executes chains and fans on workers."""

    name: str

    def run_chains(self, length: int, count: int) -> None:
        """Start `count` chains of `length` steps at once and wait until all have ended."""
        ...

    def run_fan(self, width: int) -> None:
        """Run one step, `width` steps after it, and one that joins them."""
        ...

    def close(self) -> None:
        """Stop the worker."""
        ...


class Floor:
    """F: the task that sends its successor."""

    name = "celery-self"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        broker = stage.take_broker()
        self._app = make_floor(broker)
        self._worker = stage.start_worker(self.name, broker=broker)

    def run_chains(self, length: int, count: int) -> None:
        """See `Contender`."""
        step = self._app.tasks["step"]
        for _ in range(count):
            step.apply_async(({"n": 0}, length - 1, self.name))
        _expect(self._stage.await_notes(self.name, count), length)

    def run_fan(self, width: int) -> None:
        """F has no join: there is nothing to compare."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the worker."""
        _close(self._app, self._worker)


class Canvas:
    """Celery's own chains and chords, with results in Redis."""

    name = "celery-canvas"

    def __init__(self, stage: Stage) -> None:
        broker = stage.take_broker()
        self._app = make_canvas(broker)
        self._worker = stage.start_worker(self.name, broker=broker)

    def run_chains(self, length: int, count: int) -> None:
        """See `Contender`."""
        step = self._app.tasks["step"]
        results = [
            chain(step.s({"n": 0}), *[step.s() for _ in range(length - 1)]).apply_async()
            for _ in range(count)
        ]
        for result in results:
            _expect([str(result.get(timeout=WAIT_SECONDS)["n"])], length)

    def run_fan(self, width: int) -> None:
        """See `Contender`."""
        step, gather = self._app.tasks["step"], self._app.tasks["gather"]
        fan = chord([step.s() for _ in range(width)], gather.s())
        result = chain(step.s({"n": 0}), fan).apply_async()
        _expect([str(result.get(timeout=WAIT_SECONDS)["n"])], 2)

    def close(self) -> None:
        """Stop the worker."""
        # A result that is collected later would speak with a Redis that is gone.
        gc.collect()
        _close(self._app, self._worker)


class Iaflow:
    """iaflow through its Celery workers, on a Postgres that flushes every commit."""

    name = "iaflow"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        broker = stage.take_broker()
        self.database_url = stage.postgres.create_database(prefix="benchmark")
        migrate(self.database_url)
        self.application = open_application(iaflow_settings(self.database_url, broker))
        self._graphs: dict[tuple[str, int], Graph] = {}
        self._worker = stage.start_worker(self.name, broker=broker, database_url=self.database_url)

    def run_chains(self, length: int, count: int) -> None:
        """See `Contender`."""
        graph = self._keep(("chain", length), lambda: chain_document(length, self.name))
        self._run(graph, count, length)

    def run_fan(self, width: int) -> None:
        """See `Contender`."""
        self._run(self._keep(("fan", width), lambda: fan_document(width, self.name)), 1, 2)

    def close(self) -> None:
        """Stop the worker."""
        self._worker.terminate()
        self.application.close()

    def _run(self, graph: Graph, count: int, result: int) -> None:
        client = self.application.client
        begun = [client.start_graph(graph, {"n": 0}).run_id for _ in range(count)]
        _expect(self._stage.await_notes(self.name, count), result)
        while client.unfinished():
            time.sleep(0.0002)
        ended = client.run(begun[-1])
        if ended.outputs is None or ended.outputs["n"] != result:
            raise AssertionError(f"iaflow's last run ended as {ended}")

    def _keep(self, key: tuple[str, int], document: Callable[[], dict[str, Any]]) -> Graph:
        if key not in self._graphs:
            self._graphs[key] = compile_definition(document())
            self.application.client.save(self._graphs[key])
        return self._graphs[key]


def iaflow_settings(database_url: str, broker: str | None = None) -> Settings:
    """Return settings for these servers; whatever the caller's environment says."""
    given = {
        "IAFLOW_DATABASE_URL": database_url,
        "IAFLOW_BROKER_URL": broker,
        "step_modules": (STEPS_MODULE,),
    }
    return Settings(_env_file=None, **given)


def migrate(database_url: str) -> None:
    """Make iaflow's tables."""
    database = Database(database_url)
    migrator.upgrade(database)
    database.close()


def chain_document(length: int, key: str | None) -> dict[str, Any]:
    """Return a definition of `length` steps in a row; the last one tells `key`, if given."""
    steps = [make_step(f"s{number}", "Hello") for number in range(length)]
    if key is not None:
        steps[-1] = make_step(f"s{length - 1}", "LastHello", key)
    pairs = [(f"s{number}", f"s{number + 1}") for number in range(length - 1)]
    return make_document(f"chain-{length}", steps, pairs)


def fan_document(width: int, key: str) -> dict[str, Any]:
    """Return a definition of one step, `width` after it, and one that joins them."""
    branches = [f"b{number}" for number in range(width)]
    steps = [
        make_step("first", "Hello"),
        *(make_step(branch, "Hello") for branch in branches),
        make_step("join", "Gather", key),
    ]
    pairs = [("first", branch) for branch in branches] + [(branch, "join") for branch in branches]
    return make_document(f"fan-{width}", steps, pairs)


def make_step(step_id: str, step_class: str, key: str | None = None) -> dict[str, Any]:
    step: dict[str, Any] = {"id": step_id, "module": STEPS_MODULE, "step_class": step_class}
    return step if key is None else step | {"config": {"key": key}}


def make_document(
    slug: str, steps: list[dict[str, Any]], pairs: list[tuple[str, str]]
) -> dict[str, Any]:
    return {
        "name": slug,
        "steps": steps,
        "flow": {
            "start_at": steps[0]["id"],
            "transitions": [{"from": source, "to": target} for source, target in pairs],
        },
    }


def _expect(notes: list[str], number: int) -> None:
    if set(notes) != {str(number)}:
        raise AssertionError(f"the chains must arrive at {number}, and did at {sorted(set(notes))}")


def _close(app: Celery, worker: WorkerProcess) -> None:
    worker.terminate()
    app.close()
