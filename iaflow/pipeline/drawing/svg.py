"""Draws a graph, and a run's progress on it, as one self-contained SVG document.

Decides shapes, texts and what is said to those who cannot see; never where things go (layout) nor
their colours (palette). Called by the command line and the web pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Final

from iaflow.pipeline.definition import StepDefinition
from iaflow.pipeline.drawing.layout import Layout, Point, Route, Sizes, place
from iaflow.pipeline.drawing.palette import GLYPHS, ICONS, build_style
from iaflow.pipeline.drawing.wording import (
    STATUSES,
    abbreviate,
    clean,
    describe_transition,
    shorten,
    text_width,
)
from iaflow.pipeline.graph import Graph

__all__ = ["draw_svg"]

_ROOMY: Final = Sizes(box_width=252.0)
_DENSE: Final = Sizes(box_width=250.0, box_height=30.0, gap_across=18.0, gap_along=44.0)
# From here on a step gets one line instead of two.
_MANY_STEPS: Final = 120
_NAME_SIZE: Final = 13.0
_SMALL_SIZE: Final = 11.5
_LABEL_SIZE: Final = 11.5
_BOLD: Final = 1.07  # how much wider bold letters are
_BOLDER: Final = 1.13  # and in a fallback font, where a frame must hold them
_WIDEST_LABEL: Final = 264.0
_MARK_WIDTH: Final = 16.0
# Where icon and texts begin and end, from the left and the right side of a shape.
_INSETS: Final[Mapping[str, tuple[float, float]]] = {
    "human_input": (20.0, 18.0),
    "wait": (18.0, 18.0),
    "event": (22.0, 18.0),
    "pipeline": (16.0, 16.0),
}
# How many steps the description names one by one.
_DESCRIBED_STEPS: Final = 40
# Room for the longest word of a status: what stands beside it stays where it is as a run goes on.
_STATUS_ROOM: Final = max(text_width(word, _SMALL_SIZE * _BOLD) for word in STATUSES) + 12


def draw_svg(
    graph: Graph,
    *,
    states: Mapping[str, str] | None = None,
    decisions: Mapping[int, bool] | None = None,
    title: str | None = None,
    links: Callable[[str], str] | None = None,
    below: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    has_style: bool = True,
) -> str:
    """
    Return a graph as an SVG document that needs nothing beside it and runs no script.

    It follows the reader's light or dark preference, and says a status by colour, by sign and by
    word. A page that embeds it finds steps by `data-step`, transitions by `data-transition`, their
    labels by `data-label` and the crosses on those without by `data-cross`. Two drawings of one
    run have everything in the same place, however far the run is.

    Args:
        graph: the compiled graph of a definition.
        states: a run's status for each step id; steps that are not in it count as pending. None:
            the drawing of a definition, without statuses.
        decisions: by the index of a transition, whether it was taken; transitions that are not
            in it are undecided. None: no run, or nothing known.
        title: the drawing's accessible name; by default the name of the pipeline.
        links: gives the address that a step leads to by its id; None: steps are no links.
        below: addresses by step id that a small sign beside the step leads to: of the run below it.
        notes: a few words by step id, which stand where else the id does.
        has_style: False for a page that has the rules of `build_style` in its own style sheet.
    """
    labels = _choose_labels(graph, decisions)
    sizes = _DENSE if len(graph.nodes) > _MANY_STEPS else _ROOMY
    layout = place(graph, {index: label.width for index, label in labels.items()}, sizes)
    name = clean(title or graph.definition.name)
    # Two drawings may stand on one page: what one refers to is its own.
    key = f"iaf-{graph.definition.content_hash[:12]}"
    width, height = _number(layout.width), _number(layout.height)
    # What is a picture has no links in it.
    role = "img" if links is None else "group"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="iaf" role="{role}" width="{width}"'
        f' height="{height}" viewBox="0 0 {width} {height}"'
        f' aria-labelledby="{key}-title {key}-desc">'
    )
    return "\n".join(
        [
            opening,
            f'<title id="{key}-title">{escape(name)}</title>',
            f'<desc id="{key}-desc">{escape(_describe(graph, states))}</desc>',
            *([f"<style>{build_style()}</style>"] if has_style else []),
            f'<rect class="canvas" width="{width}" height="{height}"/>',
            *_draw_edges(graph, layout, labels, decisions),
            _draw_start(layout, layout.boxes[graph.start], sizes),
            *(
                _draw_step(
                    node.step,
                    layout.boxes[step_id],
                    sizes,
                    _state(states, step_id),
                    None if links is None else links(step_id),
                    clean((notes or {}).get(step_id, "")),
                )
                for step_id, node in graph.nodes.items()
            ),
            *(
                _draw_below(step_id, layout.boxes[step_id], sizes, address)
                for step_id, address in (below or {}).items()
                if step_id in layout.boxes
            ),
            *_draw_crosses(layout, decisions),
            *_draw_labels(graph, layout, labels, decisions),
            "</svg>\n",
        ]
    )


# --- words


class _Label:
    """A transition's label: its short text, the whole of it, and its width in pixels."""

    __slots__ = ("text", "whole", "width")

    def __init__(self, whole: str, brief: str, *, is_of_run: bool) -> None:
        # Room for the mark of a decision, and bold letters if it is taken, before it is decided.
        spare = 16.0 + (_MARK_WIDTH if is_of_run else 0.0)
        size = _LABEL_SIZE * (_BOLDER if is_of_run else 1.0)
        self.whole = whole
        self.text = shorten(brief, _WIDEST_LABEL - spare, size)
        self.width = text_width(self.text, size) + spare


def _choose_labels(graph: Graph, decisions: Mapping[int, bool] | None) -> dict[int, _Label]:
    labels = {}
    for edge in graph.edges:
        transition = graph.definition.transitions[edge.index]
        if whole := describe_transition(transition):
            brief = abbreviate(whole, edge.source)
            labels[edge.index] = _Label(whole, brief, is_of_run=decisions is not None)
    return labels


def _state(states: Mapping[str, str] | None, step_id: str) -> str | None:
    return None if states is None else clean(str(states.get(step_id, "pending")))


def _describe(graph: Graph, states: Mapping[str, str] | None) -> str:
    """Return what the drawing shows, for those who do not see it."""
    steps, edges = len(graph.nodes), len(graph.edges)
    size = f"{_count(steps, 'step')} and {_count(edges, 'transition')}"
    sentences = [f"A graph of {size}, starting at {graph.start}."]
    if states is not None:
        counts: dict[str, int] = {}
        for step_id in graph.nodes:
            state = _state(states, step_id) or ""
            counts[state] = counts.get(state, 0) + 1
        sentences.append(", ".join(f"{n} {state}" for state, n in counts.items()) + ".")
    if steps <= _DESCRIBED_STEPS:
        sentences += [_describe_step(graph, step_id, states) for step_id in graph.order]
    return " ".join(sentences)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _describe_step(graph: Graph, step_id: str, states: Mapping[str, str] | None) -> str:
    node = graph.nodes[step_id]
    words = [_naming(node.step)]
    if states is not None:
        words.append(_state(states, step_id) or "")
    targets = []
    for edge in node.outgoing:
        asked = describe_transition(graph.definition.transitions[edge.index])
        targets.append(f"{edge.target} ({asked})" if asked else edge.target)
    goes_on = f", then {', '.join(targets)}" if targets else ""
    return f"{', '.join(words)}{goes_on}."


def _naming(step: StepDefinition) -> str:
    name = clean(step.name)
    return name if name == step.id else f"{name} ({step.id})"


# --- steps


def _draw_step(
    step: StepDefinition,
    at: Point,
    sizes: Sizes,
    state: str | None,
    link: str | None,
    note: str,
) -> str:
    kind = str(step.type)
    known = state if state in STATUSES else None
    classes = f"step {kind}" + (f" {known}" if known else "")
    told = ", ".join([_naming(step), kind.replace("_", " "), *filter(None, [state, note])])
    x, y = at[0] - sizes.box_width / 2, at[1] - sizes.box_height / 2
    opening, closing = "<g", "</g>"
    if link is not None:
        opening, closing = f'<a href="{escape(link)}" aria-label="{escape(told)}"', "</a>"
    return (
        f'{opening} class="{classes}" data-step="{escape(step.id)}"'
        f' transform="translate({_number(x)} {_number(y)})">'
        f"<title>{escape(told)}</title>"
        f"{_draw_box(step, kind, sizes)}{_draw_texts(step, kind, sizes, state, note)}{closing}"
    )


def _draw_below(step_id: str, at: Point, sizes: Sizes, address: str) -> str:
    """Draw the way down to the run of a step, at the lower right corner of its box."""
    x, y = at[0] + sizes.box_width / 2 - 13, at[1] + sizes.box_height / 2 - 9
    told = escape(f"The run below {clean(step_id)}")
    return (
        f'<a class="below" href="{escape(address)}" aria-label="{told}"'
        f' data-below="{escape(step_id)}" transform="translate({_number(x)} {_number(y)})">'
        f'<title>{told}</title><rect class="box" width="20" height="20" rx="6"/>'
        '<path class="icon" d="M10 5v9M6 10.5 10 14.5 14 10.5"/></a>'
    )


def _draw_box(step: StepDefinition, kind: str, sizes: Sizes) -> str:
    w, h = sizes.box_width, sizes.box_height
    behind = ""
    if step.foreach is not None:
        # One execution per item: a stack of boxes, below, so that it hides no arrowhead.
        behind = "".join(
            f'<rect class="box" x="{shift}" y="{shift}" width="{_number(w)}"'
            f' height="{_number(h)}" rx="8"/>'
            for shift in (8, 4)
        )
    match kind:
        case "human_input":
            return f"{behind}{_rect(w, h, rx=h / 2)}"
        case "pipeline":
            inner = f'<path class="inner" d="M5 0v{_number(h)}M{_number(w - 5)} 0v{_number(h)}"/>'
            return f"{behind}{_rect(w, h, rx=2)}{inner}"
        case "wait":
            tip = h * 0.25
            return behind + _polygon(
                (tip, 0), (w - tip, 0), (w, h / 2), (w - tip, h), (tip, h), (0, h / 2)
            )
        case "event":
            tip = h * 0.25
            return behind + _polygon(
                (0, 0), (w - tip, 0), (w, h / 2), (w - tip, h), (0, h), (tip, h / 2)
            )
        case "terminate":
            cut = h * 0.25
            return behind + _polygon(
                (cut, 0),
                (w - cut, 0),
                (w, cut),
                (w, h - cut),
                (w - cut, h),
                (cut, h),
                (0, h - cut),
                (0, cut),
            )
        case _:
            return f"{behind}{_rect(w, h, rx=8)}"


def _rect(width: float, height: float, *, rx: float) -> str:
    return (
        f'<rect class="box" width="{_number(width)}" height="{_number(height)}"'
        f' rx="{_number(rx)}"/>'
    )


def _polygon(*points: Point) -> str:
    path = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return f'<path class="box" stroke-linejoin="round" d="M{path}z"/>'


def _draw_texts(step: StepDefinition, kind: str, sizes: Sizes, state: str | None, note: str) -> str:
    """Draw icon and name; below or beside them the id, what a foreach does, and the status."""
    width, height = sizes.box_width, sizes.box_height
    inset, outset = _INSETS.get(kind, (13.0, 13.0))
    left, right = inset + 29, width - outset
    parts = [
        _draw_icon(kind, inset, height / 2 - 10),
    ]
    name, detail = clean(step.name), note or _detail(step)
    one_line = sizes is _DENSE or not (detail or state)
    first, second = (height / 2 + 4.7,) * 2 if one_line else (height * 0.33 + 5, height * 0.72 + 3)
    name_room = right - left
    if state is not None:
        parts.append(_draw_badge(state, right - 8.5, first - 4.7))
        name_room -= 24
        word = shorten(state, 100.0, _SMALL_SIZE * _BOLD)
        word_room = max(_STATUS_ROOM, text_width(word, _SMALL_SIZE * _BOLD) + 12)
        parts.append(_text("status", (right - 22 if one_line else right, second), word))
        if one_line:
            name_room -= word_room
        detail = shorten(detail, right - left - word_room, _SMALL_SIZE)
    else:
        detail = shorten(detail, right - left, _SMALL_SIZE)
    parts.append(_text("name", (left, first), shorten(name, name_room, _NAME_SIZE * _BOLD)))
    if detail and not one_line:
        parts.append(_text("id", (left, second), detail))
    return "".join(parts)


def _detail(step: StepDefinition) -> str:
    own = [] if clean(step.name) == step.id else [step.id]
    return ", ".join(own + (["for each item"] if step.foreach is not None else []))


def _draw_icon(kind: str, x: float, y: float) -> str:
    icon = ICONS.get(kind, ICONS["task"])
    return f'<path class="icon" transform="translate({_number(x)} {_number(y)})" d="{icon}"/>'


def _draw_badge(state: str, x: float, y: float) -> str:
    glyph = GLYPHS.get(state)
    if glyph is None:
        return ""
    return (
        f'<circle class="badge" cx="{_number(x)}" cy="{_number(y)}" r="8.5"/>'
        f'<path class="glyph" transform="translate({_number(x - 6.4)} {_number(y - 6.4)})'
        f' scale(.8)" d="{glyph}"/>'
    )


def _text(kind: str, at: Point, text: str) -> str:
    return f'<text class="{kind}" x="{_number(at[0])}" y="{_number(at[1])}">{escape(text)}</text>'


def _draw_start(layout: Layout, at: Point, sizes: Sizes) -> str:
    """Draw the dot from which the flow comes, at the edge of the first step."""
    x, y = at
    if layout.downwards:
        dot, stem = (x, y - sizes.box_height / 2 - 17), (x, y - sizes.box_height / 2 - 7)
    else:
        dot, stem = (x - sizes.box_width / 2 - 17, y), (x - sizes.box_width / 2 - 7, y)
    return (
        f'<g class="edge taken"><circle class="start" cx="{_number(dot[0])}"'
        f' cy="{_number(dot[1])}" r="5"/>{_draw_head(_beyond(stem, layout), layout)}</g>'
    )


def _beyond(point: Point, layout: Layout) -> Point:
    return (point[0], point[1] + 6) if layout.downwards else (point[0] + 6, point[1])


# --- transitions


def _draw_edges(
    graph: Graph,
    layout: Layout,
    labels: Mapping[int, _Label],
    decisions: Mapping[int, bool] | None,
) -> Iterator[str]:
    # What was taken lies over what was not.
    for edge in sorted(graph.edges, key=lambda edge: bool(decisions and decisions.get(edge.index))):
        route = layout.routes[edge.index]
        told = clean(f"{edge.source} → {edge.target}")
        if edge.index in labels:
            told += f", {labels[edge.index].whole}"
        verdict = _verdict(edge.index, decisions)
        if verdict:
            told += f": {verdict}"
        classes = " ".join(filter(None, ["edge", _route_class(str(edge.on)), verdict]))
        yield (
            f'<g class="{classes}" data-transition="{edge.index}"><title>{escape(told)}</title>'
            f'<path class="line" d="{_path(route, layout)}"/>{_draw_head(route.points[-1], layout)}</g>'
        )


def _verdict(index: int, decisions: Mapping[int, bool] | None) -> str:
    if decisions is None:
        return ""
    match decisions.get(index):
        case None:
            return "undecided"
        case taken:
            return "taken" if taken else "refused"


def _route_class(on: str) -> str:
    return "" if on in ("success", "completed") else "route"


def _path(route: Route, layout: Layout) -> str:
    """Return the path's data: swings with ends along the flow, straight lines between them."""
    points = list(route.points)
    # The line ends inside the arrowhead, so that its end does not show at the tip.
    x, y = points[-1]
    points[-1] = (x, y - 6) if layout.downwards else (x - 6, y)
    commands = [f"M{_pair(points[0])}"]
    for k in range(0, len(points), 2):
        if k:
            commands.append(f"L{_pair(points[k])}")
        (x0, y0), (x1, y1) = points[k], points[k + 1]
        if layout.downwards:
            bend = (y1 - y0) * 0.5
            first, second = (x0, y0 + bend), (x1, y1 - bend)
        else:
            bend = (x1 - x0) * 0.5
            first, second = (x0 + bend, y0), (x1 - bend, y1)
        commands.append(f"C{_pair(first)} {_pair(second)} {_pair((x1, y1))}")
    return "".join(commands)


def _draw_head(tip: Point, layout: Layout) -> str:
    back = "-4.5 -9h9z" if layout.downwards else "-9 -4.5v9z"
    return f'<path class="head" d="M{_pair(tip)}l{back}"/>'


def _draw_crosses(layout: Layout, decisions: Mapping[int, bool] | None) -> Iterator[str]:
    """Draw a cross on each refused transition without a label; a label has its own."""
    for index, route in layout.routes.items():
        if route.label is None and _verdict(index, decisions) == "refused":
            yield f'<g class="refused" data-cross="{index}">{_draw_cross(_middle_of_first_swing(route))}</g>'


def _middle_of_first_swing(route: Route) -> Point:
    (x0, y0), (x1, y1) = route.points[:2]
    return (x0 + x1) / 2, (y0 + y1) / 2


def _draw_cross(at: Point) -> str:
    x, y = at
    return (
        f'<circle class="hole" cx="{_number(x)}" cy="{_number(y)}" r="7.5"/>'
        f'<path class="mark" d="M{_pair((x - 4, y - 4))}l8 8'
        f'M{_pair((x + 4, y - 4))}l-8 8"/>'
    )


def _draw_labels(
    graph: Graph,
    layout: Layout,
    labels: Mapping[int, _Label],
    decisions: Mapping[int, bool] | None,
) -> Iterator[str]:
    for index, label in labels.items():
        at = layout.routes[index].label
        if at is None:
            continue
        edge = graph.edges[index]
        verdict = _verdict(index, decisions)
        classes = " ".join(filter(None, ["label", _route_class(str(edge.on)), verdict]))
        told = f"{edge.source} → {edge.target}, {label.whole}" + (f": {verdict}" if verdict else "")
        left, top = at[0] - label.width / 2, at[1] - 10
        mark, text_at = "", at[0] - (label.width - (_MARK_WIDTH if verdict else 0.0)) / 2 + 8
        if verdict in ("taken", "refused"):
            glyph = GLYPHS["succeeded" if verdict == "taken" else "failed"]
            mark = (
                f'<path class="mark" transform="translate({_number(left + 6)} {_number(top + 4)})'
                f' scale(.75)" d="{glyph}"/>'
            )
            text_at = left + 5 + _MARK_WIDTH
        yield (
            f'<g class="{classes}" data-label="{index}"><title>{escape(told)}</title>'
            f'<rect x="{_number(left)}" y="{_number(top)}" width="{_number(label.width)}"'
            f' height="20" rx="10"/>{mark}'
            f'<text x="{_number(text_at)}" y="{_number(top + 14)}">{escape(label.text)}</text></g>'
        )


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) < 100_000 else f"{value:.0f}"
