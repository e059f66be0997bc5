"""What other services do: start in their own transaction, by name over the broker, and wait.

The database, the broker and the worker are real; the services are programs of their own where
that is the point.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy as sa
from celery import Celery
from sqlalchemy.orm import Session

from iaflow.async_client import AsyncClient
from iaflow.client import Client
from iaflow.data.records import RunRecord
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.database.statements import Statement
from iaflow.errors import Conflict, InputRefused, NotFound, SettingsRefused
from iaflow.pipeline.importer import PipelineImportService
from iaflow.settings import load_settings
from tests.servers import WorkerProcess, wait_until
from tests.servers.fixtures import StartWorker

pytestmark = pytest.mark.timeout(120)

DEADLINE = 60.0

STEPS = """
from iaflow.pipeline import Step


class Book(Step):
    async def work(self, data):
        return {"booked": data["number"]}
"""

ORDER = {
    "name": "Order",
    "parameters": {"number": 0},
    "input_schema": {"type": "object", "properties": {"number": {"type": "integer"}}},
    "steps": [{"id": "book", "module": "shop_steps", "step_class": "Book"}],
    "flow": {"start_at": "book"},
    "outputs": {"number": "{{ book.booked }}"},
}

ASKED = {
    "name": "Asked",
    "steps": [
        {"id": "book", "module": "shop_steps", "step_class": "Book", "inputs": {"number": 1}},
        {
            "id": "approve",
            "type": "human_input",
            "config": {
                "ui_schema": {"title": "Fine?", "fields": [{"name": "note", "type": "text"}]}
            },
        },
    ],
    "flow": {"start_at": "book", "transitions": [{"from": "book", "to": "approve"}]},
}


class Shop:
    """A service beside iaflow, on the same Postgres: its own table, its connections, a client."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, start: StartWorker) -> None:
        self.folder = folder
        self.database_url = database_url
        self.redis_url = redis_url
        self._start_worker = start
        self.engine = sa.create_engine(
            database_url.replace("postgresql://", "postgresql+psycopg2://")
        )
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE orders (number integer primary key)"))
        self.clients: list[Client] = []

    def client(self, **options: Any) -> Client:
        self.clients.append(Client(self.database_url, **options))
        return self.clients[-1]

    def worker(self, **env: str) -> WorkerProcess:
        # The sweep must not be what publishes: it would hide a message that was never sent.
        slow = {"IAFLOW_SWEEP_SECONDS": "60", "IAFLOW_REPUBLISH_SECONDS": "600", **env}
        return self._start_worker(
            database_url=self.database_url,
            redis_url=self.redis_url,
            modules=("shop_steps",),
            pythonpath=(self.folder,),
            env=slow,
        )

    def connect(self, **options: Any) -> Any:
        return psycopg2.connect(self.database_url, **options)

    def orders(self) -> int:
        with self.engine.connect() as connection:
            count: int = connection.execute(sa.text("SELECT count(*) FROM orders")).scalar_one()
        return count


@pytest.fixture
def shop(
    tmp_path: Path,
    postgres_url: str,
    redis_url: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    monkeypatch.setenv("IAFLOW_DATABASE_URL", postgres_url)
    monkeypatch.setenv("IAFLOW_BROKER_URL", redis_url)
    (tmp_path / "shop_steps.py").write_text(STEPS)
    (tmp_path / "pipelines").mkdir()
    for name, document in (("order", ORDER), ("asked", ASKED)):
        (tmp_path / "pipelines" / f"{name}.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    asyncio.run(import_all(postgres_url, tmp_path / "pipelines"))
    shop = Shop(tmp_path, postgres_url, redis_url, start_worker)
    yield shop
    for client in shop.clients:
        client.close()
    shop.engine.dispose()


async def import_all(url: str, folder: Path) -> None:
    from iaflow.database import DatabaseManager

    db = DatabaseManager(url)
    await PipelineImportService(db, folder).import_all_pipelines()
    await db.close()


INSERT = "INSERT INTO orders VALUES (7)"


def start_by_engine(shop: Shop, client: Client, *, keep: bool) -> str:
    with shop.engine.connect() as connection:
        connection.execute(sa.text(INSERT))
        run_id = client.start("order-v1", {"number": 7}, connection=connection).run_id
        assert_unseen(shop, run_id)
        connection.commit() if keep else connection.rollback()
    return run_id


def start_by_session(shop: Shop, client: Client, *, keep: bool) -> str:
    with Session(shop.engine) as session:
        session.execute(sa.text(INSERT))
        with session.begin_nested():
            # A savepoint that is released is no commit: nobody can see the run yet.
            run_id = client.start("order-v1", {"number": 7}, connection=session).run_id
        assert_unseen(shop, run_id)
        session.commit() if keep else session.rollback()
    return run_id


def start_by_psycopg2(shop: Shop, client: Client, *, keep: bool) -> str:
    connection = shop.connect(cursor_factory=psycopg2.extras.RealDictCursor)
    connection.cursor().execute(INSERT)
    run_id = client.start("order-v1", {"number": 7}, connection=connection).run_id
    assert_unseen(shop, run_id)
    connection.commit() if keep else connection.rollback()
    connection.close()
    assert client.notify() == int(keep)
    return run_id


def assert_unseen(shop: Shop, run_id: str) -> None:
    with pytest.raises(NotFound):
        shop.client().run(run_id)


WAYS = (start_by_engine, start_by_session, start_by_psycopg2)


@pytest.mark.parametrize("start", WAYS)
def test_a_run_that_is_started_in_a_transaction_is_committed_with_it(
    shop: Shop, start: Callable[..., str]
) -> None:
    """One order and one run, which a worker is told of at once, not by the sweep."""
    client = shop.client()
    shop.worker()
    run_id = start(shop, client, keep=True)
    run = client.wait(run_id, timeout=20)
    assert (run.status, run.outputs) == (RunStatus.SUCCEEDED, {"number": 7})
    assert (shop.orders(), len(client.runs())) == (1, 1)


@pytest.mark.parametrize("start", WAYS)
def test_a_run_that_is_started_in_a_transaction_is_rolled_back_with_it(
    shop: Shop, start: Callable[..., str]
) -> None:
    client = shop.client()
    run_id = start(shop, client, keep=False)
    assert (shop.orders(), client.runs()) == (0, [])
    with pytest.raises(NotFound):
        client.run(run_id)


def test_a_start_that_is_refused_leaves_the_callers_transaction_as_it_was(shop: Shop) -> None:
    """An input that does not fit, a key that stands for another start: the order can be saved."""
    client = shop.client()
    client.start("order-v1", {"number": 1}, key="k")
    with shop.engine.connect() as connection:
        connection.execute(sa.text(INSERT))
        with pytest.raises(InputRefused):
            client.start("order-v1", {"number": "many"}, connection=connection)
        with pytest.raises(NotFound):
            client.start("ordr-v1", connection=connection)
        with pytest.raises(Conflict, match="'k' already stands for run"):
            client.start("order-v1", {"number": 2}, key="k", connection=connection)
        connection.commit()
    assert (shop.orders(), len(client.runs())) == (1, 1)


def test_two_transactions_with_one_key_start_one_run(shop: Shop) -> None:
    """The second waits for the first, and is given its run."""
    client = shop.client()
    first = shop.engine.connect()
    started = client.start("order-v1", {"number": 7}, key="k", connection=first)
    found: list[Any] = []

    def start_again() -> None:
        with shop.engine.begin() as second:
            second.execute(sa.text(INSERT))
            found.append(client.start("order-v1", {"number": 7}, key="k", connection=second))

    thread = threading.Thread(target=start_again)
    thread.start()
    wait_until(lambda: is_somebody_waiting(shop), DEADLINE, "the second start to wait")
    first.commit()
    thread.join(DEADLINE)
    first.close()
    assert [one.run_id for one in found] == [started.run_id]
    assert (started.is_new, found[0].is_new) == (True, False)
    assert (shop.orders(), len(client.runs())) == (1, 1)


def is_somebody_waiting(shop: Shop) -> bool:
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with shop.engine.connect() as connection:
        return bool(connection.execute(sa.text(waits)).scalar_one())


def test_connections_that_would_not_undo_the_start_are_refused(shop: Shop) -> None:
    client = shop.client()
    bare = shop.connect()
    bare.autocommit = True
    with pytest.raises(SettingsRefused, match="autocommit mode"):
        client.start("order-v1", connection=bare)
    bare.cursor().execute("BEGIN")
    client.start("order-v1", connection=bare)
    bare.cursor().execute("ROLLBACK")
    bare.close()
    with (
        shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(SettingsRefused, match="autocommit mode"),
    ):
        client.start("order-v1", connection=connection)
    with pytest.raises(SettingsRefused, match="give a SQLAlchemy Connection"):
        client.start("order-v1", connection=object())
    assert client.runs() == []


def test_a_connection_to_another_database_says_so(shop: Shop, empty_postgres_url: str) -> None:
    client = shop.client()
    other = psycopg2.connect(empty_postgres_url)
    with pytest.raises(Exception, match="without iaflow's tables in the schema iaflow"):
        client.start("order-v1", connection=other)
    other.cursor().execute("SELECT 1")  # the caller's transaction is still of use
    other.close()


# --- by name, over the broker


PRODUCER = """
import json
import sys

from celery import Celery

app = Celery(broker=sys.argv[1])
app.send_task(
    "iaflow.start_run",
    args=["order-v1", json.dumps({"number": 42})],
    kwargs={"key": "order-42", "started_by": "shop"},
    queue="iaflow",
)
"""


def test_a_program_with_only_celery_starts_a_run_by_name(shop: Shop) -> None:
    """A second program: it has neither iaflow nor its settings, only the broker's URL."""
    shop.worker()
    client = shop.client()
    script = shop.folder / "producer.py"
    script.write_text(textwrap.dedent(PRODUCER))
    for _ in range(2):  # sent twice, with its key: one run
        subprocess.run(
            [sys.executable, "-I", str(script), shop.redis_url], check=True, timeout=DEADLINE
        )
    [run] = wait_for_runs(client, 1)
    assert (run.status, run.outputs, run.started_by) == (
        RunStatus.SUCCEEDED,
        {"number": 42},
        "shop",
    )


def test_a_start_whose_message_comes_twice_starts_one_run(shop: Shop) -> None:
    """Without a key of its own the message's id stands for one."""
    shop.worker()
    client = shop.client()
    app = Celery(broker=shop.redis_url)
    same = str(uuid.uuid4())
    for task_id in (same, same, str(uuid.uuid4())):
        app.send_task(
            "iaflow.start_run", args=["order-v1", '{"number": 1}'], queue="iaflow", task_id=task_id
        )
    assert len(wait_for_runs(client, 2)) == 2


def test_starts_by_name_that_cannot_be_are_said_and_the_worker_goes_on(shop: Shop) -> None:
    refused: list[tuple[list[Any], str]] = [
        (["order-v1", "{"], "this is not JSON"),
        (["order-v1", "[1]"], "the input is a JSON object"),
        (["order-v1", {"number": 1}], "the input travels as JSON text"),
        (["order-v1", '{"number": "x"}'], "/number"),
        (["nothing-v1", "{}"], "there is no pipeline"),
    ]
    worker = shop.worker()
    client = shop.client()
    app = Celery(broker=shop.redis_url)
    for args, _ in refused:
        app.send_task("iaflow.start_run", args=args, queue="iaflow")
    app.send_task("iaflow.start_run", args=["order-v1"], queue="iaflow")
    assert len(wait_for_runs(client, 1)) == 1
    lines = [one for one in worker.read_log().splitlines() if "start refused" in one]
    reasons = [json.loads(line)["reason"] for line in lines]
    assert len(reasons) == len(refused)
    for reason, (_, said) in zip(reasons, refused, strict=True):
        assert said in reason


def wait_for_runs(client: Client, count: int) -> list[RunRecord]:
    def ended() -> list[RunRecord]:
        runs = client.runs()
        return runs if len(runs) >= count and all(r.status in END_OF_RUN for r in runs) else []

    return wait_until(ended, DEADLINE, f"the end of {count} runs")


# --- waiting, and on an event loop


def test_waiting_ends_with_the_run_at_a_question_and_at_the_time(shop: Shop) -> None:
    client = shop.client()
    run_id = client.start("asked-v1").run_id
    with pytest.raises(TimeoutError, match=r"still on its way after 0\.2 s"):
        client.wait(run_id, timeout=0.2)
    shop.worker(IAFLOW_REPUBLISH_SECONDS="0.5", IAFLOW_SWEEP_SECONDS="0.3")
    assert client.wait(run_id, timeout=30).status is RunStatus.WAITING
    [pause] = client.inbox(run_id)
    client.answer(pause.pause_id, {"note": "yes"}, answered_by="ann")
    # Not the state before the worker has taken the answer up.
    assert client.wait(run_id, timeout=30).status is RunStatus.SUCCEEDED
    with pytest.raises(NotFound):
        client.wait(str(uuid.uuid4()))


def test_the_same_on_an_event_loop(shop: Shop) -> None:
    shop.worker()

    async def serve() -> list[RunStatus]:
        async with AsyncClient(shop.database_url) as client:
            started = await asyncio.gather(
                *(client.start("order-v1", {"number": n}, key=f"k{n % 5}") for n in range(5))
            )
            waiting = await client.start("asked-v1")
            ends = [await client.wait(one.run_id, timeout=30) for one in started]
            assert (await client.wait(waiting.run_id, timeout=30)).status is RunStatus.WAITING
            [pause] = await client.inbox(waiting.run_id)
            await client.answer(pause.pause_id, {"note": "yes"}, answered_by="ann")
            last = await client.wait(waiting.run_id, timeout=30)
            with pytest.raises(Conflict):
                await client.answer(pause.pause_id, {"note": "no"}, answered_by="bob")
            return [run.status for run in (*ends, last)]

    assert asyncio.run(serve()) == [RunStatus.SUCCEEDED] * 6


def test_a_client_on_sqlite_joins_its_applications_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    settings = load_settings().with_database(url)
    with Client(settings=settings) as client:
        (tmp_path / "shop_steps.py").write_text(STEPS)
        (tmp_path / "pipelines").mkdir()
        (tmp_path / "pipelines" / "order.json").write_text(json.dumps(ORDER))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("IAFLOW_STEP_MODULES", "shop_steps")
        asyncio.run(import_all(url, tmp_path / "pipelines"))
        engine = sa.create_engine(url)
        for keep in (False, True):
            with engine.connect() as connection:
                client.start("order-v1", connection=connection)
                connection.commit() if keep else connection.rollback()
            assert len(client.runs()) == int(keep)
        engine.dispose()


def test_a_client_reads_on_after_its_connection_was_cut(shop: Shop) -> None:
    """Postgres was restarted while nobody asked: the next question is answered all the same."""
    client = shop.client()
    assert client.runs() == []
    with shop.engine.begin() as connection:
        ended = connection.execute(
            sa.text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).scalar_one()
    assert ended >= 1
    assert client.runs() == []


def test_only_what_reads_is_asked_again() -> None:
    """A change whose reply was lost may have happened: sending it again could do it twice."""
    table = sa.table("things", sa.column("name"))
    changed = sa.update(table).values(name="x").returning(table.c.name).cte("changed")
    reads = {
        "plain": (sa.select(table.c.name), True),
        "locking": (sa.select(table.c.name).with_for_update(skip_locked=True), False),
        "changing": (sa.update(table).values(name="x").returning(table.c.name), False),
        "changing inside": (sa.select(changed.c.name), False),
        "locking by number": (sa.select(sa.func.pg_try_advisory_lock(1)), False),
    }
    found = {name: Statement(name, core).is_read for name, (core, _) in reads.items()}
    assert found == {name: is_read for name, (_, is_read) in reads.items()}
