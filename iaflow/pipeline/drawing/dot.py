"""Draws a graph as DOT text, for Graphviz and the tools that read its language.

Decides shapes and quoting; never renders. Called by the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iaflow.pipeline.definition import StepDefinition
from iaflow.pipeline.drawing.palette import LIGHT
from iaflow.pipeline.drawing.wording import clean, describe_transition
from iaflow.pipeline.graph import Graph

__all__ = ["draw_dot"]

_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "task": ("box", "rounded,filled"),
    "human_input": ("ellipse", "filled"),
    "pipeline": ("box", "filled"),
    "wait": ("hexagon", "filled"),
    "event": ("cds", "filled"),
    "terminate": ("octagon", "filled"),
}


def draw_dot(graph: Graph, states: Mapping[str, str] | None = None) -> str:
    """
    Return a graph in the DOT language.

    Args:
        graph: the compiled graph of a definition.
        states: a run's status for each step id; steps that are not in it count as pending. None:
            the drawing of a definition, without statuses.
    """
    lines = [
        f"digraph {_quote(clean(graph.definition.name))} {{",
        '    node [fontname="sans-serif", fontsize=11];',
        '    edge [fontname="sans-serif", fontsize=9];',
    ]
    for step_id, node in graph.nodes.items():
        state = None if states is None else clean(str(states.get(step_id, "pending")))
        lines.append(f"    {_quote(step_id)} [{_attributes(node.step, state)}];")
    for edge in graph.edges:
        words = describe_transition(graph.definition.transitions[edge.index])
        attributes = [f"label={_quote(words)}"] if words else []
        if edge.on not in ("success", "completed"):
            attributes.append("style=dashed")
        tail = f" [{', '.join(attributes)}]" if attributes else ""
        lines.append(f"    {_quote(edge.source)} -> {_quote(edge.target)}{tail};")
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(step: StepDefinition, state: str | None) -> str:
    shape, style = _SHAPES.get(str(step.type), _SHAPES["task"])
    if state in ("skipped", "cancelled"):
        style += ",dashed"
    name = clean(step.name)
    label = [name, *([step.id] if name != step.id else [])]
    label += [*(["for each item"] if step.foreach else []), *([state] if state else [])]
    key = state if f"{state}-fill" in LIGHT else "plain"
    attributes = {
        "label": _quote(*label),
        "shape": shape,
        "style": f'"{style}"',
        "fillcolor": f'"{LIGHT[f"{key}-fill"]}"',
        "color": f'"{LIGHT[f"{key}-line"]}"',
    }
    if str(step.type) == "pipeline":
        attributes["peripheries"] = "2"
    return ", ".join(f"{name}={value}" for name, value in attributes.items())


def _quote(*lines: str) -> str:
    """Return text as a quoted DOT string, one line below the other."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
