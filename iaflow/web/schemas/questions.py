"""Questions to people, their answers and one-time links, as the API takes and tells them.

Decides which fields there are, and which of them only some may read; never who sees a question.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from iaflow.data.accounts import LinkRecord
from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.web.schemas.accounts import NAME_PATTERN
from iaflow.web.schemas.base import Body, Instant, Object, Reply, Whole

__all__ = ["AnswerBody", "Assignees", "Link", "LinkBody", "MadeLink", "NewAssignees", "Question"]

Word = Annotated[str, Field(min_length=1, max_length=200)]


class AnswerBody(Body):
    """The answer to a question."""

    answer: Object = Field(
        description="A value for each field of the form.",
        examples=[{"decision": "approve", "comment": "fits the order"}],
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="The `digest` of what was read; if the question is another one by now, the "
        "answer is refused.",
    )


class Assignees(Body):
    """Who is asked: these users, and whoever has one of these roles."""

    users: list[Word] = Field(default_factory=list, max_length=200, examples=[["ann"]])
    roles: list[Word] = Field(default_factory=list, max_length=200, examples=[["finance"]])


class NewAssignees(Assignees):
    """Who is asked from now on: somebody."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [kind], "properties": {kind: {"minItems": 1}}}
                for kind in ("users", "roles")
            ]
        }
    )


class LinkBody(Body):
    """A one-time link for a person who need not sign in."""

    person: str = Field(
        pattern=NAME_PATTERN,
        description="In whose name it answers: a user's, or a mail address.",
        examples=["ann@example.org"],
    )
    action: Object = Field(
        default_factory=dict,
        description="Fields and the values that the answer gives them; none: the person fills in "
        "the form.",
        examples=[{"decision": "approve"}],
    )
    expires_in: Whole = Field(
        default=7 * 24 * 3600,
        ge=60,
        le=7 * 24 * 3600,
        description="Seconds; it ends with the question in any case.",
    )


class Question(Reply):
    """A question to people, as it stands."""

    pause_id: str
    run_id: str
    step_id: str
    index: int | None = Field(description="Of the item, in a step with `foreach`.")
    slug: str = Field(description="Of the pipeline that asks.")
    status: PauseStatus
    ui_schema: Object = Field(description="The form.")
    shown: Object | None = Field(
        description="What the person is to see with it. Null for a question to others without "
        "the permission `payloads:read`."
    )
    digest: str = Field(description="Of the form, what is shown and the definition.")
    assignees: Assignees
    quorum: int = Field(description="How many people must answer.")
    answers: int = Field(description="How many have.")
    exclude_starter: bool
    created_at: Instant
    expires_at: Instant | None
    answer: Object | None = Field(
        description="Once it was answered. Null for the answer of others without the permission "
        "`payloads:read`."
    )
    answered_by: str | None
    answered_at: Instant | None

    @classmethod
    def from_record(
        cls, record: PauseRecord, *, answers: int, sees_shown: bool, sees_answer: bool
    ) -> Self:
        """
        Return what is told of a question.

        Args:
            answers: how many people have answered.
            sees_shown, sees_answer: whether the run's data in it may be read.
        """
        return cls(
            pause_id=record.pause_id,
            run_id=record.run_id,
            step_id=record.step_id,
            index=record.index if record.index >= 0 else None,
            slug=record.slug,
            status=record.status,
            ui_schema=dict(record.ui_schema),
            shown=dict(record.shown or {}) if sees_shown else None,
            digest=record.digest,
            assignees=Assignees(
                users=_words(record.assignees.get("users")),
                roles=_words(record.assignees.get("roles")),
            ),
            quorum=record.quorum,
            answers=answers,
            exclude_starter=record.exclude_starter,
            created_at=record.created_at,
            expires_at=record.expires_at,
            answer=dict(record.answer) if sees_answer and record.answer is not None else None,
            answered_by=record.answered_by,
            answered_at=record.answered_at,
        )


class Link(Reply):
    """A one-time link to a question; its address is not told again."""

    link_id: str
    pause_id: str
    person: str
    action: Object
    created_by: str
    created_at: Instant
    expires_at: Instant
    used_at: Instant | None

    @classmethod
    def from_record(cls, record: LinkRecord) -> Self:
        """Return what is told of a link."""
        return cls(**_of_link(record))


class MadeLink(Link):
    """A one-time link that was made now, with its address: that is shown this once."""

    url: str = Field(examples=["https://flows.example.org/l/…"])

    @classmethod
    def from_made(cls, record: LinkRecord, url: str) -> Self:
        """Return what is told of a new link."""
        return cls(**_of_link(record), url=url)


def _words(value: Any) -> list[str]:
    return [str(word) for word in value or ()]


def _of_link(record: LinkRecord) -> dict[str, Any]:
    return {
        "link_id": record.link_id,
        "pause_id": record.pause_id,
        "person": record.person,
        "action": dict(record.action),
        "created_by": record.created_by,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "used_at": record.used_at,
    }
