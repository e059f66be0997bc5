"""What the planner is told, asked and answers: snapshot, needs, change, plan.

Decides the shape of these alone; never what follows from what. Made by the engine (what is
told) and the planner (what is answered).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iaflow.data.records import (
    NO_INDEX,
    Decision,
    NewItems,
    RunChange,
    RunView,
    StepChange,
    StepView,
)
from iaflow.data.status import RunStatus, StepEnd, StepStatus, WaitsFor

__all__ = [
    "Change",
    "CodeQuestion",
    "Judged",
    "Needs",
    "Plan",
    "RunCancelled",
    "RunReopened",
    "RunStarted",
    "Snapshot",
    "StepCancelled",
    "StepDelayed",
    "StepEnded",
    "StepFanned",
    "StepWaits",
]

Judged = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""What workers found for conditions that need code: transition index to pointer to record."""


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
        item: the row of the item that the change is about, if it is about one.
        results: step id to the outputs of its items in order, None for those without one.
        judged: verdicts of conditions that need code.
    """

    run: RunView
    steps: Mapping[str, StepView | None] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    decided: frozenset[int] | None = None
    ends: tuple[str, ...] | None = None
    item: StepView | None = None
    results: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    judged: Judged = field(default_factory=dict)

    def plus(self, more: Snapshot) -> Snapshot:
        """Return this snapshot with what `more` knows beside it (of the same moment)."""
        return replace(
            self,
            steps={**self.steps, **more.steps},
            outputs={**self.outputs, **more.outputs},
            errors={**self.errors, **more.errors},
            decided=more.decided if more.decided is not None else self.decided,
            ends=more.ends if more.ends is not None else self.ends,
            results={**self.results, **more.results},
        )


@dataclass(frozen=True, slots=True)
class CodeQuestion:
    """
    A condition that needs code, and what that may look at.

    Attributes:
        transition: index of the transition that it stands on.
        pointer: where in the transition's condition it stands.
        source: the step that the transition leaves.
        end: how that ended.
        result: its output; None if it did not succeed.
        error: its error; None if it did.
    """

    transition: int
    pointer: str
    source: str
    end: StepEnd
    result: Any
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What the planner must be told before it can plan.

    Attributes:
        steps, outputs, errors: ids of steps to look up.
        everything: all step rows and all decided transitions of the run.
        ends: the succeeded steps without a taken transition.
        results: ids of steps whose items' outputs to look up.
        code: conditions that a worker must judge before anything can be planned.
    """

    steps: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    everything: bool = False
    ends: bool = False
    results: frozenset[str] = frozenset()
    code: tuple[CodeQuestion, ...] = ()


# --- the change: what has happened


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class StepEnded:
    """
    A step, or one item of it, reached its end (its last attempt, an answer, an expiry).

    Attributes:
        output: the output of a success; None otherwise.
        error: `{"code", "message", …}` of a failure; None otherwise.
        index: the item, if it is one's end.
    """

    step_id: str
    end: StepEnd
    output: Any = None
    error: Mapping[str, Any] | None = None
    index: int = NO_INDEX


@dataclass(frozen=True, slots=True)
class StepWaits:
    """A step, or one item of it, waits without a worker from now on."""

    step_id: str
    waits_for: WaitsFor
    index: int = NO_INDEX


@dataclass(frozen=True, slots=True)
class StepFanned:
    """A step runs once per item from now on."""

    step_id: str
    count: int


@dataclass(frozen=True, slots=True)
class StepDelayed:
    """An attempt failed and there will be another one later."""

    step_id: str
    error: Mapping[str, Any]
    index: int = NO_INDEX


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


@dataclass(frozen=True, slots=True)
class RunReopened:
    """
    A run goes on after its end; its rows were made pending again.

    Attributes:
        steps: those that are pending again, every one after all its ancestors.
        leave_again: ended steps with transitions that only the run's end had decided, and how
            each of them ended.
    """

    steps: tuple[str, ...]
    leave_again: tuple[tuple[str, StepEnd], ...] = ()


Change = (
    RunStarted
    | RunReopened
    | StepEnded
    | StepWaits
    | StepFanned
    | StepDelayed
    | StepCancelled
    | RunCancelled
)


# --- the plan: what must be written, all of it in one transaction


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Every consequence of one change; steps and decisions in the order they came about.

    Attributes:
        new_items: the rows of items that the step gets.
        more_items: steps, and how many of the pending items of each are made ready, the first
            ones.
        dropped_items: steps whose unfinished items are cancelled.
    """

    run: RunChange
    steps: tuple[StepChange, ...]
    decisions: tuple[Decision, ...]
    new_items: NewItems | None = None
    more_items: tuple[tuple[str, int], ...] = ()
    dropped_items: tuple[str, ...] = ()

    @property
    def ready(self) -> tuple[str, ...]:
        """Ids of the steps that became ready."""
        return tuple(s.step_id for s in self.steps if s.status is StepStatus.READY)

    @property
    def cancelled(self) -> tuple[str, ...]:
        """Ids of the steps of which something was cancelled: the step itself, or items."""
        whole = (s.step_id for s in self.steps if s.status is StepStatus.CANCELLED)
        return tuple(dict.fromkeys((*whole, *self.dropped_items)))
