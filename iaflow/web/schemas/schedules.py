"""Schedules and what became of their instants, as the API takes and tells them.

Decides which fields there are; never which instants a schedule has.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from iaflow.data.schedules import FireRecord, ScheduleRecord
from iaflow.data.status import FireStatus, Misfire
from iaflow.web.schemas.base import Body, Instant, Object, Reply, Whole

__all__ = ["Fire", "Fired", "Instants", "Schedule", "ScheduleBody"]


LONGEST_SECONDS: Final = 366 * 24 * 3600


_CRON: Final[dict[str, Any]] = {"type": "string", "maxLength": 500}
_INTERVAL: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": LONGEST_SECONDS}


class ScheduleBody(Body):
    """A schedule: what it starts, and when; `cron` or `interval_seconds`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": [given],
                    "properties": {given: rule, other: {"type": "null"}},
                }
                for given, rule, other in (
                    ("cron", _CRON, "interval_seconds"),
                    ("interval_seconds", _INTERVAL, "cron"),
                )
            ]
        }
    )

    slug: str = Field(
        min_length=1, max_length=200, description="An imported pipeline.", examples=["nightly-v1"]
    )
    input: Object = Field(default_factory=dict, description="The input of each run.")
    cron: str | None = Field(
        default=None, max_length=500, description="Five fields, or @daily.", examples=["30 2 * * *"]
    )
    interval_seconds: Whole | None = Field(
        default=None, ge=1, le=LONGEST_SECONDS, description="In the place of `cron`."
    )
    zone: str = Field(default="UTC", max_length=100, description="The IANA zone of `cron`.")
    misfire: Misfire = Field(
        default=Misfire.LATEST, description="Of instants that passed while nobody was there."
    )
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    instant_as: str | None = Field(
        default=None, max_length=200, description="The input that is given the instant."
    )

    @model_validator(mode="after")
    def _has_one_kind_of_time(self) -> Self:
        if (self.cron is None) == (self.interval_seconds is None):
            raise ValueError("write `cron` or `interval_seconds`, one of them")
        return self


class Schedule(Reply):
    """A schedule as it stands."""

    name: str = Field(examples=["nightly"])
    slug: str
    input: Object | None = Field(description="Null without the permission `payloads:read`.")
    cron: str | None
    interval_seconds: int | None
    zone: str
    misfire: Misfire
    is_paused: bool
    starts_at: Instant
    ends_at: Instant | None
    instant_as: str | None
    next_at: Instant | None = Field(description="Null: paused, or none any more.")
    created_by: str | None
    created_at: Instant
    updated_at: Instant

    @classmethod
    def from_record(cls, record: ScheduleRecord, *, payloads: bool) -> Self:
        """Return what is told of a schedule; its input only where payloads may be read."""
        return cls(
            name=record.name,
            slug=record.slug,
            input=dict(record.parameters) if payloads else None,
            cron=record.cron,
            interval_seconds=record.interval_seconds,
            zone=record.zone,
            misfire=record.misfire,
            is_paused=record.is_paused,
            starts_at=record.starts_at,
            ends_at=record.ends_at,
            instant_as=record.instant_as,
            next_at=None if record.is_paused else record.next_at,
            created_by=record.created_by,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )


class Fire(Reply):
    """What became of one instant of a schedule."""

    fire_at: Instant
    status: FireStatus
    run_id: str | None
    error: str | None = Field(
        description="Why it started none. Null without the permission `payloads:read`."
    )
    fired_at: Instant

    @classmethod
    def from_record(cls, record: FireRecord, *, payloads: bool) -> Self:
        """Return what is told of an instant; error texts only where payloads may be read."""
        return cls(
            fire_at=record.fire_at,
            status=record.status,
            run_id=record.run_id,
            error=record.error if payloads else None,
            fired_at=record.fired_at,
        )


class Fired(Reply):
    """A run that a schedule started by hand."""

    run_id: str
    status: Literal["pending"] = "pending"


class Instants(Reply):
    """The next instants of a schedule."""

    items: list[Instant]
