"""What the pages of a run lay out in rows: reasons of any shape, moves, bars of time.

Pure: no server, no database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.data.records import ItemCounts, RunRecord, StepRecord
from iaflow.data.status import RunStatus, StepStatus
from iaflow.web.pages.run_telling import (
    DEEPEST,
    describe_counts,
    find_moves,
    lay_out_condition,
    lay_out_why,
    plan_timeline,
)
from iaflow.web.schemas.runs import Run, Waiting
from iaflow.web.schemas.steps import Event, Explained, ExplainedTransition, StepLine, StepMoved

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def make_run(status: RunStatus = RunStatus.RUNNING, ended: float | None = None) -> Run:
    record = RunRecord(
        "r", "s", "h", status, 1, 0, 0, 0, 0, None, None, None, NOW,
        None if ended is None else NOW + timedelta(seconds=ended), {}, None, started_at=NOW,
    )  # fmt: skip
    return Run.with_all(record, (1, "1.0"), Waiting(pauses=[], events=[]), payloads=True)


def make_step(
    step_id: str,
    begun: float | None = None,
    ended: float | None = None,
    status: StepStatus = StepStatus.SUCCEEDED,
    **more: Any,
) -> StepLine:
    values = {
        name: getattr(StepRecord.unreached("r", step_id), name) for name in StepRecord.__slots__
    }
    values |= {
        "status": status,
        "started_at": None if begun is None else NOW + timedelta(seconds=begun),
        "finished_at": None if ended is None else NOW + timedelta(seconds=ended),
        **more,
    }
    return StepLine.of(StepRecord(**values), None, payloads=True)


# --- conditions


def compared(left: dict[str, Any], operator: str, right: Any, verdict: Any) -> dict[str, Any]:
    reason = {"kind": "compare", "left": left, "operator": operator, "verdict": verdict}
    return reason if right is None else {**reason, "right": right}


def test_a_comparison_has_its_operands_as_they_were_seen() -> None:
    left, right = {"path": "result.n", "value": 3}, {"path": "parameters.limit", "value": 2.0}
    (row,) = lay_out_condition(compared(left, "gte", right, True), "a")
    assert (row.left, row.left_seen, row.operator) == ("result.n", "3", "≥")
    assert (row.right, row.right_seen, row.verdict) == ("parameters.limit", "2.0", "true")
    missing = {"path": "a.b", "missing": True}
    (row,) = lay_out_condition(compared(missing, "not_exists", None, True), "a")
    assert (row.left_seen, row.operator, row.right_seen) == ("(missing)", "not exists", "")
    cut = {"value": {"truncated": '"long', "sha256": "0", "bytes": 12345}}
    (row,) = lay_out_condition(compared(left, "eq", cut, False), "a")
    assert row.right is None
    assert row.right_seen.endswith("(12,345 bytes)")


def test_parts_stand_below_their_whole_in_order() -> None:
    first, second = (
        {"kind": "parameter", "name": name, "value": 1, "verdict": True} for name in "xy"
    )
    inner = {"kind": "not", "conditions": [second], "verdict": False}
    reason = {"kind": "all", "conditions": [first, inner], "verdict": False}
    rows = lay_out_condition(reason, "a")
    assert [(row.depth, row.verdict) for row in rows] == [
        (0, "false"), (1, "true"), (1, "false"), (2, "true"),
    ]  # fmt: skip
    assert rows[0].words == "not all of these are true"


def test_a_condition_that_could_not_be_judged_shows_what_was() -> None:
    around = {"kind": "any", "conditions": [compared({"value": 1}, "eq", {"value": 2}, False)]}
    reason = {"kind": "error", "code": "condition_failed", "message": "no", "condition": around}
    rows = lay_out_condition(reason, "a")
    assert [row.depth for row in rows] == [0, 1, 2]
    assert "condition_failed: no" in rows[0].words


def test_no_depth_of_parts_is_too_deep() -> None:
    reason: dict[str, Any] = {"kind": "always", "verdict": True}
    for _ in range(5000):
        reason = {"kind": "not", "conditions": [reason], "verdict": True}
    assert {row.depth for row in lay_out_condition(reason, "a")} == set(range(DEEPEST + 1))


# --- why


def test_causes_stand_below_the_transition_that_they_explain() -> None:
    def explain(step: str, *arrows: ExplainedTransition) -> Explained:
        return Explained(
            step_id=step, status=StepStatus.SKIPPED, sentence=step, transitions=list(arrows)
        )

    def refused(source: str, target: str, cause: Explained | None) -> ExplainedTransition:
        return ExplainedTransition(
            transition=0, source=source, target=target, verdict="refused", words="no",
            parts=["part"], cause=cause,
        )  # fmt: skip

    whole = explain(
        "c", refused("b", "c", explain("b", refused("a", "b", None))), refused("x", "c", None)
    )
    lines = [(line.depth, line.step_id, line.target) for line in lay_out_why(whole)]
    assert lines == [
        (0, "c", None), (1, "b", "c"), (2, "b", None), (3, "a", "b"), (1, "x", "c"),
    ]  # fmt: skip


# --- events and time


def test_moves_are_those_of_the_step_or_of_one_item() -> None:
    def event(seq: int, *steps: StepMoved) -> Event:
        return Event(
            seq=seq, at=NOW, run=RunStatus.RUNNING, steps=list(steps), transitions=[], by=None
        )

    def moved(status: StepStatus, index: int | None = None) -> StepMoved:
        return StepMoved(step_id="a", status=status, index=index)

    events = [
        event(1, moved(StepStatus.READY)),
        event(2, moved(StepStatus.READY, 0), moved(StepStatus.READY, 1)),
        event(3, moved(StepStatus.FAILED, 1)),
        event(4, moved(StepStatus.SUCCEEDED)),
    ]
    assert [one.status for one in find_moves(events, "a", None)] == ["ready", "succeeded"]
    assert [one.status for one in find_moves(events, "a", 1)] == ["ready", "failed"]
    assert find_moves(events, "b", None) == []


def test_bars_stand_where_their_steps_were_at_work() -> None:
    steps = [make_step("late", 5, 10), make_step("never"), make_step("early", 0, 5)]
    timeline = plan_timeline(make_run(ended=10), steps, NOW + timedelta(hours=1))
    assert timeline.seconds == 10
    found = [(bar.step.step_id, bar.begin, bar.width) for bar in timeline.bars]
    assert found == [("early", 0, 500), ("late", 500, 500), ("never", 0, 0)]


def test_what_goes_on_has_a_bar_until_now() -> None:
    step = make_step("a", 5, None, StepStatus.RUNNING)
    timeline = plan_timeline(make_run(), [step], NOW + timedelta(seconds=20))
    assert (timeline.seconds, timeline.bars[0].begin, timeline.bars[0].width) == (20, 250, 750)


offsets = st.none() | st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(offsets, offsets, st.sampled_from(StepStatus)), max_size=8))
def test_whatever_the_clocks_said_bars_lie_within_the_scale(times: list[Any]) -> None:
    steps = [make_step(f"s{k}", *one) for k, one in enumerate(times)]
    for bar in plan_timeline(make_run(), steps, NOW).bars:
        assert 0 <= bar.begin <= 1000
        assert bar.begin + bar.width <= 1000
        assert bool(bar.width) is (bar.step.started_at is not None)


@pytest.mark.parametrize(
    ("counts", "words"),
    (
        (None, ""),
        (ItemCounts(1200, 3, 2, 2), "2/1,200 items"),
        (ItemCounts(9, 9, 5, 3, 2, 4), "5/9, 2 failed, 4 wait"),
    ),
)
def test_items_are_counted_in_few_words(counts: ItemCounts | None, words: str) -> None:
    assert describe_counts(make_step("a", items=counts)) == words
