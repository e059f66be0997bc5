"""For users' tests: a pipeline rehearsed in a line, with stubs, people and virtual time.

Decides the names that tests may rely on; never imports a room of iaflow before one of them is
asked for, so that the pytest plugin costs nothing where nobody uses it. Imported by tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iaflow.rehearsal.outcome import Refusal, Rehearsal, StepOutcome
    from iaflow.rehearsal.scripts import Answer, CancelRun, CancelStep, Signal
    from iaflow.rehearsal.staging import rehearse, rehearse_async
    from iaflow.rehearsal.virtual_time import VirtualClock, VirtualLoop
    from iaflow.testing.routing import Asked, ScriptedRouter
    from iaflow.testing.single_step import make_context, run_step, run_step_async

__all__ = [
    "Answer",
    "Asked",
    "CancelRun",
    "CancelStep",
    "Refusal",
    "Rehearsal",
    "ScriptedRouter",
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
    "Answer": "iaflow.rehearsal.scripts",
    "Asked": "iaflow.testing.routing",
    "CancelRun": "iaflow.rehearsal.scripts",
    "CancelStep": "iaflow.rehearsal.scripts",
    "Refusal": "iaflow.rehearsal.outcome",
    "Rehearsal": "iaflow.rehearsal.outcome",
    "ScriptedRouter": "iaflow.testing.routing",
    "Signal": "iaflow.rehearsal.scripts",
    "StepOutcome": "iaflow.rehearsal.outcome",
    "VirtualClock": "iaflow.rehearsal.virtual_time",
    "VirtualLoop": "iaflow.rehearsal.virtual_time",
    "make_context": "iaflow.testing.single_step",
    "rehearse": "iaflow.rehearsal.staging",
    "rehearse_async": "iaflow.rehearsal.staging",
    "run_step": "iaflow.testing.single_step",
    "run_step_async": "iaflow.testing.single_step",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
