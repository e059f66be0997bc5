"""What the pages of a run tell, laid out in rows: why, conditions as judged, attempts, bars of time.

Decides order, depth and places; never what is seen of a run (the replies of the API are all that
is known here), and never how it looks. Called by the pages of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from iaflow.data.status import LIVE_STEP, StepStatus
from iaflow.explaining import describe_reason, show_operand
from iaflow.web.schemas.runs import Run
from iaflow.web.schemas.steps import Event, Explained, ExplainedTransition, StepLine

__all__ = [
    "Bar",
    "Judged",
    "Move",
    "Timeline",
    "WhyLine",
    "describe_counts",
    "find_moves",
    "lay_out_condition",
    "lay_out_why",
    "plan_timeline",
]

DEEPEST: Final = 12
"""Rows that lie deeper are indented no further: a page has only so much width."""


# --- why


@dataclass(frozen=True, slots=True)
class WhyLine:
    """
    One row of why a step stands where it stands.

    Attributes:
        depth: how far it is indented.
        step_id: the step that it is about; for a transition, the one that it comes from.
        mark: the step's status, or the verdict on the transition.
        target: where the transition leads; None: the row is about the step itself.
        words: None: they may not be told.
        parts: of a nested condition.
    """

    depth: int
    step_id: str
    mark: str
    target: str | None
    words: str | None
    parts: tuple[str, ...] = ()


def lay_out_why(explained: Explained) -> list[WhyLine]:
    """Return an explanation in rows: the step, the transitions into it, and their causes."""
    lines: list[WhyLine] = []
    left: list[tuple[int, Explained | ExplainedTransition]] = [(0, explained)]
    while left:
        depth, one = left.pop()
        shown = min(depth, DEEPEST)
        if isinstance(one, Explained):
            lines.append(WhyLine(shown, one.step_id, one.status, None, one.sentence))
            left += [(depth + 1, arrow) for arrow in reversed(one.transitions)]
        else:
            parts = tuple(one.parts or ())
            lines.append(WhyLine(shown, one.source, one.verdict, one.target, one.words, parts))
            if one.cause is not None:
                left.append((depth + 1, one.cause))
    return lines


# --- conditions


@dataclass(frozen=True, slots=True)
class Judged:
    """
    A condition, or a part of one, as it was judged.

    Attributes:
        depth: of the part in the whole.
        verdict: `true`, `false` or `unknown`; None: there was nothing to judge.
        words: of anything that is no comparison; of a comparison, what there is to note.
        operator: None: it is no comparison.
        left, right: paths that were compared, or None for a value as written; right is "" where
            the operator asks for nothing.
        left_seen, right_seen: their values then.
    """

    depth: int
    verdict: str | None
    words: str = ""
    operator: str | None = None
    left: str | None = None
    left_seen: str = ""
    right: str | None = None
    right_seen: str = ""


def lay_out_condition(reason: Mapping[str, Any], source: str) -> list[Judged]:
    """
    Return the reason of a decision in rows: the whole, then its parts.

    Args:
        reason: as the ledger keeps it.
        source: the step that the transition leaves.
    """
    rows: list[Judged] = []
    left: list[tuple[int, Mapping[str, Any]]] = [(0, reason)]
    while left:
        depth, one = left.pop()
        rows.append(_judge(one, source, min(depth, DEEPEST)))
        parts = list(one.get("conditions", ()))
        if isinstance(failed := one.get("condition"), Mapping):
            # What had been judged when a part of it failed.
            parts.append(failed)
        left += [(depth + 1, part) for part in reversed(parts)]
    return rows


_SIGNS: Final = {"eq": "=", "ne": "≠", "gt": ">", "gte": "≥", "lt": "<", "lte": "≤"}


def _judge(reason: Mapping[str, Any], source: str, depth: int) -> Judged:
    verdict = None
    if "verdict" in reason:
        verdict = {True: "true", False: "false"}.get(reason["verdict"], "unknown")
    if reason.get("kind") != "compare" or "error" in reason:
        return Judged(depth, verdict, describe_reason(reason, source))
    seen, asked = reason.get("left", {}), reason.get("right")
    operator = str(reason.get("operator"))
    note = "values of different kinds" if reason.get("note") == "kind_mismatch" else ""
    return Judged(
        depth,
        verdict,
        note,
        operator=_SIGNS.get(operator, operator.replace("_", " ")),
        left=seen.get("path"),
        left_seen=show_operand(seen),
        right="" if asked is None else asked.get("path"),
        right_seen="" if asked is None else show_operand(asked),
    )


# --- attempts


@dataclass(frozen=True, slots=True)
class Move:
    """What became of a step or an item at an instant; `retrying` is a failed attempt's end."""

    at: datetime
    status: StepStatus


def find_moves(events: Iterable[Event], step_id: str, index: int | None) -> list[Move]:
    """Return what happened to a step, or an item of one, in order, as the run's events have it."""
    return [
        Move(event.at, moved.status)
        for event in events
        for moved in event.steps
        if (moved.step_id, moved.index) == (step_id, index)
    ]


# --- time


@dataclass(frozen=True, slots=True)
class Bar:
    """When a step was at work or waited, in thousandths of the width; no width: it never began."""

    step: StepLine
    begin: int
    width: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """
    The steps of a run over time.

    Attributes:
        seconds: from the first instant to the last.
        bars: in the order in which steps began, then those that never did.
    """

    begin: datetime
    seconds: float
    bars: tuple[Bar, ...]

    @property
    def marks(self) -> tuple[tuple[int, float], ...]:
        """Where the scale has marks: thousandths of the width, and seconds from the beginning."""
        return tuple((part * 250, self.seconds * part / 4) for part in range(5))


def plan_timeline(run: Run, steps: Sequence[StepLine], now: datetime) -> Timeline:
    """Return where the bars of a run's steps are; what has not ended goes on until now."""
    begun = [step for step in steps if step.started_at is not None]
    never = [step for step in steps if step.started_at is None]
    starts = [one.started_at for one in begun if one.started_at is not None]
    begin = min([run.started_at or run.created_at, *starts])
    ends = [_end_of(step, run, now) for step in begun]
    end = max([begin, *ends])
    whole = max((end - begin).total_seconds(), 0.001)
    bars = []
    for step, until in zip(begun, ends, strict=True):
        assert step.started_at is not None
        at = round((step.started_at - begin).total_seconds() / whole * 1000)
        at = max(0, min(at, 994))
        width = round((until - step.started_at).total_seconds() / whole * 1000)
        # Thin as it may be, it can be seen.
        bars.append(Bar(step, at, max(6, min(width, 1000 - at))))
    bars.sort(key=lambda bar: bar.step.started_at or begin)
    return Timeline(begin, whole, (*bars, *(Bar(step, 0, 0) for step in never)))


def _end_of(step: StepLine, run: Run, now: datetime) -> datetime:
    assert step.started_at is not None
    if step.finished_at is not None:
        return max(step.finished_at, step.started_at)
    until = now if step.status in LIVE_STEP else (run.finished_at or now)
    return max(until, step.started_at)


# --- words


def describe_counts(step: StepLine) -> str:
    """Return how far the items of a step are in a few words; "" for a step without any."""
    if step.items is None:
        return ""
    items = step.items
    words = f"{items.ended:,}/{items.total:,}"
    more = [f", {items.failed:,} failed"] if items.failed else []
    if items.waiting:
        more.append(f", {items.waiting:,} wait")
    return words + ("".join(more) or " items")
