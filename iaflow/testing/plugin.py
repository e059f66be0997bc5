"""The pytest plugin: fixtures for tests of pipelines, there as soon as iaflow is installed.

Decides what a test gets by name; never imports iaflow's rooms before a test asks, since every
pytest run of an environment with iaflow loads this file. Loaded by pytest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from iaflow.rehearsal.outcome import Rehearsal

__all__ = ["iaflow_database", "rehearse"]


@pytest.fixture
def rehearse() -> Callable[..., Rehearsal]:
    """`iaflow.testing.rehearse`: run a pipeline in virtual time, with stubs and a script."""
    from iaflow import testing

    return testing.rehearse


@pytest.fixture
def iaflow_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new SQLite database with iaflow's tables, and the one that settings name."""
    from iaflow.database import migrator

    url = f"sqlite:///{tmp_path / 'iaflow.db'}"
    migrator.upgrade(url)
    monkeypatch.setenv("IAFLOW_DATABASE_URL", url)
    return url
