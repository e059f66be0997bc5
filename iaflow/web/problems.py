"""How errors become replies: `application/problem+json` with a code, and nothing else of ours.

Decides status, code and what is told of an error; never what went wrong. Called by the app's
exception handlers, the routes' limits and the outermost guard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.responses import Response

from iaflow.auth.middleware import REFUSALS
from iaflow.database.dialects import is_database_error, is_outage
from iaflow.errors import (
    AccountRefused,
    AnswerRefused,
    Conflict,
    DefinitionRefused,
    IaflowError,
    InputRefused,
    NotAllowed,
    NotFound,
    NotReachable,
    Problem,
    ScheduleRefused,
    SchemaOutdated,
    SignInRefused,
    TooMany,
)

__all__ = ["CODES", "MEDIA_TYPE", "ProblemReply", "Refused", "describe_error", "reply_of"]

MEDIA_TYPE: Final = "application/problem+json"

CODES: Final[Mapping[str, tuple[int, str]]] = {
    **REFUSALS,
    "account_refused": (422, "The account is refused"),
    "answer_refused": (422, "The answer does not fit its form"),
    "body_not_json": (415, "The body must be JSON"),
    "body_refused": (422, "The body is not what this operation takes"),
    "body_too_large": (413, "The body is too large"),
    "body_too_slow": (408, "The body took too long"),
    "conflict": (409, "The request contradicts how things stand"),
    "cursor_invalid": (422, "The cursor was not given by this API"),
    "definition_refused": (422, "The definition is refused"),
    "input_refused": (422, "The input is refused"),
    "internal_error": (500, "Something went wrong here"),
    "link_used": (410, "The link cannot be used any more"),
    "method_not_allowed": (405, "This place has no such method"),
    "not_allowed": (403, "This is not allowed"),
    "not_found": (404, "There is nothing of that name"),
    "overloaded": (503, "The server has too much to do"),
    "parameters_refused": (422, "A parameter of the request is refused"),
    "request_refused": (400, "The request is no HTTP that is read here"),
    "schedule_refused": (422, "The schedule is refused"),
    "schema_outdated": (503, "The database is not ready for this version"),
    "sign_in_refused": (401, "The name or the password is wrong"),
    "too_many": (429, "Too many requests"),
    "too_many_streams": (429, "Too many event streams are open"),
}
"""Every code of a problem, with its status and title; `docs/api-reference.md` lists them."""

RETRY_SECONDS: Final = 5
"""When a server that is away is asked for again."""


@dataclass(frozen=True, slots=True)
class ProblemReply:
    """
    A reply that says what went wrong.

    Attributes:
        code: one of `CODES`.
        detail: for people, without SQL, paths or the stack.
        problems: of a refused document, one for each place.
        headers: besides the media type.
    """

    code: str
    detail: str
    problems: tuple[Problem, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    def as_json(self, request_id: str) -> dict[str, Any]:
        """Return the fields of RFC 9457, with `code`, `request_id` and `problems`."""
        status, title = CODES[self.code]
        return {
            "type": f"/problems/{self.code}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            "problems": [problem.as_json() for problem in self.problems],
        }

    def as_response(self, request_id: str) -> Response:
        """Return the reply itself."""
        headers = dict(self.headers)
        if self.code == "not_signed_in":
            headers.setdefault("WWW-Authenticate", "Bearer")
        return Response(
            json.dumps(self.as_json(request_id), ensure_ascii=False),
            status_code=self.status,
            headers=headers,
            media_type=MEDIA_TYPE,
        )


class Refused(Exception):
    """A request that the web itself refuses, before or instead of asking iaflow."""

    def __init__(
        self,
        code: str,
        detail: str,
        problems: Iterable[Problem] = (),
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.reply = ProblemReply(code, detail, tuple(problems), headers or {})
        super().__init__(detail)


def reply_of(error: Exception) -> ProblemReply | None:
    """Return what is told of an error; None: it is a fault of iaflow, of which nothing is told."""
    match error:
        case Refused():
            return error.reply
        case DefinitionRefused(problems=problems):
            return ProblemReply("definition_refused", _count(problems), problems)
        case InputRefused(problems=problems):
            return ProblemReply("input_refused", f"{_count(problems)}; no run was made", problems)
        case AnswerRefused(problems=problems):
            told = f"{_count(problems)}; the question is still open"
            return ProblemReply("answer_refused", told, problems)
        case ScheduleRefused(problems=problems):
            return ProblemReply("schedule_refused", _count(problems), problems)
        case AccountRefused(problems=problems):
            return ProblemReply("account_refused", _count(problems), problems)
        case NotFound():
            return ProblemReply("not_found", str(error))
        case Conflict():
            return ProblemReply("conflict", str(error))
        case NotAllowed():
            return ProblemReply("not_allowed", str(error))
        case SignInRefused():
            return ProblemReply("sign_in_refused", str(error))
        case TooMany(after_seconds=after):
            headers = {"Retry-After": str(max(1, round(after)))}
            return ProblemReply("too_many", str(error), headers=headers)
        case SchemaOutdated():
            return _unavailable("schema_outdated", str(error))
        case NotReachable():
            return _unavailable("not_reachable", "try again in some seconds; nothing was lost")
        case _ if is_database_error(error) and is_outage(error):
            return _unavailable("not_reachable", "try again in some seconds; nothing was lost")
        case _:
            return None


def describe_error(error: Exception) -> ProblemReply:
    """Return what is told of any error at all."""
    if (known := reply_of(error)) is not None:
        return known
    if isinstance(error, IaflowError):
        return ProblemReply("conflict", str(error))
    return ProblemReply("internal_error", "the log has more under this request_id")


def _unavailable(code: str, detail: str) -> ProblemReply:
    return ProblemReply(code, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def _count(problems: tuple[Problem, ...]) -> str:
    first = problems[0] if problems else None
    if first is None:
        return "something in it is refused"
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{first.pointer or '/'}: {first.message}{more}"
