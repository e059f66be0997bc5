"""What happens to a rehearsed run from outside, and when: answers, signals, cancels.

Decides the shape of a script; never plays it. Written by tests, played by rehearsals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Action", "Answer", "CancelRun", "CancelStep", "Signal"]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Somebody answers the question of a step.

    Attributes:
        step: id of the `human_input` step.
        data: the fields of its form.
        at: virtual seconds since the start of the run; if the step does not wait by then, the
            answer is refused. None: when the step waits.
        by: who answers.
        roles: what that person is, for the step's `assignees`.
        after: without `at`, virtual seconds from the question to the answer.
        always: without `at`, it answers each question of the step and not only the first: those
            of several child runs, say.
    """

    step: str
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float | None = None
    by: str = "somebody"
    roles: Sequence[str] = ()
    after: float = 0.0
    always: bool = False


@dataclass(frozen=True, slots=True)
class Signal:
    """
    A named signal reaches the run.

    Attributes:
        name: what an `event` step waits for.
        data: its payload, the output of that step.
        at: virtual seconds since the start of the run; if no step waits for it by then, it is
            refused. None: when a step waits for it.
        by: who sends it.
        after: without `at`, virtual seconds from the waiting to the signal.
        always: without `at`, it is sent each time that it is waited for.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float | None = 0.0
    by: str = "somebody"
    after: float = 0.0
    always: bool = False


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Somebody cancels the run, `at` virtual seconds since its start."""

    at: float = 0.0


@dataclass(frozen=True, slots=True)
class CancelStep:
    """Somebody cancels one step of the run, `at` virtual seconds since its start."""

    step: str
    at: float = 0.0


Action = Answer | Signal | CancelRun | CancelStep
