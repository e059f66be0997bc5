"""The checker of the chaos tests reports each kind of violation, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.chaos.checker import check
from tests.chaos.records import Asked, Entry, EventRow, Rows, RunRow, StepRow

ASKED = Asked("k", "r", "succeeded", {"value": 2}, {"a": 1, "b": 1}, answer={"amount": 1})
A, B = (
    StepRow(name, "succeeded", 1, 0, {"value": n, "nonce": f"n-{name}"})
    for n, name in enumerate("ab", 1)
)
RUN = RunRow(
    "r",
    "k",
    "succeeded",
    {"value": 2, "nonce": "n-b"},
    (A, B),
    (
        EventRow(1, "running", ()),
        EventRow(2, "running", ("a",)),
        EventRow(3, "succeeded", ("b",)),
    ),
    0,
    ({"amount": 1},),
)
LEDGER = [
    Entry("r", step, 1, phase, f"n-{step}", 7, at)
    for at, (step, phase) in enumerate(
        (("a", "begun"), ("a", "ended"), ("b", "begun"), ("b", "ended"))
    )
]


def found(
    run: RunRow | None = RUN,
    asked: Asked = ASKED,
    ledger: Sequence[Entry] = LEDGER,
    **how: bool,
) -> list[str]:
    return check([asked], ledger, Rows((run,) if run else ()), **how)


def test_a_run_that_went_well_violates_nothing() -> None:
    assert found() == []
    assert found(in_order=True, losses_allowed=False) == []


@pytest.mark.parametrize(
    ("invariant", "run", "asked"),
    (
        ("I1/I2: 0 runs", None, ASKED),
        ("I2: other was acknowledged", RUN, replace(ASKED, run_id="other")),
        ("I1: run r has not ended", replace(RUN, status="running"), ASKED),
        ("I1: run r ended failed", replace(RUN, status="failed"), ASKED),
        ("I4: run r returned", replace(RUN, outputs={"value": 3}), ASKED),
        ("I15: run r has 2 answers", replace(RUN, answers=({"amount": 1},) * 2), ASKED),
        ("I15: run r has {'amount': 2}", replace(RUN, answers=({"amount": 2},)), ASKED),
        ("I15: run r still asks", replace(RUN, open_pauses=1), ASKED),
        ("I6: run r has ended", replace(RUN, steps=(A, replace(B, status="ready"))), ASKED),
        (
            "I3: the output of step b",
            replace(RUN, steps=(A, replace(B, output={"nonce": "nobody's"}))),
            ASKED,
        ),
        (
            "I3: step a of run r was completed 2 times",
            replace(RUN, events=(*RUN.events[:2], EventRow(3, "succeeded", ("a", "b")))),
            ASKED,
        ),
        ("I23: the events", replace(RUN, events=(RUN.events[0], RUN.events[2])), ASKED),
        (
            "I6: run r has events after its end",
            replace(RUN, events=(*RUN.events, EventRow(4, "succeeded", ()))),
            ASKED,
        ),
        ("I10/I12: step a", RUN, replace(ASKED, executions={"a": 2, "b": 1})),
    ),
)
def test_a_violation_is_reported(invariant: str, run: RunRow | None, asked: Asked) -> None:
    assert any(one.startswith(invariant) for one in found(run, asked))


def test_two_runs_of_one_key() -> None:
    rows = Rows((RUN, replace(RUN, run_id="again")))
    assert any(one.startswith("I1/I2: 2 runs") for one in check([ASKED], LEDGER, rows))


def test_executions_are_counted_with_their_losses() -> None:
    again = [Entry("r", "a", 1, "begun", "n-lost", 8, -1.0), *LEDGER]
    assert found(ledger=again) == [
        "I10/I12: step a of run r was executed 2 times, not 1 to 1",
    ]
    assert check([ASKED], again, Rows((RUN,)), crashes=1) == []
    lost = replace(RUN, steps=(replace(A, worker_losses=1), B))
    assert found(lost, ledger=again) == []
    assert any(one.startswith("I9") for one in found(lost, ledger=again, losses_allowed=False))
    # Nobody ever began what is said to be done.
    assert any(one.startswith("I10/I12: step a") for one in found(ledger=LEDGER[2:]))


def test_who_began_last_writes() -> None:
    """With a later execution that is not the one that wrote, somebody lost has written."""
    later = [*LEDGER, Entry("r", "a", 1, "begun", "n-later", 8, 1.5)]
    lost = replace(RUN, steps=(replace(A, worker_losses=1), B))
    assert found(lost, ledger=later) == []
    assert found(lost, ledger=later, in_order=True) == [
        "I7: step a of run r was written by a lost worker"
    ]
