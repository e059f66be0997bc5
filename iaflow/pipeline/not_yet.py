"""What the language has and this release parses, but does not run yet.

Decides which features a definition uses that the engine has yet to learn; a row goes when it
has. Called by check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from iaflow.errors import Problem
from iaflow.pipeline.definition import StepType
from iaflow.pipeline.graph import Graph, Node

__all__ = ["CODES", "NOT_YET", "find_unsupported"]

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


# --- predicates


def _steps(key: str, uses: Callable[[Node], bool]) -> Finder:
    return lambda graph: (
        f"/steps/{node.step.position}{key}" for node in graph.nodes.values() if uses(node)
    )


def _person(key: str) -> Finder:
    return _steps(
        f"/config/{key}",
        lambda node: node.step.type is StepType.HUMAN_INPUT and key in node.step.config,
    )


NOT_YET: Final[dict[str, Finder]] = {
    "escalate": _person("escalate"),
    "reminders": _person("reminders"),
}
"""Feature, and where a definition uses it. Delete the row of what the engine has learnt."""
