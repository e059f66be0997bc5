"""One-time links as people open them: GET shows the question, POST decides, once.

Decides what a link that is no good gets, and that nothing but the page's own form decides; never
what an answer may be. The one place that takes a form in the place of JSON. Part of the app.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, Response

from iaflow.auth.audit import Caller as Signature
from iaflow.data.accounts import LinkRecord
from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.errors import AnswerRefused, Conflict, NotAllowed, NotFound
from iaflow.pipeline.forms import Form, parse_form, validate_answer
from iaflow.web.limits import read_limited, require_type
from iaflow.web.link_page import POLICY, Given, LinkPage, read_answer, render_message
from iaflow.web.policies import Caller, anybody
from iaflow.web.problems import CODES, ProblemReply, Refused
from iaflow.web.schemas.base import Named

__all__ = ["router"]

router = APIRouter(prefix="/l", tags=["links"], include_in_schema=False)

FORM_BYTES: Final = 16 * 1024
MOST_FIELDS: Final = 1_000

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
}

USED: Final = "This link was used before: it works once."
OVER: Final = "This link is unknown, or its time is over."
CLOSED: Final = (
    "The question is not open any more: it was answered, withdrawn, or its time is over."
)


async def read_form(request: Request) -> Given:
    """Return the fields of a posted form; nothing else is taken here."""
    require_type(request, "application/x-www-form-urlencoded", "send the page's own form")
    body = await read_limited(request, FORM_BYTES)
    try:
        return parse_qs(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except (UnicodeError, ValueError):
        raise Refused("body_refused", "this is no form that a browser sends") from None


Anybody = Annotated[Caller, anybody()]


@router.api_route("/{token}", methods=["GET", "HEAD"])
def show_link(caller: Anybody, token: Named, request: Request) -> Response:
    """Show the question of a link. However often it is asked for, nothing is decided."""
    try:
        link, pause, form = _find(caller, token)
    except (NotFound, Conflict) as error:
        return _refuse(request, caller, error)
    page = LinkPage(link, pause, form, caller.sessions.links.form_token(token))
    return _html(page.render())


@router.post("/{token}")
def decide(
    caller: Anybody,
    token: Named,
    request: Request,
    given: Annotated[Given, Depends(read_form)],
) -> Response:
    """Answer the question of a link, in its person's name; the link is used up."""
    links = caller.sessions.links
    try:
        link, pause, form = _find(caller, token)
    except (NotFound, Conflict) as error:
        return _refuse(request, caller, error)
    if not links.is_form_token(token, given.get("form_token", [""])[0]):
        return _refuse(request, caller, Refused("csrf_refused", "Open the link and answer there."))
    answer = read_answer(form, link.action, given)
    problems = validate_answer(form, answer)[1]
    if not problems:
        try:
            used = links.use(token, caller=caller.signature)
        except (NotFound, Conflict) as error:
            return _refuse(request, caller, error)
        try:
            _answer(caller, used, answer, given.get("digest", [""])[0])
            text = "Thank you: your answer was recorded. You may close this page."
            return _html(render_message("Answered", text))
        except AnswerRefused as error:
            links.give_back(used)
            problems = list(error.problems)
        except (NotFound, NotAllowed, Conflict) as error:
            links.give_back(used)
            return _refuse(request, caller, error, is_late=True)
        except BaseException:
            links.give_back(used)
            raise
    page = LinkPage(link, pause, form, links.form_token(token), given, tuple(problems))
    return _html(page.render(), 422)


def _find(caller: Caller, token: str) -> tuple[LinkRecord, PauseRecord, Form]:
    link = caller.sessions.links.read(token)
    pause = caller.client.pause(link.pause_id)
    form = parse_form(pause.ui_schema)[0]
    if pause.status is not PauseStatus.OPEN or form is None:
        raise Closed
    return link, pause, form


class Closed(Conflict):
    """The question of a link is not open any more."""


def _answer(caller: Caller, link: LinkRecord, answer: dict[str, object], digest: str) -> None:
    caller.client.answer(
        link.pause_id,
        answer,
        answered_by=link.person,
        # The link is the right to answer, whoever else is asked; a starter stays excluded.
        is_admin=True,
        key=f"link:{link.link_id}",
        digest=digest or None,
    )
    caller.sessions.audit.record(
        "pause.answer",
        link.pause_id,
        caller=Signature(link.person, caller.address, caller.request_id),
        detail={"channel": "link", "link_id": link.link_id},
    )


def _refuse(
    request: Request, caller: Caller, error: Exception, *, is_late: bool = False
) -> Response:
    """Tell why a link is no good: to people as a page, to programs as a problem."""
    match error:
        case Refused():
            code, text = error.reply.code, error.reply.detail
        case NotFound():
            code, text = "not_found", OVER
        case NotAllowed():
            code, text = "not_allowed", str(error)
        case Closed():
            code, text = "link_used", CLOSED
        case Conflict() if is_late:
            code, text = "conflict", str(error)
        case _:
            code, text = "link_used", USED
    if "text/html" in request.headers.get("accept", ""):
        return _html(render_message(CODES[code][1], text), CODES[code][0])
    reply = ProblemReply(code, text, headers=HEADERS)
    return reply.as_response(caller.request_id)


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status_code=status, headers=HEADERS)
