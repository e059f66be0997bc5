"""Pruning by processes of its own: killed amid, by the command line, by workers beside their work.

Whatever is cut off, a run is there as a whole or not at all, and the next pass leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.history import copy_run, lengthen_run
from iaflow.bootstrap import Application
from iaflow.client import Client
from iaflow.data.status import RunStatus
from tests.integration.fleets import DEADLINE, Broker, Fleet, chain, start, wait_for_end
from tests.integration.houses import House, Journal, document
from tests.integration.test_pruning import CHAIN, count_orphans, there
from tests.servers import wait_until
from tests.servers.worker import ROOT

LONG = 20_000
"""Rows of the run that many transactions are needed for."""


def begin_to_prune(house: House) -> subprocess.Popen[str]:
    url = house.database.url.render_as_string(hide_password=False)
    command = ("db", "prune", "--db", url, "--older-than", "0s", "--json")
    return subprocess.Popen(
        [sys.executable, "-m", "iaflow.cli", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=("sqlite", "postgres"))
def house(request: pytest.FixtureRequest, tmp_path: Path, journal: Journal) -> House:
    """A house in real time, with a few hundred runs that have ended."""
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    house = House(url if is_file else request.getfixturevalue("postgres_url"))
    long = house.run(CHAIN).run_id
    copied = house.run(CHAIN).run_id
    if is_file:
        for _ in range(150):
            house.run(CHAIN)
        return house
    with house.database.engine.begin() as connection:
        copy_run(connection, house.database.tables, copied, 5_000)
        lengthen_run(connection, house.database.tables, long, LONG)
    return house


@pytest.mark.parametrize("kills", (1, 4))
def test_a_pruner_that_is_killed_leaves_no_half(house: House, kills: int) -> None:
    """It dies at any place, again and again: who reads meets whole runs alone."""
    waiting = house.start(document({"a": {}}, name="young"))
    for _ in range(kills):
        kill_amid(house)
        assert_whole(house)
    assert there(house, waiting) == [True]

    process = begin_to_prune(house)
    said, complaints = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, complaints
    assert json.loads(said)["dry_run"] is False
    assert count_orphans(house) == {}
    assert [run.run_id for run in Client(engine=house.engine).runs()] == [waiting]
    house.database.close()


def kill_amid(house: House) -> None:
    """Kill a pruner once it has removed something."""

    def count() -> int:
        return int(house.ask("SELECT count(*) FROM {}events")[0][0])

    before = count()
    process = begin_to_prune(house)
    wait_until(lambda: count() < before or process.poll() is not None, DEADLINE, "a removal")
    process.kill()
    process.communicate()


def assert_whole(house: House) -> None:
    """Assert that of every run that is read all rows are there."""
    halves = house.ask(
        "SELECT r.run_id FROM {}runs r JOIN {}run_payloads p ON p.run_id = r.run_id"
        " WHERE r.seq <> (SELECT count(*) FROM {}events e WHERE e.run_id = r.run_id)"
        " OR (r.finished_at IS NOT NULL AND (2, 2, 1) > ("
        " (SELECT count(*) FROM {}steps s WHERE s.run_id = r.run_id),"
        " (SELECT count(*) FROM {}step_payloads s WHERE s.run_id = r.run_id),"
        " (SELECT count(*) FROM {}decisions d WHERE d.run_id = r.run_id)))"
    )
    assert halves == []


@pytest.mark.parametrize("broker", ("redis",), indirect=True)
def test_workers_prune_beside_their_work(
    fleet: Fleet, open_app: Callable[..., Application], broker: Broker
) -> None:
    """What ended goes by itself where a retention is set; what waits at a gate stays, and ends."""
    first = fleet.worker()
    old = [start(fleet.app, chain(length=2)) for _ in range(5)]
    wait_for_end(fleet.app, *old)
    gated = start(fleet.app, chain("s0", length=2))
    fleet.room.wait_at_gate(gated, "s0")
    assert there_in(fleet.app, *old) == [True] * 5
    first.kill()

    fleet.room.environment["IAFLOW_RETENTION_DAYS"] = "0.000001"
    fleet.worker(concurrency=2)
    wait_until(lambda: not any(there_in(fleet.app, *old)), DEADLINE, "old runs to be removed")
    fleet.room.open_gates()
    [ended] = wait_for_end(fleet.app, gated)
    assert ended.status is RunStatus.SUCCEEDED


def there_in(app: Application, *run_ids: str) -> list[bool]:
    return [app.engine.reads.run(run_id) is not None for run_id in run_ids]
