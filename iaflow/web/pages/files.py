"""The files that pages fetch, each under a name that changes with its content.

Decides how long a browser keeps them; what there is, is a fixed list. Part of the pages.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Header
from starlette.responses import Response

from iaflow.errors import NotFound
from iaflow.web.pages.frame import PageRoute
from iaflow.web.policies import Caller, anybody
from iaflow.web.schemas.base import Named
from iaflow.web.ui.assets import load_assets

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

KEEP: Final = "public, max-age=31536000, immutable"
ASK: Final = "no-cache"
"""For a name of another release: a page from before asks, and gets what there is now."""


@router.api_route("/static/{digest}/{name}", methods=["GET", "HEAD"])
def show_file(
    caller: Annotated[Caller, anybody()],
    digest: Named,
    name: Named,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return one of the files of the pages."""
    assets = load_assets()
    asset = assets.files.get(name)
    if asset is None:
        raise NotFound("there is no such file")
    tag = f'"{assets.digest}"'
    headers = {"Cache-Control": KEEP if digest == assets.digest else ASK, "ETag": tag}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
