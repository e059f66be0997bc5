"""A deployment with people in it, in virtual time; a world with a server, in real time.

Decides what the tests of this folder start from; hashing is cheap here but where cost is what is
tested. Read by pytest.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.deployments import Deployment
from tests.security.world import World
from tests.servers import ServerRoom

KEY = secrets.token_urlsafe(48)


@pytest.fixture(scope="module")
def module_postgres_url(server_room: ServerRoom, postgres_template: str) -> Iterator[str]:
    """One database for all tests of a file, which each of them leaves empty."""
    url = server_room.create_database(postgres_template)
    yield url
    server_room.postgres.drop_database(url)


@pytest.fixture(params=("sqlite", "postgres"))
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """An empty database with Ann, who is admin, and Bob, who views."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'accounts.db'}"
    else:
        url = request.getfixturevalue("module_postgres_url")
    deployment = Deployment(url, KEY)
    yield deployment
    deployment.leave()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Deployment]:
    """The same on SQLite alone, for what no statement decides."""
    deployment = Deployment(f"sqlite:///{tmp_path / 'accounts.db'}", KEY)
    yield deployment
    deployment.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world on a file of SQLite, for all tests of a file."""
    folder: Path = tmp_path_factory.mktemp("world")
    with World(f"sqlite:///{folder / 'runs.db'}") as world:
        yield world


@pytest.fixture(scope="module")
def postgres_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on Postgres, for all tests of a file."""
    room: ServerRoom = request.getfixturevalue("server_room")
    url = room.create_database(request.getfixturevalue("postgres_template"))
    with World(url) as world:
        yield world
    room.postgres.drop_database(url)
