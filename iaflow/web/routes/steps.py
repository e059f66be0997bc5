"""The inside of a run: steps, items, events, decisions, and why a step ran or not.

Decides what a request for them asks of the client; each first asks for the run, which is there
for whoever sees it. Part of the app.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from iaflow.data.accounts import Permission
from iaflow.data.records import NO_INDEX, RunRecord, StepRecord
from iaflow.data.status import StepStatus
from iaflow.errors import NotFound
from iaflow.explaining import Explanation, Ledger, explain
from iaflow.web.cursors import cut_page, read_cursor, write_cursor
from iaflow.web.limits import LimitedRoute
from iaflow.web.policies import Caller, needs
from iaflow.web.problems import Refused
from iaflow.web.schemas.base import Cursor, Limit, Page
from iaflow.web.schemas.runs import RunId, StepId
from iaflow.web.schemas.steps import Decision, Event, Explained, Step, StepLine, Why

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/runs/{run_id}", tags=["runs"], route_class=LimitedRoute)

Reader = Annotated[Caller, needs(Permission.RUNS_READ)]

MOST_INDEX = 2**31 - 1
MOST_SEQ = 2**53 - 1
"""The greatest whole number that every JSON reader keeps as it is."""


@router.get("/steps")
def list_steps(
    caller: Reader, run_id: RunId, limit: Limit = 200, cursor: Cursor = None
) -> Page[StepLine]:
    """
    List the steps of a run in the order of its definition, without data.

    Those that nothing has come to are `pending`. A step with `foreach` is one entry that counts
    its items.
    """
    run = caller.client.run(run_id, sight=caller.sight)
    order = list(caller.client.graph_of(run.run_id).nodes)
    begin = _read_number("steps", cursor)
    found = caller.client.steps(run.run_id, items=False, payloads=False)
    known = {step.step_id: step for step in found}
    page = [
        known.get(step_id) or StepRecord.unreached(run.run_id, step_id)
        for step_id in order[begin : begin + limit]
    ]
    ends = begin + limit >= len(order)
    return _list(caller, page, None if ends else write_cursor("steps", str(begin + limit)))


@router.get("/steps/{step_id}")
def show_step(
    caller: Reader,
    run_id: RunId,
    step_id: StepId,
    index: Annotated[
        int | None, Query(ge=0, le=MOST_INDEX, description="An item of the step, from 0.")
    ] = None,
) -> Step:
    """Show a step of a run, or an item of it, with its data."""
    run = caller.client.run(run_id, sight=caller.sight)
    _require_step(caller, run, step_id)
    try:
        place = NO_INDEX if index is None else index
        step = caller.client.step(run.run_id, step_id, index=place)
    except NotFound:
        if index is not None:
            raise
        step = StepRecord.unreached(run.run_id, step_id)
    return Step.with_data(
        step, caller.parts.settings.flower_url, payloads=caller.may(Permission.PAYLOADS_READ)
    )


@router.get("/steps/{step_id}/items")
def list_items(
    caller: Reader,
    run_id: RunId,
    step_id: StepId,
    status: Annotated[StepStatus | None, Query(description="Only items in this status.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[StepLine]:
    """List the items of a step with `foreach`, in their order, without data."""
    run = caller.client.run(run_id, sight=caller.sight)
    after = _read_number("items", cursor, first=NO_INDEX)
    found = caller.client.items(run.run_id, step_id, after=after, limit=limit + 1, status=status)
    page, following = cut_page(found, limit, "items", lambda item: str(item.index))
    return _list(caller, list(page), following)


@router.get("/steps/{step_id}/why")
def explain_step(caller: Reader, run_id: RunId, step_id: StepId) -> Why:
    """Tell why a step ran or did not, from the decisions before it, back to the first cause."""
    run = caller.client.run(run_id, sight=caller.sight)
    _require_step(caller, run, step_id)
    explanation = _explain(caller, run, step_id)
    payloads = caller.may(Permission.PAYLOADS_READ)
    return Why(
        run_id=run.run_id,
        step_id=step_id,
        status=StepStatus(explanation.status),
        sentence=explanation.sentence if payloads else None,
        decisions=[
            Decision.of(decision, payloads=payloads)
            for decision in caller.client.decisions(run.run_id, step_id)
        ],
        explanation=Explained.of(explanation, payloads=payloads),
    )


@router.get("/events")
def list_events(
    caller: Reader,
    run_id: RunId,
    after: Annotated[
        int, Query(ge=0, le=MOST_SEQ, description="Only events behind this number.")
    ] = 0,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> Page[Event]:
    """List what happened to a run, in order; as it happens, its `stream` tells the same."""
    run = caller.client.run(run_id, sight=caller.sight)
    begin = max(after, _read_number("events", cursor))
    found = caller.client.events(run.run_id, begin, limit=limit + 1)
    page, following = cut_page(found, limit, "events", lambda event: str(event.seq))
    return Page(items=[Event.of(event) for event in page], next=following)


@router.get("/decisions")
def list_decisions(
    caller: Reader,
    run_id: RunId,
    step_id: Annotated[
        str | None, Query(max_length=200, description="Only on transitions into this step.")
    ] = None,
    limit: Limit = 200,
    cursor: Cursor = None,
) -> Page[Decision]:
    """List the decisions on a run's transitions in the order they were made, with their reasons."""
    run = caller.client.run(run_id, sight=caller.sight)
    begin = _read_number("decisions", cursor)
    found = caller.client.decisions(run.run_id, step_id)
    page = found[begin : begin + limit]
    ends = begin + limit >= len(found)
    payloads = caller.may(Permission.PAYLOADS_READ)
    return Page(
        items=[Decision.of(decision, payloads=payloads) for decision in page],
        next=None if ends else write_cursor("decisions", str(begin + limit)),
    )


def _list(caller: Caller, steps: list[StepRecord], following: str | None) -> Page[StepLine]:
    payloads = caller.may(Permission.PAYLOADS_READ)
    flower_url = caller.parts.settings.flower_url
    items = [StepLine.of(step, flower_url, payloads=payloads) for step in steps]
    return Page(items=items, next=following)


def _require_step(caller: Caller, run: RunRecord, step_id: str) -> None:
    if step_id not in caller.client.graph_of(run.run_id).nodes:
        raise NotFound(f"run {run.run_id} has no step {step_id!r}")


def _read_number(kind: str, cursor: str | None, first: int = 0) -> int:
    text = read_cursor(kind, cursor)
    if text is None:
        return first
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MOST_SEQ)):
        raise Refused("cursor_invalid", "take `next` of a page of this very list, as it is")
    return int(text)


def _explain(caller: Caller, run: RunRecord, step_id: str) -> Explanation:
    """Explain a step from what is kept of the run: as much of it as an explanation needs."""
    client = caller.client
    steps = client.steps(run.run_id, items=False, payloads=False)
    for step in list(steps):
        if step.items is not None and step.items.failed:
            steps += client.failed_items(run.run_id, step.step_id, limit=1)
    keys = {step.concurrency_key for step in steps if step.is_held}
    holders = {key: found for key in keys if key and (found := _find_holder(caller, key))}
    decisions = client.decisions(run.run_id)
    graph = client.graph_of(run.run_id)
    return explain(Ledger.of(graph, run, steps, decisions, holders), step_id)


def _find_holder(caller: Caller, key: str) -> tuple[str, str] | None:
    """Return who holds a key, if that is a run in sight."""
    holder = caller.client.holder_of(key)
    if holder is None:
        return None
    try:
        caller.client.run(holder[0], sight=caller.sight)
    except NotFound:
        return None
    return holder
