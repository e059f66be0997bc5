"""A run and its steps as pages: how far it is, what was decided and why, and what can be done.

Decides what of a run stands on which page; never what is seen of it: every fact is a reply of the
API to the same caller. Part of the pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from markupsafe import Markup
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.data.status import END_OF_RUN, LIVE_STEP, RunStatus, StepStatus
from iaflow.pipeline.drawing import draw_svg
from iaflow.pipeline.graph import Graph
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.pages.run_telling import (
    describe_counts,
    find_moves,
    lay_out_condition,
    lay_out_why,
    plan_timeline,
)
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, needs
from iaflow.web.routes.runs import list_children, show_run
from iaflow.web.routes.steps import (
    MOST_INDEX,
    explain_step,
    list_decisions,
    list_events,
    list_items,
    list_steps,
    show_step,
)
from iaflow.web.schemas.base import Cursor, Page
from iaflow.web.schemas.runs import Run, RunId, RunLine, StepId
from iaflow.web.schemas.steps import Decision, Event, Step, StepLine

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Reader = Annotated[Caller, needs(Permission.RUNS_READ)]

EVERYTHING: Final = 1_000_000
"""More than a definition can have steps or transitions."""

EVENTS: Final = 100
CHILDREN: Final = 50
ITEMS: Final = 25
MOST_EVENTS: Final = 5_000
"""How many of a run's events are searched for the attempts of a step."""


class View(StrEnum):
    """The parts of a run's page."""

    GRAPH = "graph"
    TIMELINE = "timeline"
    EVENTS = "events"
    DATA = "data"
    DEFINITION = "definition"


@router.api_route("/runs/{run_id}", methods=["GET", "HEAD"])
def show_run_page(
    caller: Reader,
    request: Request,
    run_id: RunId,
    view: Annotated[View, Query()] = View.GRAPH,
    cursor: Cursor = None,
) -> Response:
    """Show a run: its graph, or one of the other views."""
    run = show_run(caller, run_id)
    tell = _VIEWS[view]
    return render(
        caller,
        request,
        "run.html",
        section="runs",
        view=view.value,
        views=[one.value for one in View],
        **_describe_run(caller, run),
        **tell(_Asked(caller, find_root(request), run, cursor)),
    )


@router.api_route("/runs/{run_id}/steps/{step_id}", methods=["GET", "HEAD"])
def show_step_page(
    caller: Reader,
    request: Request,
    run_id: RunId,
    step_id: StepId,
    index: Annotated[int | None, Query(ge=0, le=MOST_INDEX)] = None,
    status: Annotated[StepStatus | None, Query()] = None,
    every: Annotated[bool, Query()] = False,
    cursor: Cursor = None,
) -> Response:
    """Show a step of a run, or an item of it, with all that was decided about it."""
    run = show_run(caller, run_id)
    step = show_step(caller, run.run_id, step_id, index)
    graph = caller.client.graph_of(run.run_id)
    decisions = _all_decisions(caller, run)
    items = None
    if step.items is not None:
        if status is None and not every and step.items.failed:
            # Who looks at many items looks for those that failed.
            status = StepStatus.FAILED
        items = list_items(caller, run.run_id, step_id, status, ITEMS, cursor)
    return render(
        caller,
        request,
        "step.html",
        section="runs",
        step=step,
        step_id=step_id,
        index=index,
        definition=graph.nodes[step_id].step,
        why=lay_out_why(explain_step(caller, run.run_id, step_id).explanation),
        into=_tell_decisions([one for one in decisions if one.target == step_id], caller),
        out_of=_tell_decisions([one for one in decisions if one.source == step_id], caller),
        undecided=_find_undecided(decisions, graph, step_id),
        moves=find_moves(_read_events(caller, run), step_id, index),
        below=_find_below(caller, run, step_id, index),
        items=items,
        items_status=None if status is None else status.value,
        item_statuses=_ITEM_STATUSES,
        **_describe_run(caller, run),
        **_find_deeds(caller, run, step, index),
    )


# --- what both pages tell


def _describe_run(caller: Caller, run: Run) -> dict[str, Any]:
    """Return what stands at the top of a run's page, and who may do what there."""
    may_control = caller.may(Permission.RUNS_CONTROL)
    has_ended = run.status in END_OF_RUN
    name = run.slug
    if caller.may(Permission.PIPELINES_READ):
        name = caller.client.graph_of(run.run_id).definition.name
    return {
        "run": run,
        "name": name,
        "now": datetime.now(UTC),
        "has_ended": has_ended,
        "sees_data": caller.may(Permission.PAYLOADS_READ),
        "sees_definition": caller.may(Permission.PIPELINES_READ),
        "flower": caller.parts.settings.flower_url,
        "children": list_children(caller, run.run_id, CHILDREN),
        "can_cancel": may_control and not has_ended,
        "can_retry": may_control and run.status is RunStatus.FAILED and run.parent is None,
    }


# --- the views of a run


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a view is made from."""

    caller: Caller
    root: str
    run: Run
    cursor: str | None


def _tell_graph(asked: _Asked) -> dict[str, Any]:
    caller, run = asked.caller, asked.run
    steps = _all_steps(caller, run)
    if not caller.may(Permission.PIPELINES_READ):
        return {"drawing": None, "steps": steps, "marks": {}}
    graph = caller.client.graph_of(run.run_id)
    decisions = {one.transition: one.taken for one in _all_decisions(caller, run)}
    place = f"{asked.root}/runs/{run.run_id}"

    def link(step_id: str) -> str:
        return f"{place}/steps/{quote(step_id, safe='')}"

    children = list_children(caller, run.run_id, 200).items
    drawing = draw_svg(
        graph,
        states={step.step_id: step.status for step in steps},
        decisions=decisions,
        title=f"The graph of run {run.run_id}",
        links=link,
        below=_link_below(children, asked.root),
        notes={step.step_id: words for step in steps if (words := describe_counts(step))},
        has_style=False,
    )
    # It has escaped all that is not ours.
    safe = Markup(drawing)  # noqa: S704
    return {"drawing": safe, "steps": steps, "names": _names(graph)}


def _tell_timeline(asked: _Asked) -> dict[str, Any]:
    steps = _all_steps(asked.caller, asked.run)
    timeline = plan_timeline(asked.run, steps, datetime.now(UTC))
    return {"timeline": timeline, "names": _names_seen(asked)}


def _tell_events(asked: _Asked) -> dict[str, Any]:
    events = list_events(asked.caller, asked.run.run_id, 0, EVENTS, asked.cursor)
    edges: Sequence[Any] = ()
    if asked.caller.may(Permission.PIPELINES_READ):
        edges = asked.caller.client.graph_of(asked.run.run_id).edges
    ends = {edge.index: (edge.source, edge.target) for edge in edges}
    return {"events": events, "ends": ends, "is_first_page": asked.cursor is None}


def _tell_data(_asked: _Asked) -> dict[str, Any]:
    return {}


def _tell_definition(asked: _Asked) -> dict[str, Any]:
    caller, run = asked.caller, asked.run
    if not caller.may(Permission.PIPELINES_READ):
        return {"document": None, "source": ""}
    found = caller.client.version(run.slug, run.version.number, sight=caller.sight)
    document = json.loads(found.document)
    return {
        "document": document,
        "source": json.dumps(document, ensure_ascii=False, indent=2),
    }


_VIEWS: Final = {
    View.GRAPH: _tell_graph,
    View.TIMELINE: _tell_timeline,
    View.EVENTS: _tell_events,
    View.DATA: _tell_data,
    View.DEFINITION: _tell_definition,
}


def _names(graph: Graph) -> dict[str, str]:
    return {step_id: node.step.name for step_id, node in graph.nodes.items()}


def _names_seen(asked: _Asked) -> dict[str, str]:
    if not asked.caller.may(Permission.PIPELINES_READ):
        return {}
    return _names(asked.caller.client.graph_of(asked.run.run_id))


def _link_below(children: Sequence[RunLine], root: str) -> Mapping[str, str]:
    """Return the address of the latest run below each step that is no foreach."""
    return {
        child.parent.step_id: f"{root}/runs/{child.run_id}"
        for child in reversed(children)
        if child.parent is not None and child.parent.index is None
    }


# --- a step


_ITEM_STATUSES: Final = tuple(
    status.value
    for status in (
        StepStatus.FAILED,
        StepStatus.WAITING,
        StepStatus.RUNNING,
        StepStatus.SUCCEEDED,
    )
)


@dataclass(frozen=True, slots=True)
class _Told:
    """A decision, with its condition in rows; None: it may not be told."""

    decision: Decision
    rows: list[Any] | None


def _tell_decisions(decisions: Sequence[Decision], caller: Caller) -> list[_Told]:
    sees_data = caller.may(Permission.PAYLOADS_READ)
    return [
        _Told(one, lay_out_condition(one.reason or {}, one.source) if sees_data else None)
        for one in decisions
    ]


def _find_undecided(
    decisions: Sequence[Decision], graph: Graph, step_id: str
) -> list[tuple[str, str]]:
    """Return the ends of the transitions around a step that nothing was decided on."""
    known = {one.transition for one in decisions}
    node = graph.nodes[step_id]
    edges = (*node.incoming, *node.outgoing)
    return [(edge.source, edge.target) for edge in edges if edge.index not in known]


def _find_below(caller: Caller, run: Run, step_id: str, index: int | None) -> list[RunLine]:
    found = list_children(caller, run.run_id, 200).items
    return [
        child
        for child in found
        if child.parent is not None
        and child.parent.step_id == step_id
        and (index is None or child.parent.index == index)
    ]


def _find_deeds(caller: Caller, run: Run, step: Step, index: int | None) -> dict[str, Any]:
    """Return what the caller may do about a step as it stands."""
    may_control = caller.may(Permission.RUNS_CONTROL) and index is None
    signals = []
    if caller.may(Permission.SIGNALS_SEND):
        signals = [one.name for one in run.waits_for.events if one.step_id == step.step_id]
    given = step.inputs if isinstance(step.inputs, dict) else None
    return {
        "can_cancel_step": may_control and step.status in LIVE_STEP,
        "can_rerun": may_control and run.status in END_OF_RUN,
        "given": "" if given is None else json.dumps(given, ensure_ascii=False, indent=2),
        "signals": list(dict.fromkeys(signals)),
        "questions": [
            pause
            for pause in run.waits_for.pauses
            if pause.run_id == run.run_id
            and pause.step_id == step.step_id
            and (index is None or pause.index == index)
        ],
    }


# --- replies, whole


def _all_steps(caller: Caller, run: Run) -> list[StepLine]:
    page: Page[StepLine] = list_steps(caller, run.run_id, EVERYTHING)
    return page.items


def _all_decisions(caller: Caller, run: Run) -> list[Decision]:
    found = list_decisions(caller, run.run_id, None, EVERYTHING)
    return [one for one in found.items if not one.superseded]


def _read_events(caller: Caller, run: Run) -> list[Event]:
    return list_events(caller, run.run_id, 0, MOST_EVENTS).items
