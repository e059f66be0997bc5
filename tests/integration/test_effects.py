"""What a step does in `context.transaction()` happens with its completion, once, or not at all.

In memory, on SQLite and on Postgres, with faults at every place between the step's last
statement and the commit; and with workers that are killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.data.records import StepRecord
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.errors import Fail, Skip
from iaflow.pipeline import Step
from iaflow.pipeline.attempt import Attempt
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import load_settings
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker

pytestmark = pytest.mark.timeout(180)

INSERT = "INSERT INTO ledger (step, attempt) VALUES (:step, :attempt)"
COUNT = "SELECT count(*) AS n FROM ledger"


class Writes(Step):
    """Writes a row, looks at it, and ends as `config.then` says."""

    async def work(self, data: Any) -> Any:
        context = self.context
        async with context.transaction() as tx:
            row = {"step": context.step_id, "attempt": context.attempt}
            assert await tx.execute(INSERT, row) == 1
            found = await tx.fetch_one(COUNT)
        await asyncio.sleep(self.config.get("seconds", 0))
        match self.config.get("then"):
            case "fail":
                raise Fail("never")
            case "skip":
                raise Skip("nothing to do")
            case "fail once" if context.attempt == 1:
                raise OSError("once")
            case "no object":
                return "text"
        assert found is not None
        return {"seen": found["n"]}


class WritesInThread(Step):
    def work(self, data: Any) -> Any:
        with self.context.transaction() as tx:
            tx.execute(INSERT, {"step": self.context.step_id, "attempt": self.context.attempt})
            return {"seen": tx.fetch_all(COUNT)[0]["n"]}


class WritesTwice(Step):
    """Two blocks that are kept, and one between them that is left by an exception."""

    async def work(self, data: Any) -> Any:
        for number in range(3):
            try:
                async with self.context.transaction() as tx:
                    await tx.execute(INSERT, {"step": "block", "attempt": number})
                    if number == 1:
                        raise ValueError("undo this one")  # noqa: TRY301
            except ValueError:
                continue
        return {}


class ThinksAgain(Step):
    """A statement fails, and the step goes on without it."""

    async def work(self, data: Any) -> Any:
        try:
            async with self.context.transaction() as tx:
                await tx.execute("INSERT INTO nowhere VALUES (1)")
        except Exception:  # noqa: BLE001  of either driver
            async with self.context.transaction() as tx:
                await tx.execute(INSERT, {"step": "second thought", "attempt": 1})
        return {}


def always(context: Any) -> bool:
    return True


class Place:
    """An application on one database, with the application's own table beside iaflow's."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self._write("CREATE TABLE ledger (step text, attempt integer)")

    def _write(self, sql: str) -> None:
        database = self.app.database
        with database.alone(), database.engine.connect() as connection:
            connection.execute(sa.text(sql))
            if database.dialect != "sqlite":
                connection.commit()

    def write(self, sql: str) -> None:
        self._write(sql)

    def rows(self) -> list[tuple[str, int]]:
        database = self.app.database
        with database.alone(), database.engine.connect() as connection:
            found = connection.execute(sa.text("SELECT step, attempt FROM ledger ORDER BY 1, 2"))
            return [(row[0], row[1]) for row in found]

    def start(self, *steps: dict[str, Any], edges: list[dict[str, Any]] | None = None) -> str:
        if edges is None:
            edges = [{"from": one["id"], "to": two["id"]} for one, two in itertools.pairwise(steps)]
        document = {
            "name": "effects",
            "steps": [
                {"module": "tests.integration.test_effects", "inputs": {}, **step} for step in steps
            ],
            "flow": {"start_at": steps[0]["id"], "transitions": edges},
        }
        graph = compile_definition(document)
        self.app.client.save(graph)
        return self.app.client.start_graph(graph).run_id

    def drive(self, run_id: str) -> RunStatus:
        async def go() -> RunStatus:
            async with open_local_executor(self.app) as executor:
                return await executor.drive(run_id)

        return asyncio.run(go())

    def step(self, run_id: str, step_id: str) -> StepRecord:
        return {step.step_id: step for step in self.app.client.steps(run_id)}[step_id]


@pytest.fixture(params=("memory", "sqlite", "postgres"))
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    match request.param:
        case "memory":
            url = "sqlite://"
        case "sqlite":
            url = f"sqlite:///{tmp_path / 'effects.db'}"
        case _:
            url = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("IAFLOW_DATABASE_URL", url)
    monkeypatch.setenv("IAFLOW_STEP_MODULES", "tests.integration.test_effects")
    app = open_application(load_settings())
    yield Place(app)
    app.close()


def writes(then: str | None = None, **more: Any) -> dict[str, Any]:
    step_id = more.pop("id", "writes")
    return {
        "id": step_id,
        "step_class": "Writes",
        "config": {"then": then, **more.pop("config", {})},
        **more,
    }


# --- kept with the completion, undone without it


def test_effects_are_kept_with_the_completion(place: Place) -> None:
    run_id = place.start(
        writes(), writes(id="more"), {"id": "plain", "step_class": "WritesInThread"}
    )
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.rows() == [("more", 1), ("plain", 1), ("writes", 1)]
    # Each step sees what those before it have committed, and its own.
    assert [step.output for step in place.app.client.steps(run_id)] == [
        {"seen": 1},
        {"seen": 2},
        {"seen": 3},
    ]


@pytest.mark.parametrize("then", ("fail", "no object"))
def test_effects_of_a_failed_attempt_are_undone(place: Place, then: str) -> None:
    run_id = place.start(writes(then))
    assert place.drive(run_id) is RunStatus.FAILED
    assert place.rows() == []


def test_effects_of_a_step_that_skips_itself_are_undone(place: Place) -> None:
    run_id = place.start(writes("skip"))
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.step(run_id, "writes").status is StepStatus.SKIPPED
    assert place.rows() == []


def test_of_two_attempts_the_one_that_succeeds_is_kept(place: Place) -> None:
    run_id = place.start(writes("fail once", error_handling={"retries": 1}))
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.rows() == [("writes", 2)]


def test_effects_of_an_attempt_that_times_out_are_undone(place: Place) -> None:
    run_id = place.start(writes(config={"seconds": 60}, error_handling={"timeout": 0.3}))
    assert place.drive(run_id) is RunStatus.FAILED
    assert place.rows() == []


def test_blocks_of_one_attempt_are_one_transaction(place: Place) -> None:
    run_id = place.start({"id": "twice", "step_class": "WritesTwice"})
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.rows() == [("block", 0), ("block", 2)]


def test_a_statement_that_fails_leaves_the_transaction_usable(place: Place) -> None:
    run_id = place.start({"id": "thinks", "step_class": "ThinksAgain"})
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.rows() == [("second thought", 1)]


def test_a_condition_in_code_judges_before_the_effects_are_kept(place: Place) -> None:
    """Our part of the transaction is undone to ask the worker, the step's part is not."""
    function = {"module": "tests.integration.test_effects", "function": "always"}
    condition = {"type": "function", "config": function}
    edges = [{"from": "writes", "to": "more", "condition": condition}]
    run_id = place.start(writes(), writes(id="more"), edges=edges)
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert place.rows() == [("more", 1), ("writes", 1)]


def test_parallel_steps_with_transactions_do_not_meet(place: Place) -> None:
    """On SQLite one after the other, on Postgres side by side; nobody is refused."""
    branches = [writes(id=f"b{n}", config={"seconds": 0.05}) for n in range(8)]
    edges = [{"from": "root", "to": one["id"]} for one in branches]
    run_id = place.start(writes(id="root"), *branches, edges=edges)
    assert place.drive(run_id) is RunStatus.SUCCEEDED
    assert len(place.rows()) == 9


def test_effects_that_the_database_refuses_at_the_commit_fail_the_attempt(place: Place) -> None:
    """A constraint that is judged at the commit: with a code, and retried by the policy."""
    if place.app.database.dialect == "sqlite":
        place.write("DROP TABLE ledger")
        place.write("CREATE TABLE parents (id integer primary key)")
        place.write(
            "CREATE TABLE ledger (step text, attempt integer references parents(id) "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
    else:
        place.write(
            "ALTER TABLE ledger ADD CONSTRAINT once UNIQUE (step) DEFERRABLE INITIALLY DEFERRED"
        )
        place.write("INSERT INTO ledger VALUES ('writes', 0)")
    before = place.rows()
    run_id = place.start(writes(error_handling={"retries": 1}))
    assert place.drive(run_id) is RunStatus.FAILED
    step = place.step(run_id, "writes")
    assert step.error is not None
    assert (step.error["code"], step.attempt) == ("transaction_failed", 2)
    assert place.rows() == before


# --- a claim that is lost meanwhile


def test_effects_of_a_lost_claim_never_happen(place: Place) -> None:
    """A zombie: its lease ran out, another attempt completed, and then it comes back."""
    run_id = place.start(writes())
    engine = place.app.engine
    loader = StepLoader(["tests.integration.test_effects"])

    async def work(gone: bool) -> None:
        [task] = engine.claims.ready_of_run(run_id)
        claimed = engine.claim(task, "zombie")
        assert claimed is not None
        attempt = Attempt(claimed, engine, loader, ServiceRegistry())
        outcome = await attempt.run()
        assert outcome is not None
        if gone:
            if place.app.database.dialect == "sqlite":
                # One writer: the other can only come once this one has let go.
                attempt.close()
                return
            assert engine.claims.mark_released(
                run_id, "writes", -1, token=claimed.claim.token, now=engine.clock.now()
            )
            await work(gone=False)
        settled = engine.settle(claimed, outcome, effects=attempt.effects)
        assert settled.is_stale is gone
        attempt.close()

    asyncio.run(work(gone=True))
    expected = [] if place.app.database.dialect == "sqlite" else [("writes", 1)]
    assert place.rows() == expected


# --- workers


STEPS = """
import os
from pathlib import Path

from iaflow.pipeline import Step


class Writes(Step):
    async def work(self, data):
        async with self.context.transaction() as tx:
            await tx.execute(
                "INSERT INTO ledger (step, attempt) VALUES (:step, 1)",
                {"step": self.context.run_id},
            )
        gate = Path(os.environ["EFFECTS_ROOM"]) / self.context.run_id
        if self.config.get("die") and not gate.exists():
            gate.touch()
            os._exit(9)
        return {}
"""


def test_on_workers_that_die_and_connections_that_are_cut_each_effect_happens_once(
    tmp_path: Path,
    postgres_url: str,
    redis_url: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """40 runs: children die after writing, backends are terminated; one row for each run."""
    monkeypatch.setenv("IAFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("IAFLOW_BROKER_URL", redis_url)
    (tmp_path / "effect_steps.py").write_text(STEPS)
    app = open_application(load_settings())
    place = Place(app)
    worker = start_worker(
        database_url=postgres_url,
        redis_url=redis_url,
        modules=("effect_steps",),
        pythonpath=(tmp_path,),
        concurrency=2,
        env={
            "EFFECTS_ROOM": str(tmp_path),
            "IAFLOW_LEASE_SECONDS": "1",
            "IAFLOW_SWEEP_SECONDS": "0.3",
            "IAFLOW_REPUBLISH_SECONDS": "1",
        },
    )
    runs = [
        place.start(
            {
                "id": "writes",
                "module": "effect_steps",
                "step_class": "Writes",
                "config": {"die": n % 4 == 0},
            }
        )
        for n in range(40)
    ]
    cut = 0
    killer = psycopg2.connect(postgres_url)
    killer.autocommit = True

    def is_over() -> bool:
        nonlocal cut
        if cut < 10:
            cursor = killer.cursor()
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN (SELECT pid "
                "FROM pg_stat_activity WHERE datname = current_database() AND "
                "state = 'idle in transaction' ORDER BY random() LIMIT 1)"
            )
            cut += cursor.rowcount
        return all(app.client.run(run_id).status in END_OF_RUN for run_id in runs)

    wait_until(is_over, 90, "the end of all runs")
    killer.close()
    died = sum(1 for run_id in runs if (tmp_path / run_id).exists())
    print(f"{died} children died after writing, {cut} open transactions were cut")
    assert died == 10
    assert {app.client.run(run_id).status for run_id in runs} == {RunStatus.SUCCEEDED}
    assert sorted(step for step, _ in place.rows()) == sorted(runs)
    os.kill(worker.pids[0], signal.SIGTERM)
    app.close()
