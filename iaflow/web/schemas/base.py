"""What all bodies and replies have in common: strictness, pages, instants, names in paths.

Decides how strict a body is read and how a list is replied; never what is in either. Used by the
other schemas and the routes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Header, Path, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from iaflow.errors import NotFound

__all__ = [
    "Body",
    "Cursor",
    "IdempotencyKey",
    "Instant",
    "Limit",
    "Named",
    "Object",
    "Page",
    "Reply",
    "Whole",
    "as_name",
]

T = TypeVar("T")


class Body(BaseModel):
    """What a request may say: nothing else than its fields, and no value that is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """What is told of something: its fields, one by one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Reply, Generic[T]):
    """A part of a list, and how the following part is asked for."""

    items: list[T]
    next: str | None = Field(
        default=None,
        description="The `cursor` of the following page; null: this is the last.",
        examples=[None, "cnVuczowMTk5"],
    )


Limit = Annotated[int, Query(ge=1, le=200, description="At most so many.", examples=[50])]

Cursor = Annotated[
    str | None,
    Query(
        max_length=1000,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="The `next` of the page before.",
    ),
]


def as_name(text: str) -> str:
    """Return what a path names; what can be no name of anything is not there: NotFound."""
    if "\x00" in text or len(text) > 400:
        # No name of anything has it, and no database would take it.
        raise NotFound("there is nothing of that name")
    return text


Named = Annotated[str, Path(min_length=1), AfterValidator(as_name)]
"""What a path names; whatever is not there is 404, however it is spelt."""


_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _only_text(value: object) -> object:
    # Digits alone would be read as seconds.
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value)):
        return value
    raise ValueError("an instant is text with an offset, such as 2026-03-08T07:00:00Z")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("no calendar reaches so far") from None


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_only_text),
    AfterValidator(_in_utc),
    Field(
        description="ISO 8601 with offset; what is replied is in UTC.",
        examples=["2026-03-08T07:00:00Z"],
    ),
]


def _read_whole(value: object) -> object:
    # In JSON 5.0 is a whole number; "5" and true are none.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Field(strict=True), BeforeValidator(_read_whole)]
"""A whole number in a body, however JSON spells it."""

Object = dict[str, Any]
"""A JSON object of the user's: its keys are not ours."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="A word of yours for this request: sent once more with the same key and body, "
        "it is done once and gets the same reply.",
        examples=["order-4711"],
    ),
]
