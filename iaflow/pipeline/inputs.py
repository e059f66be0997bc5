"""What an attempt is given: its inputs, resolved once, and what a person is shown.

Decides which outputs a claim must bring and what comes of them; never reads them itself.
Called by the engine at a step's claim.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from iaflow.data.records import Failed
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import RenderFailed, Scope, Template, render

__all__ = ["Inputs", "reads_of", "resolve_inputs"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """
    The resolved inputs of an attempt.

    Attributes:
        data: what `work` is given.
        shown: what a person sees, by `config.show`; None without it.
        text: `data` as JSON text.
        fault: why they cannot be resolved, if so.
    """

    data: Any
    shown: Any
    text: str
    fault: Failed | None = None


def reads_of(node: Node) -> tuple[str, ...]:
    """Return whose outputs a claim must bring: without `inputs`, those of all sources too."""
    if node.inputs is not None:
        return node.reads
    sources = dict.fromkeys(edge.source for edge in node.incoming)
    return tuple(dict.fromkeys([*sources, *node.reads]))


def resolve_inputs(
    graph: Graph, node: Node, scope: Scope, *, kept: str | None, taken: Collection[str]
) -> Inputs:
    """
    Resolve a step's inputs at its claim.

    Args:
        scope: parameters, and the outputs and errors that the step's templates may read.
        kept: the inputs of an earlier attempt as JSON text, which every retry sees again.
        taken: the sources of the transitions that were taken when the step became ready.
    """
    try:
        if kept is not None:
            data = json.loads(kept)
        elif node.inputs is not None:
            data = render(node.inputs, scope)
        else:
            data = _everything(graph, scope, taken)
        shown = _render_optional(node.shown, scope)
    except RenderFailed as error:
        return Inputs(None, None, "null", Failed(error.code, str(error), retryable=False))
    return Inputs(data, shown, kept if kept is not None else dump_json(data))


def _everything(graph: Graph, scope: Scope, taken: Collection[str]) -> dict[str, Any]:
    """LANGUAGE 2: the parameters, overlaid in document order with the taken sources' outputs."""
    data = dict(scope.parameters)
    sources = [step_id for step_id in taken if step_id in scope.outputs]
    for source in sorted(sources, key=lambda step_id: graph.nodes[step_id].step.position):
        output: Mapping[str, Any] = scope.outputs[source]
        data.update(output)
    return data


def _render_optional(template: Template | None, scope: Scope) -> Any:
    return None if template is None else render(template, scope)
