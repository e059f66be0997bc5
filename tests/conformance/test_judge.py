"""The judge and the reader of cases, judged themselves: each can say no.

Decides by wrong expectations, one of each kind, that a case which does not hold is reported;
and by files that are no cases that none is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.bodies import load_bodies, scale_times
from tests.conformance.embedded import play_virtual
from tests.conformance.judge import Played, judge
from tests.conformance.reading import Case, NotACase, name_apart, read_cases

FORM = {"ui_schema": {"fields": [{"name": "ok", "type": "boolean", "required": True}]}}


def body(step_id: str, kind: str, sleep: float = 0, **config: Any) -> dict[str, Any]:
    return {
        "id": step_id,
        "module": "fixture_steps",
        "step_class": kind,
        "config": {"sleep": sleep, **config},
    }


DOCUMENT = {
    "name": "Judged",
    "steps": [
        body("a", "Emit", 1, values={"n": 1}),
        {**body("b", "Fail", 2, fail_times=1), "error_handling": {"retries": 1, "retry_delay": 3}},
        body("c", "Emit", 2),
        {"id": "h", "type": "human_input", "config": FORM},
        body("never", "Emit"),
        body("z", "Emit"),
        {**body("lost", "Fail"), "error_handling": {"on_failure": "continue"}},
    ],
    "flow": {
        "start_at": "a",
        "transitions": [
            {"from": "a", "to": "b"},
            {"from": "a", "to": "c"},
            {"from": "a", "to": "h"},
            {"from": "a", "to": "never", "condition": "a.n > 1"},
            {"from": "h", "to": "z"},
            {"from": "a", "to": "lost"},
        ],
    },
    "outputs": {"n": "{{ a.n }}"},
}
CASE = Case(
    id="judged",
    document=DOCUMENT,
    params={},
    answers=(
        {"step": "h", "at": 0.5, "data": {"ok": True}, "reject_expected": True},
        {"step": "h", "at": 4, "data": {"ok": True}},
    ),
    controls=({"do": "cancel_step", "step": "c", "at": 2},),
    signals=(),
    expect={
        "status": "succeeded",
        "succeeded": ["a", "b", "h", "z"],
        "failed": ["lost"],
        "skipped": ["never"],
        "cancelled": ["c"],
        "waiting": [],
        "pending": [],
        "order": [["a", "b"], ["a", "h"], ["h", "z"]],
        "overlap": [["b", "c"]],
        "no_overlap": [["a", "b"], ["b", "b"]],
        "executions": {"a": 1, "b": 2, "never": 0},
        "attempts": {"b": 2},
        "outputs": {"n": 1},
        "time": 8,
        "refused_answers": 1,
    },
)

WRONG: dict[str, Any] = {
    "status": "failed",
    "succeeded": ["c"],
    "failed": [],
    "skipped": ["z"],
    "cancelled": ["never"],
    "waiting": ["h"],
    "pending": ["z"],
    "order": [["z", "a"]],
    "overlap": [["a", "b"]],
    "no_overlap": [["b", "c"]],
    "executions": {"b": 1},
    "attempts": {"b": 1},
    "outputs": {"n": 1.0},
    "time": 7,
    "refused_answers": 0,
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """How the case above went."""
    return play_virtual(
        CASE, bodies=load_bodies(), database="sqlite://", folder=tmp_path_factory.mktemp("judge")
    )


def test_what_is_right_is_accepted(played: Played) -> None:
    assert judge(CASE, played) == []


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_is_reported(key: str, played: Played) -> None:
    [fault] = judge(replace(CASE, expect={key: WRONG[key]}), played)
    assert {"refused_answers": "answers were refused"}.get(key, key) in fault


def test_every_kind_of_expectation_is_tried() -> None:
    assert WRONG.keys() == CASE.expect.keys()


@pytest.mark.parametrize(("number", "wanted"), ((0, False), (1, True)))
def test_an_answer_is_judged_by_itself(number: int, wanted: bool, played: Played) -> None:
    answers = [{**one, "reject_expected": None} for one in CASE.answers]
    answers[number] = {**answers[number], "reject_expected": wanted}
    [fault] = judge(replace(CASE, answers=answers, expect={}), played)
    assert "the answer" in fault


def test_a_refused_answer_that_changed_something_is_reported(played: Played) -> None:
    [fault] = judge(CASE, replace(played, changed=["it moved"]))
    assert "changed something" in fault


def test_an_execution_too_many_is_seen_only_in_the_log(played: Played) -> None:
    twice = replace(played, executions=[*played.executions, played.executions[0]])
    assert judge(CASE, twice) == ["executions of a: 2, expected 1"]


def test_durations_are_scaled_and_nothing_else_is() -> None:
    document = {
        "error_handling": {"retry_delay": 10, "retries": 3, "timeout": 1.5},
        "steps": [
            {"type": "wait", "config": {"seconds": 4}},
            {"type": "task", "config": {"seconds": 4, "sleep": 2}},
            {"type": "human_input", "config": {"expires_in": 60}},
        ],
    }
    assert scale_times(document, 0.5) == {
        "error_handling": {"retry_delay": 5.0, "retries": 3, "timeout": 0.75},
        "steps": [
            {"type": "wait", "config": {"seconds": 2.0}},
            {"type": "task", "config": {"seconds": 4, "sleep": 2}},
            {"type": "human_input", "config": {"expires_in": 30.0}},
        ],
    }


# --- files


def as_file(folder: Path, content: Any) -> Path:
    path = folder / "case.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


PIPELINE = {"name": "x", "steps": [], "flow": {}}


@pytest.mark.parametrize(
    ("content", "reason"),
    (
        ("{", "cannot be read as JSON"),
        ([], "not an object"),
        ({"name": "a definition", "steps": [], "flow": {}}, "no `pipeline`"),
        ({"pipeline": PIPELINE}, "expects nothing"),
        ({"pipeline": PIPELINE, "cases": []}, "`cases` is no list"),
        ({"pipeline": PIPELINE, "cases": ["x"]}, "is no object"),
        ({"pipeline": PIPELINE, "expect": {"state": "done"}}, "['state']"),
        ({"pipeline": PIPELINE, "expect": {"time": 1}, "answers": [{"step": "h"}]}, "an answer is"),
        ({"pipeline": PIPELINE, "expect": {"time": 1}, "controls": [{"do": "x"}]}, "a control is"),
    ),
)
def test_what_is_no_case_is_refused(content: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(NotACase) as refused:
        read_cases(as_file(tmp_path, content))
    assert reason in str(refused.value)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "make",
    (
        lambda folder: folder / "nowhere",
        lambda folder: folder,
        lambda folder: as_file(folder, {"wcp": 1, "expected_outcome": "none"}).parent,
    ),
    ids=("nowhere", "empty", "descriptions alone"),
)
def test_a_place_without_cases_is_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(NotACase):
        read_cases(make(tmp_path))


def test_a_file_is_one_case_or_several(tmp_path: Path) -> None:
    expect = {"status": "succeeded"}
    [alone] = read_cases(as_file(tmp_path, {"id": "one", "pipeline": PIPELINE, "expect": expect}))
    assert (alone.id, alone.expect) == ("one", expect)
    parts = [{"case": name, "expect": expect, "params": {"n": 1}} for name in ("x", "y")]
    both = read_cases(as_file(tmp_path, {"id": "two", "pipeline": PIPELINE, "cases": parts}))
    assert [case.id for case in both] == ["two-x", "two-y"]
    assert both[0].params == {"n": 1}
    nameless = [{"expect": expect}, {"expect": expect}]
    same = read_cases(as_file(tmp_path, {"id": "two", "pipeline": PIPELINE, "cases": nameless}))
    assert [case.id for case in name_apart(same)] == ["two", "two#2"]
