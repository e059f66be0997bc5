"""Which runs somebody asks for, and what became of each where many were changed at once.

Decides the words of a filter; never which index serves it (the listings do). Built by the faces,
read by the client and the stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from iaflow.data.status import RunStatus

__all__ = ["EVERY_RUN", "ManyOutcome", "ManyRecord", "RunFilter"]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """
    Which runs; what is None is not asked for.

    Attributes:
        started_by: who, exactly as the run says it.
        since, until: made at this instant or later, and before that one, by the clock of the
            process that made the run's id.
        parent_run_id: those that steps of this run have started.
        is_top_level: those that no step has started.
    """

    slug: str | None = None
    status: RunStatus | None = None
    started_by: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    parent_run_id: str | None = None
    is_top_level: bool = False


EVERY_RUN: Final = RunFilter()


class ManyOutcome(StrEnum):
    """What became of one run of many."""

    CANCELLED = "cancelled"
    RETRIED = "retried"
    UNCHANGED = "unchanged"
    """It was not in a state to be changed (any more), which is as well."""
    REFUSED = "refused"
    WOULD_CHANGE = "would_change"
    """Of a dry run: nothing was done."""


@dataclass(frozen=True, slots=True)
class ManyRecord:
    """What became of one run where many were cancelled or retried."""

    run_id: str
    outcome: ManyOutcome
    reason: str = ""
