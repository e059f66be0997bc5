"""Failpoints (RELIABILITY F2, F3, F19): processes that die, stall or lose their database exactly
before and after each commit, publish and receipt. Each place must have been hit as planned.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iaflow.failpoints import FOLDER_VARIABLE, VARIABLE
from tests.chaos.storm import LEASE, Storm, gather
from tests.servers import is_alive
from tests.servers.worker import ROOT

pytestmark = pytest.mark.timeout(300)

MakeStorm = Callable[[int], Storm]

OFTEN = (
    "mark_running",
    "move_step",
    "insert_step",
    "insert_event",
    "insert_decision",
    "put_payload",
    "update_run",
    "lock_run",
)
"""Statements of a claim and of a settle, which every step has."""

SELDOM = ("insert_pause", "extend_lease", "stage_due", "mark_rescued", "mark_republished")
"""Statements of questions, heartbeats, retries and of the sweep."""

AROUND = ("message.received", "settle.before", "publish.before", "publish.after")


def plan(storm: Storm, action: str) -> dict[str, str]:
    """Return where the action happens once: at visits that are drawn."""
    places = {f"{name}.{side}": 40 for name in OFTEN for side in ("before_commit", "after_commit")}
    places |= {f"{name}.{side}": 1 for name in SELDOM for side in ("before_commit", "after_commit")}
    if action == "kill":
        places |= dict.fromkeys(AROUND, 40)
    return {
        place: f"{place}={action}@{storm.rng.randint(1, latest)}"
        for place, latest in places.items()
    }


def arm(storm: Storm, text: str) -> dict[str, str]:
    folder = storm.folder / "failpoints"
    folder.mkdir(exist_ok=True)
    return {VARIABLE: text, FOLDER_VARIABLE: str(folder)}


def read_hits(folder: Path) -> dict[str, int]:
    return {
        path.stem: len(path.read_text().splitlines())
        for path in sorted((folder / "failpoints").glob("*.hits"))
    }


@pytest.mark.parametrize("action", ("kill", "lose"))
def test_each_place_is_survived(make_storm: MakeStorm, action: str) -> None:
    """F3: a process dies, or its database is gone, once at each side of each commit."""
    storm = make_storm(120)
    planned = plan(storm, action)
    for _ in range(2):
        storm.worker(**arm(storm, ",".join(planned.values())))
    with storm.under_way(pace=0.1):
        while not storm.is_asked:
            time.sleep(0.5)
            storm.replace_dead()
    violations = storm.finish()
    hits = read_hits(storm.folder)
    missed = sorted(planned.keys() - hits.keys())
    print(f"{action}: {len(hits)} of {len(planned)} places hit once; not reached: {missed}")
    assert violations == []
    assert set(hits.values()) == {1}
    assert missed == []


@pytest.mark.parametrize("place", ("settle.before", "move_step.before_commit"))
def test_zombies_write_nothing(make_storm: MakeStorm, place: str) -> None:
    """
    F2: processes that have done a step's work are stopped beyond its lease, and go on then.

    Once before their transaction, so that others take the step; once amid it, holding its rows.
    """
    storm = make_storm(80)
    zombies = 8
    env = arm(storm, f"{place}=stop:0*{zombies}@5/35")
    for _ in range(3):
        storm.worker(**env)
    hits = storm.folder / "failpoints" / f"{place}.hits"
    with waking(hits) as woken:
        with storm.under_way(pace=0.15):
            pass
        violations = storm.finish(in_order=place == "settle.before")
    losses = sum(step.worker_losses for run in gather(storm.app).runs for step in run.steps)
    print(f"{len(woken)} processes stopped at {place}, {losses} steps taken from them")
    assert violations == []
    assert len(woken) == zombies
    if place == "settle.before":
        assert losses >= zombies // 2


@contextmanager
def waking(hits: Path) -> Iterator[list[int]]:
    """Let each process that has stopped itself go on, two and a half leases later."""
    woken: list[int] = []
    over = threading.Event()

    def watch() -> None:
        asleep: dict[int, float] = {}
        seen = 0
        while not over.is_set() or asleep:
            lines = hits.read_text().splitlines() if hits.exists() else []
            for line in lines[seen:]:
                asleep[int(line.split()[1])] = time.monotonic() + 2.5 * LEASE
            seen = len(lines)
            for pid, at in list(asleep.items()):
                if time.monotonic() >= at:
                    del asleep[pid]
                    if is_alive(pid):
                        os.kill(pid, signal.SIGCONT)
                        woken.append(pid)
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield woken
    finally:
        over.set()
        thread.join()


# --- clients that die between a commit and its reply

CLIENT = """
import json
import sys

from iaflow.client import Client

slug, count, journal = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with Client() as client:
    for number in range(count):
        run_id = client.start(slug, key=f"client-{number}").run_id
        with open(journal, "a") as file:
            file.write(json.dumps([f"client-{number}", run_id]) + "\\n")
    while len(open_questions := client.inbox()) and slug == "question":
        for pause in open_questions:
            client.answer(pause.pause_id, {"amount": 7}, answered_by="a client", key=pause.pause_id)
"""

CLIENT_PLACES = ("insert_run", "mark_answered")


def test_clients_are_killed_around_their_commits(make_storm: MakeStorm) -> None:
    """F19 in small: a client dies before and after each commit; asked again by key, all is once."""
    storm = make_storm(0)
    (storm.folder / "client.py").write_text(CLIENT)
    storm.worker()
    journal = storm.folder / "acknowledged"
    places = [
        f"{name}.{side}" for name in CLIENT_PLACES for side in ("before_commit", "after_commit")
    ]
    env = arm(storm, ",".join(f"{place}=kill*3@2" for place in places))
    environment = {
        **os.environ,
        **env,
        "IAFLOW_DATABASE_URL": storm.database_url,
        "IAFLOW_BROKER_URL": storm.broker_url,
        "PYTHONPATH": str(ROOT),
    }
    deaths = 0
    for _ in range(60):
        ended = subprocess.run(
            [sys.executable, str(storm.folder / "client.py"), "question", "12", str(journal)],
            env=environment,
            cwd=storm.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if ended.returncode == -signal.SIGKILL:
            deaths += 1
            continue
        assert ended.returncode == 0, ended.stderr
        runs = gather(storm.app).runs
        if len(runs) == 12 and all(run.status == "succeeded" for run in runs):
            break
        time.sleep(0.1)
    runs = gather(storm.app).runs
    hits = read_hits(storm.folder)
    print(f"{deaths} deaths of a client: {hits}")
    told = dict(json.loads(line) for line in journal.read_text().splitlines())
    assert {run.key: run.run_id for run in runs} == told
    assert [dict(run.outputs) for run in runs] == [{"value": 8}] * 12
    assert set(hits) == set(places)
    assert set(hits.values()) == {3}
