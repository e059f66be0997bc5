"""Secrets reach `work` and nothing else: no row, event, log, message or error has them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from iaflow.bootstrap import Application, open_application
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.executors.local import LocalExecutor, Observation
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.services import SecretFiles, ServiceRegistry
from iaflow.settings import load_settings

CANARY = "correct-horse-battery-staple"
TOKEN = {"$secret": "token"}

STEPS = """
from iaflow.pipeline import Step

SEEN = []


class Use(Step):
    async def work(self, data):
        SEEN.append((self.config, data))
        secret = self.config["key"]
        self.context.log(f"using {secret}", token=secret)
        self.context.progress(0.5, f"half with {secret}")
        match self.config.get("then"):
            case "fail":
                raise RuntimeError(f"refused: {secret}")
            case "leak":
                return {"deep": [{"copied": f"Bearer {secret}"}]}
        return {"length": len(secret)}
"""


class Safe:
    """A run with a secrets service, and everything that was kept or said of it."""

    def __init__(self, app: Application, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self.said: list[Observation] = []

    def run(self, *, then: str = "", inputs: Any = None, service: Any = None) -> str:
        step = {
            "id": "use",
            "module": "secret_steps",
            "step_class": "Use",
            "config": {"key": TOKEN, "then": then},
            "inputs": inputs or {},
        }
        graph = compile_definition(
            {"name": "Safe", "steps": [step], "flow": {"start_at": "use"}, "parameters": {"p": {}}}
        )
        self.app.client.save(graph)
        run_id = self.app.client.start_graph(graph, {"p": TOKEN}).run_id
        services = ServiceRegistry(secrets=service or SecretFiles(self.folder / "secrets"))
        asyncio.run(self._drive(run_id, services))
        return run_id

    async def _drive(self, run_id: str, services: ServiceRegistry) -> None:
        executor = LocalExecutor(
            self.app.engine,
            StepLoader(folders=[self.folder]),
            services,
            observe=self.said.append,
        )
        async with executor:
            await executor.drive(run_id)

    def dump(self) -> str:
        """Every value of every table, and what the live view was told."""
        with self.app.database.alone(), self.app.database.engine.connect() as connection:
            rows = [
                connection.execute(sa.select(table)).all()
                for table in self.app.database.tables.metadata.sorted_tables
            ]
        return repr(rows) + repr(self.said)


@pytest.fixture(params=["memory", "postgres"])
def safe(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Safe]:
    url = "sqlite://" if request.param == "memory" else request.getfixturevalue("postgres_url")
    monkeypatch.delitem(sys.modules, "secret_steps", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "secret_steps.py").write_text(STEPS)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text(CANARY + "\n")
    app = open_application(
        load_settings().model_copy(update={"database_url": url, "broker_url": None})
    )
    yield Safe(app, tmp_path)
    app.close()


def seen() -> list[Any]:
    return list(sys.modules["secret_steps"].SEEN)


def test_work_has_the_secret_and_nothing_else_does(
    safe: Safe, caplog: pytest.LogCaptureFixture
) -> None:
    """In `config` and in `inputs`, at any depth; kept as it is written in the definition."""
    with caplog.at_level(logging.DEBUG):
        run_id = safe.run(inputs={"list": [1, {"key": TOKEN}], "given": "{{ parameters.p }}"})
    [(config, data)] = seen()
    assert config["key"] == CANARY
    # What comes from elsewhere and looks like a secret is a value like any other.
    assert data == {"list": [1, {"key": CANARY}], "given": TOKEN}
    assert safe.app.client.run(run_id).outputs == {"length": len(CANARY)}
    [step] = safe.app.client.steps(run_id)
    assert step.inputs == {"list": [1, {"key": TOKEN}], "given": TOKEN}
    assert CANARY not in safe.dump()
    assert CANARY not in caplog.text
    assert "half with ***" in repr(safe.said)


def test_an_error_that_names_the_secret_is_kept_without_it(safe: Safe) -> None:
    run_id = safe.run(then="fail")
    run = safe.app.client.run(run_id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "RuntimeError")
    assert run.error_message == "refused: ***"
    assert CANARY not in safe.dump()


def test_an_output_with_the_secret_in_it_fails_the_step(safe: Safe) -> None:
    """It would be read by others from then on: nothing of it is kept, and it is not retried."""
    run_id = safe.run(then="leak")
    assert safe.app.client.run(run_id).error_code == "secret_leaked"
    assert CANARY not in safe.dump()


def test_a_secret_that_is_not_there_is_said_by_its_name(safe: Safe) -> None:
    (safe.folder / "secrets" / "token").unlink()
    run = safe.app.client.run(safe.run())
    assert run.error_code == "secret_missing"
    assert "'token'" in (run.error_message or "")


def test_any_object_with_get_serves(safe: Safe) -> None:
    class Vault:
        async def get(self, name: str) -> str:
            return f"{CANARY}-{name}"

    safe.run(service=Vault())
    assert seen()[-1][0]["key"] == f"{CANARY}-token"
    assert CANARY not in safe.dump()


@pytest.mark.parametrize("name", ("../token", "/etc/passwd", ".hidden", "", "a/b", "x" * 300))
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "token").write_text("outside")
    (tmp_path / "inside").mkdir()
    assert SecretFiles(tmp_path / "inside").get(name) is None
