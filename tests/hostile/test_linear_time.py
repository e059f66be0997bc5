"""The whole check in time that grows with a document's size, whatever its shape.

The rooms have such tests of their own; here all rules run, each on the shape that is worst for it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest

from iaflow.errors import Problem
from iaflow.pipeline.check import check
from iaflow.pipeline.strict_json import MAX_BYTES
from tests.unit.timing import within

Edges = Iterable[tuple[str, str]]


def task(step_id: str, **keys: Any) -> dict[str, Any]:
    return {"id": step_id, "module": "canary", "step_class": "Canary", **keys}


def document(steps: list[dict[str, Any]], edges: Edges, **keys: Any) -> str:
    transitions = [{"from": source, "to": target} for source, target in edges]
    flow = {"start_at": steps[0]["id"], "transitions": transitions}
    return json.dumps({"name": "Large", "steps": steps, "flow": flow, **keys})


def check_within(seconds: float, text: str) -> tuple[Problem, ...]:
    return within(seconds, lambda: check(text, max_bytes=16 * MAX_BYTES)).errors


def name_steps(count: int) -> list[str]:
    return [f"s{index}" for index in range(count)]


def diamonds(count: int) -> list[tuple[str, str]]:
    """Return the edges of `count` diamonds on top of each other, with 2^count paths."""
    return [
        (f"s{3 * index + source}", f"s{3 * index + target}")
        for index in range(count)
        for source, target in ((0, 1), (0, 2), (1, 3), (2, 3))
    ]


def test_ten_thousand_steps_take_two_seconds() -> None:
    """In a row, each with inputs from the one before and from the first."""
    ids = name_steps(10_000)
    steps = [task(ids[0])]
    for before, step_id in itertools.pairwise(ids):
        steps.append(task(step_id, inputs={"x": f"{{{{ {before}.x }}}}", "y": "{{ s0.y }}"}))
    assert check_within(2, document(steps, itertools.pairwise(ids))) == ()


@pytest.mark.parametrize("join", ("all_taken", "all_success", "any"))
def test_stacked_diamonds_take_no_time_for_each_path(join: str) -> None:
    """Sixty of them have 2^60 paths; joins, cancels and policies look at all."""
    ids = name_steps(181)
    steps = [task(ids[0])]
    for index, step_id in enumerate(ids[1:], 1):
        is_low = index % 3 == 0
        steps.append(
            task(step_id, join=join)
            if is_low
            else task(step_id, cancels=[f"s{index + 1}"] if index % 3 == 1 else [])
        )
    steps[-1]["inputs"] = {"all": [f"{{{{ {step_id} }}}}" for step_id in ids[:-1]]}
    policies = [{"every_path_to": "step:s180", "must_pass": "step:s90"}]
    assert check_within(0.1, document(steps, diamonds(60), policies=policies)) == ()


def test_sixty_diamonds_that_slip_past_a_policy_take_no_time() -> None:
    steps = [task(step_id) for step_id in name_steps(181)]
    policies = [{"every_path_to": "step:s180", "must_pass": "step:s91"}]
    [slip] = check_within(0.1, document(steps, diamonds(60), policies=policies))
    assert slip.code == "policy_violated"


def test_diamonds_that_end_in_a_circle_take_no_time() -> None:
    steps = [task(step_id) for step_id in name_steps(181)]
    [circle] = check_within(0.1, document(steps, [*diamonds(60), ("s180", "s3")]))
    assert circle.code == "cycle"


@pytest.mark.parametrize("where", ("inputs", "outputs", "show", "items", "condition", "name"))
@pytest.mark.parametrize("mark", ("{", "}", "{{", "{}", "{{}}", "{{ a.b }}"))
def test_a_string_of_two_hundred_thousand_braces_takes_a_second(where: str, mark: str) -> None:
    text = mark * (200_000 // len(mark))
    given = json.loads(document([task("first"), task("second")], [("first", "second")]))
    match where:
        case "inputs":
            given["steps"][1]["inputs"] = {"x": text}
        case "outputs":
            given["outputs"] = {"x": text}
        case "show":
            person = {"id": "second", "type": "human_input", "config": {"show": text}}
            given["steps"][1] = person
        case "items":
            given["steps"][1]["foreach"] = {"items": text}
        case "condition":
            given["flow"]["transitions"][0]["condition"] = text
        case _:
            given["steps"][1]["name"] = text
    problems = check_within(1, json.dumps(given))
    assert {problem.pointer.rpartition("/")[2] for problem in problems} <= {"x", where}
