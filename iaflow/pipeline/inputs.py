"""What an attempt is given: its inputs, resolved once, and what a person is shown.

Decides which outputs a claim must bring and what comes of them; never reads them itself.
Called by the engine at a step's claim.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from iaflow.data.records import Failed
from iaflow.pipeline.definition import MAX_ITEMS
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.keys import render_key
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
        items: of a step that is to fan out: the values; None otherwise.
        keys: the concurrency key of each of these, if the step has one.
        timer: what `config.seconds` or `config.until` came to; None without them.
    """

    data: Any
    shown: Any
    text: str
    fault: Failed | None = None
    items: tuple[Any, ...] | None = None
    keys: tuple[str, ...] = ()
    timer: Any = None


def reads_of(node: Node, *, is_item: bool = False) -> tuple[str, ...]:
    """
    Return whose outputs a claim must bring: without `inputs`, those of all sources too.

    An item has its value already: not the list that it is from, which may be long.
    """
    if is_item:
        return node.input_reads
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
        scope: parameters, and the outputs and errors that the step's templates may read; with
            the item, if it is one that was claimed.
        kept: the inputs of an earlier attempt as JSON text, which every retry sees again.
        taken: the sources of the transitions that were taken when the step became ready.
    """
    is_item = scope.index is not None
    try:
        if node.foreach_items is not None and not is_item:
            return _resolve_items(node, scope, kept)
        if kept is not None:
            data = json.loads(kept)
        elif node.inputs is not None:
            data = render(node.inputs, scope)
        elif is_item:
            data = _wrap(scope)
        else:
            data = _everything(graph, scope, taken)
        shown = _render_optional(node.shown, scope)
        if node.timer is not None:
            data = _with_timer(node, data, scope, is_kept=kept is not None)
    except RenderFailed as error:
        return _faulty(error.code, str(error))
    text = kept if kept is not None else dump_json(data)
    timer = data[_timer_key(node)] if node.timer is not None else None
    return Inputs(data, shown, text, timer=timer)


def _with_timer(node: Node, data: Any, scope: Scope, *, is_kept: bool) -> Any:
    """
    Return the inputs of a wait: those of its own, and what its time came to at the first claim.

    A wait has nothing else to work with: without `inputs` it is given its time alone.
    """
    if is_kept:
        return data
    own = data if node.inputs is not None else {}
    return {**own, _timer_key(node): _render_optional(node.timer, scope)}


def _timer_key(node: Node) -> str:
    return "until" if "until" in node.step.config else "seconds"


def _resolve_items(node: Node, scope: Scope, kept: str | None) -> Inputs:
    """LANGUAGE 6: a list, at most so long; a key of each item, if the step has keys."""
    assert node.foreach_items is not None
    items = render(node.foreach_items, scope) if kept is None else json.loads(kept)
    if not isinstance(items, list):
        kind = "null" if items is None else type(items).__name__
        return _faulty("items_invalid", f"foreach.items came to {kind}, which is no list")
    if len(items) > MAX_ITEMS:
        message = f"foreach.items has {len(items):,} items, more than the limit of {MAX_ITEMS:,}"
        return _faulty("items_invalid", message)
    keys: tuple[str, ...] = ()
    if node.concurrency_key is not None:
        keys = tuple(
            render_key(node, replace(scope, item=item, index=index))
            for index, item in enumerate(items)
        )
    text = dump_json(items) if kept is None else kept
    return Inputs(None, None, text, items=tuple(items), keys=keys)


def _wrap(scope: Scope) -> Any:
    """An item is what `work` is given; one that is no object is wrapped."""
    if isinstance(scope.item, dict):
        return scope.item
    return {"item": scope.item, "index": scope.index}


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


def _faulty(code: str, message: str) -> Inputs:
    return Inputs(None, None, "null", Failed(code, message, retryable=False))
