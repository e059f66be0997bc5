"""Operators of conditions: the closed table, and what each says about two JSON values.

Decides which operands an operator can work with and what comes out; never looks a value up.
Called by expressions and conditions.
"""

from __future__ import annotations

import operator as compares
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import re2

__all__ = [
    "ALIASES",
    "ASK_PRESENCE",
    "MAX_PATTERN",
    "OPERATORS",
    "UNARY",
    "OperandInvalid",
    "ask",
    "check_literal",
    "compare",
    "compile_pattern",
    "describe",
    "kind_of",
]

MAX_PATTERN: Final = 256
"""How many characters the pattern of `matches` may have."""

OPERATORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "eq": "equal, compared deeply; 1 equals 1.0, and true is no number",
        "ne": "not equal",
        "gt": "greater; numbers by value, strings by code point",
        "gte": "greater or equal",
        "lt": "less",
        "lte": "less or equal",
        "in": "is an element of a list, or a part of a string",
        "not_in": "is no element of a list, or no part of a string",
        "contains": "a list has the element, or a string the part",
        "not_contains": "a list has not the element, or a string not the part",
        "starts_with": "a string begins with another",
        "ends_with": "a string ends with another",
        "matches": "a pattern (RE2) is found somewhere in a string",
        "exists": "the key is there, even if null",
        "not_exists": "the key is not there",
        "empty": "null, '', [] or {}, or not there",
        "not_empty": "there, and not null, '', [] or {}",
        "between": "from the first of two to the second, both included",
        "is_null": "is null",
        "is_bool": "is true or false",
        "is_number": "is a number",
        "is_string": "is a string",
    }
)
"""The closed table of operators, with their meaning."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "equals": "eq",
        "not_equals": "ne",
        "==": "eq",
        "!=": "ne",
        ">": "gt",
        ">=": "gte",
        "<": "lt",
        "<=": "lte",
        "greater_than": "gt",
        "greater_than_or_equal": "gte",
        "less_than": "lt",
        "less_than_or_equal": "lte",
    }
)
"""Other spellings of operators."""

ASK_PRESENCE: Final = frozenset({"exists", "not_exists", "empty", "not_empty"})
"""Operators for which it is no error that nothing is there."""

UNARY: Final = ASK_PRESENCE | {"is_null", "is_bool", "is_number", "is_string"}
"""Operators that ask about one operand; `value: false` asks for the contrary."""


class OperandInvalid(ValueError):
    """
    An operator can never work with this operand.

    Attributes:
        code: ``condition_invalid`` or ``pattern_invalid``.
        message: what is wrong with it.
        hint: how to mend it; may be empty.
    """

    def __init__(self, message: str, hint: str = "", code: str = "condition_invalid") -> None:
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(message)


def compare(name: str, left: Any, right: Any) -> tuple[bool, bool]:
    """
    Compare two values.

    Args:
        name: an operator with two operands, but for `matches`.
        left, right: JSON values.

    Returns:
        The verdict, and whether the two are of kinds that the operator does not compare. Then
        the negated operators are true and all others false.
    """
    contrary = _CONTRARY.get(name)
    outcome = _COMPARE[contrary or name](left, right)
    return bool(outcome) != (contrary is not None), outcome is None


def ask(name: str, value: Any, present: bool) -> bool:
    """
    Ask one of `UNARY` about a value.

    Args:
        name: the operator.
        value: a JSON value; of no meaning if nothing is there.
        present: whether something is there.
    """
    match name:
        case "exists":
            return present
        case "not_exists":
            return not present
        case "empty":
            return not present or _is_empty(value)
        case "not_empty":
            return present and not _is_empty(value)
        case "is_null":
            return value is None
        case "is_bool":
            return isinstance(value, bool)
        case "is_number":
            return kind_of(value) == "number"
        case _:
            return isinstance(value, str)


def check_literal(name: str, value: Any) -> None:
    """
    Check that an operator can work with a literal as its second operand.

    Raises:
        OperandInvalid: it never can.
    """
    match name:
        case "in" | "not_in" if not isinstance(value, list | str):
            raise OperandInvalid(f"`{name}` needs a list or a string, not {describe(value)}")
        case "starts_with" | "ends_with" if not isinstance(value, str):
            raise OperandInvalid(f"`{name}` needs a string, not {describe(value)}")
        case "between":
            _check_bounds(value)
        case _ if name in UNARY and not isinstance(value, bool):
            raise OperandInvalid(f"`{name}` compares with nothing, or with true or false")


def compile_pattern(pattern: Any) -> Any:
    """
    Return the compiled pattern of `matches`, whose `search` takes linear time.

    Raises:
        OperandInvalid: it is no string, too long, or RE2 does not know it.
    """
    if not isinstance(pattern, str):
        raise OperandInvalid(f"`matches` needs a pattern, not {describe(pattern)}")
    if len(pattern) > MAX_PATTERN:
        raise OperandInvalid(
            f"the pattern is longer than {MAX_PATTERN} characters", code="pattern_invalid"
        )
    try:
        compiled = re2.compile(pattern, _RE2_OPTIONS)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else b""
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise OperandInvalid(
            f"RE2 does not know this pattern: {text}",
            "RE2 has no lookaround and no backreferences",
            code="pattern_invalid",
        ) from error
    if compiled.programsize > _MAX_PROGRAM:
        raise OperandInvalid(
            "the pattern is too complex to be searched for quickly",
            "repeat fewer times, as in {1,100}",
            code="pattern_invalid",
        )
    return compiled


def kind_of(value: Any) -> str:
    """Return number, string, boolean, null, list or object: two kinds never compare."""
    return _KINDS.get(type(value), "unknown")


def describe(value: Any) -> str:
    """Return the kind of a value with its article, for messages."""
    kind = kind_of(value)
    return _ARTICLES.get(kind) or f"a {kind}"


def _make_options() -> Any:
    options = re2.Options()
    options.log_errors = False
    # Nobody asks for groups, and keeping track of them makes a search many times slower.
    options.never_capture = True
    return options


_RE2_OPTIONS: Final = _make_options()
_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
}
# Linear in the subject is not yet quick: the factor is the size of the compiled pattern, and a few
# nested counts make it so large that one search takes half a minute.
_MAX_PROGRAM: Final = 5_000
_ARTICLES: Final = {"null": "null", "object": "an object", "unknown": "no JSON value"}
_ORDERED: Final = frozenset({"number", "string"})
_CONTRARY: Final[Mapping[str, str]] = {"ne": "eq", "not_in": "in", "not_contains": "contains"}


def _check_bounds(value: Any) -> None:
    match value:
        case [low, high] if kind_of(low) == kind_of(high) and kind_of(low) in _ORDERED:
            if low > high:
                raise OperandInvalid(
                    "`between` never holds: the first is greater than the second",
                    "write the smaller one first",
                )
        case _:
            raise OperandInvalid("`between` needs a list of two numbers or two strings")


# --- each says True, False, or None where it does not compare these kinds


def _equals(left: Any, right: Any) -> bool | None:
    kind = kind_of(left)
    if kind != kind_of(right):
        return None
    if kind in {"list", "object"}:
        return _is_same(left, right)
    return bool(left == right)


def _is_same(left: Any, right: Any) -> bool:
    """Compare deeply and by kind, without recursion: 1 is 1.0, but true is not 1."""
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if kind_of(one) != kind_of(other):
            return False
        match one:
            case list():
                if len(one) != len(other):
                    return False
                pairs.extend(zip(one, other, strict=True))
            case dict():
                if one.keys() != other.keys():
                    return False
                pairs.extend((value, other[key]) for key, value in one.items())
            case _ if one != other:
                return False
    return True


def _orders(judge: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool | None]:
    """Return an ordering of numbers and of strings; nothing else has an order."""

    def order(left: Any, right: Any) -> bool | None:
        kind = kind_of(left)
        return judge(left, right) if kind == kind_of(right) and kind in _ORDERED else None

    return order


def _contains(left: Any, right: Any) -> bool | None:
    match left:
        case list():
            return any(_is_same(element, right) for element in left)
        case str() if isinstance(right, str):
            return right in left
        case _:
            return None


def _is_in(left: Any, right: Any) -> bool | None:
    return _contains(right, left)


def _starts_with(left: Any, right: Any) -> bool | None:
    return left.startswith(right) if isinstance(left, str) and isinstance(right, str) else None


def _ends_with(left: Any, right: Any) -> bool | None:
    return left.endswith(right) if isinstance(left, str) and isinstance(right, str) else None


def _is_between(left: Any, bounds: Any) -> bool | None:
    match bounds:
        case [low, high]:
            reaches = _COMPARE["gte"](left, low)
            stays = _COMPARE["lte"](left, high)
            return None if reaches is None or stays is None else reaches and stays
        case _:
            return None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool | None]]] = {
    "eq": _equals,
    "gt": _orders(compares.gt),
    "gte": _orders(compares.ge),
    "lt": _orders(compares.lt),
    "lte": _orders(compares.le),
    "in": _is_in,
    "contains": _contains,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "between": _is_between,
}
