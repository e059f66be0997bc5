"""The parsers of expressions, conditions, templates, JSON and documents, on whatever text.

Proven: each ends soon, refuses only in its own way, names a place that is there, and reads back
what is printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.errors import Problem
from iaflow.pipeline.check import CODES, check
from iaflow.pipeline.condition_parser import parse_condition
from iaflow.pipeline.expressions import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Not,
    parse_expression,
    paths_of,
)
from iaflow.pipeline.operators import OperandInvalid
from iaflow.pipeline.paths import TemplateSyntaxError, parse_path
from iaflow.pipeline.strict_json import JsonRefused, read_json
from iaflow.pipeline.templating import compile_template
from tests.hostile.documents import VALID, VALUES, dump, leads_somewhere, spoilt_documents
from tests.unit.timing import within

T = TypeVar("T")

TOKENS = (
    *("result.x", "a.b['c d'].0", "parameters.mode", "errors.a.code", "run.id", "item", "index"),
    *("==", "!=", ">", "<=", "=", "in", "not in", "contains", "starts_with", "matches", "like"),
    *("and", "or", "not", "&&", "||", "!", "exists", "empty", "(", ")", "[", "]", ",", ".", "'"),
    *("1", "-0.5", "1e999", "007", "true", "null", "'it''s'", '"\\u00e9"', '"\\d"', "'(?=a)'"),
    *("{{", "}}", "{", "}", "| default(", "default", "\n", "\t", "\u00a0", "\u0131", "\U0001f600"),
)
SCRAPS = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=14).map(" ".join)
TIGHT = st.lists(st.sampled_from(TOKENS) | st.text(max_size=2), max_size=14).map("".join)
TEXTS = SCRAPS | TIGHT

OPERANDS = st.sampled_from(["result.x", "a.b", "parameters.mode", "a['b c'].0", "errors.a.code"])
LITERALS = st.sampled_from(["1", "-2.5", "'x'", '"y"', "true", "null", "[1, 'x', []]", "''"])
COMPARISONS = (
    OPERANDS
    | st.builds("exists({})".format, OPERANDS)
    | st.builds("empty( {} )".format, OPERANDS)
    | st.builds("{} {} {}".format, OPERANDS, st.sampled_from(["==", "!=", ">"]), LITERALS)
    | st.builds("{} {} {}".format, LITERALS, st.sampled_from(["<", "<=", "=="]), OPERANDS)
    | st.builds("{} {} {}".format, OPERANDS, st.sampled_from(["<", "in", "contains"]), OPERANDS)
    | st.builds("{} matches '^{}+$'".format, OPERANDS, st.sampled_from("abc"))
)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds("({})".format, inner)
        | st.builds("not ({})".format, inner)
        | st.builds("({}) and ({})".format, inner, inner)
        | st.builds("({}) || ({})".format, inner, inner)
    ),
    max_leaves=6,
)


def quickly(work: Callable[[], T]) -> T:
    return within(1, work)


def column_of(problem: Problem) -> int:
    named = re.match(r"column (\d+): ", problem.message)
    assert named is not None, problem
    return int(named[1])


@settings(max_examples=200)
@given(TEXTS)
def test_an_expression_is_read_or_refused_at_a_column_of_it(text: str) -> None:
    match quickly(lambda: read_expression(text)):
        case TemplateSyntaxError(column=column, message=message):
            assert 1 <= column <= len(text) + 1
            assert message
        case OperandInvalid(code=code):
            assert code in {"condition_invalid", "pattern_invalid"}
        case tree:
            for _, path in paths_of(tree):
                assert parse_path(path.text) == path


def read_expression(text: str) -> Condition | TemplateSyntaxError | OperandInvalid:
    try:
        return parse_expression(text)
    except (TemplateSyntaxError, OperandInvalid) as refused:
        return refused


@settings(max_examples=100)
@given(EXPRESSIONS)
def test_an_expression_and_its_object_are_one_tree(text: str) -> None:
    try:
        tree = parse_expression(text)
    except OperandInvalid:
        return
    found, problems = parse_condition(as_object(tree))
    if not problems:
        assert found == tree
    assert {problem.message for problem in problems} <= {"conditions nest deeper than 8"}


def as_object(tree: Condition) -> Any:
    """Write a tree in the form of objects, but for the paths that stand alone."""
    match tree:
        case AllOf(parts):
            return {"type": "all", "conditions": [as_object(part) for part in parts]}
        case AnyOf(parts):
            return {"type": "any", "conditions": [as_object(part) for part in parts]}
        case Not(part):
            return {"type": "not", "condition": as_object(part)}
        case Compare(must_be_boolean=True):
            return tree.left.text
        case Compare():
            second = {"value": tree.value}
            if tree.right is not None:
                second = {"value_source": tree.right.text}
            config = {"source": tree.left.text, "operator": tree.operator, **second}
            return {"type": "expression", "config": config}
        case _:
            pytest.fail(f"no string gives {tree}")


@settings(max_examples=200)
@given(VALUES)
def test_a_condition_is_read_or_refused_at_a_place_of_it(value: Any) -> None:
    tree, problems = quickly(lambda: parse_condition(value))
    assert (tree is None) == bool(problems)
    for problem in problems:
        assert problem.code in CODES
        assert leads_somewhere(problem.pointer, value)


@settings(max_examples=200)
@given(TEXTS)
def test_a_template_is_read_or_refused_at_a_column_of_it(text: str) -> None:
    template, problems = quickly(lambda: compile_template({"key": [text]}, single_brace=True))
    for problem in problems:
        assert (problem.code, problem.pointer) == ("template_syntax", "/key/0")
        assert 1 <= column_of(problem) <= len(text) + 1
    for pointer, path, _ in template.paths:
        assert pointer == "/key/0"
        assert parse_path(path.text) == path
        written = compile_template("{{ " + path.text + " }}")[0].paths
        assert written == (("", path, False),)


@settings(max_examples=200)
@given(st.sampled_from(VALID).map(dump), st.data())
def test_a_spoilt_text_is_read_or_refused_at_a_line_and_column_of_it(
    text: str, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 40)))
        put = data.draw(st.sampled_from(['"', "\\", "{", "}", "[", "]", ",", ":", "\n", "NaN", ""]))
        text = text[:begin] + put + text[end:]
    try:
        value = quickly(lambda: read_json(text))
    except JsonRefused as refused:
        for problem in refused.problems:
            assert problem.code in CODES
            stand_inside(problem.message, text)
    else:
        assert value == json.loads(text)
    assert all(error.code in CODES for error in check(text).errors)


def stand_inside(message: str, text: str) -> None:
    named = re.search(r"at line (\d+), column (\d+)$", message)
    if named is None:
        return
    line, column = (int(number) for number in named.groups())
    lines = text.split("\n")
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1


@pytest.mark.parametrize("document", VALID)
def test_the_documents_to_spoil_are_valid(document: dict[str, Any]) -> None:
    assert check(document).errors == ()


@settings(max_examples=400)
@given(spoilt_documents())
def test_a_spoilt_document_is_clean_or_refused_at_a_place_of_it(document: Any) -> None:
    text = dump(document)
    checked = quickly(lambda: check(text))
    assert (checked.graph is None) == bool(checked.errors)
    for problem in (*checked.errors, *checked.warnings):
        assert problem.code in CODES
        assert 0 < len(problem.message) < 600
        assert leads_somewhere(problem.pointer, document), problem
    if isinstance(document, dict):
        again = check(document)
        assert (again.errors, again.warnings) == (checked.errors, checked.warnings)
