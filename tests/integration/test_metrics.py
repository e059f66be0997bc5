"""Metrics of a real worker over HTTP, and figures of databases large and small."""

from __future__ import annotations

import json
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iaflow.bootstrap import open_application
from iaflow.data.status import RunStatus
from iaflow.database.dialects import Database
from iaflow.database.run_store import gauges
from iaflow.database.run_store.gauges import GaugeStore
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from iaflow.worker.metrics_server import PREFIX, start_metrics
from tests.integration.houses import House, document, question
from tests.servers import ServerRoom, is_alive, wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.processes import find_free_port

STEP = """
from iaflow.pipeline import Step


class Work(Step):
    async def work(self, data):
        return {}
"""
CHAIN = {
    "name": "Counted",
    "slug": "counted",
    "steps": [{"id": f"s{n}", "module": "counted_steps", "step_class": "Work"} for n in range(6)],
    "flow": {
        "start_at": "s0",
        "transitions": [{"from": f"s{n}", "to": f"s{n + 1}"} for n in range(5)],
    },
}


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def read(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f",{word}" for word in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


# --- a worker


@pytest.mark.parametrize("pool", ("prefork", "threads", "solo"))
def test_a_worker_is_scraped(
    pool: str,
    start_worker: StartWorker,
    postgres_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "counted_steps.py").write_text(STEP)
    (tmp_path / "tmp").mkdir()
    port = find_free_port()
    worker = start_worker(
        database_url=postgres_url,
        redis_url=redis_url,
        modules="counted_steps",
        pythonpath=[tmp_path],
        concurrency=2,
        args=("--pool", pool),
        env={"IAFLOW_METRICS_ADDRESS": f"127.0.0.1:{port}", "TMPDIR": str(tmp_path / "tmp")},
    )
    monkeypatch.syspath_prepend(tmp_path)
    where = {"database_url": postgres_url, "broker_url": redis_url}
    app = open_application(Settings().model_copy(update=where))
    graph = compile_definition(CHAIN)
    app.engine.keep_version(graph)

    def run() -> None:
        started = app.engine.start(graph, {})
        assert app.executor is not None
        app.executor.submit(app.engine.name_tasks(started.tasks))
        wait_until(
            lambda: app.engine.reads.run_status(started.run_id) is RunStatus.SUCCEEDED,
            30,
            "the run",
        )

    def claims() -> float:
        return read(scrape(port))["iaflow_claims_total"]

    run()
    wait_until(lambda: claims() == 6, 10, "six claims to be seen")
    shown = read(scrape(port))
    assert shown["iaflow_database_reachable"] == 1
    assert shown["iaflow_ready_steps,iaflow"] == 0
    assert shown["iaflow_attempts_total,succeeded"] == 6
    assert shown["iaflow_queue_wait_seconds_count"] == 6
    assert shown["iaflow_runs_ended_total,succeeded"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, "/")
    if pool == "prefork":
        # What the dead have counted stays, and is not counted twice once others take their place.
        worker.kill_children()
        wait_until(lambda: len(worker.pids) == 3, 20, "the worker to replace its children")
        assert claims() == 6
        run()
        wait_until(lambda: claims() == 12, 10, "twelve claims to be seen")
        [folder] = (tmp_path / "tmp").glob(f"{PREFIX}*")
        owners = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")} - {"ended"}
        assert all(is_alive(int(owner)) for owner in owners)
    app.close()
    assert worker.terminate() == 0
    assert list((tmp_path / "tmp").glob(f"{PREFIX}*")) == []


def test_a_database_that_is_away_hides_no_counts(tmp_path: Path) -> None:
    port = find_free_port()
    nowhere = f"postgresql://nobody@127.0.0.1:{find_free_port()}/none"
    settings = Settings(metrics_address=f"127.0.0.1:{port}").with_database(nowhere)
    before = folders()
    server = start_metrics(settings)
    assert server is not None
    try:
        shown = wait_until(lambda: try_scrape(port), 10, "the page")
        assert shown["iaflow_database_reachable"] == 0
        assert shown["iaflow_claims_total"] == 0
        # A second one waits for the port instead of failing, and takes it when it comes free.
        second = start_metrics(settings)
        assert second is not None
        server.stop()
        wait_until(lambda: try_scrape(port), 10, "the second one to take the port")
        second.stop()
    finally:
        server.stop()
    assert folders() == before
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def try_scrape(port: int) -> dict[str, float]:
    try:
        return read(scrape(port))
    except OSError:
        return {}


def test_nothing_is_served_unless_asked_for() -> None:
    assert start_metrics(Settings()) is None


def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    left = Path(tempfile.mkdtemp(prefix=PREFIX))
    (left / "held").touch()
    settings = Settings(metrics_address=f"127.0.0.1:{find_free_port()}")
    server = start_metrics(settings)
    assert server is not None
    server.stop()
    assert not left.exists()


# --- figures


def figures(house: House) -> dict[str, Any]:
    store = GaugeStore(house.database, ("iaflow", "heavy"))
    return {
        one.name.removeprefix("iaflow_"): dict(one.values) if one.label else one.values[""]
        for one in store.read()
    }


def test_figures(house: House) -> None:
    """Against what there was before: the database is that of all tests of this file."""
    before = figures(house)
    steps: dict[str, Any] = {"root": {}, "ask": question(), "go": {"queue": "heavy"}, "bad": {}}
    steps["bad"] = {"config": {"fail": 3}, "error_handling": {"retries": 3, "retry_delay": 500}}
    edges = [("root", "ask"), ("root", "go"), ("root", "bad")]
    run_id = house.start(document(steps, edges))
    now = figures(house)
    assert now["ready_steps"]["iaflow"] == before["ready_steps"]["iaflow"] + 1
    assert now["runs"]["running"] == before["runs"]["running"] + 1
    house.work(run_id, "root")
    house.work(run_id, "ask")
    house.work(run_id, "bad")
    now = figures(house)
    assert now["ready_steps"]["heavy"] == before["ready_steps"]["heavy"] + 1
    assert now["retrying_steps"] == before["retrying_steps"] + 1
    assert now["open_pauses"] == before["open_pauses"] + 1
    house.claim(run_id, "go")
    now = figures(house)
    assert now["ready_steps"]["heavy"] == before["ready_steps"]["heavy"]
    assert now["running_steps"] == before["running_steps"] + 1
    assert set(now["runs"]) == {"pending", "running", "waiting"}


BACKLOG = """
INSERT INTO iaflow.pipeline_versions (content_hash, slug, number, version, name, document,
        created_at) VALUES ('h', 's', 1, '1', 's', '{{}}', now());
INSERT INTO iaflow.runs (run_id, slug, content_hash, status, seq, live, paused, created_at,
        finished_at)
    SELECT gen_random_uuid(), 's', 'h', 'succeeded', 1, 0, 0, now(), now()
    FROM generate_series(1, {finished});
INSERT INTO iaflow.runs (run_id, slug, content_hash, status, seq, live, paused, created_at)
    SELECT gen_random_uuid(), 's', 'h', 'running', 1, 1, 0, now() FROM generate_series(1, {ready});
INSERT INTO iaflow.steps (run_id, step_id, item_index, status, decided, taken, queue,
        published_at)
    SELECT run_id, 'a', -1, 'ready', 0, 0, CASE WHEN random() < 0.5 THEN 'heavy' END,
        now() - interval '1 hour' FROM iaflow.runs WHERE status = 'running';
INSERT INTO iaflow.steps (run_id, step_id, item_index, status, decided, taken)
    SELECT run_id, 'a', -1, 'succeeded', 0, 0 FROM iaflow.runs WHERE status = 'succeeded';
ANALYZE iaflow.runs; ANALYZE iaflow.steps;
"""


def test_no_figure_reads_what_has_ended(server_room: ServerRoom, postgres_template: str) -> None:
    """What a figure costs grows with what is unfinished: its plan reads an index of that alone."""
    finished = int(os.environ.get("GAUGES_FINISHED", "20000"))
    ready = int(os.environ.get("GAUGES_READY", "1000"))
    url = server_room.create_database(postgres_template)
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(BACKLOG.format(finished=finished, ready=ready))
    connection.close()
    database = Database(url)
    store = GaugeStore(database, ("iaflow", "heavy"))
    shown = {one.name: one.values for one in store.read()}
    assert sum(shown["iaflow_ready_steps"].values()) == ready
    assert shown["iaflow_runs"] == {"pending": 0, "running": ready, "waiting": 0}
    assert 3600 <= shown["iaflow_oldest_ready_seconds"]["heavy"] < 3900
    sql = gauges._Statements(database)
    raw = database._connection()._raw  # type: ignore[union-attr]
    with raw.cursor() as cursor:
        for statement in vars(sql).values():
            text = statement.text("postgresql").replace("$1", "now()")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}")
            [[text]] = cursor.fetchall()
            [plan] = json.loads(text)
            print(statement.name, plan["Execution Time"], "ms", text.count("Index"))
            assert "Seq Scan" not in text, statement.name
            assert "Index" in text, statement.name
            touched = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
            # A page has some forty rows of either table; an index entry may lie on any.
            assert touched < 2 * ready + 200, statement.name
    database.close()
    server_room.postgres.drop_database(url)
