"""What the planner is told, asked and answers: snapshot, needs, change, plan.

Decides the shape of these alone; never what follows from what. Made by the engine (what is
told) and the planner (what is answered).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iaflow.data.records import Decision, RunChange, RunView, StepChange, StepView
from iaflow.data.status import RunStatus, StepEnd, StepStatus

__all__ = [
    "Change",
    "Needs",
    "Plan",
    "RunCancelled",
    "RunStarted",
    "Snapshot",
    "StepCancelled",
    "StepDelayed",
    "StepEnded",
    "StepPaused",
]


# --- the snapshot: what the planner is told of a run


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What is known of a run. A key that is absent was not looked up; None was, and is not there.

    Attributes:
        steps: step id to its row, None if it has none yet.
        outputs: step id to its output, None if it did not succeed.
        errors: step id to its recorded error, None if it has none.
        decided: indexes of the decided transitions; None if not looked up.
        ends: succeeded steps without a taken transition; None if not looked up.
    """

    run: RunView
    steps: Mapping[str, StepView | None] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    decided: frozenset[int] | None = None
    ends: tuple[str, ...] | None = None

    def plus(self, more: Snapshot) -> Snapshot:
        """Return this snapshot with what `more` knows beside it (of the same moment)."""
        return replace(
            self,
            steps={**self.steps, **more.steps},
            outputs={**self.outputs, **more.outputs},
            errors={**self.errors, **more.errors},
            decided=more.decided if more.decided is not None else self.decided,
            ends=more.ends if more.ends is not None else self.ends,
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What the planner must be told before it can plan.

    Attributes:
        steps, outputs, errors: ids of steps to look up.
        everything: all step rows and all decided transitions of the run.
        ends: the succeeded steps without a taken transition.
    """

    steps: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    everything: bool = False
    ends: bool = False


# --- the change: what has happened


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class StepEnded:
    """
    A step reached its end (its last attempt, an answer, an expiry).

    Attributes:
        output: the output of a success; None otherwise.
        error: `{"code", "message", …}` of a failure; None otherwise.
    """

    step_id: str
    end: StepEnd
    output: Any = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StepPaused:
    """A step waits for people from now on."""

    step_id: str


@dataclass(frozen=True, slots=True)
class StepDelayed:
    """An attempt failed and there will be another one later."""

    step_id: str
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepCancelled:
    """Somebody cancelled one step of the run."""

    step_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody cancelled the run, or its time is over (`status` FAILED, code `run_timeout`)."""

    reason: str
    status: RunStatus = RunStatus.CANCELLED
    code: str | None = None


Change = RunStarted | StepEnded | StepPaused | StepDelayed | StepCancelled | RunCancelled


# --- the plan: what must be written, all of it in one transaction


@dataclass(frozen=True, slots=True)
class Plan:
    """Every consequence of one change; steps and decisions in the order they came about."""

    run: RunChange
    steps: tuple[StepChange, ...]
    decisions: tuple[Decision, ...]

    @property
    def ready(self) -> tuple[str, ...]:
        """Ids of the steps that became ready."""
        return tuple(s.step_id for s in self.steps if s.status is StepStatus.READY)
