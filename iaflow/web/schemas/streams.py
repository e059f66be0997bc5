"""What the events of a stream carry.

Decides their fields; never when they are sent. Used by the routes of streams.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field

from iaflow.data.records import PauseRecord
from iaflow.data.status import RunStatus
from iaflow.web.event_stream import MEDIA_TYPE
from iaflow.web.schemas.base import Instant, Reply
from iaflow.web.schemas.runs import RUN_ID, place_of

__all__ = ["INBOX_EXAMPLE", "RUN_EXAMPLE", "Closed", "Inbox", "OpenQuestion", "Reason", "RunAt"]


Reason = Literal["credentials", "gone", "stopping", "not_reachable"]


class RunAt(Reply):
    """The data of `run` and `end`: where a run stands."""

    run_id: str = Field(examples=[RUN_ID])
    status: RunStatus
    seq: int = Field(description="The number of its last change.")


class OpenQuestion(Reply):
    """A question that waits for an answer."""

    pause_id: str
    run_id: str
    step_id: str
    index: int | None
    slug: str
    title: str = Field(description="Of its form; without one, the id of its step.")
    created_at: Instant
    expires_at: Instant | None

    @classmethod
    def of(cls, pause: PauseRecord) -> Self:
        """Return what is told of a question before somebody looks at it."""
        return cls(
            pause_id=pause.pause_id,
            run_id=pause.run_id,
            step_id=pause.step_id,
            index=place_of(pause.index),
            slug=pause.slug,
            title=str(pause.ui_schema.get("title") or pause.step_id),
            created_at=pause.created_at,
            expires_at=pause.expires_at,
        )


class Inbox(Reply):
    """The data of `inbox`: all open questions that the caller is asked, the oldest first."""

    items: list[OpenQuestion]
    has_more: bool = Field(description="There are more than these; the list has all.")


class Closed(Reply):
    """The data of `closed`: why a stream ends before its subject."""

    reason: Reason


def _document(example: str, description: str, *kinds: str) -> dict[int | str, dict[str, Any]]:
    event = {
        "type": "object",
        "description": "One event of the stream, as its lines say.",
        "required": ["data"],
        "properties": {
            "event": {"type": "string", "enum": list(kinds)},
            "id": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }
    # `itemSchema` is of OpenAPI 3.2, and extends what is of 3.1.
    content = {MEDIA_TYPE: {"itemSchema": event, "example": example}}
    return {200: {"description": description, "content": content}}


RUN_EXAMPLE: Final = _document(
    f'event: run\ndata: {{"run_id":"{RUN_ID}","status":"running","seq":1}}\n\n'
    'id: 2\nevent: change\ndata: {"seq":2,"at":"2030-01-01T12:00:00Z","run":"succeeded",'
    '"steps":[{"step_id":"fetch","status":"succeeded","index":null}],"transitions":[],"by":null}\n\n'
    f'event: run\ndata: {{"run_id":"{RUN_ID}","status":"succeeded","seq":2}}\n\n'
    f'event: end\ndata: {{"run_id":"{RUN_ID}","status":"succeeded","seq":2}}\n\n',
    "Server-sent events, until the run has ended",
    *("run", "change", "end", "closed"),
)
INBOX_EXAMPLE: Final = _document(
    'id: 5f0c2a519d0b4c53\nevent: inbox\ndata: {"items":[],"has_more":false}\n\n',
    "Server-sent events, without an end of their own",
    *("inbox", "closed"),
)
