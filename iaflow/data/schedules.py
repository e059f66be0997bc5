"""Rows of schedules and of what they fired.

Decides shapes alone. Read and written by the schedule store, handed out by the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iaflow.data.status import FireStatus, Misfire

__all__ = ["FireRecord", "ScheduleRecord"]


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """
    A schedule: what it starts, and when.

    Attributes:
        parameters: the input of each run, laid over the definition's own parameters.
        cron: in `zone`; None for an interval.
        interval_seconds: None for a cron expression.
        instant_as: the input that is given the instant, as ISO text in UTC; None: none is.
        next_at: the instant that fires next; None if none does any more.
    """

    name: str
    slug: str
    parameters: Mapping[str, Any]
    cron: str | None
    zone: str
    interval_seconds: int | None
    misfire: Misfire
    is_paused: bool
    starts_at: datetime
    ends_at: datetime | None
    instant_as: str | None
    next_at: datetime | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class FireRecord:
    """
    What became of one instant of a schedule.

    Attributes:
        run_id: the run that it started; None if it started none.
        error: why not.
        fired_at: when that was decided.
    """

    name: str
    fire_at: datetime
    status: FireStatus
    run_id: str | None
    error: str | None
    fired_at: datetime
