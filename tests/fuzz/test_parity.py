"""A random definition means the same embedded and on Celery workers, and on every database.

`./dev fuzz --count N --seed S` draws others; a difference is printed with its seed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.settings import load_settings
from tests.fuzz.options import chosen_seeds
from tests.fuzz.playing import (
    FOLDER,
    Seen,
    describe_difference,
    import_children,
    open_here,
    play_here,
    play_on_workers,
)
from tests.servers.fixtures import StartWorker

WORKERS = 2
THREADS = 8


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> range:
    return chosen_seeds(request.config)


@pytest.mark.timeout(1200)
def test_workers_and_one_process_agree(
    seeds: range, start_worker: StartWorker, postgres_url: str, redis_url: str
) -> None:
    """Statuses, ends, tries, outputs, error codes and decisions with their operands are alike."""
    for _ in range(WORKERS):
        start_worker(
            database_url=postgres_url,
            redis_url=redis_url,
            modules="fuzz_steps",
            pythonpath=[FOLDER],
            concurrency=THREADS,
            args=["--pool", "threads"],
            env={"IAFLOW_SWEEP_SECONDS": "0.5"},
        )
    settings = load_settings().model_copy(
        update={"database_url": postgres_url, "broker_url": redis_url}
    )
    app = open_application(settings)
    try:
        import_children(app, seeds)
        there = play_on_workers(app, seeds)
    finally:
        app.close()
    compare(play_all_here(seeds, "sqlite://"), there)


def test_every_database_agrees(seeds: range, tmp_path: Path, postgres_url: str) -> None:
    """The same on a file and on Postgres as in memory, each in one process."""
    some = seeds[:60]
    here = play_all_here(some, "sqlite://")
    for url in (f"sqlite:///{tmp_path / 'fuzz.db'}", postgres_url):
        compare(here, play_all_here(some, url))


def play_all_here(seeds: range, url: str) -> dict[int, Seen]:
    app = open_here(url)
    try:
        import_children(app, seeds)
        return asyncio.run(_play(app, seeds))
    finally:
        app.close()


async def _play(app: Application, seeds: range) -> dict[int, Seen]:
    return {seed: await play_here(app, seed) for seed in seeds}


def compare(here: dict[int, Seen], there: dict[int, Seen]) -> None:
    """Fail with the seeds that came out differently, and with what differs."""
    told = [
        f"seed {seed}:\n{difference}"
        for seed, seen in here.items()
        if (difference := describe_difference(seen, there[seed]))
    ]
    assert not told, f"{len(told)} of {len(here)} differ; --seed N --count 1 replays\n" + "\n".join(
        told[:5]
    )
