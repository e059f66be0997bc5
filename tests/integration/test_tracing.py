"""Spans of attempts: in real workers and in one process, by an exporter that OpenTelemetry has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import open_application
from iaflow.data.status import RunStatus
from iaflow.pipeline.check import compile_definition
from iaflow.settings import Settings
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.worker import ROOT

STEPS = """
from opentelemetry import trace

from iaflow.pipeline import Step

tracer = trace.get_tracer("traced_steps")


class Asks(Step):
    async def work(self, data):
        with tracer.start_as_current_span("a question to somebody"):
            return {}


class AsksInThread(Step):
    def work(self, data):
        with tracer.start_as_current_span("a question from a thread"):
            return {}


class Fails(Step):
    async def work(self, data):
        raise RuntimeError("a word that belongs in no span")
"""
DOCUMENT = {
    "name": "Traced",
    "slug": "traced",
    "steps": [
        {"id": "asks", "module": "traced_steps", "step_class": "Asks"},
        {"id": "asks_too", "module": "traced_steps", "step_class": "AsksInThread"},
        {"id": "fails", "module": "traced_steps", "step_class": "Fails"},
    ],
    "flow": {
        "start_at": "asks",
        "transitions": [
            {"from": "asks", "to": "asks_too"},
            {"from": "asks_too", "to": "fails"},
        ],
    },
}
TRACING = {"IAFLOW_TRACING": "true", "OTEL_TRACES_EXPORTER": "console"}


def read_spans(text: str) -> list[dict[str, Any]]:
    """Return the spans that the console exporter has written amid other lines."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while (place := text.find('{\n    "name"', place)) >= 0:
        try:
            span, place = decoder.raw_decode(text, place)
        except ValueError:
            break
        found.append(span)
    return found


def judge(spans: list[dict[str, Any]], run_id: str) -> None:
    """Say whether these are a run's spans: one each attempt, in the trace that the run's id names."""
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{uuid.UUID(run_id).hex}"}
    of_step = {
        span["attributes"]["iaflow.step_id"]: span
        for span in spans
        if span["name"] == "iaflow.step"
    }
    assert set(of_step) == {"asks", "asks_too", "fails"}
    for span in of_step.values():
        assert span["attributes"]["iaflow.run_id"] == run_id
        assert span["attributes"]["iaflow.slug"] == "traced"
        assert span["attributes"]["iaflow.attempt"] == 1
    assert of_step["asks"]["attributes"]["iaflow.outcome"] == "succeeded"
    assert of_step["fails"]["attributes"]["iaflow.outcome"] == "failed"
    assert of_step["fails"]["status"]["status_code"] == "ERROR"
    assert "belongs in no span" not in json.dumps(spans)
    # What a step's own code does lies below the span of its attempt.
    above = {span["name"]: span["parent_id"] for span in spans if span["name"] != "iaflow.step"}
    assert above == {
        "a question to somebody": of_step["asks"]["context"]["span_id"],
        "a question from a thread": of_step["asks_too"]["context"]["span_id"],
    }


@pytest.mark.parametrize("pool", ("prefork", "threads"))
def test_the_attempts_of_workers_are_spans(
    pool: str, start_worker: StartWorker, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "traced_steps.py").write_text(STEPS)
    worker = start_worker(
        database_url=postgres_url,
        redis_url=redis_url,
        modules="traced_steps",
        pythonpath=[tmp_path],
        concurrency=2,
        args=("--pool", pool),
        env=TRACING,
    )
    where = {"database_url": postgres_url, "broker_url": redis_url}
    app = open_application(Settings().model_copy(update=where))
    graph = compile_definition(DOCUMENT)
    app.client.save(graph)
    run_id = app.client.start_graph(graph).run_id
    wait_until(lambda: app.client.run(run_id).status is RunStatus.FAILED, 60, "the run's end")
    app.close()
    # Leaving sends what is not sent yet.
    assert worker.terminate() == 0
    judge(read_spans(worker.read_log()), run_id)


def test_a_run_in_one_process_has_the_same_spans(tmp_path: Path) -> None:
    (tmp_path / "traced_steps.py").write_text(STEPS)
    (tmp_path / "traced.json").write_text(json.dumps(DOCUMENT))
    ran = subprocess.run(
        [sys.executable, "-m", "iaflow.cli", "run", "traced.json", "--json"],
        cwd=tmp_path,
        env={**os.environ, **TRACING, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    # What is printed by others than the command itself goes to stderr.
    judge(read_spans(ran.stderr), json.loads(ran.stdout)["run_id"])


@pytest.mark.parametrize(
    ("exporter", "advice"), (("otlp", "opentelemetry-exporter-otlp"), ("nosuch", "nosuch"))
)
def test_a_worker_says_what_tracing_lacks(
    exporter: str, advice: str, postgres_url: str, redis_url: str
) -> None:
    """It ends with a sentence, instead of working without the spans that were asked for."""
    environment = {
        **os.environ,
        "IAFLOW_DATABASE_URL": postgres_url,
        "IAFLOW_BROKER_URL": redis_url,
        "IAFLOW_TRACING": "true",
        "OTEL_TRACES_EXPORTER": exporter,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-c", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "the worker does not start: IAFLOW_TRACING finds no exporter" in ended.stderr
    assert advice in ended.stderr
