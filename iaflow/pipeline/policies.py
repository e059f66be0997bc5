"""Policies: which steps must not be reached but through others.

Decides whether a path slips past a gate, and names it; never changes the graph. Called by check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.definition import On, StepDefinition, StepType
from iaflow.pipeline.graph import Graph, name_path
from iaflow.pipeline.reading import Speller, clip

__all__ = ["CODES", "SELECTORS", "find_slips"]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "policy_violated": "a path reaches a step without passing its gate",
        "policy_invalid": "a policy names steps in no known way",
        "policy_empty": "a policy protects no step of this document",
    }
)
"""Codes of the problems with policies; ``policy_empty`` is a warning."""

SELECTORS: Final = ("tag", "type", "step")
"""By what a policy may name steps, before the colon."""


def find_slips(graph: Graph) -> tuple[list[Problem], list[Problem]]:
    """
    Check every policy of a definition.

    A path passes a gate only over its `success` transitions, and never if the gate goes on after
    a failure.

    Returns:
        The errors and the warnings.
    """
    errors: list[Problem] = []
    warnings: list[Problem] = []
    speller = Speller()
    for index, policy in enumerate(graph.definition.policies):
        pointer = f"/policies/{index}"
        problems = list(_find_bad_selectors(graph, policy, pointer, speller))
        errors += problems
        if problems:
            continue
        goals = _select(graph, policy["every_path_to"])
        if not goals:
            message = f"no step is {clip(policy['every_path_to'])}: this policy protects nothing"
            warnings.append(Problem("policy_empty", f"{pointer}/every_path_to", message))
        errors += _find_ways_round(graph, policy, goals, pointer)
    return errors, warnings


def _find_bad_selectors(
    graph: Graph, policy: dict[str, Any], pointer: str, speller: Speller
) -> Iterator[Problem]:
    for key in ("every_path_to", "must_pass"):
        kind, _, name = policy[key].partition(":")
        where = f"{pointer}/{key}"
        if kind not in SELECTORS or not name:
            message = f"{clip(policy[key])} selects nothing"
            yield Problem("policy_invalid", where, message, "write tag:…, type:… or step:…")
        elif kind == "type" and name not in set(StepType):
            hint = f"one of {', '.join(StepType)}"
            yield Problem("policy_invalid", where, f"there is no type {clip(name)}", hint)
        elif kind == "step" and name not in graph.nodes:
            hint = speller.hint(name, graph.nodes.keys())
            yield Problem("step_unknown", where, f"there is no step {clip(name)}", hint)


def _select(graph: Graph, selector: str) -> set[str]:
    kind, _, name = selector.partition(":")
    return {node.step.id for node in graph.nodes.values() if _is_meant(node.step, kind, name)}


def _is_meant(step: StepDefinition, kind: str, name: str) -> bool:
    match kind:
        case "tag":
            return name in step.tags
        case "type":
            return step.type == name
        case _:
            return step.id == name


_MAX_SLIPS: Final = 20
"""Of one policy, as many as a person can use."""


def _find_ways_round(
    graph: Graph, policy: dict[str, Any], goals: set[str], pointer: str
) -> Iterator[Problem]:
    gates = _select(graph, policy["must_pass"])
    came_from = _walk_past(graph, gates)
    said = 0
    for step_id in graph.nodes:
        if step_id in goals and step_id in came_from and said < _MAX_SLIPS:
            said += 1
            path = name_path(_trace(came_from, step_id))
            message = f"this path to `{step_id}` does not pass {clip(policy['must_pass'])}: {path}"
            hint = "a gate is passed over its success transition only"
            yield Problem("policy_violated", pointer, message, hint)
        if step_id in gates and goals and graph.nodes[step_id].step.policy.on_failure == "continue":
            where = f"/steps/{graph.nodes[step_id].step.position}/error_handling/on_failure"
            message = (
                f"`{step_id}` is a gate of policy {clip(policy['must_pass'])}, so it must not go on"
            )
            yield Problem("policy_violated", where, message, "let its failure stop the path")


def _walk_past(graph: Graph, gates: set[str]) -> dict[str, str | None]:
    """Return every step that is reached without a gate, with the one before it on a short path."""
    came_from: dict[str, str | None] = {graph.start: None}
    todo = deque([graph.start])
    while todo:
        step_id = todo.popleft()
        for edge in graph.nodes[step_id].outgoing:
            passes = step_id in gates and edge.on is On.SUCCESS
            if not passes and edge.target not in came_from:
                came_from[edge.target] = step_id
                todo.append(edge.target)
    return came_from


def _trace(came_from: dict[str, str | None], step_id: str) -> list[str]:
    path = [step_id]
    while (before := came_from[path[-1]]) is not None:
        path.append(before)
    return path[::-1]
