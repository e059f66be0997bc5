"""The largest documents that are legal, and the worst that are not: bounded time for each.

They take seconds, so they stand apart from the fast tests of the same rooms.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from iaflow.errors import Problem
from iaflow.pipeline.check import check
from iaflow.pipeline.strict_json import MAX_BYTES, JsonRefused, read_json
from tests.unit.timing import within


def read_problems(text: str) -> tuple[Problem, ...]:
    try:
        read_json(text)
    except JsonRefused as refused:
        return refused.problems
    return ()


@pytest.mark.parametrize(
    "text",
    (
        "[" + "[],," * 250_000,
        "[" + "[]," * 340_000 + "0]",
        "[" + '{"a":1},' * 130_000 + "0]",
        "[}" * 500_000,
        '"' * 1_000_000,
        '"' + '\\"' * 500_000,
        '"' + "\\" * 1_000_000,
        "9" * 1_000_000,
        "[" + ("9" * 4300 + ",") * 240 + "0]",
        "1e" + "9" * 1_000_000,
        "0." + "1" * 1_000_000,
        "{" + '"a":1,' * 170_000 + '"a":1}',
        '{"' + "k" * 200_000 + '":[' + "NaN," * 200_000 + "0]}",
        "[" + "1e999," * 170_000 + "0]",
    ),
    ids=lambda text: f"{text[:12]}…",
)
def test_no_text_of_a_mebibyte_takes_long(text: str) -> None:
    problems = within(2, lambda: read_problems(text))
    assert len(problems) <= 100
    assert sum(len(problem.pointer) for problem in problems) < MAX_BYTES


def big(steps: int, reach: int, **keys: Any) -> str:
    ids = [f"s{index}" for index in range(steps)]
    edges = [
        {"from": ids[index], "to": ids[index + step], **keys}
        for index in range(steps)
        for step in range(1, reach + 1)
        if index + step < steps
    ]
    flow = {"start_at": "s0", "transitions": edges}
    return json.dumps(
        {
            "name": "x",
            "steps": [{"id": one, "module": "m", "step_class": "C"} for one in ids],
            "flow": flow,
        }
    )


def test_the_largest_definition_is_checked_in_seconds() -> None:
    """10,000 steps and 50,000 transitions, the limits of LANGUAGE section 1."""
    text = big(10_000, 5)
    # Far more than it takes, so that a busy machine does not fail it.
    assert within(10, lambda: check(text, max_bytes=16 * MAX_BYTES)).errors == ()
