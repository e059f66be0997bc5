"""`retry` and `rerun` on every database: what goes on, what is kept, and what is refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.data.records import StepRecord
from iaflow.data.status import RunStatus
from iaflow.errors import Conflict, InputRefused, NotFound
from iaflow.pipeline.check import compile_definition
from iaflow.settings import load_settings

STEPS = """
from pathlib import Path

from iaflow.pipeline import Step

MENDED = Path(__file__).with_name("mended")


class Count(Step):
    async def work(self, data):
        log = Path(__file__).with_name("log")
        with log.open("a") as lines:
            index = self.context.item_index
            lines.write(f"{self.context.step_id}{'' if index is None else f'[{index}]'}\\n")
        if self.config.get("broken") and not MENDED.exists():
            raise ValueError("broken")
        if data.get("item") in self.config.get("broken_items", []) and not MENDED.exists():
            raise ValueError("broken item")
        return {"attempt": self.context.attempt, **data}
"""


class Bench:
    """Runs of documents whose broken steps can be mended in between."""

    def __init__(self, app: Application, folder: Path) -> None:
        self.app = app
        self.folder = folder

    def run(self, document: dict[str, Any], **given: Any) -> str:
        graph = compile_definition({"name": "Again", **document})
        self.app.client.save(graph)
        run_id = self.app.client.start_graph(graph, given).run_id
        self.drive(run_id)
        return run_id

    def drive(self, run_id: str) -> RunStatus:
        async def go_on() -> RunStatus:
            async with open_local_executor(self.app, folders=[self.folder]) as executor:
                return await executor.drive(run_id)

        return asyncio.run(go_on())

    def mend(self) -> None:
        (self.folder / "mended").touch()
        (self.folder / "log").unlink()

    def executed(self) -> list[str]:
        return sorted((self.folder / "log").read_text().split())

    def statuses(self, run_id: str) -> dict[str, str]:
        return {name(s): str(s.status) for s in self.app.client.steps(run_id)}


def name(step: StepRecord) -> str:
    return step.step_id if step.index < 0 else f"{step.step_id}[{step.index}]"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    urls = {"memory": "sqlite://", "sqlite": f"sqlite:///{tmp_path / 'again.db'}"}
    url = urls.get(request.param) or request.getfixturevalue("postgres_url")
    monkeypatch.delitem(sys.modules, "again_steps", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "again_steps.py").write_text(STEPS)
    app = open_application(
        load_settings().model_copy(update={"database_url": url, "broker_url": None})
    )
    yield Bench(app, tmp_path)
    app.close()


def step(step_id: str, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "module": "again_steps", "step_class": "Count", "inputs": {}, **more}


def flow(*edges: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "start_at": edges[0][0],
        "transitions": [
            {"from": edge[0], "to": edge[1], **(edge[2] if len(edge) > 2 else {})} for edge in edges
        ],
    }


def test_a_retry_does_what_failed_and_what_hung_on_it(bench: Bench) -> None:
    """What succeeded is kept; the failed, the cancelled and what was behind them go on."""
    document = {
        "steps": [
            step("first"),
            step("bad", config={"broken": True}, error_handling={"retries": 1}),
            step("side"),
            step("last"),
        ],
        "flow": flow(("first", "bad"), ("first", "side"), ("bad", "last"), ("side", "last")),
        "error_handling": {"on_failure": "run_independent"},
    }
    run_id = bench.run(document)
    assert bench.app.client.run(run_id).status is RunStatus.FAILED
    bench.mend()
    reopened = bench.app.client.retry(run_id)
    assert [task.step_id for task in reopened.tasks] == ["bad"]
    assert bench.app.client.run(run_id).error_code is None
    assert bench.drive(run_id) is RunStatus.SUCCEEDED
    # `last` ran before with what `side` gave, and a step never runs twice in a run.
    assert bench.executed() == ["bad"]
    bad = {s.step_id: s for s in bench.app.client.steps(run_id)}["bad"]
    assert bad.output == {"attempt": 1}, "all its retries are there once more"
    assert (bad.attempt, bench.app.client.run(run_id).unhandled) == (3, 0)


def test_a_retry_revives_what_the_end_of_the_run_had_cancelled(bench: Bench) -> None:
    """Under fail_fast everything unfinished was cancelled: all of it goes on."""
    document = {
        "steps": [step("first"), step("bad", config={"broken": True}), step("last"), step("end")],
        "flow": flow(("first", "bad"), ("bad", "last"), ("last", "end")),
    }
    run_id = bench.run(document)
    assert bench.statuses(run_id) == {
        "first": "succeeded",
        "bad": "failed",
        "last": "cancelled",
        "end": "cancelled",
    }
    bench.mend()
    bench.app.client.retry(run_id)
    assert bench.drive(run_id) is RunStatus.SUCCEEDED
    assert bench.executed() == ["bad", "end", "last"]
    assert set(bench.statuses(run_id).values()) == {"succeeded"}
    with pytest.raises(Conflict, match="only a failed run"):
        bench.app.client.retry(run_id)


def test_a_retry_of_a_foreach_does_the_other_items(bench: Bench) -> None:
    """Items that succeeded keep their outputs, and the results are whole and in order."""
    each = {"items": [0, 1, 2, 3, 4], "max_parallel": 2, "tolerated_failures": 1}
    broken = {"broken_items": [1, 3]}
    document = {
        "steps": [
            step("each", foreach=each, config=broken, inputs={"item": "{{ item }}"}),
            step("last", inputs={"all": "{{ each.results }}"}),
        ],
        "flow": flow(("each", "last")),
    }
    run_id = bench.run(document)
    assert bench.app.client.run(run_id).error_code == "items_failed"
    done = {n for n, status in bench.statuses(run_id).items() if status == "succeeded"}
    bench.mend()
    bench.app.client.retry(run_id)
    assert bench.drive(run_id) is RunStatus.SUCCEEDED
    assert set(bench.executed()) == {f"each[{i}]" for i in range(5)} - done | {"last"}
    results = (bench.app.client.run(run_id).outputs or {})["all"]
    assert [result["item"] for result in results] == [0, 1, 2, 3, 4]


def test_a_handled_failure_and_a_sibling_s_cancel_stay(bench: Bench) -> None:
    """What the definition took care of is done with; only the unhandled failure goes on."""
    document = {
        "steps": [
            step("first"),
            step("caught", config={"broken": True}),
            step("mended"),
            step("winner", cancels=["loser"]),
            {"id": "loser", "type": "wait", "config": {"seconds": 3600}},
            step("bad", config={"broken": True}),
        ],
        "flow": flow(
            ("first", "caught"),
            ("caught", "mended", {"on": "failure"}),
            ("first", "winner"),
            ("first", "loser"),
            ("mended", "bad"),
        ),
        "error_handling": {"on_failure": "run_independent"},
    }
    run_id = bench.run(document)
    assert bench.app.client.run(run_id).handled == 1
    bench.mend()
    bench.app.client.retry(run_id)
    assert bench.drive(run_id) is RunStatus.SUCCEEDED
    assert bench.executed() == ["bad"]
    statuses = bench.statuses(run_id)
    assert (statuses["caught"], statuses["loser"]) == ("failed", "cancelled")
    assert bench.app.client.run(run_id).handled == 1


def test_a_rerun_takes_what_came_before_as_it_was(bench: Bench) -> None:
    """A new run of the same version: from the step on anew, with other inputs if wanted."""
    document = {
        "steps": [
            step("first", inputs={"from": "{{ parameters.who }}"}),
            step("middle", inputs={"from": "{{ first.from }}"}),
            step("last", inputs={"from": "{{ middle.from }}", "first": "{{ first.attempt }}"}),
        ],
        "flow": flow(("first", "middle"), ("middle", "last")),
        "parameters": {"who": "nobody"},
    }
    run_id = bench.run(document, who="ann")
    bench.mend()
    new = bench.app.client.rerun(run_id, "middle", inputs={"from": "bob"}, started_by="carl")
    assert bench.drive(new.run_id) is RunStatus.SUCCEEDED
    assert bench.executed() == ["last", "middle"]
    run = bench.app.client.run(new.run_id)
    assert run.outputs == {"attempt": 1, "from": "bob", "first": 1}
    assert (run.rerun_of, run.started_by, run.parameters) == (run_id, "carl", {"who": "ann"})
    assert bench.app.client.run(run_id).outputs == {"attempt": 1, "from": "ann", "first": 1}
    assert [event.seq for event in bench.app.client.events(new.run_id)][:2] == [1, 2]
    for wrong, refusal in (("nowhere", NotFound), ("middle", InputRefused)):
        with pytest.raises(refusal):
            bench.app.client.rerun(run_id, wrong, inputs=[1] if wrong == "middle" else None)  # type: ignore[arg-type]


def test_an_approval_before_the_step_is_reused(bench: Bench) -> None:
    """Nobody is asked twice for what was approved; from the question on, somebody is."""
    form = {"fields": [{"name": "ok", "type": "boolean"}]}
    document = {
        "steps": [
            {"id": "ask", "type": "human_input", "config": {"ui_schema": form}},
            step("last", inputs={"ok": "{{ ask.ok }}"}),
        ],
        "flow": flow(("ask", "last")),
    }
    run_id = bench.run(document)
    [pause] = bench.app.client.inbox(run_id)
    with pytest.raises(Conflict, match="waiting"):
        bench.app.client.rerun(run_id, "last")
    bench.app.client.answer(pause.pause_id, {"ok": True}, answered_by="ann")
    assert bench.drive(run_id) is RunStatus.SUCCEEDED
    again = bench.app.client.rerun(run_id, "last")
    assert bench.drive(again.run_id) is RunStatus.SUCCEEDED
    assert bench.app.client.inbox(again.run_id) == []
    asked = bench.app.client.rerun(run_id, "ask")
    assert bench.drive(asked.run_id) is RunStatus.WAITING
    assert len(bench.app.client.inbox(asked.run_id)) == 1


def test_the_time_of_a_run_begins_anew(bench: Bench) -> None:
    """A run that took too long has its whole run_timeout once more."""
    document = {
        "steps": [{"id": "nap", "type": "wait", "config": {"seconds": 0.3}}],
        "flow": {"start_at": "nap"},
        "error_handling": {"run_timeout": 0.2},
    }
    run_id = bench.run(document)
    assert bench.app.client.run(run_id).error_code == "run_timeout"
    bench.app.client.retry(run_id)
    assert bench.app.client.run(run_id).status is RunStatus.RUNNING
    assert bench.drive(run_id) is RunStatus.FAILED
    assert bench.app.client.run(run_id).error_code == "run_timeout"
