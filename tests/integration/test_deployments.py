"""What befalls a deployment on an ordinary day: a broker that comes late, a new version, long steps.

Whether all goes on is told from the ledger that the steps keep, never from how long it took.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from iaflow.bootstrap import Application
from iaflow.data.status import RunStatus
from iaflow.database.manager import DatabaseManager
from iaflow.pipeline.importer import PipelineImportService
from tests.integration.fleets import DEADLINE, Broker, Fleet, chain, document, start, wait_for_end
from tests.servers import wait_until

WAITING = 50
SHORT = 30


def test_a_worker_that_finds_no_broker_works_once_it_comes(fleet: Fleet, tmp_path: Path) -> None:
    """It starts while Redis is away, says so, waits, and takes up what was started meanwhile."""
    fleet.broker.stop()
    before = start(fleet.app, chain(length=2, name="before"))
    with ThreadPoolExecutor(1) as pool:
        # It returns once the worker is ready, which it cannot be yet.
        starting = pool.submit(fleet.worker, concurrency=2)

        def has_complained() -> bool:
            logs = [log.read_text(errors="replace") for log in tmp_path.glob("worker*.log")]
            return any("Cannot connect to" in log for log in logs)

        wait_until(has_complained, DEADLINE, "the worker to miss its broker")
        assert not starting.done()
        fleet.broker.start()
        worker = starting.result(DEADLINE)
    after = start(fleet.app, chain(length=2, name="after"))
    ended = wait_for_end(fleet.app, before, after)
    assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 2
    fleet.room.assert_executed(fleet.room.entries("ended"))
    assert worker.is_running


def test_runs_that_wait_keep_their_version(
    fleet: Fleet, open_app: Callable[..., Application], tmp_path: Path
) -> None:
    """Fifty wait for a person while a new version is imported: they end as they began."""
    fleet.worker(concurrency=2)
    client = fleet.app.client
    publish(fleet.app, tmp_path, asks_before("first"))
    old = [client.start("reviewed").run_id for _ in range(WAITING)]
    wait_until(lambda: len(client.inbox()) == WAITING, DEADLINE, "all questions to be asked")

    publish(fleet.app, tmp_path, asks_before("second"))
    new = client.start("reviewed").run_id
    wait_until(lambda: len(client.inbox()) == WAITING + 1, DEADLINE, "the new question")
    for pause in client.inbox():
        client.answer(pause.pause_id, {"decision": "yes"}, answered_by="ann")

    ended = wait_for_end(fleet.app, *old, new)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    hashes = {run.content_hash for run in ended[:-1]}
    assert len(hashes) == 1
    assert ended[-1].content_hash not in hashes
    expected = {(run_id, "first") for run_id in old} | {(new, "second")}
    begun = fleet.room.entries("begun")
    assert set(begun) == expected
    assert set(begun.values()) == {1}


def asks_before(step_id: str) -> dict[str, Any]:
    """Return a definition that asks a person and then works in a step of that name."""
    definition = document({"ask": {}, step_id: {}}, name="Reviewed")
    ask, work = definition["steps"]
    fields = [{"name": "decision", "type": "radio", "options": ["yes", "no"]}]
    asks = {"id": ask["id"], "type": "human_input", "config": {"ui_schema": {"fields": fields}}}
    return {**definition, "slug": "reviewed", "steps": [asks, work]}


def publish(app: Application, folder: Path, definition: dict[str, Any]) -> None:
    """Import a definition as a deployment does."""
    pipelines = folder / "pipelines"
    pipelines.mkdir(exist_ok=True)
    (pipelines / "reviewed.json").write_text(json.dumps(definition))

    async def import_all() -> None:
        async with DatabaseManager(app.settings.database_url) as db:
            await PipelineImportService(db, pipelines_dir=pipelines).import_all_pipelines()

    asyncio.run(import_all())


def test_no_worker_idles_while_a_step_waits_behind_a_long_one(fleet: Fleet, broker: Broker) -> None:
    """
    Three processes, two of them with a step that does not end: all others go through the third.

    No message is sent twice here, so one that a busy process had taken for later would stay
    with it until its step ends, which is after all the others.
    """
    fleet.room.environment["IAFLOW_REPUBLISH_SECONDS"] = "3600"
    long: list[str] = []
    short: list[str] = []
    # All wait before there is a worker: whoever takes more than one gets some behind a long one.
    for number in range(SHORT):
        if number in (1, 4):
            long.append(start(fleet.app, chain("s0", length=1, name="long")))
        short.append(start(fleet.app, chain(length=2, name="short")))
    fleet.worker(concurrency=2)
    fleet.worker(concurrency=1)
    for run_id in long:
        fleet.room.wait_at_gate(run_id, "s0")

    ended = wait_for_end(fleet.app, *short)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    assert not {run_id for run_id, _ in fleet.room.entries("ended")} & set(long)
    fleet.room.open_gates()
    ended = wait_for_end(fleet.app, *long)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    assert set(fleet.room.entries("begun").values()) == {1}
