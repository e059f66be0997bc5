"""Houses (`houses.py`) on each database, for the tests of what an engine has learnt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.houses import House, Journal, VirtualClock, renew_journal
from tests.servers import ServerRoom


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
