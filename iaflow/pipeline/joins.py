"""Which incoming transitions of a join exclude each other.

Decides whether two transitions can ever both be taken in one run, as far as the shape of the
graph tells; never reads what conditions compare. Called by check.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Final

from iaflow.pipeline.conditions import Otherwise
from iaflow.pipeline.definition import JoinType, On
from iaflow.pipeline.graph import Edge, Graph, Node

__all__ = ["find_exclusive_joins"]


def find_exclusive_joins(graph: Graph) -> Iterator[tuple[Node, Edge, Edge]]:
    """
    Find joins with ``all_success`` that can never run.

    A step runs only if certain transitions were taken: those that all ways to it have in common.
    A join of all ways fails if two of these leave one step and exclude each other.

    Yields:
        The join, and two transitions that it needs and that are never both taken.
    """
    joins = [node for node in graph.nodes.values() if node.step.join.type is JoinType.ALL_SUCCESS]
    if not joins:
        return
    rivals = _find_rivals(graph)
    budget = _MAX_LOOKS
    needed: dict[str, int] = {}
    for step_id in graph.order:
        node = graph.nodes[step_id]
        ways = [_needed_by(edge, needed, rivals) for edge in node.incoming]
        everywhere = anywhere = ways[0] if ways else 0
        for way in ways:
            everywhere &= way
            anywhere |= way
        if node.step.join.type is not JoinType.ALL_SUCCESS:
            needed[step_id] = everywhere
            continue
        needed[step_id] = anywhere
        # What all ways have in common was looked at further up.
        chosen = list(_list_edges(graph, anywhere & ~everywhere, budget))
        budget -= len(chosen)
        pair = _find_pair(graph, chosen)
        if pair is not None:
            yield node, *pair


_MAX_LOOKS: Final = 200_000
"""Enough for any graph that a person drew; a contrived one is not looked through further."""

_FAILURES: Final = frozenset({"failure", "timeout", "expired", "rejected"})
_ENDS: Final[Mapping[On, frozenset[str]]] = MappingProxyType(
    {
        On.SUCCESS: frozenset({"success"}),
        On.FAILURE: _FAILURES,
        On.TIMEOUT: frozenset({"timeout"}),
        On.EXPIRED: frozenset({"expired"}),
        On.REJECTED: frozenset({"rejected"}),
        On.SKIPPED: frozenset({"skipped"}),
        On.COMPLETED: _FAILURES | {"success"},
    }
)
"""The ends of a step at which a transition may be taken."""


def _find_rivals(graph: Graph) -> frozenset[int]:
    """Return the transitions that some other of the same step may exclude."""
    rivals: set[int] = set()
    for node in graph.nodes.values():
        if len(node.outgoing) < 2:
            continue
        may_exclude = (
            node.step.routing == "exclusive"
            or len({edge.on for edge in node.outgoing}) > 1
            or any(isinstance(edge.condition, Otherwise) for edge in node.outgoing)
        )
        if may_exclude:
            rivals.update(edge.index for edge in node.outgoing)
    return frozenset(rivals)


def _needed_by(edge: Edge, needed: Mapping[str, int], rivals: frozenset[int]) -> int:
    """Return the transitions that were taken if this one was, as bits of their indexes."""
    own = 1 << edge.index if edge.index in rivals else 0
    # A step that was skipped did not run, and needed nothing.
    return own if edge.on is On.SKIPPED else own | needed[edge.source]


def _list_edges(graph: Graph, bits: int, budget: int) -> Iterator[Edge]:
    while bits and budget > 0:
        lowest = bits & -bits
        yield graph.edges[lowest.bit_length() - 1]
        bits ^= lowest
        budget -= 1


def _find_pair(graph: Graph, edges: list[Edge]) -> tuple[Edge, Edge] | None:
    siblings: dict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        siblings[edge.source].append(edge)
    for source, group in siblings.items():
        is_exclusive = graph.nodes[source].step.routing == "exclusive"
        for one, other in combinations(group[:_MAX_SIBLINGS], 2):
            if _exclude(one, other, is_exclusive):
                return one, other
    return None


_MAX_SIBLINGS: Final = 50


def _exclude(one: Edge, other: Edge, is_exclusive: bool) -> bool:
    if is_exclusive or not _ENDS[one.on] & _ENDS[other.on]:
        return True
    has_otherwise = isinstance(one.condition, Otherwise) or isinstance(other.condition, Otherwise)
    return has_otherwise and one.on is other.on
