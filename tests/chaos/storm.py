"""A storm: runs of the standard mix on real workers, people who answer, and faults amid them.

Decides how the three records of it are kept; never what was violated (the checker does). Its
servers are its own: they are stopped, emptied and killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa

from iaflow.bootstrap import Application, open_application
from iaflow.client import Client
from iaflow.data.records import NO_INDEX
from iaflow.data.status import END_OF_RUN, END_OF_STEP
from iaflow.errors import Conflict, IaflowError
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from tests.chaos.checker import check
from tests.chaos.mix import KINDS, draw
from tests.chaos.records import (
    Asked,
    EventRow,
    Hits,
    Journal,
    Rows,
    RunRow,
    StepRow,
    read_ledger,
)
from tests.servers import WorkerProcess, is_alive, wait_until
from tests.servers.fixtures import StartWorker

__all__ = ["Storm", "gather"]

HERE = Path(__file__).parent
LEASE, SWEEP, REPUBLISH = 1.5, 0.5, 1.0

ENDS = {str(status) for status in END_OF_STEP}


class Storm:
    """
    Workers, a client that starts runs, people, and what they leave behind.

    Args:
        seed: of the mix and of the faults; printed, so that they can be played again.
        runs: how many there are.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        broker_url: str,
        start_worker: StartWorker,
        *,
        seed: int,
        runs: int,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.folder = folder
        self.hits = Hits()
        self.ledger = folder / "ledger"
        self.journal = Journal(folder / "journal")
        self.database_url = database_url
        self.broker_url = broker_url
        settings = Settings().model_copy(
            update={"database_url": database_url, "broker_url": broker_url}
        )
        self.app: Application = open_application(settings)
        self.client: Client = self.app.client
        self.workers: list[WorkerProcess] = []
        self._start_worker = start_worker
        self._kinds = draw(self.rng, runs)
        self._answers: dict[str, dict[str, Any]] = {}
        self._over = threading.Event()
        for kind in KINDS.values():
            self.publish(kind.definition)

    def publish(self, document: Mapping[str, Any]) -> None:
        """Make a definition the one that its slug runs."""
        definition = compile_definition(dict(document)).definition
        self.app.pipelines.publish(
            content_hash=definition.content_hash,
            slug=definition.slug,
            version=definition.version,
            name=definition.name,
            description="",
            document=definition.text,
            now=self.app.engine.clock.now(),
        )

    # -- parts

    def worker(self, *, application: str = "workers.app", **env: str) -> WorkerProcess:
        worker = self._start_worker(
            application=application,
            database_url=self.database_url,
            redis_url=self.broker_url,
            modules="chaos_steps",
            pythonpath=[HERE],
            concurrency=2,
            env={
                "CHAOS_LEDGER": str(self.ledger),
                "IAFLOW_LEASE_SECONDS": str(LEASE),
                "IAFLOW_SWEEP_SECONDS": str(SWEEP),
                "IAFLOW_REPUBLISH_SECONDS": str(REPUBLISH),
                "IAFLOW_GRACE_SECONDS": "3",
                **env,
            },
        )
        self.workers.append(worker)
        return worker

    def replace_dead(self) -> None:
        """Start another worker for each that has ended, as a supervisor does."""
        for worker in [one for one in self.workers if not one.is_running]:
            self.workers.remove(worker)
            self.worker()

    def live_steps(self) -> dict[int, int]:
        """Return how many steps each process is executing just now, by the ledger."""
        at_work: dict[str, int] = {}
        for entry in read_ledger(self.ledger):
            if entry.phase == "begun":
                at_work[entry.nonce] = entry.pid
            else:
                at_work.pop(entry.nonce, None)
        counts: dict[int, int] = {}
        for pid in at_work.values():
            if is_alive(pid):
                counts[pid] = counts.get(pid, 0) + 1
        return counts

    # -- what people and other services do meanwhile

    @contextmanager
    def under_way(self, *, pace: float = 0.0) -> Iterator[None]:
        """Start all runs and answer all questions, in threads of their own, while faults hit."""
        threads = [
            threading.Thread(target=self._start_all, args=(pace,)),
            threading.Thread(target=self._answer_all, daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
            threads[0].join()
        finally:
            threads[0].join(timeout=120)

    @property
    def is_asked(self) -> bool:
        """Whether all runs have been asked for and acknowledged."""
        return len(self.journal.asked) == len(self._kinds) and all(
            one.run_id for one in self.journal.asked.values()
        )

    def finish(
        self,
        seconds: float = 120.0,
        *,
        in_time: bool = True,
        in_order: bool = False,
        crashes: int = 0,
    ) -> list[str]:
        """
        Wait for all runs to end, and return what was violated.

        Args:
            in_time: they must; False: what they are by then is judged.
            in_order, crashes: see `check`.
        """

        def has_ended() -> bool:
            self.replace_dead()
            runs = self.client.runs(limit=len(self._kinds) + 10)
            return len(runs) >= len(self._kinds) and all(run.status in END_OF_RUN for run in runs)

        try:
            wait_until(has_ended, seconds, "all runs to end")
        except AssertionError:
            if in_time:
                raise
        finally:
            self._over.set()
        for asked in list(self.journal.asked.values()):
            if asked.run_id in self._answers:
                amount = self._answers[asked.run_id]
                outputs = {"value": amount["amount"] + 1}
                self.journal.note(replace(asked, answer=amount, outputs=outputs))
        rows = gather(self.app)
        violations = check(
            self.journal.asked.values(),
            read_ledger(self.ledger),
            rows,
            in_order=in_order,
            crashes=crashes,
        )
        print(
            f"seed {self.seed}: {len(self._kinds)} runs, {len(read_ledger(self.ledger))} entries "
            f"of the ledger, {self.journal.unknown_replies} unknown replies; hit: {self.hits}"
        )
        return violations

    def close(self) -> None:
        self._over.set()
        self.app.close()

    def _start_all(self, pace: float) -> None:
        for number, name in enumerate(self._kinds):
            kind = KINDS[name]
            key = f"{name}-{number}"
            asked = Asked(
                key, None, "succeeded", None if kind.asks else kind.outputs, kind.executions
            )
            self.journal.note(asked)
            self.journal.note(replace(asked, run_id=self._start(name, key)))
            if pace:
                time.sleep(pace)
        self.app.database.release_thread()

    def _start(self, slug: str, key: str) -> str:
        """Ask until it is acknowledged: a reply that nobody got is asked for again by its key."""
        while True:
            try:
                return self.client.start(slug, key=key).run_id
            except (psycopg2.Error, IaflowError):
                self.journal.unknown_replies += 1
                time.sleep(0.1)

    def _answer_all(self) -> None:
        while not self._over.wait(0.1):
            try:
                for pause in self.client.inbox():
                    amount = {"amount": self.rng.randrange(1000)}
                    self._answer(pause.pause_id, pause.run_id, amount)
            except (psycopg2.Error, IaflowError):
                continue
        self.app.database.release_thread()

    def _answer(self, pause_id: str, run_id: str, amount: dict[str, Any]) -> None:
        # What is accepted is what was sent first: sent again with its key it is the same.
        amount = self._answers.setdefault(run_id, amount)
        try:
            self.client.answer(pause_id, amount, answered_by="somebody", key=run_id)
        except Conflict:
            self._answers[run_id] = amount

    # -- faults

    def kill_someone(self, *, heads: bool) -> None:
        """SIGKILL the head of a worker, with or without its children, or one child."""
        self.replace_dead()
        worker, live = self._find_someone()
        pids = worker.pids
        if heads or len(pids) < 2:
            self.hits.add("kills of a worker")
            self._count_live(live, pids)
            worker.kill()
            return
        pid = self.rng.choice([one for one in pids[1:] if live.get(one)] or pids[1:])
        self.hits.add("kills of a child")
        self._count_live(live, [pid])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _find_someone(self) -> tuple[WorkerProcess, dict[int, int]]:
        """Return a worker, best one that is at a step just now, and who is at how many."""
        deadline = time.monotonic() + 2
        while True:
            live = self.live_steps()
            busy = [one for one in self.workers if any(live.get(pid) for pid in one.pids)]
            if busy or time.monotonic() > deadline:
                return self.rng.choice(busy or self.workers), live

    def _count_live(self, live: dict[int, int], pids: Collection[int]) -> None:
        if any(live.get(pid) for pid in pids):
            self.hits.add("of these amid a step")

    def until(self, is_so: Callable[[], bool], act: Callable[[], None], least: float) -> None:
        """Do something again and again, `least` to four times that many seconds apart."""
        while not is_so():
            time.sleep(self.rng.uniform(least, 4 * least))
            act()


def gather(app: Application, *, limit: int = 10_000) -> Rows:
    """Return what the database says of all runs."""
    client = app.client
    table = app.database.tables.runs
    with app.database.engine.connect() as connection:
        keys = {
            str(run_id): key
            for run_id, key in connection.execute(
                sa.select(table.c.run_id, table.c.idempotency_key).limit(limit)
            )
        }
    found = []
    for run_id, key in keys.items():
        run = client.run(run_id)
        pauses = app.engine.pauses.list_open(run_id=run.run_id)
        rows = client.steps(run.run_id)
        found.append(
            RunRow(
                run.run_id,
                key,
                str(run.status),
                run.outputs,
                tuple(
                    StepRow(
                        step.step_id,
                        str(step.status),
                        step.attempt,
                        step.worker_losses,
                        step.output,
                    )
                    for step in rows
                ),
                tuple(
                    EventRow(
                        event.seq,
                        str(event.changes.get("run")),
                        tuple(
                            one[0]
                            for one in event.changes.get("steps", ())
                            if one[1] in ENDS and len(one) == 2
                        ),
                    )
                    for event in client.events(run.run_id)
                ),
                len(pauses),
                tuple(
                    {name: value for name, value in step.output.items() if name[0] != "_"}
                    for step in rows
                    if step.step_id == "ask" and step.index == NO_INDEX and step.output is not None
                ),
            )
        )
    return Rows(tuple(found))
