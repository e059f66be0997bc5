"""The pytest plugin with the fixtures for real servers and workers.

Decides how long each of them lives: servers for the run, databases for a test. Never starts a
server before a test asks for it. Loaded by `tests/conftest.py`, or with `-p tests.servers.fixtures`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.servers.guardian import SESSION_VARIABLE
from tests.servers.installing import NotInstalled
from tests.servers.postgres import OwnPostgresServer, PostgresServer
from tests.servers.rabbitmq import OwnRabbitServer, RabbitServer
from tests.servers.room import ServerRoom
from tests.servers.valkey import OwnRedisServer, RedisServer
from tests.servers.worker import WorkerProcess

T = TypeVar("T")

ROOM: pytest.StashKey[ServerRoom] = pytest.StashKey()
# Settings of whoever runs the tests would change what they mean.
SETTINGS_OF_THE_PRODUCT = ("DATABASE_URL", "CELERY_BROKER_URL")


class StartWorker(Protocol):
    """
    What the fixture `start_worker` gives: the arguments are those of WorkerProcess.

    `redis_url` is the broker's, which may be another one.
    """

    def __call__(self, *, database_url: str, redis_url: str, **options: Any) -> WorkerProcess: ...


# First: pytest's own folder for `tmp_path` goes into the room, to be removed with it.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name in list(os.environ):
        ours = name.startswith("IAFLOW_") and not name.startswith("IAFLOW_TEST_")
        if ours or name in SETTINGS_OF_THE_PRODUCT or name == SESSION_VARIABLE:
            del os.environ[name]
    room = config.stash[ROOM] = ServerRoom()
    if config.option.basetemp is None:
        config.option.basetemp = str(room.directory / "tests")


def pytest_report_header(config: pytest.Config) -> list[str]:
    room = config.stash[ROOM]
    return [
        f"postgres: {room.describe_postgres()}",
        f"redis: {room.describe_redis()}",
        f"rabbitmq: {room.describe_rabbitmq()}",
    ]


# Last: fixtures of the session are gone by then.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # One of several processes has nobody to tell later (tests/distribution.py).
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_running"] = close_room(session.config)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    describe_left(close_room(config))


def close_room(config: pytest.Config) -> list[str]:
    """End all that the run has started; return what the tests should have ended."""
    room = config.stash.get(ROOM, None)
    if room is None:
        return []
    del config.stash[ROOM]
    return room.close()


def describe_left(left: list[str]) -> None:
    if left:
        print("\nended by the guardian, because the tests left it running:", *left, sep="\n  ")


@pytest.fixture(scope="session")
def server_room(pytestconfig: pytest.Config) -> ServerRoom:
    """The room of this run; for tests that need more servers than the fixtures below give."""
    return pytestconfig.stash[ROOM]


@pytest.fixture(scope="session")
def postgres_server(server_room: ServerRoom) -> PostgresServer:
    """The shared Postgres. Not to be stopped: `private_postgres` is for that."""
    return server_room.postgres


@pytest.fixture(scope="session")
def postgres_template(server_room: ServerRoom) -> str:
    """The name of the database that was migrated once and is copied for each test."""
    from iaflow.database import migrator

    return server_room.make_template(migrator.upgrade)


@pytest.fixture
def postgres_url(
    server_room: ServerRoom, postgres_server: PostgresServer, postgres_template: str
) -> Iterator[str]:
    """The URL of a fresh database with the product's tables, dropped after the test."""
    url = server_room.create_database(postgres_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(server_room: ServerRoom, postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database without any table, dropped after the test."""
    url = server_room.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def start_postgres(server_room: ServerRoom) -> Iterator[Callable[..., OwnPostgresServer]]:
    """A function that starts a Postgres for this test alone; takes `durable=`."""
    started: list[OwnPostgresServer] = []

    def start(*, durable: bool = True) -> OwnPostgresServer:
        server = server_room.open_postgres(durable=durable)
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def private_postgres(start_postgres: Callable[..., OwnPostgresServer]) -> OwnPostgresServer:
    """A durable Postgres for this test alone, to be stopped, started and crashed."""
    return start_postgres(durable=True)


@pytest.fixture
def redis_server(server_room: ServerRoom) -> Iterator[RedisServer]:
    """The shared Redis; running again and empty after a test that stopped or flushed it."""
    server = server_room.redis
    yield server
    if isinstance(server, OwnRedisServer) and not server.pids:
        server.start()


@pytest.fixture
def redis_url(server_room: ServerRoom, redis_server: RedisServer) -> Iterator[str]:
    """The URL of an empty logical database, emptied again after the test."""
    url = server_room.take_redis_database()
    redis_server.flush(url)
    yield url
    if not isinstance(redis_server, OwnRedisServer) or redis_server.pids:
        redis_server.flush(url)


@pytest.fixture
def private_redis(server_room: ServerRoom) -> Iterator[RedisServer]:
    """A Redis for this test alone, to be stopped, started and crashed."""
    server = server_room.open_redis()
    yield server
    server.close()


@pytest.fixture
def rabbitmq_server(server_room: ServerRoom) -> Iterator[RabbitServer]:
    """The shared RabbitMQ, started at first use; running again after a test that stopped it."""
    server = take_or_skip(lambda: server_room.rabbitmq)
    yield server
    if isinstance(server, OwnRabbitServer) and not server.pids:
        server.start()


@pytest.fixture
def rabbitmq_url(server_room: ServerRoom, rabbitmq_server: RabbitServer) -> str:
    """The URL of a vhost without queues."""
    return server_room.take_vhost()


def take_or_skip(take: Callable[[], T]) -> T:
    """Return a server, or skip the test where it is neither installed nor to be had."""
    try:
        return take()
    except NotInstalled as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture
def start_worker(server_room: ServerRoom, tmp_path: Path) -> Iterator[StartWorker]:
    """A function that starts a Celery worker and waits until it is ready; killed after the test."""
    started: list[WorkerProcess] = []

    def start(*, database_url: str, redis_url: str, **options: Any) -> WorkerProcess:
        worker = WorkerProcess(
            database_url=database_url,
            redis_url=redis_url,
            log_directory=tmp_path,
            guardian=server_room.guardian,
            **options,
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
