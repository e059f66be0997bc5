"""What the language has and this release parses, but does not run yet.

Decides which features a definition uses that the engine has yet to learn; a row goes when it
has. Called by check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.conditions import (
    ALWAYS,
    AgentCondition,
    Condition,
    FunctionCondition,
    code_conditions,
)
from iaflow.pipeline.definition import StepType
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.strict_json import join_pointer

__all__ = ["CODES", "NOT_YET", "find_secrets", "find_unsupported"]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"not_supported": "the language has this, but this release does not run it yet"}
)

Finder = Callable[[Graph], Iterator[str]]
"""Yields the pointer of every place where a definition uses a feature."""


def find_unsupported(graph: Graph) -> Iterator[Problem]:
    """Yield a problem for every use of a feature in `NOT_YET`."""
    for feature, find in NOT_YET.items():
        for pointer in find(graph):
            message = f"{feature}: part of the language, but not of this release yet"
            yield Problem("not_supported", pointer, message)


def find_secrets(graph: Graph) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object with the key ``$secret`` in `inputs` and `config`, with its pointer."""
    for node in graph.nodes.values():
        step = node.step
        for key, value in (("inputs", step.inputs), ("config", step.config)):
            yield from _find_objects(value, f"/steps/{step.position}/{key}") if value else ()


def _find_objects(value: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    todo: list[tuple[str, Any]] = [(pointer, value)]
    while todo:
        pointer, value = todo.pop()
        if isinstance(value, dict):
            if "$secret" in value:
                yield pointer, value
            todo += [
                (join_pointer(pointer, key), member)
                for key, member in value.items()
                if isinstance(member, dict | list)
            ]
        else:
            todo += [
                (join_pointer(pointer, index), member)
                for index, member in enumerate(value)
                if isinstance(member, dict | list)
            ]


# --- predicates


def _steps(key: str, uses: Callable[[Node], bool]) -> Finder:
    return lambda graph: (
        f"/steps/{node.step.position}{key}" for node in graph.nodes.values() if uses(node)
    )


def _type(kind: StepType) -> Finder:
    return _steps("/type", lambda node: node.step.type is kind)


def _person(key: str) -> Finder:
    return _steps(
        f"/config/{key}",
        lambda node: node.step.type is StepType.HUMAN_INPUT and key in node.step.config,
    )


def _conditions(kind: type[FunctionCondition | AgentCondition]) -> Finder:
    def uses(condition: Condition) -> bool:
        return any(isinstance(part, kind) for part in code_conditions(condition))

    return lambda graph: (
        f"{graph.definition.transition_pointer(edge.index)}/condition"
        for edge in graph.edges
        if edge.condition is not ALWAYS and uses(edge.condition)
    )


def _document(key: str) -> Finder:
    return lambda graph: iter((f"/{key}",) if key in graph.definition.document else ())


NOT_YET: Final[dict[str, Finder]] = {
    "foreach": _steps("/foreach", lambda node: node.step.foreach is not None),
    "type pipeline": _type(StepType.PIPELINE),
    "type wait": _type(StepType.WAIT),
    "type event": _type(StepType.EVENT),
    "type terminate": _type(StepType.TERMINATE),
    "concurrency_key": _steps(
        "/concurrency_key", lambda node: node.step.concurrency_key is not None
    ),
    "rate_limit": _steps("/rate_limit", lambda node: node.step.rate_limit is not None),
    "function conditions": _conditions(FunctionCondition),
    "agent conditions": _conditions(AgentCondition),
    "max_concurrent_runs": _document("max_concurrent_runs"),
    "secrets": lambda graph: (pointer for pointer, _ in find_secrets(graph)),
    "quorum": _person("quorum"),
    "escalate": _person("escalate"),
    "reminders": _person("reminders"),
    "exclude_starter": _person("exclude_starter"),
    "assignees": _person("assignees"),
}
"""Feature, and where a definition uses it. Delete the row of what the engine has learnt."""
