"""The wording of `iaflow why`: each kind of reason, and chains back to the first cause.

Decides nothing; runs are made by the planner in memory. Run by pytest.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from iaflow.data.records import NO_INDEX, DecisionRecord, ItemCounts, RunRecord, StepRecord
from iaflow.data.status import StepEnd, StepStatus
from iaflow.explaining import Explanation, Ledger, describe_reason, explain, lay_out
from iaflow.pipeline.plans import RunCancelled, StepCancelled
from tests.unit.planning import Run, compile_graph, make_document

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def compared(left: Any, operator: str, right: Any, verdict: bool, **more: Any) -> dict[str, Any]:
    return {
        "kind": "compare",
        "left": {"path": "result.x", **left},
        "operator": operator,
        "right": right,
        "verdict": verdict,
        **more,
    }


@pytest.mark.parametrize(
    ("reason", "words"),
    (
        ({"kind": "always", "verdict": True}, "it has no condition"),
        (
            compared({"value": "Approve"}, "eq", {"value": "Reject"}, False),
            'result.x == "Reject" → "Approve" eq "Reject" is false',
        ),
        (
            compared({"value": 3}, "gte", {"path": "parameters.limit", "value": 2.0}, True),
            "result.x >= parameters.limit → 3 gte 2.0 is true",
        ),
        (
            compared({"value": "3"}, "gt", {"value": 2}, False, note="kind_mismatch"),
            'result.x > 2 → "3" gt 2 is false (values of different kinds)',
        ),
        (
            compared({"value": 5}, "between", {"value": [1, 9]}, True),
            "result.x between [1, 9] → 5 between [1, 9] is true",
        ),
        (
            {"kind": "compare", "left": {"path": "a.b", "missing": True}, "operator": "exists",
             "verdict": False},
            "a.b exists → (missing) exists is false",
        ),
        (
            compared(
                {"value": {"truncated": '"long', "sha256": "0", "bytes": 12345}},
                "eq", {"value": None}, False,
            ),
            'result.x == null → "\\"long… (12,345 bytes) eq null is false',
        ),
        (
            {"kind": "parameter", "name": "notify", "value": 0, "verdict": False},
            "parameter notify is 0, which is not truthy",
        ),
        (
            {"kind": "all", "conditions": [], "verdict": True},
            "all of these are true",
        ),
        ({"kind": "any", "conditions": [], "verdict": False}, "none of these is true"),
        ({"kind": "not", "conditions": [], "verdict": True}, "it asks that this is not true, and it is not"),
        (
            {"kind": "function", "module": "m", "function": "f", "verdict": True},
            "m.f() is true",
        ),
        (
            {"kind": "agent", "service": "router", "question": "?", "choice": "b", "answer": "a",
             "reason": "cheap", "verdict": False},
            'router answered "a" because "cheap", and the choice is "b"',
        ),
        ({"kind": "otherwise", "verdict": True}, "otherwise: no other transition was true"),
        ({"kind": "otherwise", "taken": 3, "verdict": False}, "otherwise: transition 3 was true"),
        (
            {"kind": "exclusive", "taken": 1, "verdict": False},
            "exclusive routing: transition 1 was taken before it",
        ),
        (
            {"kind": "end", "on": "success", "end": "failure", "verdict": False},
            "it goes on after success, and src failed",
        ),
        (
            {"kind": "end", "on": "failure", "end": "success", "verdict": False},
            "it goes on after a failure, and src succeeded",
        ),
        (
            {"kind": "end", "on": "completed", "end": "skipped", "verdict": False},
            "it goes on after success or failure, and src was skipped",
        ),
        (
            {"kind": "error", "code": "reference_missing", "message": "no key x"},
            "its condition could not be judged: reference_missing: no key x",
        ),
        (
            {"kind": "compare", "left": {"path": "a.x"}, "operator": "eq", "verdict": False,
             "error": "reference_missing"},
            "its condition could not be judged: reference_missing",
        ),
        (
            {"kind": "run_ended", "status": "cancelled", "verdict": False},
            "the run ended as cancelled before it was decided",
        ),
        ({"kind": "new", "a": 1}, '{"kind": "new", "a": 1}'),
    ),
)  # fmt: skip
def test_each_kind_of_reason_has_its_words(reason: dict[str, Any], words: str) -> None:
    assert describe_reason(reason, "src") == words


def test_no_reason_brings_escape_sequences_to_the_terminal() -> None:
    reason = compared({"value": "\x1b[2J"}, "eq", {"value": "\u202e"}, False)
    assert "\x1b" not in describe_reason(reason)
    assert "\u202e" not in describe_reason(reason)


# --- whole runs


def ledger_of(run: Run) -> Ledger:
    steps = [
        StepRecord(
            run_id="run",
            step_id=step_id,
            index=NO_INDEX,
            status=view.status,
            end=run.ends.get(step_id),
            attempt=1,
            worker_losses=0,
            worker=None,
            handled=step_id in run.handled,
            due_at=None,
            started_at=None,
            finished_at=None,
            error=run.errors.get(step_id),
        )
        for step_id, view in run.steps.items()
    ]
    decisions = [
        DecisionRecord("run", d.transition, d.source, d.target, d.taken, 1, d.reason, NOW)
        for d in run.decisions.values()
    ]
    record = RunRecord(
        "run", "slug", "hash", run.view.status, 1, 0, 0, 0, 0, None, None, None, NOW, None, {}, None
    )  # fmt: skip
    return Ledger.of(run.graph, record, steps, decisions)


def make_run(edges: list[Any], *, steps: Mapping[str, Any] | None = None, **more: Any) -> Run:
    return Run(compile_graph(make_document(edges, steps=steps, **more)))


def words_of(explanation: Explanation) -> list[str]:
    return [f"{arrow.verdict}: {arrow.words}" for arrow in explanation.arrows]


def test_the_first_step_ran_because_the_run_starts_there() -> None:
    run = make_run([("a", "b")])
    run.end("a")
    told = explain(ledger_of(run), "a")
    assert told.sentence == "a ran and succeeded, because the run starts at it"
    assert told.arrows == ()


def test_a_step_that_waits_for_others_says_how_many() -> None:
    run = make_run([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    run.end("a")
    run.end("b")
    told = explain(ledger_of(run), "d")
    assert told.sentence == "d has not begun: 1 of 2 transitions into it is undecided"
    assert words_of(told) == ["taken: it has no condition", "undecided: c is ready"]


def test_a_skip_is_followed_to_the_condition_that_began_it() -> None:
    run = make_run(
        [
            ("a", "b", {"condition": "result.ok == true"}),
            ("b", "c"),
            ("c", "d"),
            ("a", "d", {"on": "failure"}),
        ]
    )
    run.end("a", output={"ok": False})
    told = explain(ledger_of(run), "d")
    assert told.sentence == "d was skipped because none of the 2 transitions into it was taken"
    assert words_of(told) == [
        "refused: it goes on after success, and c was skipped",
        "refused: it goes on after a failure, and a succeeded",
    ]
    of_c = told.arrows[0].cause
    assert of_c is not None
    assert of_c.sentence == "c was skipped because the transition into it was not taken"
    of_b = of_c.arrows[0].cause
    assert of_b is not None
    assert words_of(of_b) == ["refused: result.ok == true → false eq true is false"]
    assert of_b.arrows[0].cause is None


def test_a_step_is_explained_once_however_many_paths_lead_to_it() -> None:
    edges: list[Any] = [("a", "l0", {"condition": "result.ok == true"})]
    edges.append(("a", "r0", {"condition": "result.ok == true"}))
    for k in range(40):
        for one in "lr":
            edges += [(f"{one}{k}", f"l{k + 1}"), (f"{one}{k}", f"r{k + 1}")]
    run = make_run(edges)
    run.end("a", output={"ok": False})
    assert count(explain(ledger_of(run), "l40")) <= len(run.graph.nodes)


def count(explanation: Explanation) -> int:
    return 1 + sum(count(arrow.cause) for arrow in explanation.arrows if arrow.cause)


def test_a_failure_names_its_error_and_whether_it_is_handled() -> None:
    run = make_run([("a", "b"), ("a", "c", {"on": "failure"})])
    run.errors["a"] = {}
    run.end("a", StepEnd.TIMEOUT)
    ledger = ledger_of(run)
    assert explain(ledger, "a").sentence == (
        "a ran, because the run starts at it, and failed: timeout: x; the failure is handled"
    )
    assert words_of(explain(ledger, "b")) == [
        "refused: it goes on after success, and a ran out of time (timeout: x)"
    ]
    assert words_of(explain(ledger, "c")) == ["taken: it has no condition"]


def test_nested_conditions_show_their_parts() -> None:
    condition = "not (result.a == 1 and (result.b > 2 or parameters.go == true))"
    run = make_run([("a", "b", {"condition": condition})], parameters={"go": True})
    run.end("a", output={"a": 1, "b": 0})
    arrow = explain(ledger_of(run), "b").arrows[0]
    assert arrow.words == "it asks that this is not true, but it is"
    assert arrow.parts == (
        (0, "all of these are true"),
        (1, "result.a == 1 → 1 eq 1 is true"),
        (1, "one of these is true"),
        (2, "result.b > 2 → 0 gt 2 is false"),
        (2, "parameters.go == true → true eq true is true"),
    )


def test_a_condition_that_failed_shows_what_had_been_judged() -> None:
    edges = [
        ("a", "b", {"condition": "result.a == 1 and result.nowhere == 2"}),
        ("a", "c", {"on": "failure"}),
    ]
    run = make_run(edges)
    run.end("a", output={"a": 1})
    arrow = explain(ledger_of(run), "b").arrows[0]
    assert arrow.words.startswith("its condition could not be judged: reference_missing")
    assert arrow.parts[0] == (0, "result.a == 1 → 1 eq 1 is true")


@pytest.mark.parametrize(
    ("join", "taken", "sentence"),
    (
        (
            "all_success",
            (True, False),
            "d was skipped because 1 of 2 transitions into it was taken, and its join asks for all",
        ),
        (
            {"type": "n_of_m", "n": 2},
            (True, False),
            "d was skipped because 1 of 2 transitions into it was taken, and its join asks for 2",
        ),
        (
            "any",
            (True, False),
            "d is ready and waits for a worker, because 1 of 2 transitions into it was taken, and its join asks for 1",
        ),
    ),
)
def test_a_join_says_what_it_asks_for(join: Any, taken: tuple[bool, bool], sentence: str) -> None:
    run = make_run(
        [
            ("a", "b"),
            ("a", "c"),
            ("b", "d", {"condition": "result.ok == true"}),
            ("c", "d", {"condition": "result.ok == true"}),
        ],
        steps={"d": {"join": join}},
    )
    run.end("a")
    for step_id, ok in zip("bc", taken, strict=True):
        run.end(step_id, output={"ok": ok})
    assert explain(ledger_of(run), "d").sentence == sentence


def test_a_cancelled_run_explains_what_never_began() -> None:
    run = make_run([("a", "b"), ("b", "c")])
    run.end("a")
    run.apply(RunCancelled("wrong customer"))
    ledger = ledger_of(run)
    assert explain(ledger, "b").sentence.startswith("b was cancelled: ")
    assert words_of(explain(ledger, "c")) == [
        "refused: the run ended as cancelled before it was decided"
    ]


def test_a_cancelled_step_gives_the_reason_to_what_depends_on_it() -> None:
    run = make_run([("a", "b"), ("a", "x"), ("b", "c")])
    run.end("a")
    run.apply(StepCancelled("b", "wrong customer."))
    told = explain(ledger_of(run), "c")
    assert words_of(told) == ["refused: it goes on after success, and b was cancelled"]
    cause = told.arrows[0].cause
    assert cause is not None
    assert cause.sentence == "b was cancelled: wrong customer"


def test_a_step_that_skipped_itself_says_so() -> None:
    run = make_run([("a", "b"), ("b", "c")])
    run.end("a")
    run.end("b", StepEnd.SKIPPED)
    run.errors["b"] = {"code": "skipped", "message": "nothing new"}
    assert explain(ledger_of(run), "b").sentence == (
        "b ran, because the transition into it was taken, and skipped itself: nothing new"
    )


def test_superseded_decisions_are_left_out() -> None:
    run = make_run([("a", "b")])
    run.end("a")
    ledger = ledger_of(run)
    old = DecisionRecord("run", 0, "a", "b", False, 1, {"kind": "always"}, NOW, superseded=True)
    decisions = [old, *ledger.decisions.values()]
    again = Ledger.of(ledger.graph, ledger.run, list(ledger.steps.values()), decisions)
    assert explain(again, "b").arrows[0].taken is True


@pytest.mark.parametrize("status", list(StepStatus))
def test_every_status_has_a_sentence(status: StepStatus) -> None:
    run = make_run([("a", "b")])
    run.end("a")
    ledger = ledger_of(run)
    step = StepRecord("run", "b", NO_INDEX, status, None, 1, 0, None, False, None, None, None)
    sentence = explain(
        Ledger(ledger.graph, ledger.run, {"b": step}, ledger.decisions), "b"
    ).sentence
    assert sentence.startswith("b ")


# --- what a step waits for


def standing(record: StepRecord, **more: Any) -> str:
    """Return the sentence on step `a`, whose row this is."""
    run = make_run([("a", "b")], steps={"a": {"rate_limit": "10/s"}})
    ledger = ledger_of(run)
    return explain(replace(ledger, steps={"a": record}, **more), "a").sentence


def row(status: StepStatus, **more: Any) -> StepRecord:
    return StepRecord(
        "run", "a", NO_INDEX, status, None, 0, 0, None, False, None, None, None, **more
    )


@pytest.mark.parametrize(
    ("holders", "words"),
    (
        ({"k": ("run", "b")}, "which step b of the same run holds"),
        ({"k": ("other", "c")}, "which step c of run other holds"),
        ({}, "which is free again"),
    ),
)
def test_a_step_behind_a_key_names_who_holds_it(holders: Any, words: str) -> None:
    held = row(StepStatus.READY, concurrency_key="k", is_held=True)
    assert f'waits for the key "k", {words}' in standing(held, holders=holders)


def test_a_step_behind_a_rate_says_when_its_turn_is() -> None:
    held = replace(row(StepStatus.READY, is_held=True), due_at=NOW)
    assert "its turn under the rate of 10/s, at 2026-01-01 00:00:00 UTC" in standing(held)
    assert "waits for a worker" in standing(row(StepStatus.READY))


def test_a_foreach_names_its_first_failed_item() -> None:
    counts = ItemCounts(total=1500, started=1500, ended=1500, succeeded=1497, failed=2)
    failed = replace(row(StepStatus.FAILED, error={"code": "X", "message": "wet."}), index=7)
    told = standing(row(StepStatus.SUCCEEDED, items=counts), items={"a": (failed,)})
    assert told.endswith(
        "; 1,500 items: 1,497 succeeded, 2 failed, 1 skipped or cancelled; item 7 failed: X: wet"
    )


def test_a_laid_out_explanation_is_the_same_in_words() -> None:
    run = make_run([("a", "b", {"condition": "result.ok == true"}), ("b", "c")])
    run.end("a", output={"ok": False})
    assert [str(one) for one in lay_out(explain(ledger_of(run), "c"))] == [
        "c was skipped because the transition into it was not taken",
        "    b → c  refused: it goes on after success, and b was skipped",
        "      b was skipped because the transition into it was not taken",
        "          a → b  refused: result.ok == true → false eq true is false",
    ]


def test_a_long_row_of_causes_is_told_in_full_only_near_the_step_and_at_its_beginning() -> None:
    size = 2000
    ids = [f"s{k}" for k in range(size)]
    graph = compile_graph(make_document(list(pairwise(ids))))
    run = ledger_of(make_run([("s0", "s1")])).run
    skipped = {"kind": "end", "on": "success", "end": "skipped"}
    refused = compared({"value": 1}, "gt", {"value": 2}, False)
    decisions = [
        DecisionRecord("r", k, a, b, False, 1, skipped if k else refused, NOW)
        for k, (a, b) in enumerate(pairwise(ids))
    ]
    steps = [
        replace(StepRecord.unreached("r", step_id), status=StepStatus.SKIPPED)
        for step_id in ids[1:]
    ]
    ledger = Ledger.of(graph, run, steps, decisions)
    lines = lay_out(explain(ledger, ids[-1]))
    assert len(lines) < 100
    assert lines[-1].transition == "s0 → s1"
    assert lines[-1].words.endswith("1 gt 2 is false")
    assert any(
        line.words.endswith("s1974 was skipped, as were 1,973 steps before it") for line in lines
    )
