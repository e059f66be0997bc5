"""Why a step ran or did not, in words, from the decisions on the transitions into it.

Decides the wording of every kind of reason, and how far back the first cause lies; never
reads a store and never judges anything anew. Called by `iaflow why`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from iaflow.cli.terminal import as_clause, format_bytes, format_value
from iaflow.data.records import DecisionRecord, RunRecord, StepRecord
from iaflow.data.status import END_OF_RUN, StepStatus
from iaflow.pipeline.definition import JoinType
from iaflow.pipeline.graph import Edge, Graph, Node

__all__ = ["Arrow", "Explanation", "Ledger", "describe_reason", "explain"]


@dataclass(frozen=True, slots=True)
class Arrow:
    """
    A transition into a step, and what was decided on it.

    Attributes:
        taken: None if it is undecided.
        words: why, on one line.
        parts: the parts of a nested condition, each with its depth.
        cause: why the source ended so, where that is what refused the transition.
    """

    transition: int
    source: str
    target: str
    taken: bool | None
    words: str
    parts: tuple[tuple[int, str], ...] = ()
    cause: Explanation | None = None

    @property
    def verdict(self) -> str:
        """`taken`, `refused` or `undecided`."""
        return {True: "taken", False: "refused", None: "undecided"}[self.taken]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one step stands where it stands: a sentence, and the transitions into it."""

    step_id: str
    status: str
    sentence: str
    arrows: tuple[Arrow, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """A run as it stands: what an explanation is made from."""

    graph: Graph
    run: RunRecord
    steps: Mapping[str, StepRecord]
    decisions: Mapping[int, DecisionRecord]

    @classmethod
    def of(
        cls,
        graph: Graph,
        run: RunRecord,
        steps: Sequence[StepRecord],
        decisions: Sequence[DecisionRecord],
    ) -> Ledger:
        """Return the ledger of these rows; decisions that a retry has superseded are left out."""
        return cls(
            graph,
            run,
            {step.step_id: step for step in reversed(steps)},
            {d.transition: d for d in decisions if not d.superseded},
        )

    def status(self, step_id: str) -> str:
        """Return a step's status; a step without a row is pending."""
        record = self.steps.get(step_id)
        return str(record.status if record else StepStatus.PENDING)


def explain(ledger: Ledger, step_id: str) -> Explanation:
    """
    Return why a step ran or did not, back to the first causes.

    Where a source was skipped or cancelled, its own explanation is the `cause` of the arrow; a
    step is explained once, however many paths lead back to it.
    """
    return _explain(ledger, step_id, seen=set())


def describe_reason(reason: Mapping[str, Any], source: str = "its source") -> str:
    """
    Return the reason of a decision in words, on one line.

    Args:
        reason: as the ledger keeps it.
        source: the step that the transition leaves.
    """
    if "error" in reason or reason.get("kind") == "error":
        return _describe_error(reason)
    match reason.get("kind"):
        case "always":
            return "it has no condition"
        case "compare":
            return _describe_compare(reason)
        case "all" | "any" | "not" as kind:
            return _GROUPS[kind, bool(reason.get("verdict"))]
        case "parameter":
            truth = "truthy" if reason.get("verdict") else "not truthy"
            return f"parameter {reason.get('name')} is {_shown(reason)}, which is {truth}"
        case "function":
            name = f"{reason.get('module')}.{reason.get('function')}()"
            return f"{name} is {_word(reason.get('verdict'))}"
        case "agent":
            return _describe_agent(reason)
        case "otherwise":
            if reason.get("verdict"):
                return "otherwise: no other transition was true"
            return f"otherwise: transition {reason.get('taken')} was true"
        case "exclusive":
            return f"exclusive routing: transition {reason.get('taken')} was taken before it"
        case "end":
            on, end = str(reason.get("on")), str(reason.get("end"))
            return f"it goes on {_WATCHES.get(on, on)}, and {source} {_ENDS.get(end, end)}"
        case "run_ended":
            return f"the run ended as {reason.get('status')} before it was decided"
        case _:
            return format_value(dict(reason))


# --- wording


_GROUPS: Final = {
    ("all", True): "all of these are true",
    ("all", False): "not all of these are true",
    ("any", True): "one of these is true",
    ("any", False): "none of these is true",
    ("not", True): "it asks that this is not true, and it is not",
    ("not", False): "it asks that this is not true, but it is",
}
_SYMBOLS: Final = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
}
_WATCHES: Final = {
    "success": "after success",
    "failure": "after a failure",
    "timeout": "after a timeout",
    "expired": "after an expiry",
    "rejected": "after a rejection",
    "skipped": "after a skip",
    "completed": "after success or failure",
}
_ENDS: Final = {
    "success": "succeeded",
    "failure": "failed",
    "timeout": "ran out of time",
    "expired": "was not answered in time",
    "rejected": "was rejected",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
}
_CARRIED: Final = frozenset({"skipped", "cancelled"})
"""Ends that come from further up: their own explanation is the cause."""
_DID_NOT_RUN: Final = frozenset({StepStatus.PENDING, StepStatus.SKIPPED, StepStatus.CANCELLED})


def _describe_compare(reason: Mapping[str, Any]) -> str:
    left = reason.get("left", {})
    operator = str(reason.get("operator"))
    subject = left.get("path", "?")
    verdict = _word(reason.get("verdict"))
    right = reason.get("right")
    if right is None:
        return f"{subject} {operator} → {_shown(left)} {operator} is {verdict}"
    symbol = _SYMBOLS.get(operator, operator)
    asked = right.get("path") or _shown(right)
    mismatch = " (values of different kinds)" if reason.get("note") == "kind_mismatch" else ""
    seen = f"{_shown(left)} {operator} {_shown(right)} is {verdict}"
    return f"{subject} {symbol} {asked} → {seen}{mismatch}"


def _describe_agent(reason: Mapping[str, Any]) -> str:
    because = reason.get("reason")
    why = f" because {format_value(because)}" if because else ""
    return (
        f"{reason.get('service')} answered {format_value(reason.get('answer'))}{why}, "
        f"and the choice is {format_value(reason.get('choice'))}"
    )


def _describe_error(reason: Mapping[str, Any]) -> str:
    code = reason.get("code") or reason.get("error")
    message = reason.get("message")
    return f"its condition could not be judged: {code}" + (f": {message}" if message else "")


def _shown(operand: Mapping[str, Any]) -> str:
    """Return an operand as the ledger keeps it: a value, the beginning of one, or none."""
    if operand.get("missing"):
        return "(missing)"
    value = operand.get("value")
    if isinstance(value, Mapping) and value.keys() == {"truncated", "sha256", "bytes"}:
        return f"{format_value(value['truncated'])[:-1]}… ({format_bytes(value['bytes'])})"
    return format_value(value)


def _word(verdict: Any) -> str:
    return {True: "true", False: "false"}.get(verdict, "unknown")


def _list_parts(reason: Mapping[str, Any], depth: int = 0) -> list[tuple[int, str]]:
    parts: list[tuple[int, str]] = []
    if isinstance(failed := reason.get("condition"), Mapping):
        # What had been judged when a part of it failed.
        return _list_parts(failed, depth)
    for child in reason.get("conditions", ()):
        parts.append((depth, describe_reason(child)))
        parts += _list_parts(child, depth + 1)
    return parts


# --- explaining


def _explain(ledger: Ledger, step_id: str, seen: set[str]) -> Explanation:
    node = ledger.graph.nodes[step_id]
    seen.add(step_id)
    record = ledger.steps.get(step_id)
    # Why a step ran is said by what was taken; causes are looked for only where it did not.
    dig = record is None or record.status in _DID_NOT_RUN
    arrows = tuple(_explain_arrow(ledger, edge, seen, dig=dig) for edge in node.incoming)
    sentence = _tell(ledger, node)
    return Explanation(step_id, ledger.status(step_id), sentence, arrows)


def _explain_arrow(ledger: Ledger, edge: Edge, seen: set[str], *, dig: bool) -> Arrow:
    decision = ledger.decisions.get(edge.index)
    if decision is None:
        words = f"{edge.source} is {ledger.status(edge.source)}"
        return Arrow(edge.index, edge.source, edge.target, None, words)
    reason = decision.reason
    words = describe_reason(reason, edge.source)
    cause = None
    if reason.get("kind") == "end" and not decision.taken:
        if reason.get("end") in _CARRIED:
            if dig and edge.source not in seen:
                cause = _explain(ledger, edge.source, seen)
        else:
            words += _describe_fault(ledger.steps.get(edge.source))
    return Arrow(
        edge.index,
        edge.source,
        edge.target,
        decision.taken,
        words,
        tuple(_list_parts(reason)),
        cause,
    )


def _describe_fault(record: StepRecord | None) -> str:
    if record is None or not record.error:
        return ""
    return f" ({record.error.get('code')}: {as_clause(str(record.error.get('message', '')))})"


def _tell(ledger: Ledger, node: Node) -> str:
    step_id = node.step.id
    record = ledger.steps.get(step_id)
    if record is None or record.status is StepStatus.PENDING:
        return _tell_pending(ledger, node)
    error = record.error or {}
    fault = f"{error.get('code')}: {as_clause(str(error.get('message', '')))}"
    ran = f"because {_join_words(ledger, node)}"
    match record.status:
        case StepStatus.READY:
            return f"{step_id} is ready and waits for a worker, {ran}"
        case StepStatus.RUNNING:
            return f"{step_id} is running, {ran}"
        case StepStatus.RETRYING:
            return f"{step_id} is running, {ran}; attempt {_tries(record)} failed: {fault}"
        case StepStatus.WAITING:
            return f"{step_id} waits for a person, {ran}"
        case StepStatus.SUCCEEDED:
            return f"{step_id} ran and succeeded, {ran}"
        case StepStatus.FAILED:
            handled = "; the failure is handled" if record.handled else ""
            return f"{step_id} ran, {ran}, and failed: {fault}{handled}"
        case StepStatus.SKIPPED if error.get("code") == "skipped":
            message = as_clause(str(error.get("message", "")))
            return f"{step_id} ran, {ran}, and skipped itself: {message}"
        case StepStatus.SKIPPED:
            return f"{step_id} was skipped because {_join_words(ledger, node)}"
        case StepStatus.CANCELLED:
            message = as_clause(str(error.get("message", ""))) or "somebody asked for it"
            return f"{step_id} was cancelled: {message}"


def _tell_pending(ledger: Ledger, node: Node) -> str:
    step_id = node.step.id
    if ledger.run.status in END_OF_RUN:
        return f"{step_id} never began: the run ended as {ledger.run.status} before its turn"
    undecided = [edge for edge in node.incoming if edge.index not in ledger.decisions]
    return (
        f"{step_id} has not begun: {len(undecided)} of {_count(len(node.incoming))} into it "
        f"{'is' if len(undecided) == 1 else 'are'} undecided"
    )


def _join_words(ledger: Ledger, node: Node) -> str:
    """Return what the join counted, as the second half of a sentence."""
    if node.step.id == ledger.graph.start:
        return "the run starts at it"
    total = len(node.incoming)
    taken = sum(
        ledger.decisions[edge.index].taken
        for edge in node.incoming
        if edge.index in ledger.decisions
    )
    join = node.step.join
    was = "was" if taken == 1 else "were"
    match join.type:
        case JoinType.ALL_TAKEN if taken == 0:
            none = "the transition into it was not taken"
            return none if total == 1 else f"none of the {_count(total)} into it was taken"
        case JoinType.ALL_SUCCESS:
            return f"{taken} of {_count(total)} into it {was} taken, and its join asks for all"
        case JoinType.N_OF_M:
            return f"{taken} of {_count(total)} into it {was} taken, and its join asks for {join.n}"
        case _ if total == 1:
            return "the transition into it was taken"
        case _:
            return f"{taken} of {_count(total)} into it {was} taken"


def _count(number: int) -> str:
    return f"{number} transition" if number == 1 else f"{number} transitions"


def _tries(record: StepRecord) -> int:
    return record.attempt - record.worker_losses
