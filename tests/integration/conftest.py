"""Houses (`houses.py`) for what an engine has learnt, fleets (`fleets.py`) for what may befall one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.settings import load_settings
from tests.integration.fleets import Broker, Fleet, Room
from tests.integration.houses import House, Journal, VirtualClock, renew_journal
from tests.servers import RabbitServer, RedisServer, ServerRoom
from tests.servers.fixtures import StartWorker


@pytest.fixture(scope="module")
def module_postgres_url(server_room: ServerRoom, postgres_template: str) -> Iterator[str]:
    """One database for all tests of a file: they share it as a deployment's runs do."""
    url = server_room.create_database(postgres_template)
    yield url
    server_room.postgres.drop_database(url)


@pytest.fixture
def journal() -> Journal:
    """An empty journal, which the steps of the houses write."""
    return renew_journal()


@pytest.fixture(params=("memory", "sqlite", "postgres"))
def house(request: pytest.FixtureRequest, tmp_path: Path, journal: Journal) -> Iterator[House]:
    """A house in virtual time, audited after the test."""
    house = House(url_of(request.param, request, tmp_path), VirtualClock())
    yield house
    house.leave()


@pytest.fixture(params=("sqlite", "postgres"))
def shared_house(
    request: pytest.FixtureRequest, tmp_path: Path, journal: Journal
) -> Iterator[House]:
    """A house in real time with a lease of a second, on a database that several threads share."""
    house = House(url_of(request.param, request, tmp_path), lease_seconds=1.0)
    yield house
    house.leave()


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    match kind:
        case "memory":
            return "sqlite://"
        case "sqlite":
            return f"sqlite:///{folder / 'runs.db'}"
        case _:
            url: str = request.getfixturevalue("module_postgres_url")
            return url


@pytest.fixture
def room(tmp_path: Path, server_room: ServerRoom) -> Iterator[Room]:
    """The steps and their ledger; every process that was started from it is ended."""
    room = Room(tmp_path, server_room.guardian)
    yield room
    room.close()


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Application]]:
    """A function that opens the application on a database, with a broker or without."""
    opened: list[Application] = []

    def open_app(url: str, broker: str | None = None) -> Application:
        monkeypatch.setenv("IAFLOW_DATABASE_URL", url)
        if broker is not None:
            monkeypatch.setenv("IAFLOW_BROKER_URL", broker)
        opened.append(open_application(load_settings()))
        return opened[-1]

    yield open_app
    for app in opened:
        app.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """A Redis of this test's own, or the RabbitMQ of all: it is emptied and stopped."""
    if getattr(request, "param", "redis") == "rabbitmq":
        server: RabbitServer = request.getfixturevalue("rabbitmq_server")
        return Broker(server, request.getfixturevalue("rabbitmq_url"))
    redis: RedisServer = request.getfixturevalue("private_redis")
    return Broker(redis, redis.url)


@pytest.fixture
def fleet(
    room: Room,
    postgres_url: str,
    broker: Broker,
    start_worker: StartWorker,
    open_app: Callable[..., Application],
) -> Iterator[Fleet]:
    """No worker yet: a test starts as many as it needs."""
    fleet = Fleet(open_app(postgres_url, broker.url), room, start_worker, broker)
    yield fleet
    fleet.close()
