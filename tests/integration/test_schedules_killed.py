"""Processes that fire schedules on one SQLite file and are killed amid it: each instant once.

`test_schedules.py` does the same on Postgres, with the mutants.

One process that has imported everything forks those that fire, so that thirty of them can be
killed within seconds. What they left is judged from the rows.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from iaflow.data.schedules import FireRecord
from iaflow.data.status import FireStatus
from iaflow.pipeline.firing import timetable_of
from iaflow.scheduling import Schedules
from tests.integration.houses import House, document
from tests.servers import ServerRoom, wait_until
from tests.servers.worker import ROOT

KILLS = 30
SWEEPERS = 3
DEADLINE = 60.0

SWEEP = '''
"""Forks a process that sweeps for each line of stdin, and says its id."""

import os
import signal
import sys

from iaflow.pipeline.judging import conclude_alone
from iaflow.pipeline.maintenance import stage
from iaflow.pipeline.runner import open_database, open_engine
from iaflow.settings import load_settings


def serve():
    engine = open_engine(open_database(load_settings()), load_settings())
    while True:
        for duty in stage(engine).duties:
            conclude_alone(duty.verb)


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        serve()
    print(pid, flush=True)
'''


class Nursery:
    """The process that forks sweepers, and the sweepers that live."""

    def __init__(self, folder: Path, url: str, guardian: object) -> None:
        script = folder / "sweep.py"
        script.write_text(SWEEP)
        environment = {**os.environ, "IAFLOW_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
        self._log = (folder / "sweepers.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._guardian = guardian
        self.alive: list[int] = []

    def fork(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self._guardian.watch(pid)  # type: ignore[attr-defined]
        self.alive.append(pid)

    def kill(self, pid: int) -> None:
        self.alive.remove(pid)
        os.kill(pid, signal.SIGKILL)
        self._guardian.forget(pid)  # type: ignore[attr-defined]

    def close(self) -> None:
        for pid in list(self.alive):
            self.kill(pid)
        self._process.communicate()
        self._log.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[House]:
    """A house in real time on a file."""
    house = House(f"sqlite:///{tmp_path / 'shared.db'}")
    yield house
    house.database.close()


def prepare(house: House, *, schedules: int, seconds: int) -> dict[str, list[datetime]]:
    """Make schedules that had to fire each second until now; return their instants."""
    house.publish(document({"only": {}}, name="beaten"))
    desk = Schedules(house.engine, lambda tasks: None)
    now = house.clock.now()
    instants = {}
    for number in range(schedules):
        name = f"beat-{number:02}"
        known = desk.put(name, "beaten", every=timedelta(seconds=1), misfire="all")
        past = replace(known, starts_at=now - timedelta(seconds=seconds), ends_at=now)
        past = replace(past, next_at=past.starts_at)
        with house.database.transaction() as tx:
            house.engine.schedules.put(tx, past)
        instants[name] = list(timetable_of(past).instants_until(now))
    return instants


def count_fires(house: House) -> int:
    return int(house.ask("SELECT count(*) FROM {}schedule_fires")[0][0])


def find_violations(
    instants: Mapping[str, Iterable[datetime]],
    fires: Iterable[FireRecord],
    runs: Mapping[str, str],
) -> list[str]:
    """
    Return what is wrong, judged from what must have fired, the history and the runs.

    Args:
        runs: who started each, by its id.
    """
    expected = Counter((name, instant) for name, listed in instants.items() for instant in listed)
    listed = list(fires)
    found = Counter((fire.name, fire.fire_at) for fire in listed)
    wrong = [f"{one} fired {count} times" for one, count in found.items() if count > 1]
    wrong += [f"{one} did not fire" for one in expected - found]
    wrong += [f"{one} was no instant" for one in found - expected if one not in expected]
    wrong += [f"{f} did not start" for f in listed if f.status is not FireStatus.STARTED]
    started = {f.run_id: f.name for f in listed if f.run_id is not None}
    wrong += [f"run {run_id} has no fire" for run_id in runs if run_id not in started]
    for run_id, name in started.items():
        if runs.get(str(run_id)) != f"schedule:{name}":
            wrong.append(f"the run {run_id} of {name} is not there")
    return wrong


def judge(house: House, instants: Mapping[str, Iterable[datetime]]) -> list[str]:
    fires = [
        fire for name in instants for fire in house.engine.schedules.fires(name, limit=100_000)
    ]
    rows = house.ask("SELECT CAST(run_id AS TEXT), started_by FROM {}runs")
    return find_violations(instants, fires, {row[0]: row[1] for row in rows})


@pytest.mark.slow
def test_thirty_kills_amid_fires(shared: House, tmp_path: Path, server_room: ServerRoom) -> None:
    house, draw = shared, random.Random(18)
    instants = prepare(house, schedules=24, seconds=90)
    total = sum(map(len, instants.values()))
    nursery = Nursery(tmp_path, house.database.url.render_as_string(False), server_room.guardian)
    amid = kills = 0
    try:
        for _ in range(SWEEPERS):
            nursery.fork()
        while kills < KILLS:
            before = count_fires(house)
            more = min(before + draw.randint(5, 40), total)
            wait_until(lambda more=more: count_fires(house) >= more, DEADLINE, "more fires")
            nursery.kill(draw.choice(nursery.alive))
            kills += 1
            amid += count_fires(house) < total
            nursery.fork()
        wait_until(lambda: count_fires(house) >= total, DEADLINE, "all fires")
    finally:
        nursery.close()
    wrong = judge(house, instants)
    left = house.engine.schedules.find_due(now=house.clock.now())
    print(
        f"{house.database.dialect}: {len(instants)} schedules, {total} instants, {SWEEPERS} "
        f"processes, {kills} kills, {amid} of them before the last fire: {len(wrong)} violations"
    )
    assert wrong == []
    assert left == []
    assert amid >= KILLS // 2
