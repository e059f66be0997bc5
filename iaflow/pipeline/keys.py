"""The concurrency key of a step: a template that must give a word.

Decides what a legal key is (LANGUAGE section 2); never who holds it. Called when a step becomes
ready, and for each item when a step fans out.
"""

from __future__ import annotations

from typing import Final

from iaflow.pipeline.graph import Node
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import RenderFailed, Scope, render

__all__ = ["KeyInvalid", "render_key"]

MAX_KEY: Final = 1_000
"""Letters of the longest key: it is part of an index."""


class KeyInvalid(RenderFailed):
    """A `concurrency_key` came to nothing that could be a key."""

    code = "concurrency_key_invalid"


def render_key(node: Node, scope: Scope) -> str:
    """
    Return the key of a step that has one; a number or an object is taken as its JSON text.

    Raises:
        RenderFailed: its template cannot be rendered.
        KeyInvalid: it is null, empty or too long.
    """
    assert node.concurrency_key is not None
    value = render(node.concurrency_key, scope)
    if value is None:
        raise KeyInvalid("the concurrency_key is null")
    key = value if isinstance(value, str) else dump_json(value)
    if not key or len(key) > MAX_KEY:
        found = f"{len(key):,} letters long" if key else "empty"
        raise KeyInvalid(f"the concurrency_key is {found}; it has 1 to {MAX_KEY:,} letters")
    return key
