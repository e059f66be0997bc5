"""Reading JSON objects key by key, and naming what was probably meant.

Decides how a wrong key, type or range is said, and what is near a misspelt word; never knows
what a key means. Called by definition and by the checks of what stands in `config`.
"""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeVar

from iaflow.errors import Problem
from iaflow.pipeline.strict_json import join_pointer

__all__ = ["CODES", "Findings", "Reader", "Speller", "clip", "describe", "nearest"]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "key_unknown": "an object has a key that the language does not know",
        "key_missing": "a required key is absent",
        "type_wrong": "a value has another JSON type than its key needs",
        "value_invalid": "a value has the right type, but is none of those that are legal",
    }
)
"""Codes of the problems that a `Reader` finds by itself."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """
    Return the known word that was probably meant, or None.

    Costs some milliseconds among thousands of words; whoever asks often goes through a `Speller`.
    """
    slack = 2 + len(word) // 4
    near = [other for other in known if abs(len(other) - len(word)) <= slack]
    for other in near:
        if other.lower() == word.lower():
            return other
    if len(near) > _FEW:
        near = heapq.nlargest(_FEW, near, key=lambda other: _count_shared_ends(word, other))
    found = difflib.get_close_matches(word, near, n=1) if len(word) <= _LONG_WORD else []
    return found[0] if found else None


class Speller:
    """Hints for the misspellings of one document, as many as a person can use."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = 8_000

    def hint(self, word: str, known: Collection[str]) -> str:
        """Return ``did you mean `x`?``, or nothing if nothing is near or enough was said."""
        self._left -= min(len(known), 2 * _FEW)
        near = nearest(word, known) if self._left > 0 else None
        return f"did you mean `{near}`?" if near else ""


class Findings:
    """What was found so far; `broken` if no definition can be made of it."""

    __slots__ = ("broken", "errors", "speller", "warnings")

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.speller = Speller()
        self.broken = False

    def refuse(self, code: str, pointer: str, message: str, hint: str = "") -> None:
        """Add an error."""
        self.errors.append(Problem(code, pointer, message, hint))

    def break_off(self, code: str, pointer: str, message: str, hint: str = "") -> None:
        """Add an error that leaves no definition to check further."""
        self.refuse(code, pointer, message, hint)
        self.broken = True


_Choice = TypeVar("_Choice", bound=StrEnum)


class Reader:
    """
    One JSON object, read key by key.

    Every reader gives None if the key is absent, and if its value is wrong, after saying so.
    """

    __slots__ = ("findings", "members", "pointer")

    def __init__(
        self, members: dict[str, Any], pointer: str, findings: Findings, known: frozenset[str]
    ) -> None:
        self.members = members
        self.pointer = pointer
        self.findings = findings
        for key in members:
            if key not in known:
                hint = findings.speller.hint(key, known) or f"known are {', '.join(sorted(known))}"
                self.refuse("key_unknown", key, f"unknown key {clip(key)}", hint)

    def refuse(self, code: str, key: str, message: str, hint: str = "") -> None:
        """Add an error about a key."""
        self.findings.refuse(code, join_pointer(self.pointer, key), message, hint)

    def refuse_type(self, key: str, wanted: str) -> None:
        """Add an error about a value of the wrong type."""
        found = describe(self.members[key])
        self.refuse("type_wrong", key, f"`{key}` must be {wanted}, not {found}")

    def require(self, key: str, hint: str = "") -> bool:
        """Tell whether the key is there, and say so if it is not."""
        if key not in self.members:
            self.findings.refuse("key_missing", self.pointer, f"`{key}` is missing", hint)
        return key in self.members

    def text(self, key: str) -> str | None:
        """Return a string."""
        if key not in self.members:
            return None
        value = self.members[key]
        if not isinstance(value, str):
            self.refuse_type(key, "a string")
            return None
        return value

    def word(self, key: str) -> str | None:
        """Return a string that is not blank."""
        value = self.text(key)
        if value is not None and not value.strip():
            self.refuse("value_invalid", key, f"`{key}` must not be empty")
            return None
        return value

    def matching(self, key: str, pattern: re.Pattern[str], code: str, wanted: str) -> str | None:
        """Return a string that is wholly of the pattern."""
        value = self.text(key)
        if value is not None and not pattern.fullmatch(value):
            self.refuse(code, key, f"{clip(value)} is no legal `{key}`", wanted)
            return None
        return value

    def choice(self, key: str, known: type[_Choice]) -> _Choice | None:
        """Return a member of a closed set."""
        value = self.text(key)
        if value is None:
            return None
        try:
            return known(value)
        except ValueError:
            self._refuse_choice(key, value, tuple(known))
            return None

    def one_of(self, key: str, known: Collection[str]) -> str | None:
        """Return one of these words."""
        value = self.text(key)
        if value is None or value in known:
            return value
        self._refuse_choice(key, value, known)
        return None

    def _refuse_choice(self, key: str, value: str, known: Collection[str]) -> None:
        hint = self.findings.speller.hint(value, known) or f"one of {', '.join(known)}"
        self.refuse("value_invalid", key, f"{clip(value)} is no legal `{key}`", hint)

    def whole(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number between two bounds, both included; 1.0 and true are none."""
        value = self.members.get(key)
        if key not in self.members or self._is_within(key, value, (int,), low, high):
            return value
        return None

    def number(self, key: str, low: float, high: float, *, above: bool = False) -> float | None:
        """Return a number between two bounds; `above`: the lower one excluded."""
        if key not in self.members:
            return None
        value: Any = self.members[key]
        if not self._is_within(key, value, (int, float), low, high):
            return None
        if above and value == low:
            self.refuse("value_invalid", key, f"`{key}` must be more than {low}")
            return None
        return float(value)

    def _is_within(
        self, key: str, value: Any, types: tuple[type, ...], low: float, high: float
    ) -> bool:
        if type(value) not in types:
            self.refuse_type(key, "a number" if float in types else "a whole number")
            return False
        if not low <= value <= high:
            self.refuse("value_invalid", key, f"`{key}` must be from {low} to {high}")
            return False
        return True

    def flag(self, key: str) -> bool | None:
        """Return true or false."""
        value = self.members.get(key)
        if key in self.members and not isinstance(value, bool):
            self.refuse_type(key, "true or false")
            return None
        return value

    def mapping(self, key: str) -> dict[str, Any] | None:
        """Return an object."""
        value = self.members.get(key)
        if key in self.members and not isinstance(value, dict):
            self.refuse_type(key, "an object")
            return None
        return value

    def items(self, key: str) -> list[Any] | None:
        """Return a list."""
        value = self.members.get(key)
        if key in self.members and not isinstance(value, list):
            self.refuse_type(key, "a list")
            return None
        return value

    def words(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings, none of them empty."""
        value = self.items(key)
        if value is None:
            return None
        for index, item in enumerate(value):
            if not isinstance(item, str) or not item:
                where = join_pointer(self.pointer, key, index)
                found = describe(item) if item != "" else "an empty one"
                message = f"`{key}` must be a list of strings, not of {found}"
                self.findings.refuse("type_wrong", where, message)
                return None
        return tuple(value)

    def inner(self, key: str, known: frozenset[str]) -> Reader | None:
        """Return the reader of an object below this one."""
        value = self.mapping(key)
        if value is None:
            return None
        return Reader(value, join_pointer(self.pointer, key), self.findings, known)


def clip(text: str, length: int = 80) -> str:
    """Return a text as a message quotes it, the rest of a long one left out."""
    return repr(text if len(text) <= length else text[:length] + "…")


def describe(value: Any) -> str:
    """Return the JSON kind of a value with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"


_FEW: Final = 200
_LONG_WORD: Final = 200


def _count_shared_ends(word: str, other: str) -> int:
    """Return how many letters two words share at both ends: all but one, if one was mistyped."""
    length = min(len(word), len(other))
    head = 0
    while head < length and word[head] == other[head]:
        head += 1
    tail = 0
    while tail < length - head and word[-1 - tail] == other[-1 - tail]:
        tail += 1
    return head + tail
