"""Two processes share the tests of a run that takes more than one folder, each with its servers.

Decides which tests stay together and which have the machine to themselves; never what a test
does. Loaded as a plugin by `tests/conftest.py`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.servers.fixtures import describe_left

__all__ = ["VARIABLE", "Parts", "choose_processes", "part_of", "taking_turns"]

VARIABLE = "IAFLOW_TEST_PROCESSES"
PROCESSES = 2

ONE_BY_ONE = (
    "tests/chaos/",
    "tests/integration/test_kills.py",
    "tests/integration/test_worker_life.py",
)
"""Long tests that share nothing: one process need not do all of a file."""


# First: before xdist looks how many processes there are to be.
@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    option = config.option
    if hasattr(config, "workerinput"):
        return
    # Whoever named a number has decided; whoever debugs or lists wants one process.
    if getattr(option, "numprocesses", 0) is not None or option.dist != "no":
        return
    if option.usepdb or option.collectonly or option.capture == "no":
        return
    option.numprocesses = choose_processes(config.args, config.rootpath) or None


def choose_processes(arguments: Sequence[str], root: Path) -> int:
    """Return how many processes share a run of these files and folders; 0: this one does all."""
    here = root / "tests"
    folders: set[Path] = set()
    for argument in arguments:
        path = (root / argument.partition("::")[0]).resolve()
        if path in (root, here):
            folders.update(entry.parent for entry in here.glob("*/test_*.py"))
        elif path.is_relative_to(here):
            folders.add(here / path.relative_to(here).parts[0])
    wanted = int(os.environ.get(VARIABLE) or PROCESSES)
    return wanted if len(folders) > 1 and wanted > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Parts | None:
    return Parts(config, log) if config.option.dist == "load" else None


class Parts(LoadScopeScheduling):
    """Gives out parts in the order of collection: the quick units come last, and fill the gaps."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return part_of(nodeid)


def part_of(nodeid: str) -> str:
    """Return the part that a test belongs to: one process does all of it, in its order."""
    file, _, name = nodeid.partition("::")
    if file.startswith(ONE_BY_ONE):
        return nodeid
    if file == "tests/conformance/test_conformance.py":
        # All cases of a place are played by the same workers.
        return f"{file}::{name.partition('[')[2].partition('-')[0]}"
    return file


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    describe_left(getattr(node, "workeroutput", {}).get("left_running", []))


# First: waiting for others is not a test's own time, which pytest-timeout measures.
@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not hasattr(item.config, "workerinput"):
        return (yield)
    # Below the folder of the process that gives out the parts.
    folder = Path(item.config.option.basetemp).parent
    with taking_turns(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def taking_turns(folder: Path, *, alone: bool) -> Iterator[None]:
    """Keep out, meanwhile, those that want the machine to themselves; all others if `alone`."""
    with ExitStack() as stack:
        turn = stack.enter_context((folder / "turn.lock").open("w"))
        inside = stack.enter_context((folder / "inside.lock").open("w"))
        # In turns: those who come later do not slip in before one that waits to be alone.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
