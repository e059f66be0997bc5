"""What steps may rely on when they use their database, on SQLite and on Postgres.

Decides whether transactions, tasks, threads, loops and forks keep out of each other's way;
starts a real Postgres.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from iaflow.database import DatabaseManager, lanes, migrator
from iaflow.database.manager import Transaction
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import NotReachable, SettingsRefused

Story = Callable[[DatabaseManager], Awaitable[None]]

LONG = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) "
    "SELECT count(*) AS n FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


@pytest.fixture(params=["memory", "file", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "sqlite://"
        case "file":
            return f"sqlite:///{tmp_path}/app.db"
        case _:
            return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["file", "postgres"])
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that several processes can open; one in memory belongs to its manager."""
    if request.param == "file":
        return f"sqlite:///{tmp_path}/app.db"
    return str(request.getfixturevalue("empty_postgres_url"))


def tell(url: str, story: Story, **options: Any) -> None:
    """Run a story about a database with one table in it, to its end."""

    async def run() -> None:
        async with DatabaseManager(url, **options) as db:
            await db.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer, note text)")
            await story(db)

    asyncio.run(run())


async def count(db: DatabaseManager) -> int:
    row = await db.fetch_one("SELECT count(*) AS n FROM t")
    assert row is not None
    return int(row["n"])


# --- statements


def test_the_three_verbs(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        insert = "INSERT INTO t VALUES (:id, :n, :note)"
        for i in range(3):
            assert await db.execute(insert, {"id": i, "n": i * i, "note": "it's"}) == 1
        assert await db.fetch_all(
            "SELECT id, n FROM t WHERE id > :low ORDER BY id", {"low": 0}
        ) == [
            {"id": 1, "n": 1},
            {"id": 2, "n": 4},
        ]
        assert await db.fetch_one("SELECT note FROM t ORDER BY id") == {"note": "it's"}
        assert await db.fetch_one("SELECT * FROM t WHERE id = :id", {"id": 9}) is None
        assert await db.execute("UPDATE t SET n = 0 WHERE id IN :ids", {"ids": [0, 2]}) == 2
        assert await db.execute("DELETE FROM t WHERE id IN :ids", {"ids": []}) == 0
        assert await db.execute("DELETE FROM t WHERE note LIKE 'it%' RETURNING id") == 3
        assert await db.fetch_all("INSERT INTO t (id) VALUES (7) RETURNING id") == [{"id": 7}]
        assert await db.fetch_all("DELETE FROM t") == []
        assert await db.fetch_one("DELETE FROM t") is None

    tell(url, story)


def test_values_come_back_as_they_went(url: str) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    async def story(db: DatabaseManager) -> None:
        types = {
            "sqlite": ("TEXT", "BLOB", "TEXT"),
            "postgresql": ("timestamptz", "bytea", "jsonb"),
        }
        instant, raw, document = types[db.database.dialect]
        await db.execute(f"CREATE TABLE v (at {instant}, raw {raw}, doc {document}, part numeric)")
        await db.execute(
            "INSERT INTO v VALUES (:at, :raw, :doc, :part)",
            {"at": noon, "raw": b"\x00\xff", "doc": {"ü": [1, None]}, "part": Decimal("1.25")},
        )
        row = await db.fetch_one("SELECT * FROM v")
        assert row is not None
        if db.database.dialect == "sqlite":
            assert row["at"] == "2026-03-01T10:00:00.000000+00:00"
            assert row["doc"] == '{"ü": [1, null]}'
        else:
            assert (row["at"], row["at"].utcoffset()) == (noon, timedelta(0))
            assert row["doc"] == {"ü": [1, None]}
        assert row["raw"] == b"\x00\xff"
        assert row["part"] == Decimal("1.25")

    tell(url, story)


def test_a_value_is_never_code(url: str) -> None:
    hostile = "'; DROP TABLE t; --"

    async def story(db: DatabaseManager) -> None:
        await db.execute("INSERT INTO t (id, note) VALUES (1, :note)", {"note": hostile})
        assert await db.fetch_one("SELECT note FROM t") == {"note": hostile}
        odd = db.quote_identifier('a"b; -- :c')
        await db.execute(f"CREATE TABLE {odd} (x integer)")
        assert await db.fetch_all(f"SELECT x FROM {odd}") == []
        with pytest.raises(ValueError, match="at least one character"):
            db.quote_identifier("")

    tell(url, story)


def test_what_cannot_be_right_is_refused_before_it_is_sent(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        for sql, params, said in (
            ("SELECT :a", None, "no value is given for :a"),
            ("SELECT 1", {"a": 1}, "the statement has no :a"),
            ("SELECT 1; SELECT 2", None, "2 statements"),
            ("ROLLBACK", None, r"db\.transaction"),
        ):
            with pytest.raises(ValueError, match=said):
                await db.fetch_all(sql, params)
            async with db.transaction() as tx:
                with pytest.raises(ValueError, match=said):
                    await tx.execute(sql, params)

    tell(url, story)


def test_two_columns_of_one_name_are_refused(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        with pytest.raises(ValueError, match="several columns are named id"):
            await db.fetch_all("SELECT a.id, b.id FROM t a JOIN t b ON a.id = b.id")

    tell(url, story)


def test_an_error_of_the_database_hides_the_values(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        await db.execute("INSERT INTO t (id) VALUES (1)")
        with pytest.raises(sa.exc.IntegrityError) as caught:
            await db.execute("INSERT INTO t (id, note) VALUES (1, :note)", {"note": "secret"})
        assert "secret" not in str(caught.value)
        assert await count(db) == 1

    tell(url, story)


# --- transactions


def test_a_transaction_is_kept_or_undone_as_a_whole(url: str) -> None:
    async def empty(db: DatabaseManager, kept: list[Transaction]) -> None:
        async with db.transaction() as tx:
            kept.append(tx)
            await tx.execute("DELETE FROM t")
            raise LookupError

    async def story(db: DatabaseManager) -> None:
        ended: list[Transaction] = []
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO t (id) VALUES (1)")
            await tx.execute("INSERT INTO t (id) VALUES (2)")
            assert len(await tx.fetch_all("SELECT id FROM t")) == 2
        assert await count(db) == 2
        with pytest.raises(LookupError):
            await empty(db, ended)
        assert await count(db) == 2
        with pytest.raises(RuntimeError, match="has ended"):
            await ended[0].fetch_one("SELECT 1 AS x")

    tell(url, story)


def test_a_failed_statement_spoils_its_transaction(url: str) -> None:
    async def go_on(db: DatabaseManager) -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO t (id) VALUES (1)")
            with pytest.raises(sa.exc.IntegrityError):
                await tx.execute("INSERT INTO t (id) VALUES (1)")
            with pytest.raises(RuntimeError, match="open another one"):
                await tx.execute("INSERT INTO t (id) VALUES (2)")

    async def story(db: DatabaseManager) -> None:
        with pytest.raises(RuntimeError, match="nothing of it was kept"):
            await go_on(db)
        assert await count(db) == 0

    tell(url, story)


def test_inside_a_transaction_the_database_itself_is_refused(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        async with db.transaction():
            with pytest.raises(RuntimeError, match="use what"):
                await db.fetch_all("SELECT 1 AS x")
            with pytest.raises(RuntimeError, match="use what"):
                async with db.transaction():
                    pass
            # A task that was started inside would be waited for inside.
            with pytest.raises(RuntimeError, match="use what"):
                await asyncio.create_task(count(db))
            async with DatabaseManager("sqlite://") as other, other.transaction() as inner:
                assert await inner.fetch_one("SELECT 1 AS x") == {"x": 1}
        assert await count(db) == 0

    tell(url, story)


def test_a_task_that_outlives_the_transaction_it_began_in_is_free(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        ended = asyncio.Event()

        async def later() -> int:
            await ended.wait()
            return await count(db)

        async with db.transaction():
            task = asyncio.create_task(later())
        ended.set()
        assert await task == 0

    tell(url, story)


def test_tasks_may_share_a_transaction(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        async with db.transaction() as tx:
            insert = "INSERT INTO t (id) VALUES (:id)"
            await asyncio.gather(*(tx.execute(insert, {"id": i}) for i in range(20)))
        assert await count(db) == 20

    tell(url, story)


def test_no_task_sees_what_another_has_not_committed(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        written, seen = asyncio.Event(), []

        async def write() -> None:
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t (id) VALUES (1)")
                written.set()
                await asyncio.sleep(0.05)
                await tx.execute("INSERT INTO t (id) VALUES (2)")

        async def look() -> None:
            await written.wait()
            seen.append(await count(db))

        await asyncio.gather(write(), look())
        # Postgres answers at once with what was there; SQLite's one connection comes later.
        assert seen in ([0], [2])
        assert await count(db) == 2

    tell(url, story)


def test_more_transactions_than_connections_all_come_to_their_end(url: str) -> None:
    async def add(db: DatabaseManager) -> None:
        async with db.transaction() as tx:
            await tx.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            await asyncio.sleep(0)
            await tx.fetch_one("SELECT n FROM t WHERE id = 1")

    async def story(db: DatabaseManager) -> None:
        await db.execute("INSERT INTO t (id, n) VALUES (1, 0)")
        await asyncio.gather(*(add(db) for _ in range(60)), *(count(db) for _ in range(60)))
        assert await db.fetch_one("SELECT n FROM t") == {"n": 60}

    tell(url, story, connections=2)


def test_a_full_house_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "WAIT_SECONDS", 0.1)

    async def story(db: DatabaseManager) -> None:
        blocked = asyncio.Event()

        async def hold() -> None:
            async with db.transaction():
                await blocked.wait()

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError, match=r"busy for 0\.1 s"):
            await count(db)
        waiting = asyncio.create_task(count(db))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        blocked.set()
        await holder
        # Neither the one who gave up nor the one who was cancelled took the place with it.
        assert await count(db) == 0

    tell(url, story, connections=1)


# --- cancelling


def test_a_cancelled_statement_has_ended(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(db.fetch_all(LONG[db.database.dialect]), 0.2)
        assert time.monotonic() - began < 20
        assert await count(db) == 0

    tell(url, story, connections=1)


def test_a_cancelled_transaction_is_undone(url: str) -> None:
    async def work(db: DatabaseManager) -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO t (id) VALUES (1)")
            await tx.fetch_all(LONG[db.database.dialect])

    async def story(db: DatabaseManager) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(db), 0.3)
        assert await count(db) == 0
        await db.execute("INSERT INTO t (id) VALUES (1)")
        assert await count(db) == 1

    tell(url, story, connections=1)


def test_the_server_ends_what_takes_too_long(empty_postgres_url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            await db.fetch_all("SELECT pg_sleep(60)")

    tell(empty_postgres_url, story, statement_seconds=0.2)


# --- threads, loops, processes, restarts


def test_the_event_loop_is_never_blocked(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        task = asyncio.create_task(db.fetch_all(LONG[db.database.dialect]))
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    tell(url, story)


def test_one_manager_serves_several_loops(url: str) -> None:
    db = DatabaseManager(url)
    asyncio.run(db.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer)"))
    asyncio.run(db.execute("INSERT INTO t VALUES (1, 0)"))

    async def add() -> None:
        async def once() -> None:
            async with db.transaction() as tx:
                await tx.execute("UPDATE t SET n = n + 1")

        await asyncio.gather(*(once() for _ in range(10)))

    threads = [threading.Thread(target=asyncio.run, args=(add(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asyncio.run(db.fetch_one("SELECT n FROM t")) == {"n": 40}
    asyncio.run(db.close())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_opens_connections_of_its_own(lasting_url: str) -> None:
    db = DatabaseManager(lasting_url)
    asyncio.run(db.execute("CREATE TABLE t (id integer PRIMARY KEY)"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(db.execute("INSERT INTO t (id) VALUES (1)"))
            asyncio.run(db.close())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(db.fetch_all("SELECT id FROM t")) == [{"id": 1}]
    asyncio.run(db.close())


def test_a_lost_connection_is_replaced(empty_postgres_url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        await count(db)
        async with DatabaseManager(empty_postgres_url) as other:
            await other.fetch_all(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await count(db) == 0

    tell(empty_postgres_url, story)


# --- beside iaflow's own tables


def test_iaflow_s_own_tables_are_in_the_same_database(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        await db.migrate()
        migrator.require_current(db.database)
        await asyncio.to_thread(
            PipelineStore(db.database).publish,
            content_hash="0" * 64,
            slug="hello",
            version="1.0",
            name="Hello",
            description="",
            document='{"name":"Hello"}',
            now=datetime.now(UTC),
        )
        place = "pipelines" if db.database.schema is None else "iaflow.pipelines"
        assert await db.fetch_all(f"SELECT slug FROM {place}") == [{"slug": "hello"}]

    tell(url, story)


def test_stores_and_steps_share_a_database_without_losing_a_write(url: str) -> None:
    async def story(db: DatabaseManager) -> None:
        await db.migrate()
        store = PipelineStore(db.database)

        def publish(i: int) -> None:
            store.publish(
                content_hash=f"{i:064d}",
                slug="busy",
                version="1.0",
                name="Busy",
                description="",
                document="{}",
                now=datetime.now(UTC),
            )

        async def insert(i: int) -> None:
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO t (id) VALUES (:id)", {"id": i})

        await asyncio.gather(
            *(asyncio.to_thread(publish, i) for i in range(30)), *(insert(i) for i in range(30))
        )
        assert await count(db) == 30
        numbers = [version.number for version in store.list_versions("busy")]
        assert numbers == list(range(30, 0, -1))

    tell(url, story)


# --- the manager itself


def test_read_only_refuses_every_write(url: str) -> None:
    async def story() -> None:
        async with DatabaseManager(url, read_only=True) as db:
            assert await db.fetch_one("SELECT 1 AS x") == {"x": 1}
            with pytest.raises(sa.exc.DBAPIError, match=r"read-?only"):
                await db.execute("CREATE TABLE t (id integer)")
            with pytest.raises(sa.exc.DBAPIError, match=r"read-?only"):
                async with db.transaction() as tx:
                    await tx.execute("CREATE TABLE t (id integer)")
            # The tables of iaflow are another matter.
            await db.migrate()

    asyncio.run(story())


def test_the_password_is_not_shown() -> None:
    db = DatabaseManager("postgresql://me:secret@127.0.0.1:1/none")
    assert repr(db) == "DatabaseManager('postgresql://me:***@127.0.0.1:1/none')"
    assert "secret" in db.url
    with pytest.raises(NotReachable) as caught:
        asyncio.run(db.fetch_all("SELECT 1"))
    assert "secret" not in str(caught.value)
    asyncio.run(db.close())


def test_other_databases_are_refused() -> None:
    with pytest.raises(SettingsRefused, match="use sqlite or postgresql"):
        DatabaseManager("mysql://host/name")


def test_closing_twice_is_no_harm_and_a_file_can_be_opened_again(url: str) -> None:
    async def story() -> None:
        db = DatabaseManager(url)
        await db.execute("CREATE TABLE u (id integer)")
        await db.close()
        await db.close()
        if url == "sqlite://":
            await db.execute("CREATE TABLE u (id integer)")
        assert await db.fetch_all("SELECT * FROM u") == []
        await db.close()

    asyncio.run(story())


@asynccontextmanager
async def _as_a_host_does(url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(url) as db:
        yield db


@pytest.fixture
def host_db(url: str) -> Iterator[DatabaseManager]:
    db = DatabaseManager(url)
    yield db
    asyncio.run(db.close())


def test_a_manager_may_be_opened_in_one_context_and_used_in_another(
    host_db: DatabaseManager,
) -> None:
    async def story() -> None:
        async with _as_a_host_does("sqlite://") as other, other.transaction() as tx:
            assert await tx.fetch_one("SELECT 1 AS x") == {"x": 1}
            assert await host_db.fetch_one("SELECT 2 AS x") == {"x": 2}

    asyncio.run(story())
