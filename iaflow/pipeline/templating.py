"""Templates: compiled once from a definition's values, rendered once per step.

Decides what stands in the place of a `{{ template }}`; never decides what a path finds (paths
does), and never reads a found value as a template. Called by graph and planner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from iaflow.errors import Problem
from iaflow.pipeline.paths import (
    MISSING,
    RESERVED_ROOTS,
    Missing,
    Path,
    ReferenceMissing,
    RenderFailed,
    Scope,
    TemplateSyntaxError,
    parse_path,
    quote_at,
    resolve,
    scan_literal,
    scan_path,
    scan_quoted,
    scan_word,
    skip_space,
    try_resolve,
)
from iaflow.pipeline.strict_json import dump_json, join_pointer

__all__ = [
    "CODES",
    "MAX_TEXT_BYTES",
    "MISSING",
    "RESERVED_ROOTS",
    "Missing",
    "Path",
    "ReferenceMissing",
    "RenderFailed",
    "Scope",
    "Template",
    "TemplateSyntaxError",
    "TextTooLong",
    "compile_template",
    "parse_path",
    "render",
    "resolve",
    "try_resolve",
]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "template_syntax": "a template or a path in it is not written as the language says",
        "deprecated_single_brace": "the old form {step.output} stands where {{ … }} should",
    }
)
"""Codes of the problems that `compile_template` finds, with their meaning."""

MAX_TEXT_BYTES: Final = 256 * 1024
"""How long a text with templates in it may become, in bytes of UTF-8."""


class TextTooLong(RenderFailed):
    """A text with templates in it became longer than `MAX_TEXT_BYTES`."""

    code = "text_too_long"


@dataclass(frozen=True, slots=True)
class Template:
    """
    A compiled value: literals, lists and objects with templates at any depth.

    Attributes:
        paths: what it reads, as (pointer relative to the value, path, has a default).
        warnings: deprecated forms in it, as problems with pointers relative to the value.
    """

    paths: tuple[tuple[str, Path, bool], ...]
    warnings: tuple[Problem, ...]
    _node: _Node
    is_broken: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether it is one template and nothing else, so that it gives any type."""
        return isinstance(self._node, _Reference)


def compile_template(value: Any, *, single_brace: bool = False) -> tuple[Template, list[Problem]]:
    """
    Compile a JSON value whose strings may hold templates.

    Done once when a definition is loaded, so that a step only has to look up values.

    Args:
        value: any JSON value; keys of objects are never templates.
        single_brace: accept the deprecated whole string ``{step.output}``, with a warning.

    Returns:
        The template, and the problems found; pointers are relative to the value (``""`` is the
        value itself). A string with a problem stays literal text.
    """
    compiler = _Compiler(single_brace)
    node = compiler.compile(value, "", 0)
    template = Template(
        tuple(compiler.paths), tuple(compiler.warnings), node, bool(compiler.problems)
    )
    return template, compiler.problems


def render(template: Template, scope: Scope) -> Any:
    """
    Return the value with every template replaced, in one pass.

    Lists and objects of the definition are made anew; values that a path found are handed on
    as they are, not copied.

    Raises:
        ReferenceMissing: a path without default finds nothing.
        TextTooLong: a text grew over `MAX_TEXT_BYTES`.
    """
    return _render(template._node, scope)  # noqa: SLF001  the compiled value is this room's own


# --- compiled nodes: a closed set, read by _render


@dataclass(frozen=True, slots=True)
class _Constant:
    """A scalar of the document."""

    value: Any


@dataclass(frozen=True, slots=True)
class _Reference:
    """A whole string that is one template, or one template within a text."""

    path: Path
    default: Any


@dataclass(frozen=True, slots=True)
class _Text:
    """A string with templates in it."""

    parts: tuple[str | _Reference, ...]


@dataclass(frozen=True, slots=True)
class _List:
    nodes: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Object:
    members: tuple[tuple[str, _Node], ...]


_Node: TypeAlias = "_Constant | _Reference | _Text | _List | _Object"

_LITERAL_BRACES: Final = frozenset({"{{", "}}"})
_MAX_DEPTH: Final = 64
_MAX_PROBLEMS_PER_TEXT: Final = 8


# --- rendering


def _render(node: _Node, scope: Scope) -> Any:
    match node:
        case _Reference():
            return _find(node, scope)
        case _Constant():
            return node.value
        case _Object():
            return {key: _render(child, scope) for key, child in node.members}
        case _Text():
            return _join(node.parts, scope)
        case _List():
            return [_render(child, scope) for child in node.nodes]


def _find(reference: _Reference, scope: Scope) -> Any:
    if reference.default is MISSING:
        return resolve(reference.path, scope)
    value = try_resolve(reference.path, scope)
    if value is not MISSING:
        return value
    default = reference.default
    # `[]` and `{}` are made anew, so that nobody can fill the definition's own.
    return type(default)() if isinstance(default, list | dict) else default


def _join(parts: tuple[str | _Reference, ...], scope: Scope) -> str:
    pieces: list[str] = []
    size = 0
    for part in parts:
        if not isinstance(part, str):
            value = _find(part, scope)
            part = value if isinstance(value, str) else _write(value)
        # Counted while it grows: a short template can name a long value thousands of times.
        size += len(part)
        if size > MAX_TEXT_BYTES:
            raise _too_long()
        pieces.append(part)
    text = "".join(pieces)
    if size * 4 > MAX_TEXT_BYTES and len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise _too_long()
    return text


def _write(value: Any) -> str:
    kind = type(value)
    # The encoder sets itself up anew for every value, which costs more than a number does.
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    return dump_json(value)


def _too_long() -> TextTooLong:
    return TextTooLong(f"a text with templates became longer than {MAX_TEXT_BYTES} bytes")


# --- compiling


class _Compiler:
    """Walks a value once and gathers what `compile_template` returns."""

    __slots__ = ("paths", "problems", "single_brace", "warnings")

    def __init__(self, single_brace: bool) -> None:
        self.single_brace = single_brace
        self.paths: list[tuple[str, Path, bool]] = []
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def compile(self, value: Any, pointer: str, depth: int) -> _Node:
        if depth > _MAX_DEPTH:
            self.problems.append(
                Problem("template_syntax", pointer, f"values nest deeper than {_MAX_DEPTH}")
            )
            return _Constant(None)
        match value:
            case str():
                return self._compile_string(value, pointer)
            case dict():
                return _Object(
                    tuple(
                        (key, self.compile(child, join_pointer(pointer, key), depth + 1))
                        for key, child in value.items()
                    )
                )
            case list():
                return _List(
                    tuple(
                        self.compile(child, f"{pointer}/{index}", depth + 1)
                        for index, child in enumerate(value)
                    )
                )
            case _:
                return _Constant(value)

    def _compile_string(self, text: str, pointer: str) -> _Node:
        if "{{" in text:
            parts = self._compile_parts(text, pointer)
            match parts:
                case [_Reference() as only]:
                    return only
                case _ if all(isinstance(part, str) for part in parts):
                    return _Constant("".join(str(part) for part in parts))
                case _:
                    return _Text(tuple(parts))
        old = _read_single_brace(text) if self.single_brace else None
        if old is None:
            return _Constant(text)
        self.warnings.append(
            Problem(
                "deprecated_single_brace",
                pointer,
                f"{text[:80]} is the old form of a template",
                f"write {{{{ {old.text[:80]} }}}}",
            )
        )
        self.paths.append((pointer, old, False))
        return _Reference(old, MISSING)

    def _compile_parts(self, text: str, pointer: str) -> list[str | _Reference]:
        parts: list[str | _Reference] = []
        at = 0
        left = _MAX_PROBLEMS_PER_TEXT
        while (begin := text.find("{{", at)) >= 0:
            if begin > at:
                parts.append(text[at:begin])
            try:
                part, at = _scan_tag(text, begin)
            except TemplateSyntaxError as error:
                self.problems.append(_as_problem(error, pointer))
                left -= 1
                end = text.find("}}", error.column - 1)
                if end < 0 or left == 0:
                    return parts
                at = end + 2
                continue
            if isinstance(part, _Reference):
                self.paths.append((pointer, part.path, part.default is not MISSING))
            parts.append(part)
        if at < len(text):
            parts.append(text[at:])
        return parts


def _as_problem(error: TemplateSyntaxError, pointer: str) -> Problem:
    hint = f"expected {error.expected}" if error.expected else ""
    return Problem("template_syntax", pointer, f"column {error.column}: {error.message}", hint)


def _read_single_brace(text: str) -> Path | None:
    """Return the path of a whole string ``{step.output}``; None if it is ordinary text."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        path = parse_path(text[1:-1].strip(" "))
    except TemplateSyntaxError:
        return None
    return path if path.segments and path.root != "result" else None


def _scan_tag(text: str, begin: int) -> tuple[str | _Reference, int]:
    """Read ``{{ … }}`` at `begin`: a reference, or the text that quoted braces stand for."""
    at = skip_space(text, begin + 2)
    if text.startswith("'", at):
        part, at = _scan_braces(text, at)
        return part, _scan_close(text, at, "`}}`")
    path, at = scan_path(text, at)
    if path.root == "result":
        raise TemplateSyntaxError(
            at - len(path.text) + 1, "`result` is known in conditions only", "the step's id"
        )
    at = skip_space(text, at)
    if not text.startswith("|", at):
        return _Reference(path, MISSING), _scan_close(text, at, "`}}` or `| default(…)`")
    default, at = _scan_default(text, at + 1)
    return _Reference(path, default), _scan_close(text, at, "`}}`")


def _scan_close(text: str, at: int, expected: str) -> int:
    at = skip_space(text, at)
    if text.startswith("}}", at):
        return at + 2
    raise TemplateSyntaxError(at + 1, f"unexpected {quote_at(text, at)}", expected)


def _scan_braces(text: str, at: int) -> tuple[str, int]:
    literal, end = scan_quoted(text, at)
    if literal in _LITERAL_BRACES:
        return literal, end
    raise TemplateSyntaxError(
        at + 1, "only braces are quoted here, as in {{ '{{' }}", "a path without quotes"
    )


def _scan_default(text: str, at: int) -> tuple[Any, int]:
    """Read ``default(literal)``, the only filter there is."""
    at = skip_space(text, at)
    if scan_word(text, at) != "default":
        raise TemplateSyntaxError(
            at + 1, f"unexpected {quote_at(text, at)}, there is no other filter", "default(literal)"
        )
    at = skip_space(text, at + len("default"))
    if not text.startswith("(", at):
        raise TemplateSyntaxError(at + 1, f"unexpected {quote_at(text, at)}", "`(`")
    at = skip_space(text, at + 1)
    literal, at = _scan_default_value(text, at)
    at = skip_space(text, at)
    if not text.startswith(")", at):
        raise TemplateSyntaxError(at + 1, f"unexpected {quote_at(text, at)}", "`)`")
    return literal, at + 1


def _scan_default_value(text: str, at: int) -> tuple[Any, int]:
    for empty, close in (([], "]"), ({}, "}")):
        opening = "[" if close == "]" else "{"
        if text.startswith(opening, at):
            end = skip_space(text, at + 1)
            if text.startswith(close, end):
                return empty, end + 1
            raise TemplateSyntaxError(end + 1, "a default list or object is empty", f"`{close}`")
    return scan_literal(text, at)
