"""Pipelines: from a document to a run's end.

Decides nothing itself: it is the door for step authors. Never imports a room above `step`.
Called by every steps module.
"""

from iaflow.pipeline.step import (
    EventStep,
    HumanInputStep,
    PipelineStep,
    Step,
    StepContext,
    TerminateStep,
    WaitStep,
)

__all__ = [
    "EventStep",
    "HumanInputStep",
    "PipelineStep",
    "Step",
    "StepContext",
    "TerminateStep",
    "WaitStep",
]
