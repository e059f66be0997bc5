"""The routes of the API, by what they are about.

Decides their order alone: the first that matches serves. Read by the app.
"""

from iaflow.web.routes import (
    about,
    accounts,
    health,
    links,
    pipelines,
    questions,
    run_control,
    runs,
    schedules,
    session,
    steps,
    streams,
)

__all__ = ["ROUTERS"]

ROUTERS = (
    health.router,
    session.router,
    accounts.router,
    pipelines.router,
    run_control.router,
    runs.router,
    steps.router,
    schedules.router,
    streams.router,
    questions.router,
    links.router,
    about.router,
)
