"""Each example pipeline does what its expected results say, embedded and on a Celery worker alike.

Every case of `pipelines/*.expected.json` runs twice, in a process on a SQLite file and by a worker
on Postgres; both must fit the case, and be the same to the last reason of the last decision. Two
saved pages of a real encyclopaedia go through the notebook pipeline in the same way.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.errors import AnswerRefused
from iaflow.pipeline.check import compile_definition
from iaflow.settings import load_settings
from tests.servers import ServerRoom, WorkerProcess, wait_until
from tests.servers.worker import ROOT

PIPELINES = ROOT / "pipelines"
SAVED_PAGES = ROOT.parent / "shared" / "cases" / "pages"
MODULES = "steps,invoice_steps,knowledge_processing.*"
DEADLINE = 90.0
BACKENDS = ("embedded", "worker")

SERVICES = """
import os

from iaflow.pipeline.services import ServiceRegistry


def make() -> ServiceRegistry:
    return ServiceRegistry(
        wikipedia_url=os.environ["EXAMPLE_SITE"], notebook_dir=os.environ["EXAMPLE_NOTEBOOKS"]
    )
"""

# A process that takes run ids from its input and drives each one until it ends or waits.
DRIVER = """
import asyncio
import sys

from iaflow.bootstrap import open_application, open_local_executor
from iaflow.settings import load_settings


async def main() -> None:
    app = open_application(load_settings())
    async with open_local_executor(app) as executor:
        for line in iter(sys.stdin.readline, ""):
            await executor.drive(line.strip())
            print(line.strip(), flush=True)
    app.close()


asyncio.run(main())
"""


def read_cases() -> list[tuple[str, dict[str, Any]]]:
    cases = []
    for path in sorted(PIPELINES.glob("*.expected.json")):
        name = path.name.removesuffix(".expected.json")
        cases += [(name, case) for case in json.loads(path.read_text())]
    return cases


CASES = read_cases()
REAL_PAGES = tuple(
    (
        "ai_notebook_creation_pipeline",
        {
            "case": f"the saved page {topic}",
            "input": {"topic": topic},
            "services": {"wikipedia_url": "pages"},
            "expect": {"status": "succeeded"},
        },
    )
    for topic in ("wikipedia", "wikipedia-2")
)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run did, with its ids, instants and files under names that are always the same."""

    status: str
    outputs: Any
    error: str | None
    steps: dict[str, str]
    step_outputs: dict[str, Any]
    attempts: dict[str, int]
    errors: dict[str, str]
    shown: dict[str, Any]
    decisions: list[Any]
    notebooks: list[Any]


class Backend:
    """Where cases are run: `rest` waits until a run has ended or waits for a person."""

    def __init__(self, app: Application, rest: Callable[[str], None]) -> None:
        self.app = app
        self._rest = rest
        self._observed: dict[tuple[str, str], Observed] = {}

    def observe(self, name: str, case: Mapping[str, Any]) -> Observed:
        """Run a case, if it was not run before, and return what it did."""
        place = (name, case["case"])
        if place not in self._observed:
            self._observed[place] = self._run(name, case)
        return self._observed[place]

    def _run(self, name: str, case: Mapping[str, Any]) -> Observed:
        client = self.app.client
        graph = compile_definition((PIPELINES / f"{name}.json").read_bytes())
        client.save(graph)
        run_id = client.start_graph(graph, case.get("input", {})).run_id
        self._rest(run_id)
        for answer in case.get("answers", []):
            (pause,) = [p for p in client.inbox(run_id) if p.step_id == answer["step"]]
            if answer.get("refused"):
                before = (client.run(run_id), client.pause(pause.pause_id))
                with pytest.raises(AnswerRefused):
                    client.answer(pause.pause_id, answer["data"], answered_by="test")
                assert (client.run(run_id), client.pause(pause.pause_id)) == before
            else:
                client.answer(pause.pause_id, answer["data"], answered_by="test")
                self._rest(run_id)
        return self._look(run_id)

    def _look(self, run_id: str) -> Observed:
        client = self.app.client
        run, steps = client.run(run_id), client.steps(run_id)
        outputs = {step.step_id: step.output for step in steps if step.output is not None}
        clean = partial(make_comparable, run_id)
        return Observed(
            status=run.status.value,
            outputs=clean(run.outputs),
            error=run.error_code,
            steps={step.step_id: step.status.value for step in steps},
            step_outputs=clean(outputs),
            attempts={step.step_id: step.attempt for step in steps},
            errors={step.step_id: step.error["code"] for step in steps if step.error},
            shown={pause.step_id: clean(pause.shown) for pause in client.inbox(run_id)},
            decisions=[
                clean([d.transition, d.source, d.target, d.taken, d.reason])
                for d in sorted(client.decisions(run_id), key=lambda one: one.transition)
            ],
            notebooks=[json.loads(Path(path).read_text()) for path in find_notebooks(outputs)],
        )


INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)")
NOTEBOOK = re.compile(r'/[^"]*\.ipynb')


def make_comparable(run_id: str, value: Any) -> Any:
    """Return a JSON value with ids, instants and the paths of notebooks under fixed names."""
    text = json.dumps(value).replace(run_id, "<run>")
    return json.loads(NOTEBOOK.sub("<notebook>", INSTANT.sub("<instant>", text)))


def find_notebooks(outputs: Any) -> list[str]:
    return sorted(set(NOTEBOOK.findall(json.dumps(outputs))))


# --- the surroundings


class Pages(SimpleHTTPRequestHandler):
    """Serves `name.html` under `/name`, from the example's folder and from the saved pages."""

    def translate_path(self, path: str) -> str:
        name = unquote(path).removeprefix("/") + ".html"
        folders = [PIPELINES / "pages", SAVED_PAGES]
        found = [folder / name for folder in folders if (folder / name).is_file()]
        return str(found[0] if found else PIPELINES / "pages" / "absent")

    def guess_type(self, path: Any) -> str:
        return "text/html; charset=utf-8"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked for is in the runs."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address that article names are put after, on the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def surroundings(site: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that executes the examples' steps."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "example_services.py").write_text(SERVICES)
    (folder / "driver.py").write_text(DRIVER)
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, PIPELINES, ROOT))),
        "IAFLOW_SERVICES": "example_services:make",
        "IAFLOW_STEP_MODULES": MODULES,
        "EXAMPLE_SITE": site,
        "EXAMPLE_NOTEBOOKS": str(folder / "notebooks"),
        "EXAMPLE_FOLDER": str(folder),
        "IAFLOW_SWEEP_SECONDS": "0.5",
    }


def open_app(database_url: str, broker_url: str | None = None) -> Application:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IAFLOW_DATABASE_URL", database_url)
        if broker_url is not None:
            patch.setenv("IAFLOW_BROKER_URL", broker_url)
        return open_application(load_settings())


@pytest.fixture(scope="module")
def embedded(surroundings: dict[str, str], server_room: ServerRoom) -> Iterator[Backend]:
    """A process that drives runs on a SQLite file."""
    folder = Path(surroundings["EXAMPLE_FOLDER"])
    url = f"sqlite:///{folder / 'runs.db'}"
    app = open_app(url)
    with (folder / "driver.err").open("wb") as complaints:
        driver = subprocess.Popen(
            [sys.executable, str(folder / "driver.py")],
            env={**os.environ, **surroundings, "IAFLOW_DATABASE_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
    server_room.guardian.watch(driver.pid)

    def rest(run_id: str) -> None:
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(f"{run_id}\n")
        driver.stdin.flush()
        # Some of the steps print.
        said = iter(driver.stdout.readline, "")
        assert f"{run_id}\n" in said, (folder / "driver.err").read_text()

    yield Backend(app, rest)
    driver.communicate(timeout=DEADLINE)
    server_room.guardian.forget(driver.pid)
    app.close()


@pytest.fixture(scope="module")
def worker(
    surroundings: dict[str, str], server_room: ServerRoom, postgres_template: str
) -> Iterator[Backend]:
    """A Celery worker on Postgres and Redis."""
    url = server_room.create_database(postgres_template)
    broker = server_room.take_redis_database()
    server_room.redis.flush(broker)
    settings = dict(surroundings)
    process = WorkerProcess(
        database_url=url,
        redis_url=broker,
        log_directory=Path(surroundings["EXAMPLE_FOLDER"]),
        guardian=server_room.guardian,
        modules=MODULES,
        pythonpath=settings.pop("PYTHONPATH").split(os.pathsep),
        env=settings,
    )
    app = open_app(url, broker)

    def rest(run_id: str) -> None:
        def rests() -> bool:
            status = app.engine.reads.run_status(run_id)
            # Between an answer and its resume the run still says that it waits.
            return status in END_OF_RUN or (
                status is RunStatus.WAITING and bool(app.client.inbox(run_id))
            )

        wait_until(rests, DEADLINE, f"run {run_id} to rest")

    yield Backend(app, rest)
    app.close()
    process.kill()
    server_room.postgres.drop_database(url)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """One of the two, by name."""
    backend: Backend = request.getfixturevalue(request.param)
    return backend


def name_case(value: Any) -> str | None:
    return value["case"] if isinstance(value, dict) else None


# --- the tests


def test_every_example_has_expected_results() -> None:
    """No definition stands there without saying what its runs must do."""
    definitions = {path.stem for path in PIPELINES.glob("*.json") if ".expected" not in path.name}
    assert {name for name, _ in CASES} == definitions
    assert all((SAVED_PAGES / f"{case['input']['topic']}.html").is_file() for _, case in REAL_PAGES)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize(("name", "case"), (*CASES, *REAL_PAGES), ids=name_case)
def test_an_example_does_what_is_expected(
    backend: Backend, name: str, case: dict[str, Any]
) -> None:
    """Status, outputs, steps, attempts, errors and what people see: all that the case names."""
    observed = backend.observe(name, case)
    expect = dict(case["expect"])
    assert observed.status == expect.pop("status")
    if "outputs" in expect:
        assert observed.outputs == expect.pop("outputs")
    judged = {
        "steps": observed.steps,
        "step_outputs": observed.step_outputs,
        "attempts": observed.attempts,
        "errors": observed.errors,
        "shown": observed.shown,
        "counts": {
            step_id: output["structured_content"]["counts"]
            for step_id, output in observed.step_outputs.items()
            if "structured_content" in output
        },
    }
    for key, named in expect.items():
        assert {step_id: judged[key].get(step_id) for step_id in named} == named, key


@pytest.mark.parametrize(("name", "case"), (*CASES, *REAL_PAGES), ids=name_case)
def test_a_worker_does_the_same_as_a_process(
    embedded: Backend, worker: Backend, name: str, case: dict[str, Any]
) -> None:
    """Same statuses, outputs, attempts, notebooks, and the same reason for each decision."""
    assert worker.observe(name, case) == embedded.observe(name, case)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_real_pages_become_notebooks(backend: Backend) -> None:
    """The saved pages give notebooks with cells of what stands on them."""
    titles = []
    for name, case in REAL_PAGES:
        observed = backend.observe(name, case)
        content = observed.step_outputs["structured_processor"]["structured_content"]
        titles.append(content["title"])
        assert min(content["counts"].values()) >= 1
        (notebook,) = observed.notebooks
        assert (notebook["nbformat"], len(notebook["cells"]) > 10) == (4, True)
    assert titles == ["Mozilla", "New Zealand"]
