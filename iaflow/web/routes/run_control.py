"""Runs changed from outside: cancelled, retried, repeated, signalled; one by one or many at once.

Decides what a request for a change asks of the client, and what is kept of it in the audit; each
first asks for the run, which is there for whoever sees it. Part of the app.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from iaflow.data.accounts import Permission
from iaflow.data.filters import ManyRecord
from iaflow.errors import Conflict
from iaflow.web.limits import INPUT_BYTES, LimitedRoute, takes
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, needs
from iaflow.web.schemas.base import IdempotencyKey
from iaflow.web.schemas.runs import (
    CancelBody,
    CancelManyBody,
    ManyReply,
    RerunBody,
    RetryManyBody,
    RunId,
    RunState,
    SignalBody,
    SignalledStep,
    SignalReply,
    StepId,
    place_of,
)

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/runs", tags=["runs"], route_class=LimitedRoute)

Controller = Annotated[Caller, needs(Permission.RUNS_CONTROL)]
Sender = Annotated[Caller, needs(Permission.SIGNALS_SEND)]

SignalName = Annotated[
    str,
    Path(min_length=1, max_length=200, description="What steps wait for.", examples=["paid"]),
]


# Before those of one run: `bulk` is no run's id.
@router.post("/bulk/cancel")
def cancel_many(caller: Controller, body: CancelManyBody) -> ManyReply:
    """
    Cancel the runs in sight that a filter finds, each by itself; tell what became of each.

    Without a status in the filter: those that have not ended.
    """
    records = caller.client.cancel_many(
        body.filter.as_filter(),
        sight=caller.sight,
        limit=body.limit,
        dry_run=body.dry_run,
        reason=body.reason,
        by=caller.me.name,
    )
    return _tell_many(caller, "run.cancel", records, body)


@router.post("/bulk/retry")
def retry_many(caller: Controller, body: RetryManyBody) -> ManyReply:
    """Retry the failed runs in sight that a filter finds, each by itself; see cancelling many."""
    records = caller.client.retry_many(
        body.filter.as_filter(),
        sight=caller.sight,
        limit=body.limit,
        dry_run=body.dry_run,
        by=caller.me.name,
    )
    return _tell_many(caller, "run.retry", records, body)


@router.post("/{run_id}/cancel")
def cancel_run(caller: Controller, run_id: RunId, body: CancelBody) -> RunState:
    """Cancel a run, and the runs below it. One that has ended is a conflict."""
    run = caller.client.run(run_id, sight=caller.sight)
    settled = caller.client.cancel(run.run_id, reason=body.reason, by=caller.me.name)
    if settled.is_stale:
        raise Conflict(f"run {run.run_id} has ended, so there is nothing to cancel")
    caller.record("run.cancel", run.run_id, {"slug": run.slug})
    return RunState.of(caller.client.run(run.run_id))


@router.post("/{run_id}/steps/{step_id}/cancel")
def cancel_step(caller: Controller, run_id: RunId, step_id: StepId, body: CancelBody) -> RunState:
    """Cancel a step of a run; what follows is as its transitions say. An ended one: conflict."""
    run = caller.client.run(run_id, sight=caller.sight)
    settled = caller.client.cancel(
        run.run_id, step_id=step_id, reason=body.reason, by=caller.me.name
    )
    if settled.is_stale:
        told = f"step {step_id!r} of run {run.run_id} has ended, so there is nothing to cancel"
        raise Conflict(told)
    caller.record("step.cancel", f"{run.run_id}/{step_id}", {"slug": run.slug})
    return RunState.of(caller.client.run(run.run_id))


@router.post("/{run_id}/retry")
def retry_run(caller: Controller, run_id: RunId) -> RunState:
    """Reopen a failed run: what did not succeed goes on. Any other is a conflict."""
    run = caller.client.run(run_id, sight=caller.sight)
    caller.client.retry(run.run_id, by=caller.me.name)
    caller.record("run.retry", run.run_id, {"slug": run.slug})
    return RunState.of(caller.client.run(run.run_id))


@router.post("/{run_id}/steps/{step_id}/rerun", status_code=201)
@takes(INPUT_BYTES)
def rerun_from_step(
    caller: Controller,
    request: Request,
    response: Response,
    run_id: RunId,
    step_id: StepId,
    body: RerunBody,
) -> RunState:
    """Make a new run from a step on, with the recorded outputs of what comes before it."""
    run = caller.client.run(run_id, sight=caller.sight)
    again = caller.client.rerun(run.run_id, step_id, inputs=body.inputs, started_by=caller.me.name)
    caller.record("run.rerun", again.run_id, {"of": run.run_id, "step": step_id})
    response.headers["Location"] = f"{find_root(request)}/api/v1/runs/{again.run_id}"
    return RunState.of(caller.client.run(again.run_id))


@router.post("/{run_id}/signals/{name}")
@takes(INPUT_BYTES)
def send_signal(
    caller: Sender,
    run_id: RunId,
    name: SignalName,
    body: SignalBody,
    idempotency_key: IdempotencyKey = None,
) -> SignalReply:
    """
    Give a signal to the steps of a run that wait for it, which go on.

    None that waits is a conflict. With an `Idempotency-Key` the same request, sent again by the
    same user, gets the same reply.
    """
    run = caller.client.run(run_id, sight=caller.sight)
    ended = caller.client.signal(
        run.run_id, name, body.payload, sent_by=caller.me.name, key=idempotency_key
    )
    caller.record("run.signal", run.run_id, {"name": name})
    steps = [SignalledStep(step_id=one.step_id, index=place_of(one.index)) for one in ended]
    return SignalReply(run_id=run.run_id, name=name, steps=steps)


def _tell_many(
    caller: Caller, action: str, records: list[ManyRecord], body: RetryManyBody
) -> ManyReply:
    reply = ManyReply.of(records, dry_run=body.dry_run)
    changed = [one.run_id for one in reply.items if one.outcome in ("cancelled", "retried")]
    for run_id in changed:
        caller.record(action, run_id, {"many": len(changed)})
    return reply
