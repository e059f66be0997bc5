"""The forms in which a condition is written, read into one tree.

Decides what a condition may look like in a document and names every problem in it; never judges
one. Called by conditions, which hands it on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.definition import CLASS_NAME, MODULE_NAME, nearest
from iaflow.pipeline.expressions import (
    ALWAYS,
    MAX_DEPTH,
    AgentCondition,
    AllOf,
    AnyOf,
    Compare,
    Condition,
    FunctionCondition,
    Not,
    Otherwise,
    ParameterTruthy,
    compare_literal,
    compare_path,
    depth_of,
    parse_expression,
    paths_of,
)
from iaflow.pipeline.operators import ALIASES, OPERATORS, UNARY, OperandInvalid, describe
from iaflow.pipeline.paths import Path, TemplateSyntaxError, parse_path
from iaflow.pipeline.reading import clip
from iaflow.pipeline.strict_json import join_pointer

__all__ = [
    "AGENT_KEYS",
    "CODES",
    "COMPARE_KEYS",
    "CONDITION_KEYS",
    "FUNCTION_KEYS",
    "parse_condition",
]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "condition_syntax": "an expression is not written as the grammar says",
        "condition_invalid": "a condition has the wrong keys or operands, or nests too deeply",
        "operator_unknown": "there is no such operator",
        "path_syntax": "a path is not written as the language says",
        "pattern_invalid": "a pattern is too long, or RE2 does not know it",
    }
)
"""Codes of the problems that `parse_condition` finds, with their meaning."""


def parse_condition(value: Any) -> tuple[Condition | None, list[Problem]]:
    """
    Parse a transition's condition in any of its forms.

    Args:
        value: ``"always"``, ``"otherwise"``, ``"parameter:name"``, an expression, or an object.

    Returns:
        The tree, or None if there are problems; pointers are relative to the condition. An
        expression and the object that says the same give equal trees.
    """
    parser = _Parser()
    condition = parser.parse(value, "", 1)
    return (None if parser.problems else condition), parser.problems


CONDITION_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "expression": ("config",),
    "all": ("conditions",),
    "any": ("conditions",),
    "not": ("condition",),
    "function": ("config",),
    "agent": ("config",),
}
COMPARE_KEYS: Final = ("source", "operator", "value", "value_source")
FUNCTION_KEYS: Final = ("module", "function", "arguments")
AGENT_KEYS: Final = ("service", "question", "choices", "choice")
_PARAMETER: Final = "parameter:"


class _Invalid(Exception):
    """This part of a condition cannot be read any further."""


class _Parser:
    """Reads one condition, and goes on after a problem wherever the rest can still be read."""

    __slots__ = ("problems",)

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def parse(self, value: Any, pointer: str, depth: int) -> Condition:
        """Return the tree; what cannot be read becomes a problem and stands as `ALWAYS`."""
        try:
            if depth > MAX_DEPTH:
                raise self._refuse(pointer, f"conditions nest deeper than {MAX_DEPTH}")
            match value:
                case str():
                    return self._parse_text(value, pointer, depth)
                case dict():
                    return self._parse_object(value, pointer, depth)
                case _:
                    raise self._refuse(
                        pointer, f"a condition is text or an object, not {describe(value)}"
                    )
        except _Invalid:
            return ALWAYS

    def _parse_text(self, text: str, pointer: str, depth: int) -> Condition:
        match text:
            case "always":
                return ALWAYS
            case "otherwise" if depth == 1:
                return Otherwise()
            case "otherwise":
                raise self._refuse(pointer, "`otherwise` stands alone, not within a condition")
        if text.startswith(_PARAMETER):
            name = text.removeprefix(_PARAMETER)
            if not name:
                raise self._refuse(pointer, "`parameter:` needs a name", "write parameter:name")
            return ParameterTruthy(name, pointer)
        return self._parse_expression(text, pointer, depth)

    def _parse_expression(self, text: str, pointer: str, depth: int) -> Condition:
        try:
            condition = parse_expression(text)
        except TemplateSyntaxError as error:
            raise self._refuse_syntax("condition_syntax", pointer, error) from None
        except OperandInvalid as error:
            raise self._refuse(pointer, error.message, error.hint, error.code) from None
        if depth + depth_of(condition) - 1 > MAX_DEPTH:
            raise self._refuse(pointer, f"conditions nest deeper than {MAX_DEPTH}")
        return _place(self._check_roots(condition, pointer), pointer)

    def _parse_object(self, value: dict[str, Any], pointer: str, depth: int) -> Condition:
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in CONDITION_KEYS:
            hint = _hint(kind, CONDITION_KEYS) or f"one of {', '.join(CONDITION_KEYS)}"
            where = f"{pointer}/type" if "type" in value else pointer
            raise self._refuse(where, "the condition needs a known `type`", hint)
        self._check_keys(value, ("type", *CONDITION_KEYS[kind]), CONDITION_KEYS[kind], pointer)
        match kind:
            case "all" | "any":
                group = self._parse_group(value["conditions"], f"{pointer}/conditions", depth)
                return AllOf(group) if kind == "all" else AnyOf(group)
            case "not":
                return Not(self.parse(value["condition"], f"{pointer}/condition", depth + 1))
        config, where = value["config"], f"{pointer}/config"
        if not isinstance(config, dict):
            raise self._refuse(where, f"`config` is an object, not {describe(config)}")
        match kind:
            case "expression":
                return self._parse_compare(config, where)
            case "function":
                return self._parse_function(config, where, pointer)
            case _:
                return self._parse_agent(config, where, pointer)

    def _parse_group(self, value: Any, pointer: str, depth: int) -> tuple[Condition, ...]:
        if not isinstance(value, list) or not value:
            raise self._refuse(pointer, "`conditions` is a list with at least one condition")
        return tuple(
            self.parse(child, f"{pointer}/{index}", depth + 1) for index, child in enumerate(value)
        )

    def _parse_compare(self, config: dict[str, Any], pointer: str) -> Condition:
        self._check_keys(config, COMPARE_KEYS, ("source", "operator"), pointer)
        left = self._parse_path(config["source"], f"{pointer}/source")
        name = self._parse_operator(config["operator"], f"{pointer}/operator")
        if "value" in config and "value_source" in config:
            raise self._refuse(pointer, "`value` and `value_source` exclude each other")
        if "value" not in config and "value_source" not in config and name not in UNARY:
            raise self._refuse(pointer, f"`{name}` needs a `value` or a `value_source`")
        key = "value_source" if "value_source" in config else "value"
        where = f"{pointer}/{key}"
        pointers = (f"{pointer}/source", where)
        try:
            if key == "value_source":
                right = self._parse_path(config[key], where)
                return compare_path(left, name, right, pointers)
            value = config.get("value", True)
            self._refuse_template(value, where)
            return compare_literal(left, name, value, pointers)
        except OperandInvalid as error:
            raise self._refuse(where, error.message, error.hint, error.code) from None

    def _parse_path(self, text: Any, pointer: str) -> Path:
        if not isinstance(text, str):
            raise self._refuse(pointer, f"a path is text, not {describe(text)}", code="path_syntax")
        try:
            path = parse_path(text)
        except TemplateSyntaxError as error:
            if text.lstrip().startswith("{{"):
                hint = f"write {text.strip('{} ')[:200]}"
                raise self._refuse(
                    pointer, "paths in conditions stand without braces", hint, "path_syntax"
                ) from None
            raise self._refuse_syntax("path_syntax", pointer, error) from None
        self._check_root(path, pointer)
        return path

    def _parse_operator(self, name: Any, pointer: str) -> str:
        if isinstance(name, str):
            name = ALIASES.get(name, name)
            if name in OPERATORS:
                return str(name)
        near = _hint(name, (*OPERATORS, *ALIASES))
        raise self._refuse(
            pointer, "there is no such operator", near or ", ".join(OPERATORS), "operator_unknown"
        )

    def _parse_function(self, config: dict[str, Any], pointer: str, node: str) -> Condition:
        self._check_keys(config, FUNCTION_KEYS, ("module", "function"), pointer)
        arguments = config.get("arguments", {})
        if not isinstance(arguments, dict):
            raise self._refuse(f"{pointer}/arguments", "`arguments` is an object")
        module = self._parse_word(config, "module", pointer)
        for key, pattern in (("module", MODULE_NAME), ("function", CLASS_NAME)):
            word = config[key]
            if isinstance(word, str) and word.strip() and not pattern.fullmatch(word):
                message = f"{clip(word)} is no legal `{key}`"
                hint = "letters, digits and _, no part beginning with _"
                self._refuse(f"{pointer}/{key}", message, hint, "name_invalid")
        return FunctionCondition(
            module, self._parse_word(config, "function", pointer), arguments, node
        )

    def _parse_agent(self, config: dict[str, Any], pointer: str, node: str) -> Condition:
        self._check_keys(config, AGENT_KEYS, AGENT_KEYS, pointer)
        service = self._parse_word(config, "service", pointer)
        question = self._parse_word(config, "question", pointer)
        choices, choice = config["choices"], config["choice"]
        if (
            not isinstance(choices, list)
            or not choices
            or not all(isinstance(one, str) and one for one in choices)
            or len(set(choices)) < len(choices)
        ):
            raise self._refuse(f"{pointer}/choices", "`choices` is a list of different texts")
        if choice not in choices:
            near = _hint(choice, choices)
            raise self._refuse(f"{pointer}/choice", "`choice` is none of the choices", near)
        return AgentCondition(service, question, tuple(choices), choice, node)

    def _parse_word(self, config: dict[str, Any], key: str, pointer: str) -> str:
        word = config[key]
        if not isinstance(word, str) or not word.strip():
            raise self._refuse(f"{pointer}/{key}", f"`{key}` is a text")
        return word

    # --- checks

    def _check_keys(
        self,
        value: dict[str, Any],
        known: Iterable[str],
        required: Iterable[str],
        pointer: str,
    ) -> None:
        """Note every unknown and every missing key; go no further if there is one."""
        found = len(self.problems)
        for key in value:
            if key not in known:
                where = join_pointer(pointer, key)
                self._refuse(where, f"unknown key {key[:64]!r}", _hint(key, known), "key_unknown")
        for key in required:
            if key not in value:
                self._refuse(pointer, f"`{key}` is missing", code="key_missing")
        if len(self.problems) > found:
            raise _Invalid

    def _check_roots(self, condition: Condition, pointer: str) -> Condition:
        for _, path in paths_of(condition):
            self._check_root(path, pointer)
        return condition

    def _check_root(self, path: Path, pointer: str) -> None:
        if path.root in {"item", "index"}:
            raise self._refuse(
                pointer,
                f"`{path.root}` is not known in conditions: a transition is decided once per step",
                code="path_syntax",
            )

    def _refuse_template(self, value: Any, pointer: str) -> None:
        """Refuse a literal that was meant as a template: it would silently stay text."""
        if isinstance(value, str) and value.startswith("{{") and value.endswith("}}"):
            raise self._refuse(
                pointer,
                "`value` is a literal and knows no templates",
                f'write "value_source": "{value.strip("{} ")[:200]}"',
            )

    def _refuse_syntax(self, code: str, pointer: str, error: TemplateSyntaxError) -> _Invalid:
        hint = f"expected {error.expected}" if error.expected else ""
        return self._refuse(pointer, f"column {error.column}: {error.message}", hint, code)

    def _refuse(
        self, pointer: str, message: str, hint: str = "", code: str = "condition_invalid"
    ) -> _Invalid:
        self.problems.append(Problem(code, pointer, message, hint))
        return _Invalid()


def _place(condition: Condition, pointer: str) -> Condition:
    """Return the tree of an expression with the pointer of its text at every comparison."""
    match condition:
        case Compare():
            return replace(condition, pointers=(pointer, pointer))
        case AllOf():
            return AllOf(tuple(_place(child, pointer) for child in condition.conditions))
        case AnyOf():
            return AnyOf(tuple(_place(child, pointer) for child in condition.conditions))
        case Not():
            return Not(_place(condition.condition, pointer))
        case _:
            return condition


def _hint(word: Any, known: Iterable[str]) -> str:
    """Return a hint with the nearest known spelling, or an empty one."""
    text = str(word)
    near = nearest(text, known) if len(text) <= _LONGEST_WORD else None
    return f"did you mean `{near}`?" if near else ""


_LONGEST_WORD: Final = 64
"""Letters of a word that somebody may have misspelt: comparing longer ones takes its time."""
