"""Doing again what always ends alike changes nothing: `rerun` from any step, `retry` of a failed run.

Steps of random definitions give the same whenever they are executed, so a run that goes on from
recorded outputs must arrive where the first one did, with the same decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from iaflow.bootstrap import Application, open_local_executor
from iaflow.data.status import RunStatus
from tests.fuzz.options import chosen_seeds
from tests.fuzz.playing import (
    FOLDER,
    Seen,
    describe_difference,
    import_children,
    open_here,
    read_run,
    start,
)

RUNS = 100


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Application]:
    urls = {"memory": "sqlite://", "sqlite": f"sqlite:///{tmp_path / 'again.db'}"}
    url = urls.get(request.param) or request.getfixturevalue("postgres_url")
    made = open_here(url)
    yield made
    made.close()


def test_going_on_from_recorded_outputs_arrives_at_the_same_end(
    app: Application, request: pytest.FixtureRequest
) -> None:
    first = chosen_seeds(request.config).start
    seeds = range(first, first + RUNS)
    import_children(app, seeds)
    reopened = asyncio.run(_play_again(app, seeds))
    assert reopened > RUNS // 4, "enough of them fail, and are retried"


async def _play_again(app: Application, seeds: range) -> int:
    reopened = 0
    async with open_local_executor(app, folders=[FOLDER]) as executor:
        for seed in seeds:
            run_id = start(app, seed)
            await executor.drive(run_id)
            before = _without_tries(read_run(app, run_id))
            steps = list(app.client.graph_of(run_id).nodes)
            step_id = Random(seed).choice(steps)
            again = app.client.rerun(run_id, step_id)
            await executor.drive(again.run_id)
            _compare(f"seed {seed}, rerun from {step_id}", before, read_run(app, again.run_id))
            assert app.client.run(again.run_id).rerun_of == run_id
            if app.client.run(run_id).status is RunStatus.FAILED:
                reopened += 1
                app.client.retry(run_id)
                await executor.drive(run_id)
                _compare(f"seed {seed}, retried", before, read_run(app, run_id))
                _check_ledger(app, run_id)
    return reopened


def _compare(what: str, before: Seen, after: Seen) -> None:
    difference = describe_difference(before, _without_tries(after))
    assert not difference, f"{what}:\n{difference}"


def _without_tries(seen: Seen) -> Seen:
    """How often a step was tried counts on when a run goes on; it is no part of where it arrives."""
    return replace(seen, steps={key: (*s[:2], *s[3:]) for key, s in seen.steps.items()})


def _check_ledger(app: Application, run_id: str) -> None:
    """Old decisions are kept as superseded, and each transition has one in force."""
    decisions = app.client.decisions(run_id)
    in_force = [d.transition for d in decisions if not d.superseded]
    assert sorted(in_force) == [edge.index for edge in app.client.graph_of(run_id).edges]
    assert {d.transition for d in decisions if d.superseded} <= set(in_force)
    events = app.client.events(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
