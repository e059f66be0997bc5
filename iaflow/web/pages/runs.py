"""The list of runs, with its filters in the address.

Decides how an address is read as a filter; never which runs are seen (the statements do). Part of
the pages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.data.filters import RunFilter
from iaflow.data.status import RunStatus
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, needs
from iaflow.web.problems import Refused
from iaflow.web.schemas.runs import RunLine

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Reader = Annotated[Caller, needs(Permission.RUNS_READ)]
Word = Annotated[str, Query(max_length=200)]

PAGE = 50


@router.api_route("/runs", methods=["GET", "HEAD"])
def list_runs(
    caller: Reader,
    request: Request,
    pipeline: Word = "",
    status: Word = "",
    started_by: Word = "",
    since: Word = "",
    until: Word = "",
    top: Word = "",
    cursor: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """List runs, the newest first; what a field of the form leaves empty is not asked for."""
    began, ended = _read_instant("since", since), _read_instant("until", until)
    wanted = RunFilter(
        slug=pipeline.strip() or None,
        status=_read_status(status),
        started_by=started_by.strip() or None,
        since=began,
        until=ended,
        is_top_level=bool(top),
    )
    before = read_cursor("runs", cursor or None)
    found = caller.client.runs(wanted, sight=caller.sight, before=before, limit=PAGE + 1)
    page, following = cut_page(found, PAGE, "runs", lambda run: run.run_id)
    asked = {
        "pipeline": pipeline.strip(),
        "status": status,
        "started_by": started_by.strip(),
        "since": _write_instant(began),
        "until": _write_instant(ended),
        "top": "1" if top else "",
    }
    query = {key: value for key, value in asked.items() if value}
    pipelines = []
    if caller.may(Permission.PIPELINES_READ):
        pipelines = caller.client.pipelines(sight=caller.sight)
    payloads = caller.may(Permission.PAYLOADS_READ)
    return render(
        caller,
        request,
        "runs.html",
        section="runs",
        runs=[RunLine.of(run, payloads=payloads) for run in page],
        asked=asked,
        is_filtered=bool(query),
        statuses=[str(one) for one in RunStatus],
        pipelines=pipelines,
        next_query=urlencode({**query, "cursor": following}) if following else None,
        first_query=urlencode(query) if cursor else None,
    )


def _read_status(text: str) -> RunStatus | None:
    if not text:
        return None
    try:
        return RunStatus(text)
    except ValueError:
        known = ", ".join(RunStatus)
        raise Refused("parameters_refused", f"status is one of: {known}") from None


def _read_instant(name: str, text: str) -> datetime | None:
    """Return what a field says; without an offset, as it comes from a form, in UTC."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+", 1) if "+" not in text else text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        told = f"{name} is an instant such as 2026-03-08T07:00:00Z"
        raise Refused("parameters_refused", told) from None


def _write_instant(value: datetime | None) -> str:
    if value is None:
        return ""
    return value.isoformat(timespec="minutes" if not value.second else "seconds").replace(
        "+00:00", "Z"
    )
