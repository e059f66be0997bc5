"""For users' tests: a pipeline rehearsed in a line, with stubs, people and virtual time.

Decides the names that tests may rely on; never imports a room of iaflow before one of them is
asked for, so that the pytest plugin costs nothing where nobody uses it. Imported by tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iaflow.testing.outcome import Refusal, Rehearsal, StepOutcome
    from iaflow.testing.rehearsal import rehearse, rehearse_async
    from iaflow.testing.scripts import Answer, CancelRun, CancelStep, Signal
    from iaflow.testing.single_step import make_context, run_step, run_step_async
    from iaflow.testing.virtual_time import VirtualClock, VirtualLoop

__all__ = [
    "Answer",
    "CancelRun",
    "CancelStep",
    "Refusal",
    "Rehearsal",
    "Signal",
    "StepOutcome",
    "VirtualClock",
    "VirtualLoop",
    "make_context",
    "rehearse",
    "rehearse_async",
    "run_step",
    "run_step_async",
]

_HOMES = {
    "Answer": "scripts",
    "CancelRun": "scripts",
    "CancelStep": "scripts",
    "Refusal": "outcome",
    "Rehearsal": "outcome",
    "Signal": "scripts",
    "StepOutcome": "outcome",
    "VirtualClock": "virtual_time",
    "VirtualLoop": "virtual_time",
    "make_context": "single_step",
    "rehearse": "rehearsal",
    "rehearse_async": "rehearsal",
    "run_step": "single_step",
    "run_step_async": "single_step",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
