"""The routes of the API, by what they are about.

Decides their order alone: the first that matches serves. Read by the app.
"""

from iaflow.web.routes import health, run_control, runs, steps, streams

__all__ = ["ROUTERS"]

ROUTERS = (
    health.router,
    run_control.router,
    runs.router,
    steps.router,
    streams.router,
)
