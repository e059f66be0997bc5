"""Pieces of JSON Schema: texts, numbers, choices and closed objects, as an editor reads them.

Decides how a rule of one value is said in JSON Schema; never knows which keys there are. Called
by the other files of this room.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

__all__ = [
    "NOT_BLANK",
    "Schema",
    "choice",
    "closed",
    "flag",
    "is_one_of",
    "list_meanings",
    "listing",
    "mapping",
    "matching",
    "number",
    "refer",
    "text",
    "whole",
    "word",
    "words",
]

Schema: TypeAlias = dict[str, Any]
"""A part of a JSON Schema, draft 2020-12."""

NOT_BLANK: Final = r"\S"
"""Pattern of a string that says something."""


def text(description: str, **more: Any) -> Schema:
    """Return a string."""
    return {"description": description, "type": "string", **more}


def word(description: str, **more: Any) -> Schema:
    """Return a string that is not blank."""
    return text(description, pattern=NOT_BLANK, **more)


def matching(description: str, pattern: re.Pattern[str]) -> Schema:
    """Return a string that is wholly of the pattern, which Python and ECMAScript read alike."""
    return text(description, pattern=f"^(?:{pattern.pattern})$")


def words(description: str) -> Schema:
    """Return a list of strings, none of them empty."""
    return listing(description, {"type": "string", "minLength": 1})


def listing(description: str, items: Schema, **more: Any) -> Schema:
    """Return a list."""
    return {"description": description, "type": "array", "items": items, **more}


def choice(description: str, known: Iterable[str], **more: Any) -> Schema:
    """Return one of these words."""
    return {"description": description, "type": "string", "enum": list(map(str, known)), **more}


def flag(description: str, *, default: bool) -> Schema:
    """Return true or false."""
    return {"description": description, "type": "boolean", "default": default}


def mapping(description: str) -> Schema:
    """Return an object with any keys."""
    return {"description": description, "type": "object"}


def whole(description: str, low: int, high: int, **more: Any) -> Schema:
    """Return a whole number between two bounds, both included."""
    bounds = {"minimum": low, "maximum": high}
    return {"description": description, "type": "integer", **bounds, **more}


def number(description: str, low: int, high: int, *, above: bool = False, **more: Any) -> Schema:
    """Return a number between two bounds; `above`: the lower one excluded."""
    bounds = {"exclusiveMinimum" if above else "minimum": low, "maximum": high}
    return {"description": description, "type": "number", **bounds, **more}


def closed(
    title: str, known: Collection[str], described: Mapping[str, Schema], *required: str
) -> Schema:
    """
    Return an object that has no keys but the known ones.

    What is known but not described may be there, so that the schema is never stricter than the
    language.

    Args:
        known: the keys, as the reader of the language has them.
        described: their schemas, in the order in which an editor shows them.
    """
    properties: Schema = {key: schema for key, schema in described.items() if key in known}
    properties |= dict.fromkeys(sorted(set(known) - described.keys()), True)
    schema = {"title": title, "type": "object", "properties": properties}
    needed = {"required": list(required)} if required else {}
    return schema | needed | {"additionalProperties": False}


def refer(name: str, description: str = "") -> Schema:
    """Return a reference to one of the definitions, with what it means in this place."""
    return ({"description": description} if description else {}) | {"$ref": f"#/$defs/{name}"}


def is_one_of(key: str, values: Iterable[str], *, default: str | None = None) -> Schema:
    """Return what holds if a key has one of these values; absent, it has the default."""
    wanted = sorted(map(str, values))
    required = {} if default in wanted else {"required": [key]}
    return {"properties": {key: {"enum": wanted}}, **required}


def list_meanings(opening: str, meanings: Mapping[str, str]) -> str:
    """Return a description with a line for each word that may stand there."""
    return "\n".join([opening, *(f"{name}: {meaning}" for name, meaning in meanings.items())])
