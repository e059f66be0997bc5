"""The tree of a condition, and the grammar of the strings that are parsed into it.

Decides what a condition may say: its nodes, and which operand an operator takes; never judges
one against values. Called by conditions, which reads the object form and evaluates.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from iaflow.pipeline.operators import ALIASES, UNARY, OperandInvalid, check_literal, compile_pattern
from iaflow.pipeline.paths import (
    Path,
    TemplateSyntaxError,
    quote_at,
    scan_literal,
    scan_path,
    scan_word,
    skip_space,
)

__all__ = [
    "MAX_DEPTH",
    "ALWAYS",
    "AgentCondition",
    "AllOf",
    "Always",
    "AnyOf",
    "Compare",
    "Condition",
    "FunctionCondition",
    "Not",
    "Otherwise",
    "ParameterTruthy",
    "compare_literal",
    "code_conditions",
    "compare_path",
    "depth_of",
    "parse_expression",
    "paths_of",
]

MAX_DEPTH: Final = 8
"""How deep conditions may nest, in whatever form they are written."""


@dataclass(frozen=True, slots=True)
class Always:
    """Always true."""


@dataclass(frozen=True, slots=True)
class Otherwise:
    """True when no sibling is; the planner knows the siblings."""


@dataclass(frozen=True, slots=True)
class ParameterTruthy:
    """
    The parameter is there and neither null, false, zero nor empty.

    Attributes:
        name: its key.
        pointer: where this is written, relative to the whole condition.
    """

    name: str
    pointer: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Compare:
    """
    One comparison.

    Attributes:
        left: what is compared.
        operator: a name of `OPERATORS`, never an alias.
        value: the literal it is compared with; for `UNARY` the verdict that is wanted.
        right: the path it is compared with, instead of `value`.
        must_be_boolean: the expression was a path alone, so anything but a boolean is an error.
        pattern: `value` compiled, for `matches`.
        pointers: where `left` and `right` are written, relative to the whole condition.
    """

    left: Path
    operator: str
    value: Any = None
    right: Path | None = None
    must_be_boolean: bool = False
    pattern: Any = field(default=None, compare=False, repr=False)
    pointers: tuple[str, str] = field(default=("", ""), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AllOf:
    """True when every one is; judged in order up to the first that is not."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True when one is; judged in order up to it."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True when the other is not."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class FunctionCondition:
    """
    An allowed Python function judged on a worker; its verdict is looked up, never computed.

    Attributes:
        module, function: where it is.
        arguments: what it is given beside the context.
        pointer: where it stands in the whole condition; the key of its recorded verdict.
    """

    module: str
    function: str
    arguments: dict[str, Any]
    pointer: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class AgentCondition:
    """
    A question that a routing service answered on a worker; the answer is compared with `choice`.

    Attributes:
        service, question: who is asked what.
        choices: the answers that are allowed.
        choice: the one that makes this condition true.
        pointer: where it stands in the whole condition; the key of its recorded answer.
    """

    service: str
    question: str
    choices: tuple[str, ...]
    choice: str
    pointer: str = field(default="", compare=False)


Condition: TypeAlias = (
    Always
    | Otherwise
    | ParameterTruthy
    | Compare
    | AllOf
    | AnyOf
    | Not
    | FunctionCondition
    | AgentCondition
)


ALWAYS: Final = Always()


def compare_literal(
    left: Path, operator: str, value: Any, pointers: tuple[str, str] = ("", "")
) -> Compare:
    """
    Return the comparison of a path with a literal, its pattern compiled.

    Args:
        left: the path.
        operator: a name of `OPERATORS`.
        value: the literal; for `UNARY` a boolean, the verdict that is wanted.
        pointers: where the two are written.

    Raises:
        OperandInvalid: the operator cannot work with this literal.
    """
    check_literal(operator, value)
    pattern = compile_pattern(value) if operator == "matches" else None
    return Compare(left, operator, value, pattern=pattern, pointers=pointers)


def compare_path(
    left: Path, operator: str, right: Path, pointers: tuple[str, str] = ("", "")
) -> Compare:
    """
    Return the comparison of two paths.

    Raises:
        OperandInvalid: the operator cannot work with a second path.
    """
    if operator == "matches":
        raise OperandInvalid(
            "the pattern of `matches` is written out, not looked up",
            "so that it is checked when the definition is loaded",
        )
    if operator in UNARY:
        raise OperandInvalid(f"`{operator}` asks about one operand")
    return Compare(left, operator, right=right, pointers=pointers)


def depth_of(condition: Condition) -> int:
    """Return how deep a condition nests; one that holds no other has depth 1."""
    match condition:
        case AllOf() | AnyOf():
            return 1 + max(depth_of(child) for child in condition.conditions)
        case Not():
            return 1 + depth_of(condition.condition)
        case _:
            return 1


def paths_of(condition: Condition) -> tuple[tuple[str, Path], ...]:
    """Return every path that the condition may read, with the pointer to where it is written."""
    return tuple(_iterate_paths(condition))


def code_conditions(condition: Condition) -> tuple[FunctionCondition | AgentCondition, ...]:
    """Return the parts that need code: a worker judges them and records each by its pointer."""
    return tuple(
        leaf
        for leaf in _iterate_leaves(condition)
        if isinstance(leaf, FunctionCondition | AgentCondition)
    )


def parse_expression(text: str) -> Condition:
    """
    Parse an expression such as ``result.score > 0.8 and parameters.mode == 'auto'``.

    The tree is the same that the object form gives, so that checks, meaning and ledger are one.

    Raises:
        TemplateSyntaxError: it is none; the error names the column and what was expected there.
        OperandInvalid: a comparison in it can never work.
    """
    return _Reader(text).read()


_MAX_OPEN: Final = 32

_SYMBOL: Final = re.compile(r"[=!<>]=|[<>]")
_NOT_IN: Final = re.compile(r"not[ \t\r\n]+in(?![A-Za-z0-9_-])")
_WORD_OPERATORS: Final = frozenset({"in", "contains", "starts_with", "ends_with", "matches"})
_FUNCTIONS: Final = frozenset({"exists", "empty"})
_LITERAL_MARKS: Final = frozenset("'\"-0123456789")
_CONSTANTS: Final = frozenset({"true", "false", "null"})
_MIRRORED: Final[Mapping[str, str]] = {
    "eq": "eq",
    "ne": "ne",
    "gt": "lt",
    "gte": "lte",
    "lt": "gt",
    "lte": "gte",
    "in": "contains",
    "not_in": "not_contains",
    "contains": "in",
}
_NEED_OPERATOR: Final = "an operator such as `==`, `>`, `in` or `matches`"
_NEED_OPERAND: Final = "a path such as `result.score`, or a number, quoted text, list, true or null"
_NEED_CONNECTIVE: Final = "`and`, `or` or the end"


def _iterate_leaves(condition: Condition) -> Iterator[Condition]:
    match condition:
        case AllOf() | AnyOf():
            for child in condition.conditions:
                yield from _iterate_leaves(child)
        case Not():
            yield from _iterate_leaves(condition.condition)
        case _:
            yield condition


def _iterate_paths(condition: Condition) -> Iterator[tuple[str, Path]]:
    for leaf in _iterate_leaves(condition):
        match leaf:
            case Compare():
                yield leaf.pointers[0], leaf.left
                if leaf.right is not None:
                    yield leaf.pointers[1], leaf.right
            case ParameterTruthy():
                yield leaf.pointer, Path("parameters", (leaf.name,), f"parameters.{leaf.name}")
            case _:
                pass


class _Reader:
    """Reads an expression from left to right; one method for each rule of the grammar."""

    __slots__ = ("at", "open", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.open = 0

    def read(self) -> Condition:
        condition = self._read_any()
        if self.at < len(self.text):
            raise self._fail(_NEED_CONNECTIVE)
        return condition

    def _read_any(self) -> Condition:
        """``all (or all)*``"""
        conditions = [self._read_all()]
        while self._accept("or", "||"):
            conditions.append(self._read_all())
        return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))

    def _read_all(self) -> Condition:
        """``one (and one)*``"""
        conditions = [self._read_one()]
        while self._accept("and", "&&"):
            conditions.append(self._read_one())
        return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))

    def _read_one(self) -> Condition:
        """``not one | ( any ) | exists(path) | empty(path) | comparison``"""
        self._skip()
        if self._accept_not():
            return Not(self._nested(self._read_one))
        if self._accept_mark("("):
            condition: Condition = self._nested(self._read_any)
            self._expect(")")
            return condition
        word = self._peek_word()
        if word in _FUNCTIONS and self._is_called(word):
            return self._read_function(word)
        return self._read_comparison()

    def _read_function(self, operator: str) -> Condition:
        self.at += len(operator)
        self._expect("(")
        path = self._read_path()
        self._expect(")")
        return compare_literal(path, operator, True)

    def _read_comparison(self) -> Condition:
        """``path | path operator operand | literal operator path``"""
        begin = self.at
        left = self._read_operand()
        operator = self._read_operator()
        if operator is None:
            return self._read_path_alone(left, begin)
        self._skip()
        middle = self.at
        right = self._read_operand()
        if isinstance(left, Path):
            if isinstance(right, Path):
                return compare_path(left, operator, right)
            return compare_literal(left, operator, right)
        if not isinstance(right, Path):
            raise TemplateSyntaxError(middle + 1, "two literals are compared", "a path")
        if operator not in _MIRRORED:
            raise TemplateSyntaxError(begin + 1, f"`{operator}` asks about its left side", "a path")
        return compare_literal(right, _MIRRORED[operator], left)

    def _read_path_alone(self, left: Any, begin: int) -> Condition:
        if not isinstance(left, Path) or not self._is_at_end():
            raise self._fail(_NEED_OPERATOR)
        if not left.segments:
            near = difflib.get_close_matches(left.root.lower()[:64], ["always", "otherwise"], n=1)
            raise TemplateSyntaxError(
                begin + 1,
                f"{left.text[:80]!r} alone is an object and never a boolean",
                f"`{near[0]}`" if near else "a comparison, or a path such as `result.is_valid`",
            )
        return Compare(left, "eq", True, must_be_boolean=True)

    def _read_operand(self) -> Any:
        """Return a Path, or the value of a literal."""
        self._skip()
        mark = self.text[self.at : self.at + 1]
        if mark in _LITERAL_MARKS:
            return self._scan(scan_literal)
        if self._accept_mark("["):
            return self._nested(self._read_list)
        word = self._peek_word()
        if word in _CONSTANTS and not self._continues(word):
            return self._scan(scan_literal)
        if word and word[0].isalpha():
            return self._read_path()
        if self.text.startswith("{{", self.at):
            raise TemplateSyntaxError(
                self.at + 1, "paths in conditions stand without braces", _NEED_OPERAND
            )
        raise self._fail(_NEED_OPERAND)

    def _read_list(self) -> list[Any]:
        items: list[Any] = []
        self._skip()
        while not self._accept_mark("]"):
            if items:
                self._expect(",")
            begin = self.at
            item = self._read_operand()
            if isinstance(item, Path):
                raise TemplateSyntaxError(
                    begin + 1, "a list holds literals only", "a number or quoted text"
                )
            items.append(item)
            self._skip()
        return items

    def _read_operator(self) -> str | None:
        self._skip()
        if symbol := _SYMBOL.match(self.text, self.at):
            self.at = symbol.end()
            return ALIASES[symbol[0]]
        if not_in := _NOT_IN.match(self.text, self.at):
            self.at = not_in.end()
            return "not_in"
        word = self._peek_word()
        if word in _WORD_OPERATORS:
            self.at += len(word)
            return word
        return None

    def _read_path(self) -> Path:
        self._skip()
        path: Path = self._scan(scan_path)
        return path

    # --- the cursor

    def _scan(self, scan: Callable[[str, int], tuple[Any, int]]) -> Any:
        value, self.at = scan(self.text, self.at)
        return value

    def _nested(self, read: Callable[[], Any]) -> Any:
        if self.open == _MAX_OPEN:
            raise TemplateSyntaxError(self.at + 1, f"more than {_MAX_OPEN} levels are open")
        self.open += 1
        value = read()
        self.open -= 1
        return value

    def _accept(self, word: str, mark: str) -> bool:
        self._skip()
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        if self._peek_word() == word:
            self.at += len(word)
            return True
        return False

    def _accept_not(self) -> bool:
        if self.text.startswith("!", self.at) and not self.text.startswith("!=", self.at):
            self.at += 1
            return True
        if self._peek_word() == "not" and not self._continues("not"):
            self.at += 3
            return True
        return False

    def _accept_mark(self, mark: str) -> bool:
        if self.text.startswith(mark, self.at):
            self.at += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        self._skip()
        if not self._accept_mark(mark):
            raise self._fail(f"`{mark}`")

    def _is_called(self, word: str) -> bool:
        return self.text.startswith("(", skip_space(self.text, self.at + len(word)))

    def _is_at_end(self) -> bool:
        """Say whether a comparison may end here."""
        if self.at >= len(self.text) or self.text.startswith((")", "&&", "||"), self.at):
            return True
        return self._peek_word() in {"and", "or"}

    def _continues(self, word: str) -> bool:
        """Say whether the word is only the beginning of a path."""
        return self.text.startswith((".", "["), self.at + len(word))

    def _peek_word(self) -> str:
        return scan_word(self.text, self.at)

    def _skip(self) -> None:
        self.at = skip_space(self.text, self.at)

    def _fail(self, expected: str) -> TemplateSyntaxError:
        found = quote_at(self.text, self.at)
        return TemplateSyntaxError(self.at + 1, f"unexpected {found}", expected)
