"""What the engine's callers need of an executor that has messages.

Decides the interface alone; never how a message travels. Implemented by the Celery
executor, used by the client, workers and the sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from iaflow.data.records import StepTask

__all__ = ["Executor"]


class Executor(Protocol):
    """What carries ready steps and accepted answers to workers."""

    def submit(self, tasks: Iterable[StepTask]) -> int:
        """Send a message for each step; return how many were sent."""
        ...

    def submit_resume(self, pause_id: str, slug: str) -> bool:
        """Send a message for an accepted answer; return whether it was sent."""
        ...

    def depth(self) -> int | None:
        """Return how many messages wait for workers; None if the broker does not tell."""
        ...
