"""The options of the conformance suite, known to pytest before any test is collected.

Decides which cases are run and on what; never reads a case's meaning. Loaded as a plugin by
`tests/conftest.py`, since options of a folder deeper down come too late for a whole run.
"""

from __future__ import annotations

import pytest

from tests.conformance.reading import Case, NotACase, read_cases

__all__ = ["DEFAULT", "PLACES", "chosen_cases", "chosen_places", "is_default"]

PLACES = ("memory", "sqlite", "postgres", "celery", "rabbitmq")
"""`celery` and `rabbitmq` are real workers, with messages by Redis and by RabbitMQ."""
IN_VIRTUAL_TIME = ("memory", "sqlite")
DEFAULT: pytest.StashKey[tuple[Case, ...] | None] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "the suite of cases (tests/conformance)")
    group.addoption(
        "--cases",
        action="append",
        default=[],
        metavar="PATH",
        help="a case, or a folder of cases, to be run instead of the shared ones; repeatable",
    )
    group.addoption(
        "--on",
        action="append",
        default=[],
        choices=PLACES,
        help="where cases are run; by default in memory and on SQLite, in virtual time",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[DEFAULT] = None
    if not config.getoption("cases"):
        return
    folder = config.invocation_params.dir
    try:
        cases = [case for path in config.getoption("cases") for case in read_cases(folder / path)]
    except NotACase as error:
        raise pytest.UsageError(f"--cases: {error}") from error
    config.stash[DEFAULT] = tuple(cases)


def chosen_cases(config: pytest.Config) -> tuple[Case, ...] | None:
    """Return the cases of the command line, or None if it names none."""
    return config.stash[DEFAULT]


def chosen_places(config: pytest.Config) -> tuple[str, ...]:
    """Return where the cases are to be run."""
    named: list[str] = config.getoption("on")
    if named:
        return tuple(dict.fromkeys(named))
    return IN_VIRTUAL_TIME if config.getoption("cases") else PLACES


def is_default(config: pytest.Config) -> bool:
    """Tell whether nothing was said on the command line: the whole suite is run."""
    return not config.getoption("on") and not config.getoption("cases")
