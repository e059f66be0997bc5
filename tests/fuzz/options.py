"""The options of the fuzzers, known to pytest before any test is collected.

Decides how many definitions are drawn, and from which seed. Loaded as a plugin by
`tests/conftest.py`.
"""

from __future__ import annotations

import pytest

__all__ = ["chosen_seeds"]

COUNT = 200
"""Definitions in a run that names no number."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "random definitions (tests/fuzz)")
    group.addoption(
        "--count", type=int, default=COUNT, metavar="N", help="how many definitions are drawn"
    )
    group.addoption(
        "--seed", type=int, default=0, metavar="N", help="the first seed; a printed one replays"
    )


def chosen_seeds(config: pytest.Config) -> range:
    """Return the seeds of the definitions to be drawn."""
    first: int = config.getoption("seed")
    count: int = config.getoption("count")
    return range(first, first + count)
