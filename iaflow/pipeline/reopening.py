"""What a run that goes on after its end does once more, and what it keeps.

Decides from rows and decisions which steps are pending again (LANGUAGE section 9); never what
follows then (the planner does). Called by the engine, for `retry` and `rerun`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from iaflow.data.status import StepEnd, StepStatus
from iaflow.pipeline.graph import Graph

__all__ = ["PastDecision", "PastStep", "Reopening", "descendants", "plan_reopening"]


@dataclass(frozen=True, slots=True)
class PastStep:
    """
    How a step stood at its run's end.

    Attributes:
        end: how it ended, finer.
        handled: it failed, and somebody took care of it.
        by: who cancelled it: ``run``, ``person`` or ``step``; None if nobody did.
        has_run: it was skipped by its own word, not by its join.
    """

    status: StepStatus
    end: StepEnd | None = None
    handled: bool = False
    by: str | None = None
    has_run: bool = False


@dataclass(frozen=True, slots=True)
class PastDecision:
    """How a transition was decided; `by_end`: only because the run had ended."""

    taken: bool
    by_end: bool = False


@dataclass(frozen=True, slots=True)
class Reopening:
    """
    What goes on.

    Attributes:
        steps: step id to its counts (decided, taken), every step after all its ancestors.
        superseded: transitions that are decided once more.
        leave_again: steps that keep their end, with transitions among these.
    """

    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    superseded: frozenset[int] = frozenset()
    leave_again: tuple[tuple[str, StepEnd], ...] = ()


def plan_reopening(
    graph: Graph,
    steps: Mapping[str, PastStep],
    decisions: Mapping[int, PastDecision],
    *,
    also: frozenset[str] = frozenset(),
) -> Reopening:
    """
    Return what goes on: failed and cancelled steps, and those that were skipped because of them.

    A failure that somebody handled is done with; what another step cancelled stays so. A step
    that a transition was taken to, and that has run, never runs again.

    Args:
        steps: every step of the graph that has a row.
        decisions: by transition index.
        also: steps that are to run once more whatever came of them.
    """
    again: set[str] = set()
    for step_id in graph.order:
        past = steps.get(step_id)
        sources = {edge.source for edge in graph.nodes[step_id].incoming}
        if step_id in also or past is None or _goes_on(past, is_behind=bool(sources & again)):
            again.add(step_id)
    superseded = frozenset(
        index
        for index, decision in decisions.items()
        if decision.by_end or graph.edges[index].source in again
    )
    leave_again = [
        (step_id, end)
        for step_id in graph.order
        if step_id not in again
        and (end := steps[step_id].end) is not None
        and any(edge.index in superseded for edge in graph.nodes[step_id].outgoing)
    ]
    kept = {index: one for index, one in decisions.items() if index not in superseded}
    counts = {}
    for step_id in graph.order:
        if step_id in again:
            known = [
                kept[edge.index] for edge in graph.nodes[step_id].incoming if edge.index in kept
            ]
            counts[step_id] = (len(known), sum(one.taken for one in known))
    return Reopening(counts, superseded, tuple(leave_again))


def descendants(graph: Graph, step_id: str) -> frozenset[str]:
    """Return a step and all that come after it."""
    found = {step_id}
    for other in graph.order:
        if found & {edge.source for edge in graph.nodes[other].incoming}:
            found.add(other)
    return frozenset(found)


def _goes_on(past: PastStep, *, is_behind: bool) -> bool:
    """Tell whether a step goes on; `is_behind`: one before it does."""
    match past.status:
        case StepStatus.SUCCEEDED:
            return False
        case StepStatus.SKIPPED:
            return is_behind and not past.has_run
        case StepStatus.FAILED:
            return not past.handled
        case StepStatus.CANCELLED:
            return past.by != "step"
        case _:
            return True
