"""The judge of the conformance suite: what a case expects, against what its run did.

Decides whether every expectation holds, and says each one that does not; never runs anything.
Called by the tests of this folder.

Order, overlap and executions are judged by the log of the step bodies, not by the engine's own
records. A list of steps by status names steps that have it; an empty one says that none has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.reading import Case

__all__ = ["Execution", "Played", "judge"]

STATUSES = ("succeeded", "failed", "skipped", "cancelled", "waiting", "pending")
TOLERANCE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a step's body: when it began and ended, by its own log (seconds)."""

    step: str
    index: int | None
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Played:
    """
    How a case's run went.

    Attributes:
        steps: the status of every step that has one.
        attempts: by step, as the engine counts them.
        elapsed: seconds from the start to the end; None where time is real.
        refused: for each answer in order, why it was refused, or None.
        changed: answers that were refused and changed something all the same.
        spans: when each step began and ended by the engine, for steps without a body.
        story: what happened, for people.
    """

    status: str
    steps: Mapping[str, str]
    attempts: Mapping[str, int]
    outputs: Any
    elapsed: float | None
    refused: Sequence[str | None]
    executions: Sequence[Execution]
    spans: Mapping[str, tuple[float | None, float | None]]
    changed: Sequence[str] = ()
    error: Any = None
    story: str = ""


def judge(case: Case, played: Played) -> list[str]:
    """Return a sentence for every expectation that does not hold; empty if all do."""
    faults: list[str] = []
    expect = case.expect
    if "status" in expect and played.status != expect["status"]:
        faults.append(f"status is {played.status}, expected {expect['status']} ({played.error})")
    for status in STATUSES:
        if status in expect:
            faults += _judge_status(status, expect[status], played)
    for key, check in _PAIRS.items():
        for first, second in expect.get(key, ()):
            faults += [f"{key} [{first}, {second}]: {why}" for why in check(played, first, second)]
    for step, number in expect.get("executions", {}).items():
        found = sum(execution.step == step for execution in played.executions)
        if found != number:
            faults.append(f"executions of {step}: {found}, expected {number}")
    for step, number in expect.get("attempts", {}).items():
        if played.attempts.get(step, 0) != number:
            faults.append(f"attempts of {step}: {played.attempts.get(step, 0)}, expected {number}")
    if "outputs" in expect and _spell(played.outputs) != _spell(expect["outputs"]):
        faults.append(f"outputs are {_spell(played.outputs)}, expected {_spell(expect['outputs'])}")
    late = 0.0 if played.elapsed is None else played.elapsed - expect.get("time", played.elapsed)
    if abs(late) > TOLERANCE_SECONDS:
        faults.append(f"time is {played.elapsed:g} s, expected {expect['time']:g} s")
    return faults + list(_judge_answers(case, played))


def _judge_status(status: str, named: Iterable[str], played: Played) -> Iterator[str]:
    named = list(named)
    for step in named:
        found = played.steps.get(step, "pending")
        if found != status:
            yield f"step {step} is {found}, expected {status}"
    if not named:
        others = [step for step, found in played.steps.items() if found == status]
        if others:
            yield f"no step should be {status}, but {others} are"


def _judge_answers(case: Case, played: Played) -> Iterator[str]:
    number = sum(why is not None for why in played.refused)
    expected = case.expect.get("refused_answers", number)
    if number != expected:
        yield f"{number} answers were refused, expected {expected}: {list(played.refused)}"
    for answer, why in zip(case.answers, played.refused, strict=True):
        wanted = answer.get("reject_expected")
        if wanted is not None and wanted != (why is not None):
            verb = "accepted" if why is None else f"refused ({why})"
            yield f"the answer {answer} was {verb}"
    for change in played.changed:
        yield f"a refused answer changed something: {change}"


def _judge_order(played: Played, first: str, second: str) -> Iterator[str]:
    ended, began = _last_end(played, first), _first_start(played, second)
    if ended is None or began is None:
        yield f"{first} ended at {ended}, {second} began at {began}"
    elif ended > began:
        yield f"{second} began at {began:.6f}, before {first} ended at {ended:.6f}"


def _judge_overlap(played: Played, first: str, second: str) -> Iterator[str]:
    if not any(_overlap(a, b) for a, b in _pairs(played, first, second)):
        yield f"they never ran at once: {_tell(played, first, second)}"


def _judge_no_overlap(played: Played, first: str, second: str) -> Iterator[str]:
    if any(_overlap(a, b) for a, b in _pairs(played, first, second)):
        yield f"they ran at once: {_tell(played, first, second)}"


_PAIRS: dict[str, Callable[[Played, str, str], Iterator[str]]] = {
    "order": _judge_order,
    "overlap": _judge_overlap,
    "no_overlap": _judge_no_overlap,
}


def _pairs(played: Played, first: str, second: str) -> Iterator[tuple[Execution, Execution]]:
    if first == second:
        # Items of one foreach, say.
        return itertools.combinations(_of(played, first), 2)
    return itertools.product(_of(played, first), _of(played, second))


def _of(played: Played, step: str) -> list[Execution]:
    return [execution for execution in played.executions if execution.step == step]


def _overlap(a: Execution, b: Execution) -> bool:
    return max(a.start, b.start) < min(a.end, b.end)


def _last_end(played: Played, step: str) -> float | None:
    # A step that goes on before all its items have ended is judged by those that had.
    ends = [execution.end for execution in _of(played, step)]
    span_end = played.spans.get(step, (None, None))[1]
    if not ends:
        return span_end
    return max(ends) if span_end is None else min(max(ends), span_end)


def _first_start(played: Played, step: str) -> float | None:
    starts = [execution.start for execution in _of(played, step)]
    return min(starts) if starts else played.spans.get(step, (None, None))[0]


def _tell(played: Played, *steps: str) -> str:
    return "; ".join(
        f"{one.step} {one.start:.3f}-{one.end:.3f}" for step in steps for one in _of(played, step)
    )


def _spell(value: Any) -> str:
    """Return the JSON of a value, by which 1, 1.0 and true are three things."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
