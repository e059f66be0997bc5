"""The real Flower beside a real worker, asked over HTTP: what it shows, and what it must not."""

from __future__ import annotations

import base64
import html
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from iaflow.bootstrap import Application, open_application
from iaflow.cli.flower import list_flower_options
from iaflow.data.records import NO_INDEX, StepTask
from iaflow.data.status import RunStatus
from iaflow.errors import SettingsRefused
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from tests.servers import ServerRoom, WorkerProcess, wait_until
from tests.servers.processes import find_free_port, read_tail, spawn
from tests.servers.worker import ROOT

CANARY = "canary-5f2b71"
EVERYWHERE = "0.0.0.0"  # noqa: S104  what is asked for, and refused
SIGN_IN = "ann:a-password-of-tests"
STEPS = """
from iaflow.pipeline import Step


class Greet(Step):
    async def work(self, data):
        return {"greeting": f"Hello, {data['name']}!"}
"""
DEFINITION: dict[str, Any] = {
    "name": "Greetings",
    "slug": "greetings",
    "parameters": {"name": "World"},
    "steps": [
        {"id": "greet", "module": "flower_steps", "step_class": "Greet"},
        {
            "id": "again",
            "module": "flower_steps",
            "step_class": "Greet",
            "inputs": {"name": "{{ greet.greeting }}"},
        },
    ],
    "flow": {"start_at": "greet", "transitions": [{"from": "greet", "to": "again"}]},
}


@dataclass(frozen=True, slots=True)
class Page:
    """Flower as a browser sees it, signed in."""

    url: str
    log: Path

    def text(self, path: str, *, sign_in: str | None = SIGN_IN) -> str:
        request = urllib.request.Request(f"{self.url}{path}")  # noqa: S310  a URL of ours
        if sign_in is not None:
            credentials = base64.b64encode(sign_in.encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  a URL of ours
            text: str = answer.read().decode()
            return text

    def json(self, path: str) -> Any:
        return json.loads(self.text(path))

    def answers(self) -> bool:
        try:
            return self.text("/healthcheck") == "OK"
        except OSError:
            return False

    def find_worker(self) -> str:
        """Return the name of a worker that replies; the page hears of it for itself then, too."""
        path = "/api/workers?refresh=1"
        wait_until(lambda: self.json(path), 20, "a worker to reply to Flower")
        return next(iter(self.json("/api/workers?status=1")))

    def rows(self) -> list[dict[str, Any]]:
        """Return what the page of tasks shows: the page itself fetches it as this."""
        asked = {"draw": 1, "start": 0, "length": 100, "order[0][column]": 0}
        asked |= {"order[0][dir]": "asc", "columns[0][data]": "name"}
        rows: list[dict[str, Any]] = self.json(f"/tasks/datatable?{urlencode(asked)}")["data"]
        return rows


@dataclass(frozen=True, slots=True)
class Scene:
    """A deployment in which one run went its way while Flower looked on."""

    app: Application
    flower: Page
    worker: WorkerProcess
    run_id: str

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the run's tasks by name, as the API shows them."""
        listed = self.flower.json("/api/tasks").values()
        return {one["name"]: one for one in listed if self.run_id in str(one["args"])}


@pytest.fixture(scope="module")
def scene(
    server_room: ServerRoom, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("flower")
    (folder / "flower_steps.py").write_text(STEPS)
    database_url = server_room.create_database(postgres_template)
    broker_url = server_room.take_redis_database()
    server_room.redis.flush(broker_url)
    page = Page(f"http://127.0.0.1:{find_free_port()}", folder / "flower.log")
    environment = {
        **os.environ,
        "IAFLOW_DATABASE_URL": database_url,
        "IAFLOW_BROKER_URL": broker_url,
        "FLOWER_BASIC_AUTH": SIGN_IN,
    }
    port = page.url.rpartition(":")[2]
    process = spawn(
        [sys.executable, "-m", "iaflow.cli", "flower", "--port", port],
        log=page.log,
        cwd=ROOT,
        env=environment,
    )
    server_room.guardian.watch(process.pid)
    worker = WorkerProcess(
        database_url=database_url,
        redis_url=broker_url,
        log_directory=folder,
        guardian=server_room.guardian,
        modules="flower_steps",
        pythonpath=[folder],
        concurrency=1,
    )
    try:
        wait_until(page.answers, 30, f"Flower; its log ends:\n{read_tail(page.log)}")
        wait_until(lambda: page.json("/api/workers?status=1"), 20, "Flower to see a worker")
        where = {"database_url": database_url, "broker_url": broker_url, "flower_url": page.url}
        app = open_application(Settings().model_copy(update=where))
        graph = compile_definition(DEFINITION)
        app.engine.keep_version(graph)
        started = app.engine.start(graph, {"name": CANARY})
        assert app.executor is not None
        app.executor.submit(app.engine.name_tasks(started.tasks))
        run_id = started.run_id
        wait_until(
            lambda: app.engine.reads.run_status(run_id) is RunStatus.SUCCEEDED, 30, "the run"
        )
        assert CANARY in str(app.client.run(run_id).outputs)
        scene = Scene(app, page, worker, run_id)
        wait_until(
            lambda: [one["state"] for one in scene.tasks().values()] == ["SUCCESS"] * 2,
            20,
            "Flower to see both steps end",
        )
        yield scene
        app.close()
    finally:
        worker.kill()
        process.terminate()
        process.wait(timeout=20)
        server_room.guardian.forget(process.pid)
        server_room.postgres.drop_database(database_url)


def test_the_steps_of_a_run_are_tasks_with_their_names(scene: Scene) -> None:
    tasks = scene.tasks()
    assert set(tasks) == {"iaflow.greetings.greet", "iaflow.greetings.again"}
    for name, task in tasks.items():
        step_id = name.rpartition(".")[2]
        assert task["state"] == "SUCCESS"
        assert 0 < task["runtime"] < 10
        assert task["worker"].startswith(f"{scene.worker.name}@")
        assert task["args"] == repr((scene.run_id, step_id, NO_INDEX, 1))
        assert task["kwargs"] == "{}"


def test_a_row_says_how_to_look_at_its_run(scene: Scene) -> None:
    rows = {row["name"]: row for row in scene.flower.rows() if scene.run_id in row["args"]}
    row = rows["iaflow.greetings.again"]
    told = f"run {scene.run_id}, step again, attempt 1: iaflow show {scene.run_id}"
    assert row["args"] == told
    assert told in html.unescape(scene.flower.text(f"/task/{row['uuid']}"))
    assert ">args<" in scene.flower.text("/tasks")


def test_no_page_has_anything_of_what_runs_are_about(scene: Scene) -> None:
    """Ids and names alone: neither input nor output, and no password of the servers."""
    ids = list(scene.flower.json("/api/tasks"))
    # Flower has half a second for the workers' replies, which is short on a busy machine.
    worker = scene.flower.find_worker()
    paths = ["/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers", "/metrics"]
    paths += [f"/task/{one}" for one in ids] + [f"/api/task/info/{one}" for one in ids]
    paths += [f"/worker/{worker}", f"/api/workers?workername={worker}"]
    shown = {path: scene.flower.text(path) for path in paths}
    shown["rows"] = str(scene.flower.rows())
    shown["log"] = scene.flower.log.read_text()
    assert [path for path, text in shown.items() if CANARY in text] == []
    assert [path for path, text in shown.items() if SIGN_IN in text] == []
    assert all(text for text in shown.values())


def test_nobody_looks_without_signing_in_and_nobody_acts(scene: Scene) -> None:
    for path in ("/tasks", "/workers", "/api/tasks", "/api/workers"):
        for wrong in (None, "ann:", "ann:another"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                scene.flower.text(path, sign_in=wrong)
    worker = scene.flower.find_worker()
    credentials = base64.b64encode(SIGN_IN.encode()).decode()
    request = urllib.request.Request(  # noqa: S310  a URL of ours
        f"{scene.flower.url}/api/worker/shutdown/{worker}",
        method="POST",
        headers={"Authorization": f"Basic {credentials}"},
    )
    with pytest.raises(urllib.error.HTTPError, match=r"40\d"):
        urllib.request.urlopen(request, timeout=10)  # noqa: S310  a URL of ours
    assert scene.worker.is_running


def test_a_worker_is_online_and_offline_once_it_is_killed(scene: Scene) -> None:
    """The last of this file: there is no worker afterwards."""
    [(name, is_online)] = scene.flower.json("/api/workers?status=1").items()
    assert name.startswith(f"{scene.worker.name}@")
    assert is_online is True
    assert name in scene.flower.text("/workers")
    scene.worker.kill()
    wait_until(
        lambda: scene.flower.json("/api/workers?status=1")[name] is False,
        30,
        "Flower to see that the worker is gone",
    )


# --- where it may listen


def options(*given: str, address: str = "127.0.0.1", **environment: str) -> list[str]:
    return list_flower_options(given, address=address, port=5555, environment=environment)


@pytest.mark.parametrize("address", ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
def test_this_machine_needs_no_sign_in(address: str) -> None:
    assert f"--address={address}" in options(address=address)


@pytest.mark.parametrize(
    "address", ("", EVERYWHERE, "::", "10.0.0.1", "example.org", "127.0.0.1.x")
)
@pytest.mark.parametrize(
    "environment",
    (
        {},
        {"FLOWER_BASIC_AUTH": ""},
        {"FLOWER_BASIC_AUTH": "ann"},
        {"FLOWER_BASIC_AUTH": "ann:"},
        {"FLOWER_BASIC_AUTH": "ann:secret,bob:"},
        {"FLOWER_AUTH": ".*"},
        {"FLOWER_UNAUTHENTICATED_API": "true"},
    ),
)
def test_other_machines_must_sign_in(address: str, environment: dict[str, str]) -> None:
    with pytest.raises(SettingsRefused, match="FLOWER_BASIC_AUTH"):
        options(address=address, **environment)


def test_with_a_sign_in_others_may_look() -> None:
    for given, environment in (
        ((), {"FLOWER_BASIC_AUTH": "ann:secret"}),
        (("--basic-auth=ann:secret",), {}),
        (("--basic_auth=ann:secret",), {}),
        (("--auth=a@b", "--auth-provider=x.Y"), {}),
        ((), {"FLOWER_AUTH": "a@b", "FLOWER_AUTH_PROVIDER": "x.Y"}),
    ):
        assert f"--address={EVERYWHERE}" in options(*given, address=EVERYWHERE, **environment)


@pytest.mark.parametrize(
    "option", ("--address=0.0.0.0", "-address=x", "--unix_socket=/x", "--port=1")
)
def test_where_it_listens_is_said_in_one_place(option: str) -> None:
    with pytest.raises(SettingsRefused, match="before the --"):
        options(option)


def test_what_is_said_is_not_said_otherwise() -> None:
    assert "--read-only=true" in options()
    assert "--read-only=true" not in options("--read_only=false")
    assert "--read-only=true" not in options(FLOWER_READ_ONLY="false")
    assert not any("--conf" in one for one in options("--conf=mine.py") if "mine" not in one)


def test_the_id_of_a_message_is_that_of_its_attempt() -> None:
    task = StepTask("0192", "a", -1, 1)
    assert task.message_id == StepTask("0192", "a", -1, 1, "slug", "queue", 3).message_id
    others = [StepTask("0193", "a", -1, 1), StepTask("0192", "b", -1, 1)]
    others += [StepTask("0192", "a", 0, 1), StepTask("0192", "a", -1, 2)]
    assert len({task.message_id, *(one.message_id for one in others)}) == 5
