"""Draws a graph as Mermaid flowchart text, for Markdown pages.

Decides shapes and quoting; never renders. Called by the command line and the docs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iaflow.pipeline.definition import StepDefinition
from iaflow.pipeline.drawing.palette import LIGHT
from iaflow.pipeline.drawing.wording import STATUSES, clean, describe_transition
from iaflow.pipeline.graph import Graph

__all__ = ["draw_mermaid"]

_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "task": ("[", "]"),
    "human_input": ("([", "])"),
    "pipeline": ("[[", "]]"),
    "wait": ("{{", "}}"),
    "event": (">", "]"),
    "terminate": ("(((", ")))"),
}


def draw_mermaid(graph: Graph, states: Mapping[str, str] | None = None) -> str:
    """
    Return a graph as a Mermaid flowchart.

    Steps are called `s0`, `s1`, … by their place in the document, as Mermaid reserves words such
    as `end`; the names stand in the labels.

    Args:
        graph: the compiled graph of a definition.
        states: a run's status for each step id; steps that are not in it count as pending. None:
            the drawing of a definition, without statuses.
    """
    names = {step_id: f"s{k}" for k, step_id in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    used: set[str] = set()
    for step_id, node in graph.nodes.items():
        state = None if states is None else clean(str(states.get(step_id, "pending")))
        opening, closing = _SHAPES.get(str(node.step.type), _SHAPES["task"])
        label = "<br/>".join(_quote(line) for line in _lines(node.step, state))
        coloured = f":::{state}" if state in STATUSES else ""
        used.update({state} if state in STATUSES and state else ())
        lines.append(f'    {names[step_id]}{opening}"{label}"{closing}{coloured}')
    for edge in graph.edges:
        words = describe_transition(graph.definition.transitions[edge.index])
        arrow = "-->" if edge.on in ("success", "completed") else "-.->"
        label = f'|"{_quote(words)}"|' if words else ""
        lines.append(f"    {names[edge.source]} {arrow}{label} {names[edge.target]}")
    lines += [f"    classDef {state} {_colours(state)}" for state in sorted(used)]
    return "\n".join(lines) + "\n"


def _lines(step: StepDefinition, state: str | None) -> list[str]:
    name = clean(step.name)
    told = [name, *([step.id] if name != step.id else [])]
    return [*told, *(["for each item"] if step.foreach else []), *([state] if state else [])]


def _quote(text: str) -> str:
    """Return `text` with all that Mermaid or HTML would read as a mark written as an entity."""
    return "".join(
        character
        if character.isalnum() or character in " .,:;()-_/=?!+'→≠≥≤…"
        else f"#{ord(character)};"
        for character in text
    )


def _colours(state: str) -> str:
    key = state if f"{state}-fill" in LIGHT else "plain"
    fill, line, ink = (LIGHT[f"{key}-{part}"] for part in ("fill", "line", "ink"))
    dashes = ",stroke-dasharray:5 4" if state in ("skipped", "cancelled") else ""
    return f"fill:{fill},stroke:{line},color:{ink}{dashes}"
