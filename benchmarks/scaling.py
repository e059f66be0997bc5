"""More worker processes, more steps a second: eight of them beside one, with steps that wait.

Decides which workers there are and what they are given; never how turns are taken or counted.
Used by `workloads`. A step waits 50 ms without using the machine, as one that asks a model or a
service does, so what is measured is whether anything but the processes holds the steps up.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contenders import (
    Stage,
    iaflow_settings,
    make_document,
    make_step,
    migrate,
)
from iaflow.bootstrap import open_application
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition

__all__ = ["Crew", "waiting_document"]

POLL_SECONDS = 0.005


class Crew:
    """
    Workers of iaflow with a database and a broker of their own.

    Args:
        mains: how many `celery worker` there are.
        children: how many processes each of them works with.
    """

    def __init__(self, stage: Stage, *, mains: int, children: int) -> None:
        broker = stage.take_broker()
        database_url = stage.postgres.create_database(prefix="benchmark")
        migrate(database_url)
        self._application = open_application(iaflow_settings(database_url, broker))
        self._workers = [
            stage.start_worker(
                "iaflow", broker=broker, database_url=database_url, concurrency=children
            )
            for _ in range(mains)
        ]

    def run_chains(self, length: int, count: int) -> None:
        """Start `count` chains of `length` waiting steps at once and wait until all have ended."""
        client = self._application.client
        graph = compile_definition(waiting_document(length))
        client.save(graph)
        begun = [client.start_graph(graph, {"n": 0}).run_id for _ in range(count)]
        while client.unfinished():
            time.sleep(POLL_SECONDS)
        ended = [client.run(run_id) for run_id in begun]
        if any(run.status is not RunStatus.SUCCEEDED for run in ended):
            raise AssertionError(f"the chains must succeed, and ended as {ended}")

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.terminate()
        self._application.close()


def waiting_document(length: int) -> dict[str, Any]:
    """Return a definition of `length` steps in a row, each of which waits."""
    steps = [make_step(f"s{number}", "Waits") for number in range(length)]
    pairs = [(f"s{number}", f"s{number + 1}") for number in range(length - 1)]
    return make_document(f"waits-{length}", steps, pairs)
