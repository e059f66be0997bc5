"""Fourteen real scientific workflows, embedded and on workers, judged by a judge that is not ours.

The definitions, the body of their steps and the judge lie beside the checkout, in `shared/cases`.
The last tests count what a step costs in a small and in a large run: it must be the same.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.clock import SystemClock
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.database import migrator
from iaflow.database.dialects import POSTGRES, Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.pipeline import Step
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.executors.local import LocalExecutor
from iaflow.pipeline.loader import Library, StepLoader
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import load_settings
from tests.servers import ServerRoom, WorkerProcess, wait_until
from tests.servers.worker import ROOT

CASES = ROOT.parent / "shared" / "cases"
TRACES = (
    "airrflow-001",
    "blast-small-001",
    "bwa-small-001",
    "cycles-1l-1c-9p-001",
    "epigenomics-ilmn-2seq-100k-001",
    "helloworld-chain-5",
    "helloworld-forkjoin-10",
    "montage-2mass-005d-001",
    "montage-dss-15d-001",
    "rnaseq-001",
    "sarek-001",
    "seismology-1100p-001",
    "soykb-10fastq-10ch-001",
    "srasearch-10a-001",
)
LARGEST = "montage-dss-15d-001"
DEADLINE = 400.0

STEPS = """
import importlib.util
import os
from pathlib import Path

from iaflow.pipeline import Step

spec = importlib.util.spec_from_file_location("trace_steps", os.environ["TRACE_STEPS"])
trace_steps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trace_steps)
TraceStep = trace_steps.make(Step)
"""

RUN = """
import asyncio
import json
import os
import sys
from pathlib import Path

from iaflow.errors import RunError
from iaflow.pipeline.runner import create_pipeline_from_json

folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    os.environ["TRACE_LOG"] = str(folder / f"{name}.log")
    pipeline = create_pipeline_from_json((folder / f"{name}.pipeline").read_text())
    try:
        said = {"status": "succeeded", "outputs": asyncio.run(pipeline.run())}
    except RunError as error:
        said = {"status": str(error), "outputs": {}}
    part = folder / f"{name}.part"
    part.write_text(json.dumps(said))
    part.rename(folder / f"{name}.result")
"""


def read_trace(name: str) -> str:
    """Return the text of a definition, packed or not."""
    folder = CASES / "wfcommons"
    packed = folder / f"{name}.json.gz"
    if packed.exists():
        return gzip.decompress(packed.read_bytes()).decode()
    return (folder / f"{name}.json").read_text()


def judge(folder: Path, name: str, said: dict[str, Any], log: str, *, workers: int) -> None:
    """Let the judge compare a run's result and its steps' own log with what is expected."""
    events = [json.loads(line) for line in log.splitlines()]
    result = folder / f"{name}.{workers}.json"
    result.write_text(json.dumps({**said, "events": events}))
    packed = CASES / "wfcommons" / f"{name}.json.gz"
    verdict = subprocess.run(
        [
            *(sys.executable, str(CASES / "tools" / "verify_run.py")),
            str(packed if packed.exists() else packed.with_suffix("")),
            str(CASES / "wfcommons" / "expected" / f"{name}.json"),
            *(str(result), "--workers", str(workers)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"{name}: {verdict.stdout}")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.fixture(scope="module")
def cases() -> Path:
    """The cases beside the checkout; without them these tests cannot say anything."""
    if not CASES.is_dir():
        pytest.fail(f"there are no cases at {CASES}: they belong beside the checkout")
    return CASES


@pytest.fixture(scope="module")
def trace_folder(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the step module and the unpacked definitions."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "bench_steps.py").write_text(STEPS)
    (folder / "run.py").write_text(RUN)
    for name in TRACES:
        (folder / f"{name}.pipeline").write_text(read_trace(name))
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "TRACE_STEPS": str(CASES / "tools" / "trace_steps.py"),
        "IAFLOW_STEP_MODULES": "bench_steps",
        **more,
    }


def test_every_trace_is_run(cases: Path) -> None:
    """The list above is all that there is: no definition is left out."""
    names = {path.name.partition(".")[0] for path in (cases / "wfcommons").glob("*.json*")}
    assert names == set(TRACES)


# --- embedded


@pytest.fixture(scope="module")
def embedded(
    trace_folder: Path, server_room: ServerRoom
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """
    A function that waits for what a definition gave, run embedded on a SQLite file.

    The steps sleep, so two processes do it behind the other tests: one has the largest
    definition, the other one the rest.
    """
    rest = [name for name in TRACES if name != LARGEST]
    processes = []
    for number, names in enumerate(([LARGEST], rest)):
        url = f"sqlite:///{trace_folder / f'runs{number}.db'}"
        with (trace_folder / f"run{number}.err").open("wb") as complaints:
            process = subprocess.Popen(
                [sys.executable, str(trace_folder / "run.py"), str(trace_folder), *names],
                env=environment(trace_folder, IAFLOW_DATABASE_URL=url),
                stderr=complaints,
            )
        server_room.guardian.watch(process.pid)
        processes.append(process)

    def wait_for(name: str) -> dict[str, Any]:
        number = 0 if name == LARGEST else 1
        result = trace_folder / f"{name}.result"
        wait_until(lambda: result.exists() or processes[number].poll() is not None, DEADLINE, name)
        assert result.exists(), (trace_folder / f"run{number}.err").read_text()
        said: dict[str, Any] = json.loads(result.read_text())
        return said

    yield wait_for
    for process in processes:
        process.kill()
        process.wait()
        server_room.guardian.forget(process.pid)


# --- on workers

WORKERS = 2
CHILDREN = 2


@pytest.fixture(scope="module")
def fleet(
    trace_folder: Path,
    server_room: ServerRoom,
    postgres_template: str,
    embedded: Callable[[str], dict[str, Any]],
) -> Iterator[Application]:
    """The application on Postgres with two workers of two children each."""
    url = server_room.create_database(postgres_template)
    broker = server_room.take_redis_database()
    server_room.redis.flush(broker)
    log = {"TRACE_LOG": str(trace_folder / "workers.log")}
    workers = [
        WorkerProcess(
            database_url=url,
            redis_url=broker,
            log_directory=trace_folder,
            guardian=server_room.guardian,
            modules="bench_steps",
            pythonpath=[trace_folder],
            concurrency=CHILDREN,
            env={"TRACE_STEPS": str(CASES / "tools" / "trace_steps.py"), **log},
        )
        for _ in range(WORKERS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IAFLOW_DATABASE_URL", url)
        patch.setenv("IAFLOW_BROKER_URL", broker)
        app = open_application(load_settings())
    yield app
    app.close()
    for worker in workers:
        worker.kill()
    server_room.postgres.drop_database(url)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TRACES)
def test_a_trace_runs_on_workers(name: str, trace_folder: Path, fleet: Application) -> None:
    """Two workers with two children each on Postgres: right digests, each step once, in order."""
    log = trace_folder / "workers.log"
    before = log.stat().st_size if log.exists() else 0
    graph = compile_definition(read_trace(name))
    fleet.client.save(graph)
    run_id = fleet.client.start_graph(graph).run_id
    wait_until(lambda: fleet.engine.reads.run_status(run_id) in END_OF_RUN, DEADLINE, name)
    run = fleet.client.run(run_id)
    said = {"status": run.status.value, "outputs": run.outputs}
    with log.open() as entries:
        entries.seek(before)
        judge(trace_folder, name, said, entries.read(), workers=WORKERS * CHILDREN)
    assert len(fleet.client.steps(run_id)) == len(graph.nodes)
    assert len(fleet.client.decisions(run_id)) == len(graph.edges)
    assert run.seq == len(graph.nodes) + 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TRACES)
def test_a_trace_runs_embedded(
    name: str, trace_folder: Path, embedded: Callable[[str], dict[str, Any]]
) -> None:
    """One process on a SQLite file: right digests, each step once, in order."""
    said = embedded(name)
    judge(trace_folder, name, said, (trace_folder / f"{name}.log").read_text(), workers=1)


# --- what a step costs, small run or large


class Nothing(Step):
    """Gives nothing: all that is counted is the engine's."""

    async def work(self, data: Any) -> Any:
        return {}


def chain(length: int) -> dict[str, Any]:
    """Return a definition of steps in a row."""
    names = [f"s{n}" for n in range(length)]
    return document(names, list(pairwise(names)))


def fan(width: int) -> dict[str, Any]:
    """Return a definition that goes apart from one step and together in another."""
    names = [f"b{n}" for n in range(width)]
    edges = [("root", name) for name in names] + [(name, "join") for name in names]
    return document(["root", *names, "join"], edges)


def document(names: list[str], edges: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "name": "counted",
        "outputs": {},
        "steps": [
            {"id": name, "module": __name__, "step_class": "Nothing", "inputs": {}}
            for name in names
        ],
        "flow": {
            "start_at": names[0],
            "transitions": [{"from": source, "to": target} for source, target in edges],
        },
    }


@pytest.fixture(params=("memory", "sqlite", "postgres"))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on each kind of database."""
    url = {"memory": "sqlite://", "sqlite": f"sqlite:///{tmp_path / 'runs.db'}"}.get(request.param)
    database = Database(url or request.getfixturevalue("postgres_url"))
    if database.dialect != POSTGRES:
        migrator.upgrade(database)
    store = PipelineStore(database)
    yield Engine(database, SystemClock(), Library(store.read_document), draw=lambda: 0.5)
    database.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("make", "small", "large"), ((chain, 200, 2000), (fan, 50, 1000)), ids=("chain", "fan")
)
def test_a_step_costs_the_same_in_a_large_run(
    engine: Engine, make: Callable[[int], dict[str, Any]], small: int, large: int
) -> None:
    """Statements, round trips and commits per step do not grow with the run (counted, not timed)."""
    few, many = (spend(engine, make(size)) for size in (small, large))
    print(f"{make.__name__} {engine.database.dialect}: {few} {many}")
    for name, cost in many.items():
        assert cost <= few[name] + 0.1, (
            f"{name} per step: {few[name]} of {small}, {cost} of {large}"
        )


def spend(engine: Engine, definition: dict[str, Any]) -> dict[str, float]:
    """Return what a run costs per step, from its start to its end, without looks at the clock."""
    graph = compile_definition(definition)
    engine.keep_version(graph)
    tally = engine.database.tally

    async def follow() -> None:
        loader = StepLoader([__name__])
        async with LocalExecutor(engine, loader, ServiceRegistry()) as executor:
            tasks = list(started.tasks)
            while tasks:
                settled = await executor.execute(tasks.pop())
                assert settled is not None
                tasks += settled.tasks

    before = (tally.statements, tally.round_trips, tally.commits)
    started = engine.start(graph, {})
    asyncio.run(follow())
    after = (tally.statements, tally.round_trips, tally.commits)
    assert engine.reads.run_status(started.run_id) is RunStatus.SUCCEEDED
    counted = zip(("statements", "round_trips", "commits"), before, after, strict=True)
    return {name: (late - early) / len(graph.nodes) for name, early, late in counted}
