"""Why a step ran or did not, in words, from the decisions on the transitions into it.

Decides the wording of every kind of reason, and how far back the first cause lies; never
reads a store and never judges anything anew. Called by the faces and by rehearsals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from iaflow.data.records import NO_INDEX, DecisionRecord, ItemCounts, RunRecord, StepRecord
from iaflow.data.status import END_OF_RUN, StepStatus, WaitsFor
from iaflow.phrasing import as_clause, format_bytes, format_value
from iaflow.pipeline.definition import JoinType
from iaflow.pipeline.graph import Edge, Graph, Node

__all__ = [
    "Arrow",
    "Explanation",
    "Ledger",
    "Line",
    "describe_items",
    "describe_reason",
    "explain",
    "lay_out",
    "show_operand",
]


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
class Line:
    """
    One line of an explanation that is laid out.

    Attributes:
        depth: how far it is indented, in steps of two letters.
        mark: a status, or a verdict on a transition; "" for a part of a condition.
        transition: ``"source → target"`` if it is about one.
        words: what it says.
    """

    depth: int
    mark: str
    transition: str
    words: str

    def __str__(self) -> str:
        """The line as plain text."""
        pad = "  " * self.depth
        if self.transition:
            return f"{pad}{self.transition}  {self.mark}: {self.words}"
        return f"{pad}{self.words}" if self.mark else f"{pad}· {self.words}"


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    A run as it stands: what an explanation is made from.

    Attributes:
        steps: the rows of the steps themselves, without items.
        items: rows of items that failed, by step, in order; not all need be there.
        holders: by concurrency key, the ``(run id, step id)`` that holds it.
    """

    graph: Graph
    run: RunRecord
    steps: Mapping[str, StepRecord]
    decisions: Mapping[int, DecisionRecord]
    items: Mapping[str, tuple[StepRecord, ...]] = field(default_factory=dict)
    holders: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        graph: Graph,
        run: RunRecord,
        steps: Sequence[StepRecord],
        decisions: Sequence[DecisionRecord],
        holders: Mapping[str, tuple[str, str]] | None = None,
    ) -> Ledger:
        """Return the ledger of these rows; decisions that a retry has superseded are left out."""
        items: dict[str, tuple[StepRecord, ...]] = {}
        for step in steps:
            if step.index != NO_INDEX and step.status is StepStatus.FAILED:
                items[step.step_id] = (*items.get(step.step_id, ()), step)
        return cls(
            graph,
            run,
            {step.step_id: step for step in steps if step.index == NO_INDEX},
            {d.transition: d for d in decisions if not d.superseded},
            items,
            holders or {},
        )

    def status(self, step_id: str) -> str:
        """Return a step's status; a step without a row is pending."""
        record = self.steps.get(step_id)
        return str(record.status if record else StepStatus.PENDING)


def explain(ledger: Ledger, step_id: str) -> Explanation:
    """
    Return why a step ran or did not, back to the first causes.

    Where a source was skipped or cancelled, its own explanation is the `cause` of the arrow; a
    step is explained once, however many paths lead back to it. Of a long row of them the middle
    is left out: the last cause that is told in full is followed by the first one.
    """
    return _explain(ledger, step_id, seen=set())


def lay_out(explanation: Explanation, depth: int = 0) -> list[Line]:
    """Return an explanation as lines: the step, the transitions into it, and their causes."""
    lines = [Line(depth, explanation.status, "", explanation.sentence)]
    for arrow in explanation.arrows:
        between = f"{arrow.source} → {arrow.target}"
        lines.append(Line(depth + 2, arrow.verdict, between, arrow.words))
        lines += [Line(depth + 3 + inner, "", "", words) for inner, words in arrow.parts]
        if arrow.cause is not None:
            lines += lay_out(arrow.cause, depth + 3)
    return lines


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
            return f"parameter {reason.get('name')} is {show_operand(reason)}, which is {truth}"
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


def describe_items(counts: ItemCounts) -> str:
    """Return how far the items of a foreach are, as in ``15 items: 14 succeeded, 1 failed``."""
    begun = counts.started - counts.ended
    parts = {
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "skipped or cancelled": counts.ended - counts.succeeded - counts.failed,
        "waiting": counts.paused,
        "at work": begun - counts.paused,
    }
    told = ", ".join(f"{number:,} {word}" for word, number in parts.items() if number > 0)
    total = f"{counts.total:,} item{'' if counts.total == 1 else 's'}"
    return f"{total}: {told}" if told else total


def show_operand(operand: Mapping[str, Any]) -> str:
    """Return an operand as the ledger keeps it: a value, the beginning of one, or none."""
    if operand.get("missing"):
        return "(missing)"
    value = operand.get("value")
    if isinstance(value, Mapping) and value.keys() == {"truncated", "sha256", "bytes"}:
        return f"{format_value(value['truncated'])[:-1]}… ({format_bytes(value['bytes'])})"
    return format_value(value)


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
_NEAR_CAUSES: Final = 24
"""How many causes, one behind the other, are told in full before the first one."""
_DID_NOT_RUN: Final = frozenset({StepStatus.PENDING, StepStatus.SKIPPED, StepStatus.CANCELLED})


def _describe_compare(reason: Mapping[str, Any]) -> str:
    left = reason.get("left", {})
    operator = str(reason.get("operator"))
    subject = left.get("path", "?")
    verdict = _word(reason.get("verdict"))
    right = reason.get("right")
    if right is None:
        return f"{subject} {operator} → {show_operand(left)} {operator} is {verdict}"
    symbol = _SYMBOLS.get(operator, operator)
    asked = right.get("path") or show_operand(right)
    mismatch = " (values of different kinds)" if reason.get("note") == "kind_mismatch" else ""
    seen = f"{show_operand(left)} {operator} {show_operand(right)} is {verdict}"
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


def _explain(ledger: Ledger, step_id: str, seen: set[str], depth: int = 0) -> Explanation:
    node = ledger.graph.nodes[step_id]
    seen.add(step_id)
    record = ledger.steps.get(step_id)
    # Why a step ran is said by what was taken; causes are looked for only where it did not.
    dig = record is None or record.status in _DID_NOT_RUN
    arrows = tuple(_explain_arrow(ledger, edge, seen, depth, dig=dig) for edge in node.incoming)
    sentence = _tell(ledger, node)
    return Explanation(step_id, ledger.status(step_id), sentence, arrows)


def _explain_arrow(ledger: Ledger, edge: Edge, seen: set[str], depth: int, *, dig: bool) -> Arrow:
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
                first = edge.source
                if depth >= _NEAR_CAUSES:
                    first, passed = _find_first(ledger, edge.source, seen)
                    words += f", as {_count_steps(passed)} before it" if passed else ""
                cause = _explain(ledger, first, seen, depth + 1)
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


def _find_first(ledger: Ledger, step_id: str, seen: set[str]) -> tuple[str, int]:
    """Return the first cause behind a step, and how many steps lie between the two."""
    passed = 0
    while True:
        seen.add(step_id)
        before = next(
            (
                edge.source
                for edge in ledger.graph.nodes[step_id].incoming
                if edge.source not in seen and _is_carried(ledger.decisions.get(edge.index))
            ),
            None,
        )
        if before is None:
            return step_id, passed
        step_id, passed = before, passed + 1


def _is_carried(decision: DecisionRecord | None) -> bool:
    return (
        decision is not None
        and not decision.taken
        and decision.reason.get("kind") == "end"
        and decision.reason.get("end") in _CARRIED
    )


def _count_steps(number: int) -> str:
    return "was one step" if number == 1 else f"were {number:,} steps"


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
            return f"{step_id} is ready and waits for {_tell_hold(ledger, record)}, {ran}"
        case StepStatus.RUNNING:
            return f"{step_id} is running, {ran}{_tell_items(ledger, record)}"
        case StepStatus.RETRYING:
            return f"{step_id} is running, {ran}; attempt {_tries(record)} failed: {fault}"
        case StepStatus.WAITING:
            return f"{step_id} waits for {_tell_wait(ledger, record)}, {ran}"
        case StepStatus.SUCCEEDED:
            return f"{step_id} ran and succeeded, {ran}{_tell_items(ledger, record)}"
        case StepStatus.FAILED:
            handled = "; the failure is handled" if record.handled else ""
            items = _tell_items(ledger, record)
            return f"{step_id} ran, {ran}, and failed: {fault}{handled}{items}"
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


def _tell_hold(ledger: Ledger, record: StepRecord) -> str:
    """Return what a ready step waits for: a worker, unless something holds it back."""
    if record.hindrance is not None:
        return f"a worker that can execute it: the last one that took it up gave it back ({record.hindrance})"
    if not record.is_held:
        return "a worker"
    if record.concurrency_key is not None:
        holder = ledger.holders.get(record.concurrency_key)
        if holder is None:
            by = "which is free again"
        elif holder[0] == record.run_id:
            by = f"which step {holder[1]} of the same run holds"
        else:
            by = f"which step {holder[1]} of run {holder[0]} holds"
        return f"the key {format_value(record.concurrency_key)}, {by}"
    rate = ledger.graph.nodes[record.step_id].step.rate_limit
    at = f", at {_time(record.due_at)}" if record.due_at is not None else ""
    return f"its turn under the rate of {rate}{at}"


def _tell_wait(ledger: Ledger, record: StepRecord) -> str:
    step = ledger.graph.nodes[record.step_id].step
    match record.waits_for:
        case WaitsFor.TIME:
            return f"a time: {_time(record.due_at)}" if record.due_at else "a time"
        case WaitsFor.RUN:
            return f"a run of {step.pipeline}"
        case WaitsFor.RUN_OUTSIDE:
            return f"a run of {step.pipeline}, which waits for somebody"
        case WaitsFor.SIGNAL:
            return f"the signal {step.config.get('name')}"
        case _:
            return "a person"


def _tell_items(ledger: Ledger, record: StepRecord) -> str:
    """Return how the items stand and why the first one failed, to be put behind a sentence."""
    if record.items is None:
        return ""
    failed = ledger.items.get(record.step_id, ())
    first = failed[0] if failed else None
    fault = ""
    if first is not None and first.error:
        message = as_clause(str(first.error.get("message", "")))
        fault = f"; item {first.index} failed: {first.error.get('code')}: {message}"
    return f"; {describe_items(record.items)}{fault}"


def _time(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _count(number: int) -> str:
    return f"{number} transition" if number == 1 else f"{number} transitions"


def _tries(record: StepRecord) -> int:
    return record.attempt - record.worker_losses
