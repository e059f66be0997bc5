"""Runs: started, listed, looked at.

Decides what a request for runs asks of the client; never which of them are seen (the statements
do). Part of the app.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from iaflow.data.accounts import Permission
from iaflow.data.filters import RunFilter
from iaflow.data.records import RunRecord
from iaflow.data.status import RunStatus
from iaflow.errors import Conflict
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.limits import INPUT_BYTES, LimitedRoute, takes
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, needs
from iaflow.web.schemas.base import Cursor, IdempotencyKey, Instant, Limit, Page
from iaflow.web.schemas.runs import (
    PipelineSlug,
    Run,
    RunId,
    RunLine,
    RunState,
    StartBody,
    Waiting,
    WaitingEvent,
    WaitingPause,
)

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["runs"], route_class=LimitedRoute)

Reader = Annotated[Caller, needs(Permission.RUNS_READ)]
Starter = Annotated[Caller, needs(Permission.RUNS_START)]

NO_PARENT = "none"


@router.post(
    "/pipelines/{slug}/runs",
    status_code=201,
    responses={200: {"model": RunState, "description": "The key stood for this run already"}},
)
@takes(INPUT_BYTES)
def start_run(
    caller: Starter,
    request: Request,
    response: Response,
    slug: PipelineSlug,
    body: StartBody,
    idempotency_key: IdempotencyKey = None,
) -> RunState:
    """
    Start a run of a pipeline's current version.

    With an `Idempotency-Key` the same request, sent again by the same user, starts nothing more:
    it is answered with 200 and the run that is there. The key with another pipeline or input is
    a conflict.
    """
    name = caller.me.name
    # A key is its user's own: it neither meets nor tells of those of others.
    key = None if idempotency_key is None else f"web:{name}:{idempotency_key}"
    try:
        started = caller.client.start(
            slug, body.input, key=key, started_by=name, sight=caller.sight
        )
    except Conflict as error:
        # In the words of who sent it.
        raise Conflict(str(error).replace(repr(key), repr(idempotency_key))) from None
    if started.is_new:
        caller.record("run.start", started.run_id, {"slug": slug})
    else:
        response.status_code = 200
    response.headers["Location"] = f"{find_root(request)}/api/v1/runs/{started.run_id}"
    return RunState.of(caller.client.run(started.run_id))


@router.get("/runs")
def list_runs(
    caller: Reader,
    slug: Annotated[str | None, Query(max_length=200, description="Of this pipeline.")] = None,
    status: Annotated[RunStatus | None, Query(description="In this status.")] = None,
    started_by: Annotated[
        str | None, Query(max_length=200, description="Started by exactly this name.")
    ] = None,
    since: Annotated[
        Instant | None,
        Query(description="Made then, or later, by the clock of the process that started it."),
    ] = None,
    until: Annotated[Instant | None, Query(description="Made before.")] = None,
    parent: Annotated[
        str | None,
        Query(
            max_length=200,
            description="The id of a run: only runs that its steps started; `none`: only runs "
            "that no step started.",
            examples=[NO_PARENT],
        ),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[RunLine]:
    """List the runs of pipelines in sight, the newest first."""
    wanted = RunFilter(
        slug=slug,
        status=status,
        started_by=started_by,
        since=since,
        until=until,
        parent_run_id=None if parent == NO_PARENT else parent,
        is_top_level=parent == NO_PARENT,
    )
    return _list_page(caller, wanted, limit, cursor)


@router.get("/runs/{run_id}")
def show_run(caller: Reader, run_id: RunId) -> Run:
    """Show a run as it stands."""
    run = caller.client.run(run_id, sight=caller.sight)
    return Run.with_all(
        run,
        caller.client.version_of(run),
        _find_waiting(caller, run),
        payloads=caller.may(Permission.PAYLOADS_READ),
    )


@router.get("/runs/{run_id}/children")
def list_children(
    caller: Reader, run_id: RunId, limit: Limit = 50, cursor: Cursor = None
) -> Page[RunLine]:
    """List the runs in sight that steps of this run have started, the newest first."""
    run = caller.client.run(run_id, sight=caller.sight)
    return _list_page(caller, RunFilter(parent_run_id=run.run_id), limit, cursor)


def _list_page(caller: Caller, wanted: RunFilter, limit: int, cursor: str | None) -> Page[RunLine]:
    found = caller.client.runs(
        wanted, sight=caller.sight, before=read_cursor("runs", cursor), limit=limit + 1
    )
    page, following = cut_page(found, limit, "runs", lambda run: run.run_id)
    payloads = caller.may(Permission.PAYLOADS_READ)
    return Page(items=[RunLine.of(run, payloads=payloads) for run in page], next=following)


def _find_waiting(caller: Caller, run: RunRecord) -> Waiting:
    """Return what a run waits for; of its questions those that the caller may answer."""
    if run.status is not RunStatus.WAITING and not run.paused:
        return Waiting(pauses=[], events=[])
    pauses = []
    if caller.may(Permission.PAUSES_ANSWER):
        pauses = caller.client.inbox(run.run_id, asked=caller.asked)
    events = caller.client.waiting_payload(run.run_id)["events"]
    return Waiting(
        pauses=[WaitingPause.of(pause) for pause in pauses],
        events=[
            WaitingEvent(step_id=event["step_id"], name=event["name"])
            for event in events
            if event["run_id"] == run.run_id
        ],
    )
