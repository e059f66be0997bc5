"""The pages for people, by what they are about.

Decides their order alone: the first that matches serves. Read by the app.
"""

from starlette.routing import Route

from iaflow.web.pages import (
    account,
    files,
    home,
    inbox,
    pipelines,
    run,
    runs,
    schedules,
    signing_in,
    users,
    workers,
)

__all__ = ["PLACES", "ROUTERS"]

ROUTERS = (
    files.router,
    signing_in.router,
    inbox.router,
    pipelines.router,
    schedules.router,
    workers.router,
    run.router,
    home.router,
    runs.router,
    users.router,
    account.router,
)

PLACES = tuple(
    sorted(
        {
            route.path.partition("{")[0] + "*" * ("{" in route.path)
            for router in ROUTERS
            for route in router.routes
            if isinstance(route, Route)
        }
    )
)
"""Where pages are, as the layer of the sign-in is told: they send away by themselves, as pages."""
