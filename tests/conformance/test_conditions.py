"""Comparisons recorded from a real Step Functions service come to the same verdicts here.

Each is judged three times: as an object, with both sides as paths where the table has it so, and
as the expression string that says the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iaflow.pipeline.conditions import evaluate, parse_condition
from iaflow.pipeline.templating import Scope

TABLE = (
    Path(__file__).parents[3] / "shared" / "cases" / "conditions" / "asl_choice_truth_table.json"
)
CASES = 455
WORDS = {"eq": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

DIFFERENCES: dict[tuple[str, str, str], str] = {}
"""(operator of the table, left, right) of each case that we judge otherwise, and why. None yet."""


def read_table() -> dict[str, Any]:
    assert TABLE.is_file(), f"{TABLE} is missing: the shared cases lie beside the checkout"
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


@pytest.mark.parametrize("form", ("literal", "paths", "expression"))
def test_every_recorded_comparison_agrees(form: str) -> None:
    told, judged = [], 0
    for name, recorded in read_table()["operators"].items():
        for left, right, expected in recorded["cases"]:
            judged += 1
            got = judge(form, recorded["iaflow_operator"], left, right)
            if got is expected:
                continue
            key = (name, json.dumps(left), json.dumps(right))
            if key not in DIFFERENCES:
                told.append(f"{name} {left!r} {right!r}: {got}, recorded {expected}")
    assert not told, "\n".join(told)
    assert judged == CASES


def judge(form: str, operator: str, left: Any, right: Any) -> bool:
    scope = Scope(parameters={"left": left, "right": right})
    config: dict[str, Any] = {"source": "parameters.left", "operator": operator}
    if form == "literal" or operator not in WORDS:  # what asks about one side has no other path
        config["value"] = right
    else:
        config["value_source"] = "parameters.right"
    written: Any = {"type": "expression", "config": config}
    if form == "expression" and operator in WORDS:
        written = f"parameters.left {WORDS[operator]} parameters.right"
    condition, problems = parse_condition(written)
    assert condition is not None, (written, problems)
    return evaluate(condition, scope).taken
