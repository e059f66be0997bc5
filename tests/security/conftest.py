"""A deployment with people in it, in virtual time, on either database.

Decides what the tests of this folder start from; hashing is cheap here but where cost is what is
tested. Read by pytest.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.deployments import Deployment

KEY = secrets.token_urlsafe(48)


@pytest.fixture(params=("sqlite", "postgres"))
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A database of this test alone, with Ann, who is admin, and Bob, who views."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'accounts.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    deployment = Deployment(url, KEY)
    yield deployment
    deployment.close()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Deployment]:
    """The same on SQLite alone, for what no statement decides."""
    deployment = Deployment(f"sqlite:///{tmp_path / 'accounts.db'}", KEY)
    yield deployment
    deployment.close()
