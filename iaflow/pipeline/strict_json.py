"""Strict JSON: what text and which Python values are a document, within fixed limits.

Decides whether JSON is safe to keep and says where it is not; never knows what it means.
Called for definitions, outputs and answers alike.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from iaflow.errors import Problem

__all__ = [
    "CODES",
    "MAX_BYTES",
    "MAX_BYTES_CEILING",
    "MAX_DEPTH",
    "MAX_STRING",
    "JsonRefused",
    "check_json_value",
    "dump_json",
    "join_pointer",
    "read_json",
]

MAX_BYTES: Final = 1024 * 1024
MAX_BYTES_CEILING: Final = 16 * MAX_BYTES
MAX_DEPTH: Final = 32
MAX_STRING: Final = 256 * 1024
"""Characters of one string or key."""

CODES: Final = MappingProxyType(
    {
        "json_too_large": "the text has more bytes than the limit",
        "json_not_utf8": "the text is not UTF-8",
        "json_bom": "the text begins with a byte order mark",
        "json_invalid": "the text is not JSON",
        "json_too_deep": "objects and lists are nested deeper than the limit",
        "json_string_too_long": "a string or a key is longer than the limit",
        "json_duplicate_key": "an object has the same key twice",
        "json_not_finite": "a number is NaN or infinite, or overflows to infinity",
        "json_integer_too_long": "a whole number has more digits than the limit",
        "json_nul": "a string or a key holds the character NUL",
        "json_surrogate": "a string or a key holds half of a surrogate pair",
        "json_not_a_value": "a Python value has no exact form in JSON",
        "json_key_not_text": "the key of an object is not a string",
    }
)


class JsonRefused(ValueError):
    """JSON that breaks a limit or a rule; `problems` says where."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.pointer or '/'}: {p.message}" for p in problems))


def read_json(
    text: str | bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_string: int = MAX_STRING,
) -> Any:
    """
    Return the value of a JSON text, exactly: 1.0 stays a float, big integers stay whole.

    Limits are checked before the parser sees the text, so that no input costs more than time in
    proportion to its size, or overflows the stack.

    Args:
        text: the JSON text; bytes must be UTF-8 without a byte order mark.
        max_bytes: the longest text, in bytes of UTF-8.
        max_depth: the deepest nesting of objects and lists.
        max_string: the longest string or key, in characters.

    Returns:
        The value, of dict, list, str, int, float, bool and None only.

    Raises:
        JsonRefused: with at most 100 problems, each with a pointer where one can be known.
    """
    raw, decoded = _decode(text, max_bytes)
    bare = _cut_strings(raw)
    if _nests_deeper(bare, max_depth):
        raise _refuse("json_too_deep", f"objects and lists are nested deeper than {max_depth}")
    found: list[Any] = []
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=partial(_read_object, found),
            parse_constant=partial(_refuse_constant, found),
            parse_int=partial(_read_int, found) if _LONG_DIGITS.search(bare) else None,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refuse("json_invalid", f"this is not JSON: {error.msg} at {where}") from None
    if found or _is_suspect(raw, bare, max_string):
        problems = _Walk(max_bytes, max_depth, max_string).find_problems(value)
        if problems:
            raise JsonRefused(problems)
    return value


def check_json_value(
    value: Any,
    *,
    max_depth: int = MAX_DEPTH,
    max_bytes: int = MAX_BYTES,
    max_string: int = MAX_STRING,
) -> tuple[str, list[Problem]]:
    """
    Return the compact JSON text of a Python value, or what keeps it from being one.

    Nothing is converted silently: a tuple, a date or a key that is a number is a problem, because
    it would come back as something else.

    Args:
        value: any Python value; it is not changed, and may even contain itself.
        max_depth: the deepest nesting of objects and lists.
        max_bytes: the longest text, in bytes of UTF-8.
        max_string: the longest string or key, in characters.

    Returns:
        The text and no problems, or ``""`` and at most 100 problems.
    """
    problems = _Walk(max_bytes, max_depth, max_string).find_problems(value)
    if problems:
        return "", problems
    text = dump_json(value)
    if len(text) > max_bytes or (not text.isascii() and len(text.encode()) > max_bytes):
        return "", [_too_large(max_bytes)]
    return text, []


def dump_json(value: Any, *, sort_keys: bool = False) -> str:
    """Return the compact JSON text of a JSON value, keys in order or sorted, not escaped."""
    return (_CANONICAL if sort_keys else _COMPACT).encode(value)


def join_pointer(pointer: str, *parts: str | int) -> str:
    """
    Return the JSON pointer of a member below `pointer`, its parts escaped.

    A key of more than 256 characters is cut and ends in ``…``: a hostile document could otherwise
    have one key as long as itself, and as many problems below it as it has letters.
    """
    for part in parts:
        if isinstance(part, str):
            part = part if len(part) <= _MAX_SHOWN_KEY else part[:_MAX_SHOWN_KEY] + "…"
            part = part.replace("~", "~0").replace("/", "~1")
        pointer = f"{pointer}/{part}"
    return pointer


# --- the text, before it is parsed

_MAX_SHOWN_KEY: Final = 256
_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_CANONICAL: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
)

# Possessive, and content with an end of text for a closing quote: linear on any input.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SHORT: Final = 64 * 1024
_MAX_DIGITS: Final = 4300
_TOO_MANY_DIGITS: Final = (
    "json_integer_too_long",
    f"a whole number has over {_MAX_DIGITS:,} digits",
)
_LONG_DIGITS: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (_MAX_DIGITS + 1))
_BAD_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_MAY_OVERFLOW: Final = re.compile(rb"(?<![0-9])[0-9]{200}|[eE]\+?[0-9]{3}")
_NO_BRACKET: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_TO_ROUND: Final = bytes.maketrans(b"[]{}", b"()()")
_BOM: Final = "\ufeff"


def _decode(text: str | bytes, max_bytes: int) -> tuple[bytes, str]:
    """Return the text as bytes and as a string, if its size and characters are legal."""
    if len(text) > max_bytes:
        raise JsonRefused([_too_large(max_bytes)])
    try:
        raw, decoded = (
            (text.encode(), text) if isinstance(text, str) else (text, text.decode("utf-8"))
        )
    except UnicodeEncodeError as error:
        raise _refuse(
            "json_surrogate", f"character {error.start} of the text is half of a surrogate pair"
        ) from None
    except UnicodeDecodeError as error:
        raise _refuse(
            "json_not_utf8", f"byte {error.start} of the text is not UTF-8: {error.reason}"
        ) from None
    if len(raw) > max_bytes:
        raise JsonRefused([_too_large(max_bytes)])
    if decoded.startswith(_BOM):
        raise _refuse("json_bom", "the text begins with a byte order mark", "save it without one")
    if b"\0" in raw:
        raise _refuse("json_nul", f"byte {raw.index(0)} of the text is NUL")
    return raw, decoded


def _cut_strings(raw: bytes) -> bytes:
    """Return JSON text without its strings."""
    if len(raw) <= _SHORT:
        return _STRING.sub(b"", raw)
    # That keeps each piece as an object: up to fifty times the text's own size.
    bare, at = bytearray(), 0
    for found in _STRING.finditer(raw):
        bare += raw[at : found.start()]
        at = found.end()
    bare += raw[at:]
    return bytes(bare)


def _nests_deeper(bare: bytes, max_depth: int) -> bool:
    """Tell whether JSON text without its strings nests deeper, without a loop over its bytes."""
    brackets = bare.translate(_TO_ROUND, _NO_BRACKET)
    for _ in range(max_depth):
        if b"()" not in brackets:
            break
        brackets = brackets.replace(b"()", b"")
    # What was never closed counts too; the parser will refuse it, but must get there.
    return b"()" in brackets or brackets.count(b"(") > max_depth


def _is_suspect(raw: bytes, bare: bytes, max_string: int) -> bool:
    """Tell whether the value must be walked: most texts cannot hold what is illegal in it."""
    return (
        _BAD_ESCAPE.search(raw) is not None
        or _MAY_OVERFLOW.search(bare) is not None
        or (len(raw) > max_string and max(map(len, _STRING.findall(raw)), default=0) > max_string)
    )


def _refuse(code: str, message: str, hint: str = "") -> JsonRefused:
    return JsonRefused([Problem(code, "", message, hint)])


def _too_large(max_bytes: int) -> Problem:
    return Problem("json_too_large", "", f"this is over the limit of {max_bytes:,} bytes of JSON")


# --- what the parser found, kept in its place until the walk knows the pointer


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in the parsed value where something illegal was read."""

    code: str
    message: str


class _Repeated(dict[str, Any]):
    """An object with keys that stand in it more than once."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = [key for key, count in counts.items() if count > 1]


def _read_object(found: list[Any], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members = _Repeated(pairs)
        found.append(members)
    return members


def _refuse_constant(found: list[Any], word: str) -> _Refused:
    refused = _Refused("json_not_finite", f"{word} is no number of JSON")
    found.append(refused)
    return refused


def _read_int(found: list[Any], digits: str) -> int | _Refused:
    if len(digits.lstrip("-")) <= _MAX_DIGITS:
        return int(digits)
    refused = _Refused(*_TOO_MANY_DIGITS)
    found.append(refused)
    return refused


# --- the walk over a value

_MAX_PROBLEMS: Final = 100
_LONG_INTEGER: Final = 10**_MAX_DIGITS
_WORD: Final = 2**63
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_Place: TypeAlias = "tuple[_Place, Any] | None"
"""The place above and a key; a pointer is only built when there is something to say."""


class _Walk:
    """
    The search for what is wrong in a value, in no more steps than its JSON may have bytes.

    A value that shares its parts may be far larger as text than in memory, or endless: all that is
    met costs bytes, so the walk ends all the same. It keeps its own stack and needs no recursion.
    """

    __slots__ = ("bytes_left", "max_bytes", "max_depth", "max_string", "problems")

    def __init__(self, max_bytes: int, max_depth: int, max_string: int) -> None:
        self.max_bytes = self.bytes_left = max_bytes
        self.max_depth = max_depth
        self.max_string = max_string
        self.problems: list[Problem] = []

    def find_problems(self, value: Any) -> list[Problem]:
        """Return the first problems in document order, enough to keep a person busy."""
        todo: list[tuple[Any, _Place, int]] = [(value, None, 1)]
        while todo and len(self.problems) < _MAX_PROBLEMS:
            item, place, depth = todo.pop()
            if not isinstance(item, dict | list):
                self._judge_scalar(item, place)
            elif depth > self.max_depth:
                self._add("json_too_deep", f"nested deeper than {self.max_depth}", place)
            else:
                inner = self._judge_members(item, place)
                todo += [(member, (place, key), depth + 1) for key, member in inner]
            if self.bytes_left < 0:
                return [_too_large(self.max_bytes)]
        return self.problems

    def _judge_members(self, container: Any, place: _Place) -> list[tuple[Any, Any]]:
        """Judge the keys and scalars of one container; return the containers in it, last first."""
        members: Iterable[tuple[Any, Any]] = enumerate(container)
        if isinstance(container, dict):
            self._judge_keys(container, place)
            members = container.items()
        inner = []
        for key, member in members:
            # Most members are told apart here, without the price of a call.
            kind = type(member)
            if kind is dict or kind is list:
                inner.append((key, member))
            elif kind is int and -_WORD < member < _WORD:
                pass
            elif isinstance(member, dict | list):
                inner.append((key, member))
            else:
                self._judge_scalar(member, place, key)
        # At least: a byte for a scalar, two for brackets, and commas between.
        self.bytes_left -= 2 * len(container) + len(inner) - 1
        inner.reverse()
        return inner

    def _judge_keys(self, members: dict[Any, Any], place: _Place) -> None:
        for key in members:
            if isinstance(key, str):
                self._judge_text(key, "a key", place, key)
            else:
                self._add("json_key_not_text", f"a key is {_kind(key)}, not a string", place, key)
        if isinstance(members, _Repeated):
            for key in members.repeated:
                self._add("json_duplicate_key", "this key stands here twice", place, key)

    def _judge_scalar(self, value: Any, *where: Any) -> None:
        if value is None or value is True or value is False:
            return
        if isinstance(value, str):
            self._judge_text(value, "a string", *where)
        elif isinstance(value, int):
            self._judge_integer(value, *where)
        elif isinstance(value, float):
            if not math.isfinite(value):
                self._add("json_not_finite", "a number is NaN or infinite, or overflows", *where)
        elif isinstance(value, _Refused):
            self._add(value.code, value.message, *where)
        else:
            self._add("json_not_a_value", f"{_kind(value)} is no value of JSON", *where)

    def _judge_integer(self, value: int, *where: Any) -> None:
        if not -_WORD < value < _WORD:
            self.bytes_left -= value.bit_length() // 4
            if not -_LONG_INTEGER < value < _LONG_INTEGER:
                self._add(*_TOO_MANY_DIGITS, *where)

    def _judge_text(self, text: str, what: str, *where: Any) -> None:
        self.bytes_left -= len(text)
        if len(text) > self.max_string:
            limit = f"{what} is longer than {self.max_string:,} characters"
            self._add("json_string_too_long", limit, *where)
        if "\0" in text:
            self._add("json_nul", f"{what} holds the character NUL", *where)
        if not text.isascii() and _SURROGATE.search(text):
            self._add("json_surrogate", f"{what} holds half of a surrogate pair", *where)

    def _add(self, code: str, message: str, place: _Place, *key: Any) -> None:
        # No more than a person can use, and no time spent on the rest.
        if len(self.problems) < _MAX_PROBLEMS:
            at = (place, *key) if key else place
            self.problems.append(Problem(code, _pointer_to(at), message))


def _pointer_to(place: _Place) -> str:
    keys: list[str | int] = []
    while place is not None:
        place, key = place
        keys.append(key if isinstance(key, str | int) else _kind(key))
    # What a person is to read must itself be text, whatever the keys are.
    pointer = join_pointer("", *reversed(keys)).replace("\0", "\\0")
    return pointer.encode(errors="backslashreplace").decode()


def _kind(value: Any) -> str:
    return f"a Python {type(value).__name__}"
