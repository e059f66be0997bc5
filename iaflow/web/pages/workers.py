"""The page of workers and queues: what waits, since when, and what to do about it.

Decides what the figures mean in words; never counts (the gauges do). Part of the pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, needs

__all__ = ["Queue", "router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

LATE_SECONDS: Final = 30.0
"""A step that has waited for so long, while nothing runs, has no worker to wait for."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue: how many steps wait in it, and how long the first of them has."""

    name: str
    ready: int
    oldest_seconds: float
    is_known: bool

    @property
    def is_late(self) -> bool:
        return self.ready > 0 and self.oldest_seconds >= LATE_SECONDS


@router.api_route("/workers", methods=["GET", "HEAD"])
def show_workers(
    caller: Annotated[Caller, needs(Permission.METRICS_READ)], request: Request
) -> Response:
    """Show the queues and what waits in them."""
    settings = caller.parts.settings
    figures = {one.name: one.values for one in caller.client.gauges(settings.queues)}
    ready, oldest = figures["iaflow_ready_steps"], figures["iaflow_oldest_ready_seconds"]
    queues = [
        Queue(name, int(count), oldest.get(name, 0.0), name in settings.queues)
        for name, count in ready.items()
    ]
    running = _count(figures, "iaflow_running_steps")
    late = [queue for queue in queues if queue.is_late]
    return render(
        caller,
        request,
        "workers.html",
        section="workers",
        queues=queues,
        running=running,
        held=_count(figures, "iaflow_held_steps"),
        retrying=_count(figures, "iaflow_retrying_steps"),
        lost=_count(figures, "iaflow_lost_leases"),
        waiting_people=_count(figures, "iaflow_open_pauses"),
        runs={word: int(count) for word, count in figures["iaflow_runs"].items()},
        late=late,
        is_idle=bool(late) and running == 0,
        first_queue=settings.queues[0],
        flower_url=settings.flower_url,
    )


def _count(figures: Mapping[str, Mapping[str, float]], name: str) -> int:
    return int(figures[name][""])
