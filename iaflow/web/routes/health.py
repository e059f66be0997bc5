"""Whether the process lives, and whether it can work: for probes and load balancers.

Decides what is asked for either; tells nothing else, since everybody may ask. Part of the app.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from iaflow.web.policies import Caller, anybody

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """It lives, or is ready."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def is_alive(caller: Annotated[Caller, anybody()]) -> Health:
    """Tell that the process answers. It asks no database: what is away does not restart it."""
    return Health()


@router.get("/readyz")
def is_ready(caller: Annotated[Caller, anybody()]) -> Health:
    """Tell that the process can work: the database answers. Otherwise 503."""
    caller.client.check()
    return Health()
