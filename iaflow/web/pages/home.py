"""The start: what waits for whoever looks, what failed lately, and what runs.

Decides how much of each is shown, and when an installation is so new that it is told how to
begin; never which runs and questions are seen (the statements do). Part of the pages.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from iaflow.clock import SystemClock
from iaflow.data.accounts import Permission
from iaflow.data.filters import RunFilter
from iaflow.data.status import RunStatus
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, signed_in
from iaflow.web.schemas.runs import RunLine
from iaflow.web.schemas.streams import OpenQuestion

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MOST: Final = 8
"""Of each kind; the lists have all."""

LATELY: Final = timedelta(days=7)


@router.api_route("/", methods=["GET", "HEAD"])
def show_home(caller: Annotated[Caller, signed_in()], request: Request) -> Response:
    """Show what concerns the caller now."""
    questions, failed, at_work, pipelines, has_runs = [], [], [], [], False
    if caller.may(Permission.PAUSES_ANSWER):
        asked = caller.client.inbox(asked=caller.asked, limit=MOST + 1)
        questions = [OpenQuestion.of(one) for one in asked]
    sees_runs = caller.may(Permission.RUNS_READ)
    if sees_runs:
        since = SystemClock().now() - LATELY
        failed = _list(caller, RunFilter(status=RunStatus.FAILED, since=since))
        for status in (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PENDING):
            at_work += _list(caller, RunFilter(status=status))
        at_work.sort(key=lambda run: run.run_id, reverse=True)
        has_runs = bool(at_work or failed) or bool(caller.client.runs(sight=caller.sight, limit=1))
    if caller.may(Permission.PIPELINES_READ):
        pipelines = caller.client.pipelines(sight=caller.sight)
    return render(
        caller,
        request,
        "home.html",
        section="home",
        questions=questions[:MOST],
        has_more_questions=len(questions) > MOST,
        failed=failed[:MOST],
        has_more_failed=len(failed) > MOST,
        at_work=at_work[:MOST],
        has_more_at_work=len(at_work) > MOST,
        sees_runs=sees_runs,
        has_runs=has_runs,
        pipelines=pipelines,
        days=LATELY.days,
    )


def _list(caller: Caller, wanted: RunFilter) -> list[RunLine]:
    found = caller.client.runs(wanted, sight=caller.sight, limit=MOST + 1)
    payloads = caller.may(Permission.PAYLOADS_READ)
    return [RunLine.of(run, payloads=payloads) for run in found]
