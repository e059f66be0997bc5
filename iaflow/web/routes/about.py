"""About the installation: its figures for Prometheus, and the description of this API.

Decides nothing; tells both to who may know them. Part of the app.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response

from iaflow.data.accounts import Permission
from iaflow.metrics import render_gauges
from iaflow.web.policies import Caller, needs, signed_in

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["about"])

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Figures"}
    },
)
def show_metrics(caller: Annotated[Caller, needs(Permission.METRICS_READ)]) -> Response:
    """Tell the figures of all runs together, as Prometheus reads them: as `iaflow metrics` does."""
    gauges = caller.client.gauges(caller.parts.settings.queues)
    return Response(render_gauges(gauges), media_type=PROMETHEUS)


@router.get("/openapi.json")
def show_description(caller: Annotated[Caller, signed_in()], request: Request) -> dict[str, Any]:
    """Tell what this API takes and replies, as OpenAPI."""
    described: dict[str, Any] = request.app.openapi()
    return described
