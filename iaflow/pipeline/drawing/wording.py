"""Finds the words that a drawing shows: names, statuses, and short forms of conditions.

Decides how a transition is put in a few words; never decides whether it is taken. Called by the
three drawings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from unicodedata import east_asian_width

from iaflow.data.status import StepStatus
from iaflow.pipeline.definition import Transition

__all__ = [
    "STATUSES",
    "abbreviate",
    "clean",
    "describe_condition",
    "describe_transition",
    "shorten",
    "text_width",
]

STATUSES: Final = frozenset(str(status) for status in StepStatus)
"""Statuses that have a look of their own; any other word is shown as it is, in plain colours."""

_SYMBOLS: Final[Mapping[str, str]] = {
    "eq": "=",
    "equals": "=",
    "==": "=",
    "ne": "≠",
    "not_equals": "≠",
    "!=": "≠",
    "gt": ">",
    "greater_than": ">",
    "gte": "≥",
    "greater_than_or_equal": "≥",
    ">=": "≥",
    "lt": "<",
    "less_than": "<",
    "lte": "≤",
    "less_than_or_equal": "≤",
    "<=": "≤",
}
_WITHOUT_VALUE: Final = frozenset(
    {
        "exists",
        "not_exists",
        "empty",
        "not_empty",
        "is_null",
        "is_bool",
        "is_number",
        "is_string",
    }
)

# What XML 1.0 forbids, and the marks that turn the direction of all text after them.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Return `text` on one line, without characters that XML forbids or that garble a page."""
    return re.sub(r"\s+", " ", _UNPRINTABLE.sub(" ", text)).strip()


def shorten(text: str, width: float, size: float) -> str:
    """
    Return as much of `text` as fits, with an ellipsis where something is left out.

    A single long word, such as an id, keeps its end too: there it differs from its neighbours.

    Args:
        text: one line.
        width: the room in pixels.
        size: the font size in pixels; widths are estimated, as no font is at hand.
    """
    room = width / size
    if sum(map(_advance, text)) <= room:
        return text
    room -= _advance("…")
    tail = "" if " " in text else _take(text[::-1], room * 0.4)[::-1]
    return _take(text, room - text_width(tail, 1)).rstrip() + "…" + tail


def text_width(text: str, size: float) -> float:
    """Return the estimated width of `text` in pixels at a font size of `size` pixels."""
    return sum(map(_advance, text)) * size


def describe_transition(transition: Transition) -> str:
    """Return what a transition asks for in a few words; `""` for a plain success."""
    parts = [] if transition.on == "success" else [f"on {transition.on}"]
    condition = describe_condition(transition.condition)
    if condition == "otherwise":
        parts.append(condition)
    elif condition:
        parts.append(f"if {condition}")
    return clean(", ".join(parts))


def abbreviate(words: str, source: str) -> str:
    """Return a transition's words without what a reader of the graph sees: whose output it is."""
    return re.sub(rf"(?<![\w.'\"])(?:result|parameters|{re.escape(source)})\.(?=\w)", "", words)


def describe_condition(condition: Any) -> str:
    """
    Return a condition, as it stands in the document, in one line; `""` if it is always true.

    Args:
        condition: the JSON value of a transition's `condition`: a string or an object.
    """
    match condition:
        case None | "always":
            return ""
        case str():
            return condition.removeprefix("parameter:")
        case {"type": "expression", "config": {"source": source, "operator": operator} as config}:
            return _describe_comparison(str(source), str(operator), config)
        case {"type": "all" | "any" as kind, "conditions": [*children]}:
            word = " and " if kind == "all" else " or "
            return word.join(_describe_part(child) for child in children)
        case {"type": "not", "condition": child}:
            return f"not {_describe_part(child)}"
        case {"type": "function", "config": {"function": function}}:
            return f"{function}()"
        case {"type": "agent", "config": {"choice": choice}}:
            return f"the agent says {choice}"
        case _:
            return json.dumps(condition, ensure_ascii=False)


def _describe_comparison(source: str, operator: str, config: Mapping[str, Any]) -> str:
    if operator in _WITHOUT_VALUE:
        return f"{source} {operator.replace('_', ' ')}"
    symbol = _SYMBOLS.get(operator, operator.replace("_", " "))
    if "value_source" in config:
        return f"{source} {symbol} {config['value_source']}"
    return f"{source} {symbol} {json.dumps(config.get('value'), ensure_ascii=False)}"


def _describe_part(condition: Any) -> str:
    words = describe_condition(condition) or "always"
    nested = isinstance(condition, Mapping) and condition.get("type") in ("all", "any")
    compound = isinstance(condition, str) and re.search(r" (and|or) |&&|\|\|", condition)
    return f"({words})" if nested or compound else words


def _take(text: str, room: float) -> str:
    for end, character in enumerate(text):
        room -= _advance(character)
        if room < 0:
            return text[:end]
    return text


def _advance(character: str) -> float:
    """Return a character's width as a share of the font size, on the safe side."""
    if character in " .,:;'|!ijlftI()[]{}/\\`":
        return 0.36
    if character == "r":
        return 0.45
    if east_asian_width(character) in "WF":
        return 1.05
    if character in "mwMW@%—…":
        return 0.92
    return 0.7 if character.isupper() else 0.585
