"""Which transitions of an ended step are taken: one verdict each, with its reason.

Decides between siblings (which ends they watch, conditions, `otherwise`, exclusive
routing); never what a taken transition leads to. Called by the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from iaflow.data.status import StepEnd
from iaflow.pipeline.conditions import (
    ConditionFailed,
    Otherwise,
    Verdict,
    VerdictMissing,
    evaluate,
)
from iaflow.pipeline.definition import On
from iaflow.pipeline.graph import Edge, Node
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.templating import Scope

__all__ = ["FAILURES", "CodeNeeded", "judge", "watches"]

FAILURES: Final = frozenset({StepEnd.FAILURE, StepEnd.TIMEOUT, StepEnd.EXPIRED, StepEnd.REJECTED})
"""Ends of a failed step: what `on: failure` and `on: completed` watch."""


class CodeNeeded(Exception):
    """
    Transitions cannot be judged before code has run.

    Attributes:
        places: (transition index, pointer into its condition) of each piece of code.
    """

    def __init__(self, places: frozenset[tuple[int, str]]) -> None:
        self.places = places
        super().__init__(sorted(places))


def judge(
    node: Node,
    end: StepEnd,
    scope_of: Callable[[Edge], Scope],
    judged: Judged,
    earlier: Mapping[int, Verdict] | None = None,
) -> tuple[dict[int, Verdict], Mapping[str, Any] | None]:
    """
    Give a verdict on each outgoing transition of a step that ended so.

    Args:
        scope_of: returns what a transition's condition may look at.
        judged: what workers found for conditions that need code.
        earlier: verdicts under an earlier end; what they refused keeps its operands as reason.

    Returns:
        Verdicts by transition index, and the first fault (`{"code", "message"}`) that a
        condition met or that exclusive routing found; None if there is none.

    Raises:
        CodeNeeded: something that code must judge is not among `judged`.
    """
    continues = node.step.policy.on_failure == "continue"
    watching = [e for e in node.outgoing if watches(e.on, end, continues=continues)]
    verdicts = _pass_over(node, end, watching, earlier or {})
    plain = [e for e in watching if not isinstance(e.condition, Otherwise)]
    exclusive = node.step.routing == "exclusive"
    fault: Mapping[str, Any] | None = None
    chosen: Edge | None = None
    needed: set[tuple[int, str]] = set()
    for edge in plain:
        if exclusive and chosen is not None:
            verdicts[edge.index] = _refuse({"kind": "exclusive", "taken": chosen.index})
            continue
        try:
            verdict, met = _evaluate(edge, scope_of, judged)
        except VerdictMissing as missing:
            needed.add((edge.index, missing.pointer))
            if exclusive:
                break  # those after it are judged only if it is false
            continue
        fault = fault or met
        verdicts[edge.index] = verdict
        if verdict.taken:
            chosen = chosen or edge
    if needed:
        raise CodeNeeded(frozenset(needed))
    for edge in watching:
        if isinstance(edge.condition, Otherwise):
            verdict = _judge_otherwise(edge, plain, verdicts, chosen if exclusive else None)
            verdicts[edge.index] = verdict
            if verdict.taken:
                chosen = chosen or edge
    if exclusive and chosen is None and end is StepEnd.SUCCESS and not fault and node.outgoing:
        fault = {
            "code": "no_route",
            "message": f"step {node.step.id!r} routes exclusively and no transition was true",
        }
    return verdicts, fault


def watches(on: On, end: StepEnd, *, continues: bool = False) -> bool:
    """
    Tell whether a transition with `on` looks at a source that ended so (LANGUAGE section 3).

    Args:
        continues: the source failed under ``on_failure: continue``.
    """
    failed = end in FAILURES
    match on:
        case On.SUCCESS:
            return end is StepEnd.SUCCESS or (failed and continues)
        case On.FAILURE:
            return failed
        case On.COMPLETED:
            return failed or end is StepEnd.SUCCESS
        case On.SKIPPED | On.TIMEOUT | On.EXPIRED | On.REJECTED:
            return end.value == on.value


def _pass_over(
    node: Node, end: StepEnd, watching: list[Edge], earlier: Mapping[int, Verdict]
) -> dict[int, Verdict]:
    """Refuse what does not watch this end; what an earlier end refused keeps its reason."""
    seen = {edge.index for edge in watching}
    verdicts: dict[int, Verdict] = {}
    for edge in node.outgoing:
        if edge.index in seen:
            continue
        before = earlier.get(edge.index)
        # What was refused for a sibling's sake has no operands, and that was not taken after all.
        if before and not before.taken and before.reason["kind"] not in _FOR_A_SIBLING:
            verdicts[edge.index] = before
        else:
            verdicts[edge.index] = _refuse({"kind": "end", "on": edge.on.value, "end": end.value})
    return verdicts


def _evaluate(
    edge: Edge, scope_of: Callable[[Edge], Scope], judged: Judged
) -> tuple[Verdict, Mapping[str, Any] | None]:
    try:
        return evaluate(edge.condition, scope_of(edge), judged.get(edge.index)), None
    except ConditionFailed as error:
        name = f"the condition of transition {edge.index} ({edge.source} -> {edge.target})"
        fault = {"code": error.code, "message": f"{name}: {error}"}
        reason = {
            "kind": "error",
            "code": error.code,
            "message": str(error),
            "condition": error.reason,
        }
        return _refuse(reason), fault


def _judge_otherwise(
    edge: Edge, plain: list[Edge], verdicts: Mapping[int, Verdict], chosen: Edge | None
) -> Verdict:
    """`otherwise` is judged last wherever it stands: true when no sibling with its `on` is."""
    if chosen is not None:
        return _refuse({"kind": "exclusive", "taken": chosen.index})
    for sibling in plain:
        if sibling.on is edge.on and verdicts[sibling.index].taken:
            return _refuse({"kind": "otherwise", "taken": sibling.index})
    return Verdict(True, {"kind": "otherwise", "verdict": True})


def _refuse(reason: Mapping[str, Any]) -> Verdict:
    return Verdict(False, {**reason, "verdict": False})


_FOR_A_SIBLING: Final = frozenset({"exclusive", "otherwise"})
