"""Worlds (`world.py`) to be asked by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.world import World
from tests.servers import ServerRoom


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
