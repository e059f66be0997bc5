"""How a rehearsed run went: what a test reads and asserts.

Decides the shape of the result and the words of a failing assertion; never runs anything.
Returned by rehearsals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from iaflow.data.records import DecisionRecord, PauseRecord
from iaflow.data.status import RunStatus, StepEnd, StepStatus
from iaflow.explaining import Ledger, explain, lay_out
from iaflow.rehearsal.scripts import Answer, Signal

__all__ = ["Happening", "Refusal", "Rehearsal", "StepOutcome"]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """
    How one step (or one item of a foreach) ended or stands.

    Attributes:
        index: the item of a foreach; None for the step itself.
        end: None while it has not ended.
        attempts: executions that counted; lost workers do not.
        error: ``{"code", "message", …}`` as the run records it.
        started_seconds, ended_seconds: virtual seconds since the start of the run.
    """

    step_id: str
    status: StepStatus = StepStatus.PENDING
    end: StepEnd | None = None
    attempts: int = 0
    inputs: Any = None
    output: Any = None
    error: Mapping[str, Any] | None = None
    is_handled: bool = False
    started_seconds: float | None = None
    ended_seconds: float | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer or signal that was not accepted; `changed` must be False: nothing moved."""

    action: Answer | Signal
    reason: str
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, `seconds` after the start of the run, in order."""

    seconds: float
    kind: str
    step_id: str | None
    index: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """
    A run as it stood when nothing more could happen, or when its time was up.

    Attributes:
        outputs: the run's outputs; None unless it succeeded.
        error: ``{"code", "message", "step_id"}`` of a failed or cancelled run.
        steps: every step of the definition; those without a trace are `pending`.
        items: the items of each foreach, in order.
        decisions: one for each transition that was decided, in order.
        refused: answers and signals that were not accepted.
        waiting: the questions that are still open.
        began_at: the instant of the start.
        elapsed_seconds: virtual seconds from the start to the end, or to the last change.
        history: what happened, in order.
        ledger: what explanations are made from.
    """

    run_id: str
    status: RunStatus
    outputs: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    parameters: Mapping[str, Any]
    steps: Mapping[str, StepOutcome]
    items: Mapping[str, tuple[StepOutcome, ...]]
    decisions: tuple[DecisionRecord, ...]
    refused: tuple[Refusal, ...]
    waiting: tuple[PauseRecord, ...]
    began_at: datetime
    elapsed_seconds: float
    history: tuple[Happening, ...] = field(repr=False)
    ledger: Ledger = field(repr=False)

    # -- reading

    def output_of(self, step_id: str) -> Any:
        """Return the output of a step; raises AssertionError if it did not succeed."""
        step = self._step(step_id)
        self._require(step.status is StepStatus.SUCCEEDED, f"{_tell(step)}; it has no output")
        return step.output

    def steps_that(self, status: StepStatus | str) -> list[str]:
        """Return the ids of the steps with a status, in document order."""
        return [step.step_id for step in self.steps.values() if step.status == status]

    def why(self, step_id: str) -> str:
        """Return why a step ran or did not, in the words of `iaflow why`."""
        self._step(step_id)
        return "\n".join(map(str, lay_out(explain(self.ledger, step_id))))

    def timeline(self) -> str:
        """Return what happened as text, one line each, for people."""
        return "\n".join(
            f"{one.seconds:>10.3f} s  {one.kind:<10} {_name(one.step_id, one.index)}"
            + (f"  {one.message}" if one.message else "")
            for one in self.history
        )

    # -- asserting

    def assert_succeeded(self, outputs: Mapping[str, Any] | None = None) -> None:
        """Assert that the run succeeded, with exactly these outputs if they are given."""
        self._require(self.status is RunStatus.SUCCEEDED, f"the run is {self._tell_run()}")
        if outputs is not None:
            self._require(
                self.outputs == outputs,
                f"the run's outputs are {_show(self.outputs)}, not {_show(outputs)}",
            )

    def assert_failed(self, code: str | None = None, step: str | None = None) -> None:
        """Assert that the run failed, with this code and at this step if they are given."""
        self._require(self.status is RunStatus.FAILED, f"the run is {self._tell_run()}")
        error = self.error or {}
        right = (code is None or error.get("code") == code) and (
            step is None or error.get("step_id") == step
        )
        wanted = " ".join([code or "any code", *([f"at step {step!r}"] if step else [])])
        self._require(right, f"the run is {self._tell_run()}; expected was {wanted}")

    def assert_cancelled(self, *step_ids: str) -> None:
        """Assert that these steps were cancelled; without any, that the run was."""
        if step_ids:
            self._require_status(step_ids, StepStatus.CANCELLED)
        else:
            self._require(self.status is RunStatus.CANCELLED, f"the run is {self._tell_run()}")

    def assert_waiting(self, *step_ids: str) -> None:
        """Assert that the run waits for people, and these steps are those who ask."""
        self._require(self.status is RunStatus.WAITING, f"the run is {self._tell_run()}")
        self._require_status(step_ids, StepStatus.WAITING)

    def assert_ran(self, *step_ids: str) -> None:
        """Assert that these steps ran and succeeded."""
        self._require_status(step_ids, StepStatus.SUCCEEDED)

    def assert_skipped(self, *step_ids: str) -> None:
        """Assert that these steps were skipped."""
        self._require_status(step_ids, StepStatus.SKIPPED)

    def assert_step_failed(self, step_id: str, code: str | None = None) -> None:
        """Assert that a step failed, with this code if one is given."""
        self._require_status([step_id], StepStatus.FAILED)
        found = (self.steps[step_id].error or {}).get("code")
        self._require(code in (None, found), f"step {step_id!r} failed with {found}, not {code}")

    def assert_not_started(self, *step_ids: str) -> None:
        """Assert that no attempt of these steps was begun."""
        for step_id in step_ids:
            step = self._step(step_id)
            self._require(step.attempts == 0, _tell(step), step_id)

    def assert_attempts(self, step_id: str, number: int) -> None:
        """Assert how many attempts a step took."""
        step = self._step(step_id)
        self._require(
            step.attempts == number, f"step {step_id!r} took {step.attempts} attempts, not {number}"
        )

    def assert_order(self, *step_ids: str) -> None:
        """Assert that these steps began, each when the one before had ended."""
        steps = [self._step(step_id) for step_id in step_ids]
        for first, second in pairwise(steps):
            ended, began = first.ended_seconds, second.started_seconds
            self._require(
                first.started_seconds is not None
                and ended is not None
                and began is not None
                and ended <= began,
                f"step {first.step_id!r} ended at {_at(ended)} and step {second.step_id!r} "
                f"began at {_at(began)}",
            )

    def assert_taken(self, source: str, target: str) -> None:
        """Assert that a transition between two steps was taken."""
        self._require_decision(source, target, taken=True)

    def assert_refused(self, source: str, target: str) -> None:
        """Assert that every transition between two steps was refused."""
        self._require_decision(source, target, taken=False)

    def assert_elapsed(self, seconds: float, tolerance: float = 0.001) -> None:
        """Assert how much virtual time the run took, in seconds."""
        self._require(
            abs(self.elapsed_seconds - seconds) <= tolerance,
            f"the run took {self.elapsed_seconds:g} virtual seconds, not {seconds:g}",
        )

    # -- private

    def _step(self, step_id: str) -> StepOutcome:
        step = self.steps.get(step_id)
        if step is None:
            raise ValueError(f"the definition has no step {step_id!r}: there are {[*self.steps]}")
        return step

    def _require_status(self, step_ids: Iterable[str], status: StepStatus) -> None:
        for step_id in step_ids:
            step = self._step(step_id)
            self._require(step.status is status, f"{_tell(step)}, not {status}", step_id)

    def _require_decision(self, source: str, target: str, *, taken: bool) -> None:
        self._step(source)
        self._step(target)
        found = [
            one
            for one in self.decisions
            if (one.source, one.target) == (source, target) and not one.superseded
        ]
        right: Callable[[Iterable[object]], bool] = any if taken else all
        self._require(
            bool(found) and right(one.taken is taken for one in found),
            f"the transition {source} -> {target} was "
            + ("not decided" if not found else "refused" if taken else "taken"),
            target,
        )

    def _require(self, holds: bool, message: str, step_id: str | None = None) -> None:
        if holds:
            return
        parts = [message]
        if step_id is not None:
            parts += self.why(step_id).splitlines()[1:]
        parts.append(f"what happened:\n{self.timeline()}")
        raise AssertionError("\n".join(parts))

    def _tell_run(self) -> str:
        error = self.error or {}
        where = f" at step {error['step_id']!r}" if error.get("step_id") else ""
        why = f"{where}: {error.get('code')}: {error.get('message')}" if error else ""
        asked = ", ".join(pause.step_id for pause in self.waiting)
        return f"{self.status}{why}" + (f" (waiting: {asked})" if asked else "")


def _tell(step: StepOutcome) -> str:
    error = step.error or {}
    why = f" ({error.get('code')}: {error.get('message')})" if error else ""
    return f"step {_name(step.step_id, step.index)!r} is {step.status}{why}"


def _name(step_id: str | None, index: int | None) -> str:
    return (step_id or "run") + ("" if index is None else f"[{index}]")


def _at(seconds: float | None) -> str:
    return "no time" if seconds is None else f"{seconds:g} s"


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
