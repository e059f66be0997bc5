"""Pipelines over HTTP: their definitions, imported, judged, compared, drawn; and their rest.

Decides what each request asks of the client; never whether a definition is legal, and imports no
step's code. Part of the app.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from iaflow.data.accounts import Permission
from iaflow.errors import NotAllowed
from iaflow.pipeline.check import check
from iaflow.pipeline.drawing import draw_svg
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.limits import DEFINITION, LimitedRoute, takes
from iaflow.web.policies import Caller, needs
from iaflow.web.problems import Refused
from iaflow.web.schemas.base import Cursor, Limit, Named, Page
from iaflow.web.schemas.pipelines import (
    ComparedVersions,
    DefinitionBody,
    Findings,
    Imported,
    Pipeline,
    PipelineWithDefinition,
    ProblemEntry,
    Version,
    VersionWithDefinition,
)

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/pipelines", tags=["pipelines"], route_class=LimitedRoute)

Reader = Annotated[Caller, needs(Permission.PIPELINES_READ)]
Author = Annotated[Caller, needs(Permission.PIPELINES_WRITE)]
Operator = Annotated[Caller, needs(Permission.PIPELINES_PAUSE)]

Number = Annotated[int, Query(ge=1, le=2**31 - 1, description="Of a version.", examples=[1])]

DRAWING_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
)
"""A drawing brings its own style, and nothing in it may do anything."""


@router.get("")
def list_pipelines(caller: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[Pipeline]:
    """List the imported pipelines in sight, by slug."""
    after = read_cursor("pipelines", cursor) or ""
    found = [one for one in caller.client.pipelines(sight=caller.sight) if one.slug > after]
    page, following = cut_page(found, limit, "pipelines", lambda one: one.slug)
    return Page(items=[Pipeline.from_record(one) for one in page], next=following)


@router.post(
    "",
    responses={
        201: {"description": "It is a new version, and what starts run."},
        200: {"description": "Its text is that of the current version; nothing was written."},
    },
    status_code=201,
)
@takes(DEFINITION)
def import_definition(caller: Author, body: DefinitionBody, response: Response) -> Imported:
    """
    Import a definition: a new version of its slug, unless its text is the current one's.

    It is judged as `iaflow import` does, but for what only the steps' classes know: these are in
    the workers. Runs that have begun keep their version.
    """
    settings = caller.parts.settings
    checked = check(
        body.definition, queues=settings.queues, max_bytes=settings.max_definition_bytes
    )
    if checked.graph is None:
        raise Refused("definition_refused", _count(len(checked.errors)), checked.errors)
    definition = checked.graph.definition
    if not caller.sight.sees(definition.slug):
        raise NotAllowed(f"{caller.me.name} may not see, or write, a pipeline {definition.slug!r}")
    is_new = caller.client.publish(definition)
    kept = caller.client.pipeline(definition.slug, sight=caller.sight)
    if is_new:
        caller.record("pipeline.import", kept.slug, {"number": kept.number})
    else:
        response.status_code = 200
    return Imported(
        is_new=is_new,
        pipeline=Pipeline.from_record(kept),
        warnings=ProblemEntry.list_from(checked.warnings),
    )


@router.post("/validate")
@takes(DEFINITION)
def validate_definition(caller: Author, body: DefinitionBody) -> Findings:
    """Judge a definition as an import would; nothing is written."""
    settings = caller.parts.settings
    checked = check(
        body.definition, queues=settings.queues, max_bytes=settings.max_definition_bytes
    )
    return Findings(
        ok=checked.graph is not None,
        errors=ProblemEntry.list_from(checked.errors),
        warnings=ProblemEntry.list_from(checked.warnings),
    )


@router.get("/{slug}")
def show_pipeline(caller: Reader, slug: Named) -> PipelineWithDefinition:
    """Show a pipeline with its current definition."""
    return PipelineWithDefinition.from_record(caller.client.pipeline(slug, sight=caller.sight))


@router.get("/{slug}/versions")
def list_versions(
    caller: Reader, slug: Named, limit: Limit = 50, cursor: Cursor = None
) -> Page[Version]:
    """List the versions of a pipeline, the newest first."""
    position = read_cursor("versions", cursor)
    if position is not None and not position.isdecimal():
        raise Refused("cursor_invalid", "take `next` of a page of this very list, as it is")
    found = caller.client.versions(
        slug,
        sight=caller.sight,
        before=None if position is None else int(position),
        limit=limit + 1,
    )
    page, following = cut_page(found, limit, "versions", lambda one: str(one.number))
    return Page(items=[Version.from_record(one) for one in page], next=following)


@router.get("/{slug}/versions/{number}")
def show_version(caller: Reader, slug: Named, number: Named) -> VersionWithDefinition:
    """Show a version of a pipeline, with its definition."""
    # What is no number of a version is not there.
    known = int(number) if number.isdecimal() and len(number) < 12 else 0
    return VersionWithDefinition.from_record(caller.client.version(slug, known, sight=caller.sight))


@router.get("/{slug}/diff")
def compare_versions(
    caller: Reader,
    slug: Named,
    from_: Annotated[Number, Query(alias="from")],
    to: Number,
) -> ComparedVersions:
    """Tell what another version of a pipeline has that one has not, by meaning."""
    found = caller.client.compare_versions(slug, from_, to, sight=caller.sight)
    return ComparedVersions.from_differences(slug, from_, to, found)


@router.post("/{slug}/pause")
def pause_pipeline(caller: Operator, slug: Named) -> Pipeline:
    """Let a pipeline rest: nothing starts it; what has begun goes on to its end."""
    kept = caller.client.pause_pipeline(slug, sight=caller.sight)
    caller.record("pipeline.pause", kept.slug)
    return Pipeline.from_record(kept)


@router.post("/{slug}/resume")
def resume_pipeline(caller: Operator, slug: Named) -> Pipeline:
    """Let a paused pipeline be started again."""
    kept = caller.client.resume_pipeline(slug, sight=caller.sight)
    caller.record("pipeline.resume", kept.slug)
    return Pipeline.from_record(kept)


@router.get(
    "/{slug}/graph.svg",
    response_class=Response,
    responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
)
def draw_pipeline(caller: Reader, slug: Named) -> Response:
    """Draw the current definition of a pipeline, as `iaflow graph` does."""
    graph = caller.client.graph(slug, sight=caller.sight)
    return Response(
        draw_svg(graph),
        media_type="image/svg+xml",
        headers={
            "Content-Disposition": f'attachment; filename="{graph.definition.slug}.svg"',
            "Content-Security-Policy": DRAWING_POLICY,
        },
    )


def _count(errors: int) -> str:
    return f"{errors} {'finding' if errors == 1 else 'findings'}; nothing was imported"
