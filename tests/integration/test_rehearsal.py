"""What users' tests rely on: stubs, scripts, virtual time, and failures that explain themselves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from iaflow import testing
from iaflow.errors import DefinitionRefused, InputRefused, Retry, Skip
from iaflow.pipeline import HumanInputStep, Step
from iaflow.pipeline.services import ServiceRegistry
from iaflow.testing import (
    Answer,
    CancelRun,
    CancelStep,
    Rehearsal,
    Signal,
    make_context,
    rehearse,
    rehearse_async,
    run_step,
)

FORM = {"ui_schema": {"fields": [{"name": "ok", "type": "boolean", "required": True}]}}


def task(step_id: str, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "module": "shop", "step_class": "Anything", **more}


def person(step_id: str, **config: Any) -> dict[str, Any]:
    return {"id": step_id, "type": "human_input", "config": {**FORM, **config}}


def chain(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    ids = [step["id"] for step in steps]
    arrows = [{"from": a, "to": b} for a, b in pairwise(ids)]
    flow = {"start_at": ids[0], "transitions": arrows}
    return {"name": "Shop", "steps": list(steps), "flow": flow, **more}


# --- stubs


class Doubles(Step):
    async def work(self, data: Any) -> Any:
        await asyncio.sleep(self.config["seconds"])
        return {"n": data["n"] * 2}


def triple(data: Any) -> Any:
    return {"n": data["n"] * 3}


async def quadruple(data: Any) -> Any:
    await asyncio.sleep(5)
    return {"n": data["n"] * 4}


def tell_attempt(data: Any, context: Any) -> Any:
    return {"n": f"{context.step_id}:{context.attempt}:{data['n']}"}


@pytest.mark.parametrize(
    ("stub", "n", "seconds"),
    (
        ({"n": 1}, 1, 0),
        (triple, 21, 0),
        (quadruple, 28, 5),
        (tell_attempt, "a:1:7", 0),
        (Doubles, 14, 60),
        (lambda data: {"n": data["n"]}, 7, 0),
    ),
    ids=("output", "function", "coroutine", "with context", "class", "lambda"),
)
def test_a_stub(stub: Any, n: Any, seconds: float) -> None:
    document = chain(task("a", config={"seconds": 60}), parameters={"n": 0})
    outcome = rehearse(document, {"n": 7}, steps={"a": stub})
    outcome.assert_succeeded({"n": n})
    outcome.assert_elapsed(seconds)


def test_a_list_is_a_stub_for_each_attempt() -> None:
    document = chain(task("a", error_handling={"retries": 5, "retry_delay": 60, "backoff": 2}))
    stubs = [ValueError("first"), Retry(after=7), triple]
    outcome = rehearse(document, {"n": 2}, steps={"a": stubs})
    outcome.assert_succeeded({"n": 6})
    outcome.assert_attempts("a", 3)
    outcome.assert_elapsed(67)
    last = rehearse(document, steps={"a": [{"n": 1}, ValueError("never")]})
    last.assert_succeeded({"n": 1})
    stays = rehearse(document, steps={"a": [ValueError("first"), KeyError("then")]})
    stays.assert_step_failed("a", "KeyError")
    stays.assert_attempts("a", 6)


def test_an_exception_and_a_skip_are_ends() -> None:
    document = chain(task("a"), task("b"))
    rehearse(document, steps={"a": ValueError("no"), "b": {}}).assert_failed("ValueError", "a")
    skipped = rehearse(document, steps={"a": Skip("nothing to do"), "b": {}})
    skipped.assert_skipped("a", "b")
    assert "nothing to do" in skipped.why("a")


def test_what_a_stub_returns_is_not_shared() -> None:
    output: dict[str, Any] = {"list": []}
    document = chain(task("a"), task("b", inputs={"list": "{{ a.list }}"}))
    outcome = rehearse(
        document, steps={"a": output, "b": lambda data: data["list"].append(1) or {}}
    )
    outcome.assert_succeeded()
    assert output == {"list": []}


def test_a_foreach_has_a_stub_for_its_items() -> None:
    document = chain(task("a", foreach={"items": [3, 1, 2]}))

    async def wait(data: Any, context: Any) -> Any:
        await asyncio.sleep(data["item"])
        return {"at": context.item_index}

    outcome = rehearse(document, steps={"a": wait})
    outcome.assert_succeeded({"results": [{"at": 0}, {"at": 1}, {"at": 2}]})
    assert [item.ended_seconds for item in outcome.items["a"]] == [3, 1, 2]


@pytest.mark.parametrize(
    ("stubs", "word"),
    (
        ({"aa": {}}, "did you mean 'a'"),
        ({"h": {}}, "give answers="),
        ({"a": 7}, "the stub for step 'a' is 7"),
        ({"a": []}, "the stub for step 'a'"),
        ({"w": {}}, "its time is virtual"),
    ),
)
def test_a_stub_for_nothing_is_refused(stubs: Any, word: str) -> None:
    wait = {"id": "w", "type": "wait", "config": {"seconds": 1}}
    with pytest.raises(ValueError, match="stub") as refused:
        rehearse(chain(task("a"), person("h"), wait), steps=stubs)
    assert word in str(refused.value)


def test_a_step_without_a_stub_is_the_real_one_or_says_what_to_do(tmp_path: Path) -> None:
    document = chain(task("a"), task("b"))
    outcome = rehearse(document, steps={"b": {}})
    outcome.assert_failed("module_not_allowed", "a")
    assert "steps={'a': …}" in outcome.why("a")
    (tmp_path / "rehearsed_shop.py").write_text(
        "from iaflow.pipeline import Step\n\n\n"
        "class Anything(Step):\n"
        "    def work(self, data):\n"
        "        return {'real': self.get_service('word')}\n"
    )
    (tmp_path / "shop.json").write_text(json.dumps(document).replace('"shop"', '"rehearsed_shop"'))
    real = rehearse(tmp_path / "shop.json", steps={"b": {}}, services={"word": "yes"})
    assert real.output_of("a") == {"real": "yes"}


def test_a_class_of_ones_own_may_ask() -> None:
    class Asks(HumanInputStep):
        async def work(self, data: Any) -> Any:
            return {"seen": data["n"]}

    document = chain(person("h"), parameters={"n": 3})
    outcome = rehearse(document, steps={"h": Asks})
    [pause] = outcome.waiting
    assert pause.shown["seen"] == 3


# --- scripts


def test_people_answer_at_their_time() -> None:
    document = chain(task("a"), person("h"), task("b", inputs={"who": "{{ h._answered_by }}"}))
    stubs = {"a": {}, "b": lambda data: data}
    outcome = rehearse(document, steps=stubs, answers=[Answer("h", {"ok": True}, at=30, by="ann")])
    outcome.assert_succeeded({"who": "ann"})
    outcome.assert_order("a", "h", "b")
    outcome.assert_elapsed(30)
    assert outcome.steps["h"].ended_seconds == 30


def test_an_answer_can_come_some_time_after_the_question() -> None:
    document = chain(task("a"), person("h"), person("i"))
    answers = [Answer("h", {"ok": True}, after=3600), Answer("i", {"ok": True}, after=60)]
    outcome = rehearse(document, steps={"a": {}}, answers=answers)
    outcome.assert_succeeded()
    outcome.assert_elapsed(3660)
    for after, reason in ((60, "it expired at"), (90, "waited no longer when it came")):
        answer = Answer("h", {"ok": True}, after=after)
        late = rehearse(chain(person("h", expires_in=60)), answers=[answer])
        late.assert_failed("expired", "h")
        assert reason in late.refused[0].reason


def test_an_answer_and_a_signal_can_be_given_each_time() -> None:
    child = chain(person("h"), {"id": "e", "type": "event", "config": {"name": "bell"}})
    child["name"] = "Child"
    each = {"id": "kids", "type": "pipeline", "pipeline": "child-v1", "inputs": {}}
    each["foreach"] = {"items": [1, 2, 3]}
    script: dict[str, Any] = {
        "answers": [Answer("h", {"ok": True}, always=True)],
        "signals": [Signal("bell", {"n": 1}, at=None, after=5, always=True)],
    }
    outcome = rehearse(chain(each), pipelines={"child-v1": child}, **script)
    outcome.assert_succeeded()
    outcome.assert_elapsed(5)
    assert outcome.refused == ()
    once = rehearse(chain(each), pipelines={"child-v1": child}, answers=[Answer("h", {"ok": True})])
    once.assert_waiting()
    assert len(once.waiting) == 2


def test_without_a_time_an_answer_comes_as_soon_as_it_is_wanted() -> None:
    document = chain(task("a"), person("h"), person("i"))
    answers = [Answer("i", {"ok": False}), Answer("h", {"ok": True})]
    outcome = rehearse(document, steps={"a": quadruple}, input={"n": 1}, answers=answers)
    outcome.assert_succeeded()
    outcome.assert_elapsed(5)


def test_an_answer_that_is_early_wrong_late_or_for_nobody_is_refused() -> None:
    document = chain(task("a"), person("h"), person("i"))
    answers = [
        Answer("h", {"ok": True}, at=1),
        Answer("h", {"ok": "perhaps"}, at=6),
        Answer("h", {"ok": True}, at=7),
        Answer("h", {"ok": True}, at=8),
        Answer("h", {"ok": True}),
    ]
    outcome = rehearse(document, {"n": 1}, steps={"a": quadruple}, answers=answers[:4])
    outcome.assert_waiting("i")
    assert [one.action for one in outcome.refused] == [answers[0], answers[1], answers[3]]
    assert not any(one.changed for one in outcome.refused)
    never = rehearse(document, steps={"a": ValueError("no")}, answers=answers[4:])
    assert [one.reason for one in never.refused] == ["step 'h' never waited for it"]
    with pytest.raises(ValueError, match="did you mean"):
        rehearse(document, answers=[Answer("hh")])


def test_nobody_answers_and_time_goes_on() -> None:
    document = chain(person("h", expires_in=86_400 * 3))
    document["steps"].append(task("late"))
    document["flow"]["transitions"].append({"from": "h", "to": "late", "on": "expired"})
    outcome = rehearse(document, steps={"late": {}})
    outcome.assert_succeeded()
    outcome.assert_taken("h", "late")
    outcome.assert_elapsed(86_400 * 3)
    stopped = rehearse(document, steps={"late": {}}, until=3600)
    stopped.assert_waiting("h")
    [pause] = stopped.waiting
    assert pause.expires_at is not None


def test_timers_events_and_controls() -> None:
    document = chain(
        {"id": "w", "type": "wait", "config": {"seconds": 3600}},
        {"id": "e", "type": "event", "config": {"name": "paid"}},
        task("a", inputs={"eur": "{{ e.eur }}"}),
    )
    signals = [Signal("paid", {"eur": 1}, at=10), Signal("paid", {"eur": 2}, at=4000)]
    outcome = rehearse(document, steps={"a": lambda data: data}, signals=signals)
    outcome.assert_succeeded({"eur": 2})
    assert [one.action for one in outcome.refused] == [signals[0]]
    cancelled = rehearse(document, steps={"a": {}}, controls=[CancelRun(at=20)])
    cancelled.assert_cancelled()
    cancelled.assert_cancelled("w")
    cancelled.assert_elapsed(20)


def test_a_cancelled_step_is_stopped() -> None:
    document = chain(task("a"), task("b"))
    document["steps"].append(task("c"))
    document["flow"]["transitions"].append({"from": "a", "to": "c"})
    stopped: list[str] = []

    async def hang(data: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(1000)
        finally:
            stopped.append(f"{context.step_id} at {asyncio.get_running_loop().time():g}")

    async def be(data: Any) -> Any:
        await asyncio.sleep(10)
        return {}

    stubs = {"a": {}, "b": hang, "c": be}
    outcome = rehearse(document, steps=stubs, controls=[CancelStep("b", at=4)])
    outcome.assert_succeeded()
    outcome.assert_cancelled("b")
    outcome.assert_elapsed(10)
    assert stopped == ["b at 4"]


def test_pipelines_below() -> None:
    parent = chain({"id": "p", "type": "pipeline", "pipeline": "child-v1", "inputs": {"n": 4}})
    child = {**chain(task("a"), person("ask")), "slug": "child-v1", "parameters": {"n": 0}}
    outcome = rehearse(
        parent,
        steps={"child-v1/a": lambda data: data},
        pipelines={"child-v1": child},
        answers=[Answer("ask", {"ok": True}, at=9)],
    )
    outcome.assert_succeeded()
    outcome.assert_elapsed(9)


def test_places_for_steps_are_shared() -> None:
    document = chain(task("a"), task("b"))
    document["flow"]["transitions"] = [{"from": "a", "to": name} for name in "bcd"]
    document["steps"] += [task("c"), task("d")]
    stubs: dict[str, Any] = dict.fromkeys("abcd", quadruple)
    rehearse(document, {"n": 1}, steps=stubs).assert_elapsed(10)
    rehearse(document, {"n": 1}, steps=stubs, max_parallel=1).assert_elapsed(20)
    rehearse(document, {"n": 1}, steps=stubs, max_parallel=2).assert_elapsed(15)


def test_timeouts_and_run_timeouts_are_exact() -> None:
    slow = chain(task("a", error_handling={"timeout": 1.3}))
    outcome = rehearse(slow, {"n": 1}, steps={"a": quadruple})
    outcome.assert_step_failed("a", "timeout")
    outcome.assert_elapsed(1.3)
    overdue = chain(task("a"), error_handling={"run_timeout": 2.2})
    outcome = rehearse(overdue, {"n": 1}, steps={"a": quadruple})
    outcome.assert_failed("run_timeout")
    outcome.assert_elapsed(2.2)


def test_a_step_without_an_end_is_given_up() -> None:
    async def hang(data: Any) -> Any:
        await asyncio.Event().wait()

    outcome = rehearse(chain(task("a")), steps={"a": hang}, until=3600)
    assert outcome.status == "running"
    assert outcome.steps_that("ready") == ["a"]


def test_a_year_of_waiting_costs_no_time() -> None:
    year = 365 * 86_400
    document = chain(
        task("a", error_handling={"retries": 3, "retry_delay": year / 10}),
        {"id": "w", "type": "wait", "config": {"seconds": year}},
        person("h", expires_in=year),
    )
    began = time.monotonic()
    outcome = rehearse(document, steps={"a": [ValueError(), ValueError(), {}]})
    outcome.assert_failed("expired", "h")
    outcome.assert_elapsed(2.2 * year)
    assert time.monotonic() - began < 20


# --- where it runs


def test_the_start_is_an_instant_of_ones_own() -> None:
    start = datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
    document = chain(person("h"), task("a", inputs={"at": "{{ h._answered_at }}"}))
    outcome = rehearse(
        document,
        steps={"a": lambda data: data},
        answers=[Answer("h", {"ok": True}, at=120)],
        start_at=start,
    )
    assert outcome.began_at == start
    assert outcome.outputs is not None
    assert outcome.outputs["at"].startswith("2026-03-01T00:01:00")


def test_a_rehearsal_is_the_same_every_time() -> None:
    document = chain(task("a", error_handling={"retries": 3, "retry_delay": 9, "jitter": 1}))
    outcomes = [rehearse(document, steps={"a": ValueError("no")}) for _ in range(3)]
    assert len({one.timeline() for one in outcomes}) == 1


def test_a_database_of_ones_own_keeps_the_run(iaflow_database_url: str) -> None:
    document = chain(task("a"))
    outcome = rehearse(document, steps={"a": {}}, database=iaflow_database_url)
    again = rehearse(document, steps={"a": {}}, database=iaflow_database_url)
    assert outcome.run_id != again.run_id
    outcome.assert_succeeded()


@pytest.fixture
def iaflow_database_url(tmp_path: Path) -> str:
    """A SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path}/kept.db"


def test_in_real_time_on_a_loop_of_ones_own() -> None:
    async def main() -> Rehearsal:
        document = chain(task("a"), person("h"))
        return await rehearse_async(
            document, steps={"a": {}}, answers=[Answer("h", {"ok": True}, after=0.05)]
        )

    outcome = asyncio.run(main())
    outcome.assert_succeeded()
    assert 0.04 < outcome.elapsed_seconds < 30


def test_what_is_wrong_with_a_definition_or_input_is_raised() -> None:
    with pytest.raises(DefinitionRefused):
        rehearse({"name": "x"})
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with pytest.raises(InputRefused):
        rehearse(chain(task("a"), input_schema=schema), {"n": "x"}, steps={"a": {}})
    assert rehearse(json.dumps(chain(task("a"))), steps={"a": {}}).status == "succeeded"


# --- assertions


@pytest.fixture(scope="module")
def chosen() -> Rehearsal:
    """A run that took one of two ways."""
    document = chain(task("a"), task("high"), parameters={"n": 9})
    document["steps"].append(task("low"))
    document["flow"]["transitions"] = [
        {"from": "a", "to": "high", "condition": "parameters.n > 5"},
        {"from": "a", "to": "low", "condition": "parameters.n <= 5"},
    ]
    return rehearse(document, steps={"a": {}, "high": {}, "low": {}})


def test_assertions_that_hold(chosen: Rehearsal) -> None:
    chosen.assert_ran("a", "high")
    chosen.assert_skipped("low")
    chosen.assert_not_started("low")
    chosen.assert_taken("a", "high")
    chosen.assert_refused("a", "low")
    chosen.assert_order("a", "high")
    assert chosen.steps_that("skipped") == ["low"]


@pytest.mark.parametrize(
    ("assertion", "word"),
    (
        (lambda run: run.assert_succeeded({"n": 1}), '{"n": 1}'),
        (lambda run: run.assert_failed(), "the run is succeeded"),
        (lambda run: run.assert_cancelled(), "the run is succeeded"),
        (lambda run: run.assert_waiting("a"), "the run is succeeded"),
        (lambda run: run.assert_ran("low"), "'low' is skipped, not succeeded"),
        (lambda run: run.assert_skipped("high"), "'high' is succeeded, not skipped"),
        (lambda run: run.assert_step_failed("a"), "'a' is succeeded, not failed"),
        (lambda run: run.assert_not_started("a"), "'a' is succeeded"),
        (lambda run: run.assert_attempts("a", 2), "took 1 attempts, not 2"),
        (lambda run: run.assert_order("low", "a"), "'low' ended at"),
        (lambda run: run.assert_taken("a", "low"), "a -> low was refused"),
        (lambda run: run.assert_refused("a", "high"), "a -> high was taken"),
        (lambda run: run.assert_taken("high", "low"), "high -> low was not decided"),
        (lambda run: run.assert_elapsed(4), "took 0 virtual seconds, not 4"),
        (lambda run: run.output_of("low"), "it has no output"),
    ),
)
def test_a_failing_assertion_says_what_happened(
    assertion: Callable[[Rehearsal], None], word: str, chosen: Rehearsal
) -> None:
    with pytest.raises(AssertionError) as failed:
        assertion(chosen)
    assert word in str(failed.value)
    assert "succeeded  high" in str(failed.value)


def test_a_step_that_is_not_there_is_no_failure_of_the_run(chosen: Rehearsal) -> None:
    with pytest.raises(ValueError, match="no step 'hihg'"):
        chosen.assert_ran("hihg")


def test_why_tells_the_operands(chosen: Rehearsal) -> None:
    assert "a → low  refused" in chosen.why("low")
    assert "parameters.n" in chosen.why("low")


# --- one step


class Given(BaseModel):
    n: int


class Checked(Step):
    Input = Given
    Output = Given

    async def work(self, data: Given) -> Any:
        await asyncio.sleep(3600)
        self.context.progress(0.5, "half")
        self.context.log("said", n=data.n)
        return {"n": data.n + self.config["more"] + self.get_service("base")}


def test_one_step_by_itself() -> None:
    progress: list[tuple[float, str]] = []
    lines: list[tuple[str, dict[str, Any]]] = []
    context = make_context("checked", attempt=2, progress=progress, lines=lines)
    output = run_step(
        Checked, {"n": "1"}, config={"more": 10}, services={"base": 100}, context=context
    )
    assert output == {"n": 111}
    assert (progress, lines) == ([(0.5, "half")], [("said", {"n": 1})])
    assert context.idempotency_key == "run:checked"
    with pytest.raises(ValueError, match="n"):
        run_step(Checked, {"n": "x"}, config={"more": 1}, services=ServiceRegistry(base=1))


class Plain(Step):
    def work(self, data: Any) -> Any:
        return {"cancelled": self.context.cancelled, "index": self.context.item_index}


def test_a_plain_step_by_itself() -> None:
    assert run_step(Plain) == {"cancelled": False, "index": None}
    context = make_context(item_index=3, is_cancelled=True)
    assert run_step(Plain, context=context) == {"cancelled": True, "index": 3}


# --- the package


def test_every_name_is_there() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError):
        _ = testing.nothing


def test_the_plugin_costs_nothing_where_nobody_uses_it() -> None:
    heavy = "sqlalchemy pydantic celery asyncio iaflow.pipeline iaflow.database iaflow.client"
    script = (
        "import sys, pytest; before = set(sys.modules); import iaflow.testing.plugin; "
        f"print(*({heavy.split()!r} & (sys.modules.keys() - before)))"
    ).replace(f"{heavy.split()!r}", f"set({heavy.split()!r})")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
