"""Behind PgBouncer in transaction mode: a storm of kills, and databases that are only read.

The server's connections are fewer than the clients', and each transaction gets another one; the
zone of the server is far from UTC, since nothing that a connection asks for at its start is in
force. Left out where PgBouncer is neither installed nor to be had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import psycopg2
import pytest
import sqlalchemy as sa

from iaflow.cli.diagnosing import find_all
from iaflow.database import migrator
from iaflow.database.manager import DatabaseManager
from iaflow.settings import Settings
from tests.chaos.storm import Storm
from tests.servers import ServerRoom
from tests.servers.fixtures import StartWorker, take_or_skip
from tests.servers.postgres import OwnPostgresServer
from tests.servers.valkey import OwnRedisServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def pooled_url(
    server_room: ServerRoom,
    start_postgres: Callable[..., OwnPostgresServer],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """The URL of an empty database, by way of the pooler."""
    server = start_postgres(durable=False)
    pooler = take_or_skip(lambda: server_room.open_pooler(server.url))
    url = server.create_database()
    server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET timezone = 'Asia/Kathmandu'")
    monkeypatch.setenv("IAFLOW_PREPARE_STATEMENTS", "false")
    yield pooler.url_of(url)
    pooler.close()
    server.drop_database(url)


def test_workers_are_killed_behind_a_pooler(
    pooled_url: str,
    own_redis: OwnRedisServer,
    start_worker: StartWorker,
    server_room: ServerRoom,
    seed: int,
) -> None:
    """60 runs, 8 kills: every connection that a transaction was lent comes back as it was."""
    migrator.upgrade(pooled_url)
    folder = server_room.make_directory("pooled")
    storm = Storm(folder, pooled_url, own_redis.url, start_worker, seed=seed, runs=60)
    try:
        for _ in range(2):
            storm.worker()
        with storm.under_way(pace=0.1):
            for kill in range(8):
                time.sleep(storm.rng.uniform(0.1, 0.8))
                storm.kill_someone(heads=kill == 5)
        assert storm.finish() == []
        assert storm.hits.counts["of these amid a step"] >= 5
        backends = count_backends(pooled_url)
        clients = sum(len(worker.pids) for worker in storm.workers)
        print(f"{backends} connections of the server served at least {clients} processes")
        assert backends <= 4 < clients
    finally:
        storm.close()


def count_backends(url: str) -> int:
    """Return how many connections the server has to the database."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend'"
        )
        [(count,)] = cursor.fetchall()
    connection.close()
    return int(count)


def test_what_is_only_read_is_not_written_behind_a_pooler_either(pooled_url: str) -> None:
    async def story() -> None:
        async with DatabaseManager(pooled_url) as db:
            await db.execute("CREATE TABLE t (at timestamptz)")
            await db.execute("INSERT INTO t VALUES ('2026-01-02T03:04:05Z')")
        async with DatabaseManager(pooled_url, read_only=True) as db:
            assert await db.fetch_one("SELECT count(*) AS n FROM t") == {"n": 1}
            with pytest.raises(sa.exc.DBAPIError, match="read-only"):
                await db.execute("DELETE FROM t")
            with pytest.raises(sa.exc.DBAPIError, match="read-only"):
                async with db.transaction() as tx:
                    await tx.execute("DELETE FROM t")
        async with DatabaseManager(pooled_url) as db:
            assert await db.execute("DELETE FROM t") == 1

    asyncio.run(story())


def test_the_doctor_sees_the_pooler(pooled_url: str) -> None:
    migrator.upgrade(pooled_url)
    chosen = Settings().model_copy(update={"database_url": pooled_url})
    found = {one.name: one for one in find_all(chosen, do_import=False)}
    assert found["database"].verdict == found["schema"].verdict == "ok"
    assert found["connection"].verdict == "warn"
    assert "pooler" in found["connection"].message
