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
    schedules,
    session,
)

__all__ = ["ROUTERS"]

ROUTERS = (
    health.router,
    session.router,
    accounts.router,
    pipelines.router,
    schedules.router,
    questions.router,
    links.router,
    about.router,
)
