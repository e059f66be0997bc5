"""The inbox and the page of a question: what waits for a person, and what that person can do.

Decides how questions are ordered and which deeds are offered; never who sees one (the statements
do), and answers nothing. Part of the pages.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.errors import NotFound
from iaflow.pipeline.fields import Field
from iaflow.pipeline.forms import parse_form
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, PermissionMissing, needs, signed_in
from iaflow.web.routes.questions import find_assigner, tell_question
from iaflow.web.schemas.base import Cursor, Named
from iaflow.web.ui.controls import list_controls

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Answerer = Annotated[Caller, needs(Permission.PAUSES_ANSWER)]

SHOWN: Final = 100
SOON: Final = timedelta(hours=24)
"""What ends within this time stands first."""

LIFETIMES: Final = ((3600, "1 hour"), (86_400, "1 day"), (259_200, "3 days"), (604_800, "7 days"))
"""How long a one-time link may be good for, in seconds."""


@router.api_route("/inbox", methods=["GET", "HEAD"])
def show_inbox(caller: Answerer, request: Request, cursor: Cursor = None) -> Response:
    """Show the open questions that are asked of oneself: the urgent ones, then the oldest."""
    after = read_cursor("pauses", cursor)
    found = caller.client.inbox(asked=caller.asked, after=after, limit=SHOWN + 1)
    page, following = cut_page(found, SHOWN, "pauses", lambda one: one.pause_id)
    now = datetime.now(UTC)
    urgent = sorted(
        (one for one in page if one.expires_at is not None and one.expires_at - now <= SOON),
        key=lambda one: one.expires_at or now,
    )
    others = [one for one in page if one not in urgent]
    return render(
        caller,
        request,
        "inbox.html",
        section="inbox",
        groups=[
            ("Ends within a day, the soonest first", [_line(caller, one) for one in urgent]),
            (
                "The others, the oldest first" if urgent else "The oldest first",
                [_line(caller, one) for one in others],
            ),
        ],
        now=now,
        is_first=cursor is None,
        next_cursor=following,
    )


@router.api_route("/inbox/{pause_id}", methods=["GET", "HEAD"])
def show_question(
    caller: Annotated[Caller, signed_in()], pause_id: Named, request: Request
) -> Response:
    """Show a question: its form to whom it asks, and who is asked to those who assign."""
    pause, is_asked = _find(caller, pause_id)
    question = tell_question(caller, pause)
    form = parse_form(pause.ui_schema)[0]
    is_open = pause.status is PauseStatus.OPEN
    is_assigner = caller.may(Permission.PAUSES_ASSIGN) and caller.sight.sees(pause.slug)
    starter = None
    if pause.exclude_starter:
        starter = caller.client.run(pause.run_id).started_by
    links = caller.sessions.links.list(pause.pause_id) if is_assigner else ()
    fields = form.fields if form is not None else ()
    is_excluded = starter is not None and starter == caller.me.name
    has_answered = pause.quorum > 1 and caller.client.has_answered(pause_id, caller.me.name)
    return render(
        caller,
        request,
        "question.html",
        section="inbox",
        question=question,
        title=_title(pause),
        form=form,
        controls=list_controls(fields),
        labels={one.name: one for one in fields},
        is_open=is_open,
        can_answer=is_open and is_asked and form is not None and not (is_excluded or has_answered),
        has_answered=has_answered,
        is_excluded=is_excluded and is_asked,
        is_asked=is_asked,
        is_assigner=is_assigner,
        is_link_maker=is_assigner and caller.may(Permission.LINKS_MAKE),
        sees_run=caller.may(Permission.RUNS_READ) and caller.sight.sees(pause.slug),
        links=links,
        fixable=list_controls(_fixable(fields), "fixed"),
        lifetimes=LIFETIMES,
        now=datetime.now(UTC),
    )


def _find(caller: Caller, pause_id: str) -> tuple[PauseRecord, bool]:
    """Return a question that the caller sees, and whether it is asked of the caller."""
    is_answerer = caller.may(Permission.PAUSES_ANSWER)
    if is_answerer:
        try:
            return caller.client.pause(pause_id, asked=caller.asked), True
        except NotFound:
            if not caller.may(Permission.PAUSES_ASSIGN):
                raise
    if not caller.may(Permission.PAUSES_ASSIGN):
        raise PermissionMissing(caller, Permission.PAUSES_ANSWER)
    return caller.client.pause(pause_id, asked=find_assigner(caller)), False


def _title(pause: PauseRecord) -> str:
    return str(pause.ui_schema.get("title") or pause.step_id)


def _line(caller: Caller, pause: PauseRecord) -> dict[str, object]:
    answers = caller.client.answers_to(pause.pause_id) if pause.quorum > 1 else 0
    return {
        "pause": pause,
        "title": _title(pause),
        "about": str(pause.ui_schema.get("description") or ""),
        "answers": answers,
        "is_mine": caller.me.name in (pause.assignees.get("users") or ()),
    }


def _fixable(fields: tuple[Field, ...]) -> list[Field]:
    """Return the fields whose answer a one-time link may bring along: those with few choices."""
    return [one for one in fields if one.type.value in ("radio", "select", "boolean")]
