"""Questions over HTTP: the inbox, answers, other assignees, one-time links.

Decides which of a question's data the caller is told; never who sees it (the statements do) and
never what an answer may be. Part of the app.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from iaflow.data.accounts import Asked, Permission
from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.errors import Conflict, NotAllowed, Problem
from iaflow.pipeline.forms import parse_form, validate_answer
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.limits import LimitedRoute
from iaflow.web.places import find_address
from iaflow.web.policies import Caller, needs
from iaflow.web.problems import Refused
from iaflow.web.schemas.base import Cursor, IdempotencyKey, Limit, Named, Page
from iaflow.web.schemas.questions import (
    AnswerBody,
    Link,
    LinkBody,
    MadeLink,
    NewAssignees,
    Question,
)

__all__ = ["find_assigner", "router", "tell_question"]

router = APIRouter(prefix="/api/v1/pauses", tags=["questions"], route_class=LimitedRoute)

Answerer = Annotated[Caller, needs(Permission.PAUSES_ANSWER)]
Assigner = Annotated[Caller, needs(Permission.PAUSES_ASSIGN)]
LinkMaker = Annotated[Caller, needs(Permission.LINKS_MAKE)]


@router.get("")
def list_questions(
    caller: Answerer,
    limit: Limit = 50,
    cursor: Cursor = None,
    run_id: Annotated[
        str | None,
        Query(max_length=100, description="Only those of this run and of the runs below it."),
    ] = None,
) -> Page[Question]:
    """List the open questions that are asked of oneself, the oldest first."""
    after = read_cursor("pauses", cursor)
    found = caller.client.inbox(run_id, asked=caller.asked, after=after, limit=limit + 1)
    page, following = cut_page(found, limit, "pauses", lambda one: one.pause_id)
    return Page(items=[tell_question(caller, one) for one in page], next=following)


@router.get("/{pause_id}")
def show_question(caller: Answerer, pause_id: Named) -> Question:
    """Show a question that is asked of oneself, open or not."""
    return tell_question(caller, caller.client.pause(pause_id, asked=caller.asked))


@router.post("/{pause_id}/answer")
def answer_question(
    caller: Answerer, pause_id: Named, body: AnswerBody, key: IdempotencyKey = None
) -> Question:
    """
    Answer a question, in one's own name.

    What does not fit the form is refused field by field, and the question stays open. Of answer,
    expiry and cancel one wins: an answer that comes late is a conflict. Where several must answer
    it stays open until they have.
    """
    answered = caller.client.answer(
        pause_id,
        body.answer,
        answered_by=caller.me.name,
        key=key,
        digest=body.digest,
        asked=caller.asked,
    )
    channel = "token" if caller.me.token_id is not None else "session"
    caller.record("pause.answer", answered.pause_id, {"channel": channel})
    return tell_question(caller, answered)


@router.post("/{pause_id}/reassign")
def reassign_question(caller: Assigner, pause_id: Named, body: NewAssignees) -> Question:
    """Ask others in the place of those who are asked; they are told of it."""
    assignees = {key: list(words) for key, words in body.model_dump().items() if words}
    kept = caller.client.reassign(
        pause_id, assignees, by=caller.me.name, asked=find_assigner(caller)
    )
    caller.record("pause.reassign", kept.pause_id, assignees)
    return tell_question(caller, kept)


@router.post("/{pause_id}/links", status_code=201)
def make_link(caller: LinkMaker, pause_id: Named, body: LinkBody, request: Request) -> MadeLink:
    """
    Make a one-time link, with which a person answers without signing in.

    Whoever has it may answer once, in the person's name. Its address is shown this once.
    """
    pause = caller.client.pause(pause_id, asked=find_assigner(caller))
    _check_starter(caller, pause, body.person)
    if pause.status is not PauseStatus.OPEN:
        raise Conflict(f"pause {pause_id} is open no more: nobody can answer it")
    _check_action(pause, body.action)
    link, token = caller.sessions.links.create(
        pause.pause_id,
        body.person,
        body.action,
        lifetime=timedelta(seconds=body.expires_in),
        caller=caller.signature,
    )
    url = f"{find_address(request, caller.parts.settings)}/l/{token}"
    return MadeLink.from_made(link, url)


@router.get("/{pause_id}/links")
def list_links(caller: Assigner, pause_id: Named) -> Page[Link]:
    """List the links to a question, the newest first, those that are used or over too."""
    pause = caller.client.pause(pause_id, asked=find_assigner(caller))
    found = caller.sessions.links.list(pause.pause_id)
    return Page(items=[Link.from_record(one) for one in found])


@router.delete("/{pause_id}/links/{link_id}", status_code=204)
def revoke_link(caller: Assigner, pause_id: Named, link_id: Named) -> Response:
    """Take a link back."""
    pause = caller.client.pause(pause_id, asked=find_assigner(caller))
    caller.sessions.links.revoke(pause.pause_id, link_id, caller=caller.signature)
    return Response(status_code=204)


def find_assigner(caller: Caller) -> Asked:
    """Return who assigns: whoever may sees every question of a pipeline in sight."""
    return Asked(caller.me.name, caller.me.roles, is_admin=True, sight=caller.sight)


def _check_starter(caller: Caller, pause: PauseRecord, person: str) -> None:
    """Where the starter may not answer, no link may be the way round."""
    if not pause.exclude_starter:
        return
    starter = caller.client.run(pause.run_id).started_by
    if starter is not None and starter in (caller.me.name, person.strip().lower()):
        raise NotAllowed(
            f"{starter} started this run, and somebody else must answer pause {pause.pause_id} "
            "(exclude_starter): neither make the link nor be its person"
        )


def _check_action(pause: PauseRecord, action: Mapping[str, Any]) -> None:
    """A link that could never answer is better not made."""
    form = parse_form(pause.ui_schema)[0]
    if form is None or not action:
        return
    found = validate_answer(form, dict(action))[1]
    problems = tuple(
        Problem(one.code, f"/action{one.pointer}", one.message, one.hint)
        for one in found
        if (one.pointer.split("/")[1:2] or [""])[0] in action
    )
    if problems:
        first = problems[0]
        raise Refused("body_refused", f"{first.pointer}: {first.message}", problems)


def tell_question(caller: Caller, pause: PauseRecord) -> Question:
    """Return what the caller is told of a question that is seen; the pages tell the same."""
    reads_all = caller.may(Permission.PAYLOADS_READ)
    users, roles = (pause.assignees.get(key) or () for key in ("users", "roles"))
    me = caller.me
    is_own = caller.may(Permission.PAUSES_ANSWER) and (
        me.name in users or bool(set(me.roles) & set(roles)) or not (users or roles)
    )
    if pause.quorum > 1:
        answers = caller.client.answers_to(pause.pause_id)
    else:
        answers = int(pause.answered_by is not None)
    return Question.from_record(
        pause,
        answers=answers,
        sees_shown=reads_all or is_own,
        sees_answer=reads_all or pause.answered_by == me.name,
    )
