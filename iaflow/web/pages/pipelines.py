"""The pages of pipelines: the list, and one with its graph, versions, runs and start form.

Decides what of a pipeline is shown and in which words versions differ; never whether an input or
a definition is accepted (the API does). Part of the pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from markupsafe import Markup
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.data.filters import RunFilter
from iaflow.data.records import PipelineRecord, RunRecord
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.comparing import Difference, Subject
from iaflow.pipeline.drawing import draw_svg
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, needs
from iaflow.web.schemas.base import Cursor, Named
from iaflow.web.ui.controls import list_controls
from iaflow.web.ui.input_form import make_input_fields

__all__ = ["Change", "router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Reader = Annotated[Caller, needs(Permission.PIPELINES_READ)]
Number = Annotated[int | None, Query(ge=1, le=2**31 - 1)]

SHOWN: Final = 50
RECENT_RUNS: Final = 10
RECENT_VERSIONS: Final = 20
MOST_DIFFERENCES: Final = 200
SMALL_GRAPH: Final = 25
FEW_STEPS: Final = 4
"""So many steps are drawn as wide as the page; more keep their size, and the page scrolls."""

_SUBJECTS: Final = {
    Subject.PIPELINE: "Pipeline",
    Subject.STEP: "Step",
    Subject.TRANSITION: "Transition",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions, in words: what, of what, and where in it."""

    kind: str
    subject: str
    name: str
    place: str
    before: Any
    after: Any

    @property
    def has_before(self) -> bool:
        return self.kind != "added"

    @property
    def has_after(self) -> bool:
        return self.kind != "removed"


@router.api_route("/pipelines", methods=["GET", "HEAD"])
def list_pipelines(
    caller: Reader,
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    cursor: Cursor = None,
) -> Response:
    """Show the pipelines in sight, by slug, with what each did last."""
    after = read_cursor("pipelines", cursor) or ""
    known = caller.client.pipelines(sight=caller.sight)
    words = q.lower().split()
    found = [one for one in known if one.slug > after and _matches(one, words)]
    page, following = cut_page(found, SHOWN, "pipelines", lambda one: one.slug)
    return render(
        caller,
        request,
        "pipelines.html",
        section="pipelines",
        lines=[(one, _last_run(caller, one.slug)) for one in page],
        is_empty=not known,
        q=q,
        next_cursor=following,
    )


@router.api_route("/pipelines/{slug}", methods=["GET", "HEAD"])
def show_pipeline(
    caller: Reader,
    slug: Named,
    request: Request,
    version: Number = None,
    from_: Annotated[Number, Query(alias="from")] = None,
    to: Number = None,
) -> Response:
    """Show a pipeline: a version of it as a graph and as text, its runs, and how it is started."""
    pipeline = caller.client.pipeline(slug, sight=caller.sight)
    number = version or pipeline.number
    shown = caller.client.version(slug, number, sight=caller.sight)
    document = json.loads(shown.document)
    graph = compile_definition(document)
    versions = caller.client.versions(slug, sight=caller.sight, limit=RECENT_VERSIONS)
    changes = None
    if from_ is not None and to is not None:
        found = caller.client.compare_versions(slug, from_, to, sight=caller.sight)
        changes = list(_describe(found))
    is_current = number == pipeline.number
    # It has escaped all that is not ours.
    drawing = draw_svg(graph, has_style=False)
    runs: list[RunRecord] = []
    if caller.may(Permission.RUNS_READ):
        runs = caller.client.runs(RunFilter(slug=slug), sight=caller.sight, limit=RECENT_RUNS)
    return render(
        caller,
        request,
        "pipeline.html",
        section="pipelines",
        pipeline=pipeline,
        shown=shown,
        is_current=is_current,
        drawing=Markup(drawing),  # noqa: S704  # all in it that is not ours was escaped
        fits=len(graph.nodes) <= SMALL_GRAPH,
        # Shrunk to a phone it could not be read; of a few steps there is nothing to shrink.
        is_wide=len(graph.nodes) > FEW_STEPS,
        steps=len(graph.nodes),
        definition=json.dumps(document, ensure_ascii=False, indent=2),
        versions=versions,
        changes=changes[:MOST_DIFFERENCES] if changes is not None else None,
        left_out=max(0, len(changes or ()) - MOST_DIFFERENCES),
        compared=(from_, to),
        runs=runs,
        controls=list_controls(make_input_fields(graph.definition), "input"),
        takes_more=_takes_more(graph.definition.input_schema),
        can_start=caller.may(Permission.RUNS_START) and is_current,
    )


def _matches(pipeline: PipelineRecord, words: Iterable[str]) -> bool:
    text = f"{pipeline.slug} {pipeline.name} {pipeline.description}".lower()
    return all(word in text for word in words)


def _last_run(caller: Caller, slug: str) -> RunRecord | None:
    if not caller.may(Permission.RUNS_READ):
        return None
    found = caller.client.runs(RunFilter(slug=slug), sight=caller.sight, limit=1)
    return found[0] if found else None


def _describe(found: Iterable[Difference]) -> Iterable[Change]:
    for one in found:
        yield Change(
            kind=one.kind.value,
            subject=_SUBJECTS[one.subject],
            name=one.name.replace("->", "→"),
            place=_place_within(one),
            before=one.before,
            after=one.after,
        )


def _place_within(one: Difference) -> str:
    """Return where in its subject a difference is, as keys joined by dots; empty: all of it."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in one.pointer.split("/")[1:]]
    skipped = {Subject.PIPELINE: 0, Subject.STEP: 2, Subject.TRANSITION: 3}[one.subject]
    return ".".join(parts[skipped:])


def _takes_more(schema: Any) -> bool:
    """Tell whether an input may have keys beside those that the form asks for."""
    return not isinstance(schema, dict) or schema.get("additionalProperties") is not False
