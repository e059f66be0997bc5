"""Webs (`webs.py`) on every database: a server, accounts of every role, and a carrier of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.servers import ServerRoom
from tests.web.people import People
from tests.web.webs import PATIENCE, Web


@pytest.fixture(scope="module", params=("sqlite", "postgres"))
def web_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database for all tests of a file."""
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("web")
        yield f"sqlite:///{folder / 'runs.db'}"
        return
    room: ServerRoom = request.getfixturevalue("server_room")
    url = room.create_database(request.getfixturevalue("postgres_template"))
    yield url
    room.postgres.drop_database(url)


@pytest.fixture(scope="module")
def web(web_url: str) -> Iterator[Web]:
    """A server for all tests of a file, with an account for each of `USERS`."""
    with Web(web_url) as web:
        yield web


@pytest.fixture(scope="module")
def people(web: Web) -> Iterator[People]:
    """Who makes accounts, questions and definitions in it, for tests about people."""
    with httpx2.Client(base_url=web.url, timeout=PATIENCE, trust_env=False) as http:
        yield People(web, http)
