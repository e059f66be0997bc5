"""Event streams: a run as it goes on, and the questions that wait for the caller.

Decides what is told when, and when a stream is over: its run's end, or that of the right to
listen; never how changes are seen (tracking does). Part of the app.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Protocol

from fastapi import APIRouter, Header, Query, Request

from iaflow.client import Client
from iaflow.data.accounts import Asked, Permission
from iaflow.data.records import RunRecord
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.database.dialects import is_database_error
from iaflow.errors import NotFound
from iaflow.web.event_stream import HEARTBEAT, EventStream, write_event
from iaflow.web.limits import LimitedRoute
from iaflow.web.policies import Caller, needs
from iaflow.web.routes.steps import MOST_SEQ
from iaflow.web.schemas.runs import RunId
from iaflow.web.schemas.steps import Event
from iaflow.web.schemas.streams import (
    INBOX_EXAMPLE,
    RUN_EXAMPLE,
    Closed,
    Inbox,
    OpenQuestion,
    Reason,
    RunAt,
)
from iaflow.web.tracking import INBOX, Follower

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["streams"], route_class=LimitedRoute)

Reader = Annotated[Caller, needs(Permission.RUNS_READ)]
Answerer = Annotated[Caller, needs(Permission.PAUSES_ANSWER)]

QUESTIONS: Final = 200
"""The most questions that one event of the inbox names; the list has all."""


@router.get(
    "/runs/{run_id}/stream", status_code=200, response_class=EventStream, responses=RUN_EXAMPLE
)
async def stream_run(
    caller: Reader,
    request: Request,
    run_id: RunId,
    after: Annotated[
        int, Query(ge=0, le=MOST_SEQ, description="Only changes behind this number.")
    ] = 0,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern=r"^[0-9]{1,15}$",
            description="What a browser sends when it comes again; it counts before `after`.",
        ),
    ] = None,
) -> EventStream:
    """
    Tell of a run as it goes on, as server-sent events.

    `run` has the run's status and the number of its last change: now, and whenever the status is
    another one. `change` is one of the run's events, with its number as `id`; after a connection
    that broke, the stream goes on behind the last one. `end`: the run has ended, and so does the
    stream. `closed` tells why it ends before: `credentials` (they count no more, or have
    changed), `gone` (the run was removed), `stopping` or `not_reachable` (come again).
    """
    tracker = caller.parts.tracker
    # Whether it is seen hangs on its slug alone, which never changes, and on the caller, who is
    # looked up again as long as the stream goes on.
    run = await tracker.read(partial(caller.client.run, run_id, sight=caller.sight))
    begin = after if last_event_id is None else int(last_event_id)
    leave = tracker.take_seat(caller.me.name)
    story = _RunStory(caller, run, begin)
    return EventStream(_tell(caller, request, run.run_id, story), on_end=leave)


@router.get("/inbox/stream", status_code=200, response_class=EventStream, responses=INBOX_EXAMPLE)
async def stream_inbox(
    caller: Answerer,
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern=r"^[0-9a-f]{1,64}$",
            description="What a browser sends when it comes again: what it knows is not told anew.",
        ),
    ] = None,
) -> EventStream:
    """
    Tell which open questions the caller is asked, as server-sent events.

    `inbox` has all of them, the oldest first: now, and whenever there are others. `has_more`:
    there are more than 200. `closed` tells why the stream ends, as with that of a run.
    """
    tracker = caller.parts.tracker
    leave = tracker.take_seat(caller.me.name)
    story = _InboxStory(caller, last_event_id)
    return EventStream(_tell(caller, request, INBOX, story), on_end=leave)


# --- how any stream goes on


class _Story(Protocol):
    """What a stream tells."""

    is_over: bool

    def read(self) -> AsyncIterator[bytes]:
        """Yield what has not been told yet."""
        ...


async def _tell(
    caller: Caller, request: Request, subject: str, story: _Story
) -> AsyncGenerator[bytes, None]:
    """Yield a story as it goes on, until it is over or the caller may listen no more."""
    tracker = caller.parts.tracker
    watch = _Watch(caller, request)
    with tracker.follow(subject) as follower:
        try:
            while True:
                follower.rearm()
                async for part in story.read():
                    yield part
                    watch.note_sent()
                if story.is_over:
                    return
                async for part in _wait(watch, follower):
                    yield part
                    watch.note_sent()
                if watch.end is not None:
                    yield _write_closed(watch.end)
                    return
        except NotFound:
            yield _write_closed("gone")
        except Exception as error:
            if not is_database_error(error):
                raise
            yield _write_closed("not_reachable")


async def _wait(watch: _Watch, follower: Follower) -> AsyncIterator[bytes]:
    """Wait for a change; yield signs of life meanwhile, and look whether the stream may go on."""
    while True:
        is_woken = await follower.wait(watch.seconds_left())
        await watch.look()
        if is_woken or watch.end is not None:
            return
        if watch.is_quiet():
            yield HEARTBEAT


def _write_closed(reason: Reason) -> bytes:
    return write_event("closed", Closed(reason=reason).model_dump(mode="json"))


class _Watch:
    """
    Sees to it that a stream shows signs of life, and goes on only as long as it may.

    Attributes:
        end: why it may not; None: it may.
    """

    def __init__(self, caller: Caller, request: Request) -> None:
        self._caller = caller
        self._headers = tuple(request.scope["headers"])
        self._tracker = caller.parts.tracker
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._looked_at = self._loop.time()
        self.end: Reason | None = None

    def note_sent(self) -> None:
        """Something has been sent."""
        self._sent_at = self._loop.time()

    def is_quiet(self) -> bool:
        """Tell whether nothing has been sent for too long."""
        return self._loop.time() >= self._sent_at + self._tracker.heartbeat_seconds

    def seconds_left(self) -> float:
        """Return how long nothing is to be done."""
        life = self._sent_at + self._tracker.heartbeat_seconds
        look = self._looked_at + self._tracker.recheck_seconds
        return max(0.0, min(life, look) - self._loop.time())

    async def look(self) -> None:
        """Find out, at times, whether the credentials still stand for the same."""
        if self._tracker.is_closing:
            self.end = "stopping"
        elif self._loop.time() >= self._looked_at + self._tracker.recheck_seconds:
            if not await self._tracker.read(self._is_same):
                self.end = "credentials"
            self._looked_at = self._loop.time()

    def _is_same(self) -> bool:
        me = self._caller.me
        if me.session_id is None and me.token_id is None:
            # The development mode's, which has none.
            return True
        found = self._caller.sessions.authenticate(self._headers, is_use=False)
        # Another role, scope or sight: whoever it is comes again, and gets what that one may.
        return found is not None and found.principal == me


# --- a run


@dataclass(frozen=True, slots=True)
class _Told:
    """An event of a run, written once for all streams."""

    seq: int
    status: RunStatus
    text: bytes


class _RunStory:
    """What has happened to a run behind an event."""

    def __init__(self, caller: Caller, run: RunRecord, after: int) -> None:
        self._caller = caller
        self._run_id = run.run_id
        self._seq, self._status = run.seq, run.status
        self._after = after
        self._has_begun = False
        self.is_over = False

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the changes behind the last one that was told."""
        if not self._has_begun:
            self._has_begun = True
            yield self._tell_status("run")
        tracker, client = self._caller.parts.tracker, self._caller.client
        begin = self._after
        while True:
            question = ("events", self._run_id, self._after)
            page = await tracker.ask(question, partial(_read_events, client, *question[1:]))
            if not page:
                break
            for event in page:
                yield event.text
                self._after = event.seq
                if event.seq > self._seq:
                    is_other = event.status is not self._status
                    self._seq, self._status = event.seq, event.status
                    if is_other:
                        yield self._tell_status("run")
        if self._status in END_OF_RUN and self._after >= self._seq:
            self.is_over = True
            yield self._tell_status("end")
        elif self._after == begin:
            # Woken by something, and not by an event: it may be gone.
            look = partial(client.watch, [self._run_id])
            if not await tracker.ask(("watch", self._run_id), look):
                raise NotFound(f"there is no run {self._run_id}")

    def _tell_status(self, kind: str) -> bytes:
        told = RunAt(run_id=self._run_id, status=self._status, seq=self._seq)
        return write_event(kind, told.model_dump(mode="json"))


def _read_events(client: Client, run_id: str, after: int) -> list[_Told]:
    return [
        _Told(
            event.seq,
            RunStatus(event.changes["run"]),
            write_event("change", Event.of(event).model_dump(mode="json"), id=event.seq),
        )
        for event in client.events(run_id, after)
    ]


# --- the inbox


class _InboxStory:
    """Which questions somebody is asked, if these are others than were told."""

    def __init__(self, caller: Caller, known: str | None) -> None:
        self._caller = caller
        self._known = known
        self.is_over = False

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the questions as they are now, unless they are as they were."""
        asked = self._caller.asked
        read = partial(_read_inbox, self._caller.client, asked)
        digest, text = await self._caller.parts.tracker.ask(("inbox", asked), read)
        if digest != self._known:
            self._known = digest
            yield text


def _read_inbox(client: Client, asked: Asked) -> tuple[str, bytes]:
    found = client.inbox(asked=asked, limit=QUESTIONS + 1)
    items = [OpenQuestion.of(pause) for pause in found[:QUESTIONS]]
    told = Inbox(items=items, has_more=len(found) > QUESTIONS).model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
    return digest, write_event("inbox", told, id=digest)
