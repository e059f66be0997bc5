"""The pages of schedules: the list, one with its instants and fires, and the form of both.

Decides how a timetable is put in words; never which instants it has. Part of the pages.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from zoneinfo import available_timezones

from fastapi import APIRouter, Request
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.data.schedules import ScheduleRecord
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, needs
from iaflow.web.schemas.base import Cursor, Named

__all__ = ["describe_timetable", "router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Reader = Annotated[Caller, needs(Permission.SCHEDULES_READ)]

SHOWN: Final = 50
NEXT_SHOWN: Final = 10
FIRES_SHOWN: Final = 20
LAST_FIRES: Final = 3

MISFIRES: Final = (
    ("latest", "the last of them fires"),
    ("all", "each of them fires"),
    ("skip", "none of them fires"),
)
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@router.api_route("/schedules", methods=["GET", "HEAD"])
def list_schedules(caller: Reader, request: Request, cursor: Cursor = None) -> Response:
    """Show the schedules of pipelines in sight, by name, with what they do next and did last."""
    after = read_cursor("schedules", cursor) or ""
    known = caller.client.schedules.all(sight=caller.sight)
    found = [one for one in known if one.name > after]
    page, following = cut_page(found, SHOWN, "schedules", lambda one: one.name)
    lines = [(one, describe_timetable(one), _fires(caller, one.name, LAST_FIRES)) for one in page]
    return render(
        caller,
        request,
        "schedules.html",
        section="schedules",
        lines=lines,
        is_empty=not known,
        next_cursor=following,
        **_form(caller, None),
    )


@router.api_route("/schedules/{name}", methods=["GET", "HEAD"])
def show_schedule(caller: Reader, name: Named, request: Request) -> Response:
    """Show a schedule: its next instants, what became of the last ones, and how to change it."""
    schedule = caller.client.schedules.get(name, sight=caller.sight)
    return render(
        caller,
        request,
        "schedule.html",
        section="schedules",
        timetable=describe_timetable(schedule),
        instants=caller.client.schedules.next(name, NEXT_SHOWN, sight=caller.sight),
        fires=_fires(caller, name, FIRES_SHOWN),
        sees_input=caller.may(Permission.PAYLOADS_READ),
        **_form(caller, schedule),
    )


def describe_timetable(schedule: ScheduleRecord) -> str:
    """Return when a schedule fires: `every 15 minutes`, or its expression and zone."""
    seconds = schedule.interval_seconds
    if seconds is None:
        return f"{schedule.cron} in {schedule.zone}"
    for length, word in _UNITS:
        if seconds % length == 0:
            count = seconds // length
            return f"every {word}" if count == 1 else f"every {count:,} {word}s"
    return f"every {seconds} seconds"


def _fires(caller: Caller, name: str, limit: int) -> list[Any]:
    return list(caller.client.schedules.fires(name, before=None, limit=limit, sight=caller.sight))


def _form(caller: Caller, schedule: ScheduleRecord | None) -> dict[str, Any]:
    """Return what the form of a schedule begins with."""
    given = dict(schedule.parameters) if schedule is not None else {}
    may_write = caller.may(Permission.SCHEDULES_WRITE)
    pipelines = caller.client.pipelines(sight=caller.sight) if may_write else []
    return {
        "schedule": schedule,
        "may_write": may_write,
        "may_edit": may_write and (schedule is None or caller.may(Permission.PAYLOADS_READ)),
        "slugs": [one.slug for one in pipelines],
        "zones": sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
        if may_write
        else [],
        "misfires": MISFIRES,
        "input_text": json.dumps(given, ensure_ascii=False, indent=2),
    }
