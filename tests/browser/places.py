"""Every page of the web with something on it, and the ways in which people look at it.

Decides what is on the pages that are judged for barriers and pictured; never how.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from iaflow.data.status import RunStatus
from tests.web.people import approval
from tests.web.webs import Web

__all__ = ["SCHEMES", "list_places"]

SCHEMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}},
}
"""Options of a browser's context."""


def list_places(web: Web) -> dict[str, str]:
    """Return the path of every page by what it is, after making what is to be seen on it."""
    slug = "invoice-approval-v1"
    client = web.client
    waiting = client.start(slug, {"auto_approve_limit": 1}, started_by="otto").run_id
    done = client.start(slug, started_by="otto").run_id
    web.wait_for(waiting, RunStatus.WAITING)
    web.wait_for(done)
    web.publish(approval("twice-v1"))
    web.publish(approval("twice-v1", quorum=2))
    both = client.start("twice-v1").run_id
    web.wait_for(both, RunStatus.WAITING)
    client.schedules.put("nightly", slug, {}, cron="30 2 * * *", zone="Europe/Berlin")
    client.schedules.put("often", slug, {}, every=timedelta(hours=1))
    client.schedules.pause("often")
    [pause], [other] = client.inbox(waiting), client.inbox(both)
    return {
        "start": "/",
        "inbox": "/inbox",
        "question": f"/inbox/{pause.pause_id}",
        "quorum": f"/inbox/{other.pause_id}",
        "pipelines": "/pipelines",
        "pipeline": f"/pipelines/{slug}",
        "versions": "/pipelines/twice-v1?from=1&to=2",
        "runs": "/runs",
        "run": f"/runs/{waiting}",
        "run that ended": f"/runs/{done}",
        "timeline": f"/runs/{done}?view=timeline",
        "events": f"/runs/{done}?view=events",
        "data": f"/runs/{done}?view=data",
        "step": f"/runs/{done}/steps/pay",
        "skipped step": f"/runs/{done}/steps/manager_approval",
        "schedules": "/schedules",
        "schedule": "/schedules/nightly",
        "workers": "/workers",
        "users": "/users",
        "user": "/users/paula",
        "account": "/account",
        "nothing": "/pipelines/no-such-pipeline",
    }
