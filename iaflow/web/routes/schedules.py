"""Schedules over HTTP: read, written, stopped, fired by hand.

Decides what each request asks of the client; never which instants a schedule has. Part of the app.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from iaflow.data.accounts import Permission
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.limits import INPUT_BYTES, LimitedRoute, takes
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, needs
from iaflow.web.problems import Refused
from iaflow.web.schemas.base import Cursor, Limit, Named, Page
from iaflow.web.schemas.schedules import Fire, Fired, Instants, Schedule, ScheduleBody

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/schedules", tags=["schedules"], route_class=LimitedRoute)

Reader = Annotated[Caller, needs(Permission.SCHEDULES_READ)]
Writer = Annotated[Caller, needs(Permission.SCHEDULES_WRITE)]


@router.get("")
def list_schedules(caller: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[Schedule]:
    """List the schedules of pipelines in sight, by name."""
    after = read_cursor("schedules", cursor) or ""
    found = [one for one in caller.client.schedules.all(sight=caller.sight) if one.name > after]
    page, following = cut_page(found, limit, "schedules", lambda one: one.name)
    payloads = caller.may(Permission.PAYLOADS_READ)
    items = [Schedule.from_record(one, payloads=payloads) for one in page]
    return Page(items=items, next=following)


@router.get("/{name}")
def show_schedule(caller: Reader, name: Named) -> Schedule:
    """Show a schedule."""
    found = caller.client.schedules.get(name, sight=caller.sight)
    return Schedule.from_record(found, payloads=caller.may(Permission.PAYLOADS_READ))


@router.put("/{name}")
@takes(INPUT_BYTES)
def put_schedule(caller: Writer, name: Named, body: ScheduleBody) -> Schedule:
    """
    Write a schedule, in the place of any other of that name; one that was paused stays so.

    The same request sent again changes nothing.
    """
    kept = caller.client.schedules.put(
        name,
        body.slug,
        body.input,
        cron=body.cron,
        every=None if body.interval_seconds is None else timedelta(seconds=body.interval_seconds),
        zone=body.zone,
        misfire=body.misfire,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        instant_as=body.instant_as,
        created_by=caller.me.name,
        sight=caller.sight,
    )
    caller.record("schedule.put", name, {"slug": kept.slug})
    return Schedule.from_record(kept, payloads=caller.may(Permission.PAYLOADS_READ))


@router.delete("/{name}", status_code=204)
def delete_schedule(caller: Writer, name: Named) -> Response:
    """Remove a schedule and its history; the runs that it started stay."""
    caller.client.schedules.delete(name, sight=caller.sight)
    caller.record("schedule.delete", name)
    return Response(status_code=204)


@router.post("/{name}/pause")
def pause_schedule(caller: Writer, name: Named) -> Schedule:
    """Let a schedule rest: its instants pass, and start nothing later."""
    kept = caller.client.schedules.pause(name, sight=caller.sight)
    caller.record("schedule.pause", name)
    return Schedule.from_record(kept, payloads=caller.may(Permission.PAYLOADS_READ))


@router.post("/{name}/resume")
def resume_schedule(caller: Writer, name: Named) -> Schedule:
    """Let a paused schedule go on with its next instant."""
    kept = caller.client.schedules.resume(name, sight=caller.sight)
    caller.record("schedule.resume", name)
    return Schedule.from_record(kept, payloads=caller.may(Permission.PAYLOADS_READ))


@router.post("/{name}/fire", status_code=201)
def fire_schedule(caller: Writer, name: Named, request: Request, response: Response) -> Fired:
    """Start a run now, as an instant of the schedule would; paused or not."""
    started = caller.client.schedules.fire(name, sight=caller.sight)
    caller.record("schedule.fire", name, {"run_id": started.run_id})
    response.headers["Location"] = f"{find_root(request)}/api/v1/runs/{started.run_id}"
    return Fired(run_id=started.run_id)


@router.get("/{name}/fires")
def list_fires(caller: Reader, name: Named, limit: Limit = 50, cursor: Cursor = None) -> Page[Fire]:
    """List what became of a schedule's instants, the newest first."""
    before = read_cursor("fires", cursor)
    found = caller.client.schedules.fires(
        name,
        before=None if before is None else _read_instant(before),
        limit=limit + 1,
        sight=caller.sight,
    )
    page, following = cut_page(found, limit, "fires", lambda one: one.fire_at.isoformat())
    payloads = caller.may(Permission.PAYLOADS_READ)
    items = [Fire.from_record(one, payloads=payloads) for one in page]
    return Page(items=items, next=following)


@router.get("/{name}/next")
def list_instants(
    caller: Reader,
    name: Named,
    count: Annotated[int, Query(ge=1, le=1000, description="So many instants.")] = 10,
) -> Instants:
    """List the next instants of a schedule, in UTC; it may be paused."""
    return Instants(items=caller.client.schedules.next(name, count, sight=caller.sight))


def _read_instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Refused("cursor_invalid", "take `next` of a page of this very list") from None
