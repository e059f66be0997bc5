"""The executor that stays: what it is given, what others left, what is cancelled, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from iaflow.bootstrap import open_application, open_local_executor
from iaflow.client import Client
from iaflow.data.status import RunStatus, StepStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.resident import ResidentExecutor
from iaflow.settings import Settings
from tests.integration import houses
from tests.integration.houses import document, question
from tests.servers import ServerRoom, wait_until

PATIENCE = 20.0


@pytest.fixture(params=("sqlite", "postgres"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'runs.db'}"
        return
    room: ServerRoom = request.getfixturevalue("server_room")
    made = room.create_database(request.getfixturevalue("postgres_template"))
    yield made
    room.postgres.drop_database(made)


@contextmanager
def resident(url: str) -> Iterator[Client]:
    """One process's life: a client whose runs are executed beside it."""
    settings = Settings.model_validate(
        {"IAFLOW_DATABASE_URL": url, "step_modules": ("tests.integration.houses",)}
    )
    app = open_application(settings.model_copy(update={"broker_url": None}))
    executor = ResidentExecutor(
        open_local_executor(app), sweep_seconds=0.5, republish_seconds=1.0, grace_seconds=10.0
    )
    with executor:
        client = Client(engine=app.engine, executor=executor)
        yield client
        client.close()
    app.close()


def keep(client: Client, definition: dict[str, object]) -> None:
    client.publish(compile_definition(definition).definition)


def wait_for(client: Client, run_id: str, status: RunStatus) -> None:
    wait_until(lambda: client.run(run_id).status is status, PATIENCE, f"{run_id}: {status}")


def test_what_is_started_is_executed_and_an_answer_lets_it_go_on(url: str) -> None:
    with resident(url) as client:
        keep(client, document({"first": {}, "ask": question()}, [("first", "ask")], name="house"))
        run_id = client.start("house").run_id
        wait_for(client, run_id, RunStatus.WAITING)
        [pause] = client.inbox(run_id)
        field = pause.ui_schema["fields"][0]
        options = field.get("options") or ["yes"]
        client.answer(pause.pause_id, {field["name"]: options[0]}, answered_by="ann", is_admin=True)
        wait_for(client, run_id, RunStatus.SUCCEEDED)


def test_a_retry_comes_when_it_is_due(url: str) -> None:
    retry = {"config": {"fail": 2}, "error_handling": {"retries": 2, "retry_delay": 0.2}}
    with resident(url) as client:
        keep(client, document({"first": retry}, name="house"))
        run_id = client.start("house").run_id
        wait_for(client, run_id, RunStatus.SUCCEEDED)
        assert client.step(run_id, "first").attempt == 3


def test_steps_at_work_are_given_back_and_go_on_with_the_next(url: str) -> None:
    journal = houses.renew_journal()
    with resident(url) as client:
        keep(client, document({"first": {"class": "Hangs"}}, name="house"))
        run_id = client.start("house").run_id
        wait_until(lambda: bool(journal.entries), PATIENCE, "it is at work")
    with resident(url) as client:
        wait_until(lambda: len(journal.entries) == 2, PATIENCE, "it is taken up anew")
        client.cancel(run_id)
        wait_for(client, run_id, RunStatus.CANCELLED)
        assert client.step(run_id, "first").status is StepStatus.CANCELLED


def test_what_another_process_started_is_found(url: str) -> None:
    with resident(url) as client:
        keep(client, document({"first": {}}, name="house"))
    app = open_application(Settings.model_validate({"IAFLOW_DATABASE_URL": url}))
    before = app.client.start("house").run_id
    with resident(url) as client:
        wait_for(client, before, RunStatus.SUCCEEDED)
        beside = app.client.start("house").run_id
        wait_for(client, beside, RunStatus.SUCCEEDED)
    app.close()


def test_a_schedule_fires(url: str) -> None:
    with resident(url) as client:
        keep(client, document({"first": {}}, name="house"))
        client.schedules.put("often", "house", every=timedelta(seconds=1))
        wait_until(
            lambda: len(client.runs(status=RunStatus.SUCCEEDED)) >= 2, PATIENCE, "two runs of it"
        )


def test_after_its_end_it_takes_nothing(url: str) -> None:
    with resident(url) as client:
        executor = client._executor
    assert isinstance(executor, ResidentExecutor)
    assert executor.submit([]) == 0
    assert executor.submit_resume("01a232a8-0777-735c-911f-633cf26b7d3b", "house") is False
