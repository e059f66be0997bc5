"""Paths: where a value is looked up, how that is written, and what is found there.

Decides what a path means in a scope of plain JSON values; never reaches anything but items of
objects and lists, and never reads a found value as text of this language. Called by templating,
expressions and conditions.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

from iaflow.errors import IaflowError

__all__ = [
    "MAX_SEGMENTS",
    "MISSING",
    "RESERVED_ROOTS",
    "Missing",
    "Path",
    "ReferenceMissing",
    "RenderFailed",
    "Scope",
    "TemplateSyntaxError",
    "parse_path",
    "quote_at",
    "resolve",
    "scan_literal",
    "scan_path",
    "scan_quoted",
    "scan_word",
    "skip_space",
    "try_resolve",
]

MAX_SEGMENTS: Final = 16
"""How many keys a path may go down."""

RESERVED_ROOTS: Final = frozenset({"parameters", "errors", "item", "index", "run", "result"})
"""First words of a path that are no step; every other first word is a step's id."""


class Missing(Enum):
    """The type of MISSING, which is no JSON value and so cannot be confused with one."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


@dataclass(frozen=True, slots=True)
class Path:
    """
    Where a value is looked up.

    Attributes:
        root: a step's id, or one of `RESERVED_ROOTS`.
        segments: the keys below it, at most `MAX_SEGMENTS`; digits index a list.
        text: the path as written, for messages and ledgers; not part of its identity.
    """

    root: str
    segments: tuple[str, ...]
    text: str = field(compare=False)

    @property
    def step_id(self) -> str | None:
        """The step that the path reads: its output, or its error for ``errors.step``."""
        if self.root not in RESERVED_ROOTS:
            return self.root
        return self.segments[0] if self.root == "errors" else None


class TemplateSyntaxError(ValueError):
    """
    A path, template or expression is not written as the language says.

    Attributes:
        column: where it stops making sense, counted from 1.
        message: what is wrong there.
        expected: what could have stood there; may be empty.
    """

    def __init__(self, column: int, message: str, expected: str = "") -> None:
        self.column = column
        self.message = message
        self.expected = expected
        super().__init__(
            f"column {column}: {message}" + (f", expected {expected}" if expected else "")
        )


class RenderFailed(IaflowError):
    """A template cannot be rendered with these values; `code` becomes the step's error code."""

    code: str = "template_failed"


class ReferenceMissing(RenderFailed):
    """A path finds nothing in the parameters, the item or the output of a succeeded step."""

    code = "reference_missing"

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    All that a path may look into; plain JSON values, and nothing else is reachable.

    Attributes:
        parameters: the run's parameters.
        outputs: output of each SUCCEEDED step by its id; a step that is not here did not
            succeed, and paths into it give null.
        errors: ``{"code", "message", "attempts"}`` of each failed step by its id.
        run: ``{"id", "started_at"}``.
        result: output of the transition's source, in conditions; None if it did not succeed.
        item: the foreach item; MISSING outside of one.
        index: its place in the list, from 0; None outside of a foreach.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    result: Any = MISSING
    item: Any = MISSING
    index: int | None = None


def resolve(path: Path, scope: Scope) -> Any:
    """
    Return the value that the path finds; null below a step that did not succeed.

    Raises:
        ReferenceMissing: nothing is there.
    """
    value = try_resolve(path, scope)
    if value is not MISSING:
        return value
    if _is_unsucceeded(path, scope):
        return None
    raise ReferenceMissing(path.text, _describe_missing(path, scope))


def try_resolve(path: Path, scope: Scope) -> Any | Literal[Missing.MISSING]:
    """
    Return the value that the path finds, or MISSING.

    MISSING stands both for a key that is not there and for a step that did not succeed: what
    `default(…)`, `exists` and `empty` go by.
    """
    if path.root in RESERVED_ROOTS:
        value, segments = _enter_reserved(path, scope)
    else:
        value, segments = scope.outputs.get(path.root, MISSING), path.segments
    for segment in segments:
        value = _look_up(value, segment)
    return value


def parse_path(text: str, start: int = 0) -> Path:
    """
    Read a text that is a path from `start` to its end.

    Raises:
        TemplateSyntaxError: it is none.
    """
    path, end = scan_path(text, start)
    if end < len(text):
        raise TemplateSyntaxError(
            end + 1, f"unexpected {quote_at(text, end)}", "`.`, `['` or the end"
        )
    return path


def scan_path(text: str, start: int) -> tuple[Path, int]:
    """
    Read the path that begins at `start`, and return it with the place after it.

    Raises:
        TemplateSyntaxError: there is no path, or one that no scope can ever know.
    """
    word = _WORD.match(text, start)
    if word is None or not word[0][0].isalpha():
        raise TemplateSyntaxError(
            start + 1, f"unexpected {quote_at(text, start)}", "a path such as `step_id.output`"
        )
    segments: list[str] = []
    end = word.end()
    while (mark := text[end : end + 1]) == "." or mark == "[":
        segment, end = _scan_key(text, end) if mark == "." else _scan_bracket(text, end)
        segments.append(segment)
        if len(segments) > MAX_SEGMENTS:
            raise TemplateSyntaxError(start + 1, f"a path goes down at most {MAX_SEGMENTS} keys")
    path = Path(word[0], tuple(segments), text[start:end])
    _check_root(path, start)
    return path, end


def scan_literal(text: str, start: int) -> tuple[Any, int]:
    """
    Read the scalar that begins at `start`, and return it with the place after it.

    A scalar is a JSON number, ``true``, ``false``, ``null``, a JSON string in double quotes, or
    a text in single quotes, where only ``\\'`` and ``\\\\`` are escapes, so that patterns read
    well.

    Raises:
        TemplateSyntaxError: there is none.
    """
    mark = text[start : start + 1]
    if mark in {"'", '"'}:
        return scan_quoted(text, start)
    if number := _NUMBER.match(text, start):
        return _read_number(number[0], start), number.end()
    word = _WORD.match(text, start)
    if word is not None and word[0] in _CONSTANTS:
        return _CONSTANTS[word[0]], word.end()
    raise TemplateSyntaxError(
        start + 1,
        f"unexpected {quote_at(text, start)}",
        "a number, true, false, null or a quoted text",
    )


def scan_quoted(text: str, begin: int) -> tuple[str, int]:
    """
    Read the text in single or double quotes that begins at `begin`.

    Raises:
        TemplateSyntaxError: it does not end, or holds what no JSON document may hold.
    """
    single = text[begin] == "'"
    quoted = (_SINGLE_QUOTED if single else _DOUBLE_QUOTED).match(text, begin)
    if quoted is None:
        raise TemplateSyntaxError(
            begin + 1, "the quoted text does not end", f"a closing {text[begin]}"
        )
    value = _ESCAPED.sub(r"\1", quoted[1]) if single else _read_json_string(quoted[0], begin)
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TemplateSyntaxError(begin + 1, "the quoted text holds NUL or half a character")
    return value, quoted.end()


def scan_word(text: str, start: int) -> str:
    """Return the word (letters, digits, ``_`` and ``-``) that begins at `start`, or ``""``."""
    word = _WORD.match(text, start)
    return word[0] if word else ""


def skip_space(text: str, start: int) -> int:
    """Return the place of the first letter at or after `start` that is no space."""
    space = _SPACE.match(text, start)
    return space.end() if space else start


def quote_at(text: str, at: int) -> str:
    """Name what stands at a place, for messages."""
    if at >= len(text):
        return "end"
    return repr(scan_word(text, at)[:40] or text[at])


_CONSTANTS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None}
_ERROR_KEYS: Final = ("code", "message", "attempts")
_RUN_KEYS: Final = ("id", "started_at")
_MAX_INDEX_DIGITS: Final = 9
_MAX_NUMBER_DIGITS: Final = 4300

_WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_SINGLE_QUOTED: Final = re.compile(r"'([^'\\]*(?:\\.[^'\\]*)*)'", re.DOTALL)
_DOUBLE_QUOTED: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(['\\])")


def _enter_reserved(path: Path, scope: Scope) -> tuple[Any, tuple[str, ...]]:
    """Return the value that the path's first word names, and the keys still to go down."""
    mapping: Mapping[str, Any]
    match path.root:
        case "parameters":
            mapping = scope.parameters
        case "run":
            mapping = scope.run
        case "errors":
            mapping = scope.errors
        case "item":
            return scope.item, path.segments
        case "index":
            return MISSING if scope.index is None else scope.index, path.segments
        case _:
            return MISSING if scope.result is None else scope.result, path.segments
    if not path.segments:
        return mapping, ()
    return mapping.get(path.segments[0], MISSING), path.segments[1:]


def _look_up(value: Any, segment: str) -> Any:
    """Return the item of a list or object; nothing else has anything inside."""
    if isinstance(value, dict):
        return value.get(segment, MISSING)
    if isinstance(value, list) and segment.isdigit() and segment.isascii():
        index = int(segment) if len(segment) <= _MAX_INDEX_DIGITS else len(value)
        return value[index] if index < len(value) else MISSING
    return MISSING


def _is_unsucceeded(path: Path, scope: Scope) -> bool:
    """Say whether the path reads a step that has no output (or no error) to read."""
    match path.root:
        case "errors":
            return True
        case "result":
            return scope.result is None
        case "parameters" | "item" | "index" | "run":
            return False
        case step_id:
            return step_id not in scope.outputs


def _describe_missing(path: Path, scope: Scope) -> str:
    found = path.root
    for length, segment in enumerate(path.segments):
        below = Path(path.root, path.segments[: length + 1], path.text)
        if try_resolve(below, scope) is MISSING:
            return f"{path.text} is missing: there is no {segment!r} in {found}"
        found += f".{segment}"
    return f"{path.text} is not known here"


# --- scanning: every function takes a place and returns the one after what it read


def _scan_key(text: str, dot: int) -> tuple[str, int]:
    word = _WORD.match(text, dot + 1)
    if word is None:
        raise TemplateSyntaxError(
            dot + 2,
            f"unexpected {quote_at(text, dot + 1)}",
            "a key, or ['any key'] without the dot",
        )
    return word[0], word.end()


def _scan_bracket(text: str, begin: int) -> tuple[str, int]:
    if text[begin + 1 : begin + 2] not in {"'", '"'}:
        raise TemplateSyntaxError(
            begin + 2,
            f"unexpected {quote_at(text, begin + 1)}",
            "a quoted key as in ['any key']; a list is indexed as in `.0`",
        )
    key, end = scan_quoted(text, begin + 1)
    if not text.startswith("]", end):
        raise TemplateSyntaxError(end + 1, f"unexpected {quote_at(text, end)}", "`]`")
    return key, end + 1


def _read_json_string(quoted: str, begin: int) -> str:
    try:
        value = json.loads(quoted, strict=False)
    except ValueError as error:
        raise TemplateSyntaxError(
            begin + 1,
            "the text in double quotes is no JSON string",
            "JSON escapes, or a text in single quotes",
        ) from error
    return str(value)


def _read_number(digits: str, start: int) -> int | float:
    value: int | float
    if len(digits) > _MAX_NUMBER_DIGITS:
        raise TemplateSyntaxError(start + 1, f"a number has at most {_MAX_NUMBER_DIGITS} digits")
    value = float(digits) if any(mark in digits for mark in ".eE") else int(digits)
    if value in {float("inf"), float("-inf")}:
        raise TemplateSyntaxError(start + 1, "the number is too large")
    return value


def _check_root(path: Path, start: int) -> None:
    """Refuse a path that no scope can ever know."""
    match path.root, path.segments:
        case "index", [_, *_]:
            message, expected = "`index` is a number, there is nothing below it", "`index`"
        case "run", segments if len(segments) != 1 or segments[0] not in _RUN_KEYS:
            message = f"{path.text[:80]} is not known"
            expected = "`run.id` or `run.started_at`"
        case "errors", []:
            message, expected = "`errors` needs a step", "`errors.step_id.code`"
        case "errors", [_, key, *more] if key not in _ERROR_KEYS or more:
            message = f"an error has only {', '.join(_ERROR_KEYS)}"
            near = difflib.get_close_matches(key[:64], _ERROR_KEYS, n=1)
            expected = f"`errors.{path.segments[0][:80]}.{near[0] if near else 'code'}`"
        case "steps", [_, *_]:
            message, expected = "a path begins with the step's id", "the path without `steps.`"
        case _:
            return
    raise TemplateSyntaxError(start + 1, message, expected)
