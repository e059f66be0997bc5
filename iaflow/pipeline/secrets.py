"""Secrets in a definition: where they stand, how they are filled in, and that they stay hidden.

Decides the places and the words alone; never where a secret comes from (a service knows) and
never stores one. Called by check, and by attempts just before `work`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.strict_json import join_pointer

__all__ = ["MASK", "fill_in", "find_secrets", "hide", "names_of", "shows"]

MASK: Final = "***"
"""What stands in the place of a secret, wherever one would be shown."""

SHORTEST_HIDDEN: Final = 4
"""Letters of the shortest secret that is looked for: shorter ones are part of any text."""


def find_secrets(graph: Graph) -> Iterator[tuple[Node, str, str, dict[str, Any]]]:
    """Yield every object with the key ``$secret``: its step, `inputs` or `config`, pointer, itself."""
    for node in graph.nodes.values():
        step = node.step
        for key, value in (("inputs", step.inputs), ("config", step.config)):
            for pointer, found in _find(value, f"/steps/{step.position}/{key}"):
                yield node, key, pointer, found


def names_of(*values: Any) -> tuple[str, ...]:
    """Return the names of the secrets that stand in some values of a definition, each once."""
    return tuple(
        dict.fromkeys(found["$secret"] for value in values for _, found in _find(value, ""))
    )


def fill_in(value: Any, written: Any, secrets: Mapping[str, str]) -> Any:
    """
    Return `value` with secrets in the places where the definition has them.

    Only these places: what a value from elsewhere contains is never read as a secret's name.

    Args:
        value: the inputs as resolved, or the config.
        written: the same as the definition has it.
        secrets: by name.
    """
    if isinstance(written, dict):
        if "$secret" in written:
            return secrets[written["$secret"]] if value == written else value
        if isinstance(value, dict):
            return {
                key: fill_in(member, written.get(key), secrets) for key, member in value.items()
            }
    elif isinstance(written, list) and isinstance(value, list) and len(value) == len(written):
        return [fill_in(one, other, secrets) for one, other in zip(value, written, strict=True)]
    return value


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return a text for people with every secret masked."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST_HIDDEN:
            text = text.replace(secret, MASK)
    return text


def shows(value: Any, secrets: Iterable[str]) -> bool:
    """Tell whether a JSON value has a secret in one of its strings or keys."""
    hidden = tuple(secret for secret in secrets if len(secret) >= SHORTEST_HIDDEN)
    todo: list[Any] = [value] if hidden else []
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            if any(secret in one for secret in hidden):
                return True
        elif isinstance(one, Mapping):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            todo += one
    return False


def _find(value: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    todo: list[tuple[str, Any]] = [(pointer, value)]
    while todo:
        pointer, value = todo.pop()
        if isinstance(value, dict):
            if "$secret" in value:
                yield pointer, value
                continue
            todo += [(join_pointer(pointer, key), member) for key, member in value.items()]
        elif isinstance(value, list):
            todo += [(join_pointer(pointer, index), member) for index, member in enumerate(value)]
