"""Places steps, labels and the paths of transitions on a plane.

Decides coordinates, in pixels from the top left corner; never how anything looks. Called by the
SVG drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import fast_sugiyama

from iaflow.pipeline.graph import Graph

__all__ = ["Layout", "Point", "Route", "Sizes", "place"]

Point = tuple[float, float]

# A page scrolls down: up to this width the graph runs from top to bottom, a wider one from left
# to right, where its width is the number of its layers.
_COMFORTABLE_WIDTH: Final = 1240.0
# Up to here the layout may take its time for fewer crossings (seconds at most).
_FINE_VERTICES: Final = 600
# A transition that passes many layers costs a vertex in each. Beyond this sum the longest ones
# are left to fly straight, so that no definition can make a drawing take minutes.
_MOST_VERTICES: Final = 40_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """
    The measures of a drawing in pixels.

    Attributes:
        box_width, box_height: of every step.
        gap_across: between the boxes of a layer.
        gap_along: between two layers.
        label_height: of a label's line.
    """

    box_width: float = 220.0
    box_height: float = 56.0
    gap_across: float = 32.0
    gap_along: float = 40.0
    label_height: float = 20.0


@dataclass(frozen=True, slots=True)
class Route:
    """
    The path of a transition.

    Attributes:
        points: from the edge of the source to the edge of the target, an even number: the path
            swings across from each point of even index to the next, and runs straight along
            the flow between those swings, past boxes and behind its label.
        label: the middle of its label; None without one.
    """

    points: tuple[Point, ...]
    label: Point | None


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Where everything goes.

    Attributes:
        width, height: of the whole, margins included.
        downwards: the flow runs from top to bottom, else from left to right.
        boxes: the middle of each step by its id.
        routes: by the index of the transition.
    """

    width: float
    height: float
    downwards: bool
    boxes: Mapping[str, Point]
    routes: Mapping[int, Route]


def place(graph: Graph, labels: Mapping[int, float], sizes: Sizes, margin: float = 28.0) -> Layout:
    """
    Lay a graph out in layers.

    A label gets a vertex of its own in the layers, so that it never lies on a box or on another
    label, and the paths of several transitions between the same two steps stay apart.

    Args:
        graph: at least one step, all of them reachable from the first.
        labels: the widths of the labels by the index of their transition, in pixels.
        sizes: the measures of boxes and gaps.
        margin: the room around the drawing in pixels.
    """
    ids = tuple(graph.nodes)
    vertex_of = {step_id: vertex for vertex, step_id in enumerate(ids)}
    middle_of = {index: len(ids) + k for k, index in enumerate(labels)}
    stops = {
        edge.index: (
            vertex_of[edge.source],
            *((middle_of[edge.index],) if edge.index in labels else ()),
            vertex_of[edge.target],
        )
        for edge in graph.edges
    }
    order = [vertex_of[step_id] for step_id in graph.order]
    layers = _arrange(len(ids) + len(labels), order, stops.values())
    widths = {middle_of[index]: width for index, width in labels.items()}
    grid = _Grid.choose(layers, len(ids), widths, sizes, margin)
    routes = {index: grid.route(path, layers) for index, path in stops.items()}
    return Layout(
        width=grid.width,
        height=grid.height,
        downwards=grid.downwards,
        boxes={step_id: grid.point(vertex_of[step_id]) for step_id in ids},
        routes=_spread_ends(routes, graph, sizes, downwards=grid.downwards),
    )


@dataclass(frozen=True, slots=True)
class _Layers:
    """The abstract layout: a rank and a place across for each vertex, bends for long pieces."""

    rank: Mapping[int, int]
    across: Mapping[int, float]
    bends: Mapping[tuple[int, int], tuple[int, ...]]


def _arrange(count: int, order: list[int], paths: Iterable[tuple[int, ...]]) -> _Layers:
    # Two transitions without a label between the same two steps do not exist, so no piece is
    # there twice; a dict keeps the order, and with it the drawing, the same each time.
    pieces = list(dict.fromkeys(pair for path in paths for pair in pairwise(path)))
    if not pieces:
        return _Layers({0: 0}, {0: 0.0}, {})
    kept = _within_budget(count, order, pieces)
    fine = count <= _FINE_VERTICES
    # `minimum_length` stays 1 and pieces are unique: other values make the library abort the
    # process on some graphs.
    components = fast_sugiyama.from_edges(
        kept,
        minimum_length=1,
        vertex_spacing=1,
        dummy_vertices=True,
        ranking_type="minimize" if fine else "up",
        crossing_minimization="barycenter",
        transpose=fine,
        check_layout=False,
    )
    rank: dict[int, int] = {}
    across: dict[int, float] = {}
    after: dict[int, int] = {}
    heads: list[tuple[int, int]] = []
    offset = 0.0
    for positions, width, height, drawn in components:
        for vertex, (x, y) in positions:
            rank[int(vertex)] = round(height - y)
            across[int(vertex)] = x + offset
        offset += width + 1
        for a, b in drawn or ():
            if int(a) >= count:
                after[int(a)] = int(b)
            elif int(b) >= count:
                heads.append((int(a), int(b)))
    return _Layers(rank, across, dict(_follow(heads, after, count)))


def _follow(
    heads: Iterable[tuple[int, int]], after: Mapping[int, int], count: int
) -> Iterator[tuple[tuple[int, int], tuple[int, ...]]]:
    """Yield each long piece with the bends on its way."""
    for source, bend in heads:
        bends = [bend]
        while (vertex := after[bends[-1]]) >= count:
            bends.append(vertex)
        yield (source, vertex), tuple(bends)


def _within_budget(
    count: int, order: list[int], pieces: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the pieces to lay out: all, or without the longest if they cost too many vertices."""
    incoming: dict[int, list[int]] = {}
    for a, b in pieces:
        incoming.setdefault(b, []).append(a)
    middles = sorted(set(range(count)) - set(order))
    depth = _depths(order, middles, incoming)
    spans = {(a, b): depth[b] - depth[a] for a, b in pieces}
    spare = _MOST_VERTICES - count
    if sum(spans.values()) - len(spans) <= spare:
        return pieces
    # Each vertex keeps its shortest way in, so that the graph stays in one piece.
    nearest = {(max(sources, key=depth.__getitem__), b) for b, sources in incoming.items()}
    kept = set()
    for piece in sorted(pieces, key=lambda piece: (piece not in nearest, spans[piece])):
        spare -= spans[piece] - 1
        if piece in nearest or spare >= 0:
            kept.add(piece)
    return [piece for piece in pieces if piece in kept]


def _depths(
    order: list[int], middles: list[int], incoming: Mapping[int, list[int]]
) -> dict[int, int]:
    depth: dict[int, int] = {}
    of_middle = {middle: incoming[middle][0] for middle in middles}
    for vertex in order:
        sources = incoming.get(vertex, [])
        for source in sources:
            if source in of_middle:
                depth[source] = depth[of_middle[source]] + 1
        depth[vertex] = max((depth[source] + 1 for source in sources), default=0)
    return depth


@dataclass(frozen=True, slots=True)
class _Grid:
    """Layers turned into pixels, in one of the two directions."""

    downwards: bool
    width: float
    height: float
    along: Mapping[int, tuple[float, float]]  # rank -> where its boxes begin and end
    spans: Mapping[int, tuple[float, float]]  # vertex -> where it begins and ends along the flow
    across: Mapping[int, float]

    @staticmethod
    def choose(
        layers: _Layers, boxes: int, labels: Mapping[int, float], sizes: Sizes, margin: float
    ) -> _Grid:
        """Return the grid that a page can show: downwards if it fits, else the narrower one."""
        down, right = (
            _Grid._make(layers, boxes, labels, sizes, margin, downwards=downwards)
            for downwards in (True, False)
        )
        return down if down.width <= max(_COMFORTABLE_WIDTH, right.width) else right

    @staticmethod
    def _make(
        layers: _Layers,
        boxes: int,
        labels: Mapping[int, float],
        sizes: Sizes,
        margin: float,
        *,
        downwards: bool,
    ) -> _Grid:
        box_along, box_across = (
            (sizes.box_height, sizes.box_width)
            if downwards
            else (sizes.box_width, sizes.box_height)
        )
        # A bend keeps three quarters of the distance of two boxes from a box.
        step = box_across + (sizes.gap_across if downwards else sizes.gap_across * 0.56)
        if downwards and labels:
            step = max(step, max(labels.values()) + 12)
        lowest, highest = min(layers.across.values()), max(layers.across.values())
        across = {
            vertex: margin + box_across / 2 + (place - lowest) * step
            for vertex, place in layers.across.items()
        }
        extents = {
            vertex: (
                box_along
                if vertex < boxes
                else (sizes.label_height if downwards else labels.get(vertex, 0.0) + 10)
            )
            for vertex in layers.rank
            if vertex < boxes or vertex in labels
        }
        along = _stack_ranks(layers, extents, across, sizes.gap_along, margin)
        length = max(end for _, end in along.values()) + margin
        breadth = 2 * margin + box_across + (highest - lowest) * step
        spans = {}
        for vertex, rank in layers.rank.items():
            begin, end = along[rank]
            extent = extents.get(vertex, end - begin)
            spans[vertex] = ((begin + end - extent) / 2, (begin + end + extent) / 2)
        return _Grid(
            downwards=downwards,
            width=breadth if downwards else length,
            height=length if downwards else breadth,
            along=along,
            spans=spans,
            across=across,
        )

    def point(self, vertex: int) -> Point:
        """Return the middle of a vertex."""
        begin, end = self.spans[vertex]
        return self._turn(self.across[vertex], (begin + end) / 2)

    def route(self, stops: tuple[int, ...], layers: _Layers) -> Route:
        """Return the path over the stops of a transition (source, perhaps a label, target)."""
        vertices = [stops[0]]
        for pair in pairwise(stops):
            vertices += [*layers.bends.get(pair, ()), pair[1]]
        points = [
            self._turn(self.across[vertex], end)
            for vertex in vertices
            for end in self._passage(vertex, layers)
        ]
        return Route(tuple(points[1:-1]), self.point(stops[1]) if len(stops) > 2 else None)

    def _passage(self, vertex: int, layers: _Layers) -> tuple[float, float]:
        """Return where a path enters and leaves the layer of a vertex."""
        return self.spans[vertex] if vertex in self.spans else self.along[layers.rank[vertex]]

    def _turn(self, across: float, along: float) -> Point:
        return (across, along) if self.downwards else (along, across)


def _stack_ranks(
    layers: _Layers,
    extents: Mapping[int, float],
    across: Mapping[int, float],
    gap: float,
    margin: float,
) -> dict[int, tuple[float, float]]:
    """Return where each rank begins and ends along the flow."""
    ranks: dict[int, list[int]] = {}
    for vertex, rank in layers.rank.items():
        ranks.setdefault(rank, []).append(vertex)
    stacked: dict[int, tuple[float, float]] = {}
    begin = margin
    previous = 0.0
    for rank in sorted(ranks):
        extent = max((extents.get(vertex, 0.0) for vertex in ranks[rank]), default=0.0)
        places = [across[vertex] for vertex in ranks[rank]]
        breadth = max(places) - min(places)
        if stacked:
            # Room for long swings, or a wide fan would arrive as a flat line.
            begin += gap + min(90.0, max(breadth, previous) * 0.03)
        stacked[rank] = (begin, begin + extent)
        begin += extent
        previous = breadth
    return stacked


def _spread_ends(
    routes: Mapping[int, Route], graph: Graph, sizes: Sizes, *, downwards: bool
) -> dict[int, Route]:
    """Give transitions that leave or enter the same step a place of their own at its edge."""
    axis = 0 if downwards else 1
    side = sizes.box_width if downwards else sizes.box_height
    points = {index: list(route.points) for index, route in routes.items()}
    for node in graph.nodes.values():
        for edges, end, beside in ((node.outgoing, 0, 1), (node.incoming, -1, -2)):
            sorted_edges = sorted(
                (edge.index for edge in edges),
                key=lambda index: (points[index][beside][axis], index),
            )
            distance = min(18.0, side * 0.5 / max(1, len(edges)))
            for k, index in enumerate(sorted_edges):
                offset = (k - (len(edges) - 1) / 2) * distance
                x, y = points[index][end]
                points[index][end] = (x + offset, y) if downwards else (x, y + offset)
    return {index: Route(tuple(points[index]), routes[index].label) for index in routes}
