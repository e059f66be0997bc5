"""The grammar of condition strings: which tree they give, and where they are refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.expressions import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Not,
    code_conditions,
    compare_literal,
    compare_path,
    depth_of,
    parse_expression,
    paths_of,
)
from iaflow.pipeline.operators import OperandInvalid
from iaflow.pipeline.paths import Path, TemplateSyntaxError, parse_path
from tests.unit.timing import within


def literal(path: str, operator: str, value: Any) -> Compare:
    return compare_literal(parse_path(path), operator, value)


def paths(left: str, operator: str, right: str) -> Compare:
    return compare_path(parse_path(left), operator, parse_path(right))


def alone(path: str) -> Compare:
    return Compare(parse_path(path), "eq", True, must_be_boolean=True)


@pytest.mark.parametrize(
    ("text", "tree"),
    (
        ("result.score > 0.8", literal("result.score", "gt", 0.8)),
        ("result.score>0.8", literal("result.score", "gt", 0.8)),
        ("  a.x  ==\n'it\\'s'\t", literal("a.x", "eq", "it's")),
        ('a.x != "t\\u00e9"', literal("a.x", "ne", "té")),
        ("a.x >= -1e3", literal("a.x", "gte", -1000.0)),
        ("a.x <= 3", literal("a.x", "lte", 3)),
        ("a.x < b.y", paths("a.x", "lt", "b.y")),
        ("a.x == null", literal("a.x", "eq", None)),
        ("a == null", literal("a", "eq", None)),
        ("a.x in [1, 'b', null, [true, []]]", literal("a.x", "in", [1, "b", None, [True, []]])),
        ("a.x not  in ['b']", literal("a.x", "not_in", ["b"])),
        ("a.x in parameters.list", paths("a.x", "in", "parameters.list")),
        ("a.x contains 'b'", literal("a.x", "contains", "b")),
        ("'b' in a.x", literal("a.x", "contains", "b")),
        ("'b' not in a.x", literal("a.x", "not_contains", "b")),
        ("[1, 2] contains a.x", literal("a.x", "in", [1, 2])),
        ("0.8 < a.x", literal("a.x", "gt", 0.8)),
        ("a.x starts_with 'b'", literal("a.x", "starts_with", "b")),
        ("a.x ends_with parameters.end", paths("a.x", "ends_with", "parameters.end")),
        ("a.x matches '^\\d+$'", literal("a.x", "matches", "^\\d+$")),
        ("exists(a.x)", literal("a.x", "exists", True)),
        ("empty ( a.x )", literal("a.x", "empty", True)),
        ("a.x", alone("a.x")),
        ("!a.x", Not(alone("a.x"))),
        ("not not a.x", Not(Not(alone("a.x")))),
        ("not(a.x)", Not(alone("a.x"))),
        ("not a.x == 1", Not(literal("a.x", "eq", 1))),
        ("a.x and a.y and a.z", AllOf((alone("a.x"), alone("a.y"), alone("a.z")))),
        ("a.x&&a.y||a.z", AnyOf((AllOf((alone("a.x"), alone("a.y"))), alone("a.z")))),
        ("a.x and (a.y or a.z)", AllOf((alone("a.x"), AnyOf((alone("a.y"), alone("a.z")))))),
        ("((((a.x))))", alone("a.x")),
        ("a['any key'].0 == 1", literal("a['any key'].0", "eq", 1)),
        # words of the grammar are ids of steps where a path may stand
        ("in.x in [1]", literal("in.x", "in", [1])),
        ("not.x", alone("not.x")),
        ("exists.x and true.y", AllOf((alone("exists.x"), alone("true.y")))),
        ("empty.x == null.y", paths("empty.x", "eq", "null.y")),
    ),
)
def test_an_expression_gives_the_tree_of_the_object_form(text: str, tree: Condition) -> None:
    """Strings and objects say the same things."""
    assert parse_expression(text) == tree


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    (
        ("", 1, "a path"),
        ("result.score >", 15, "a path"),
        ("result.score = 1", 14, "an operator"),
        ("result.score + 1 > 2", 14, "an operator"),
        ("len(result.x) > 1", 4, "an operator"),
        ("result.x is 1", 10, "an operator"),
        ("result.x AND result.y", 10, "an operator"),
        ("result.x == 1 AND result.y", 15, "`and`"),
        ("1 < a.x < 3", 9, "`and`"),
        ("a.x == 1)", 9, "`and`"),
        ("(a.x == 1", 10, "`)`"),
        ("a.x == 'b", 8, "a closing '"),
        ('a.x matches "\\d"', 13, "single quotes"),
        ("a.x in [1 2]", 11, "`,`"),
        ("a.x in [1,]", 11, "a path"),
        ("a.x in [b.y]", 9, "a number"),
        ("1 == 1", 6, "a path"),
        ("'a' starts_with a.x", 1, "a path"),
        ("true", 5, "an operator"),
        ("Always", 1, "`always`"),
        ("step", 1, "a comparison"),
        ("exists(1)", 8, "a path"),
        ("exists a.x", 8, "an operator"),
        ("a.x and", 8, "a path"),
        ("and a.x", 5, "an operator"),
        ("a.x & a.y", 5, "an operator"),
        ("{{ a.x }} > 1", 1, "a path"),
        ("a.x == 01", 9, "`and`"),
        ("a.x == .5", 8, "a path"),
        ("a.x == NaN.", 12, "a key"),
        ("a.x; drop", 4, "an operator"),
        ("a.x == 1e999", 8, ""),
        ("errors.a.cod == 1", 1, "`errors.a.code`"),
        ("(" * 40, 34, ""),
        ("not " * 40 + "a.x", 132, ""),
    ),
)
def test_an_error_names_its_column_and_what_was_expected(
    text: str, column: int, expected: str
) -> None:
    """Whoever wrote it finds the place."""
    with pytest.raises(TemplateSyntaxError) as caught:
        parse_expression(text)
    assert caught.value.column == column
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    "text", ("a.x in 3", "a.x starts_with 3", "a.x matches '('", "a.x matches b.y", "a.x matches 1")
)
def test_operands_that_can_never_work_are_refused(text: str) -> None:
    """They would only ever be false."""
    with pytest.raises(OperandInvalid):
        parse_expression(text)


@pytest.mark.parametrize(
    "text",
    (
        "(" * 100_000,
        "!" * 100_000,
        "[" * 100_000,
        "a.x in " + "[" * 100_000,
        "a.x and " * 12_000 + "a.x",
        "a.x in [" + "1," * 60_000 + "1]",
        "a.x in [" + "null," * 40_000 + "1]",
        "a.x == null and " * 14_000 + "a.x",
        "'" * 99_999,
        " " * 200_000,
    ),
    ids=lambda text: text[:8],
)
def test_hostile_expressions_take_linear_time(text: str) -> None:
    """No recursion error, and well under a second."""

    def parse() -> None:
        with contextlib.suppress(TemplateSyntaxError):
            parse_expression(text)

    within(1.0, parse)


LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
PATHS = st.builds(
    lambda root, keys: Path(root, tuple(keys), "?"),
    st.sampled_from(["a", "step-1", "parameters", "result", "in", "not"]),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5), min_size=1, max_size=3),
)  # fmt: skip
ORDERED = ["eq", "ne", "gt", "gte", "lt", "lte", "contains"]
LEAVES = (
    st.builds(compare_literal, PATHS, st.sampled_from(ORDERED), LITERALS)
    | st.builds(compare_literal, PATHS, st.sampled_from(["in", "not_in"]), st.lists(LITERALS))
    | st.builds(compare_literal, PATHS, st.sampled_from(["exists", "empty"]), st.just(True))
    | st.builds(compare_path, PATHS, st.sampled_from([*ORDERED, "in", "not_in"]), PATHS)
    | st.builds(lambda path: Compare(path, "eq", True, must_be_boolean=True), PATHS)
)
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(lambda x: AllOf(tuple(x)), st.lists(inner, min_size=2, max_size=3))
        | st.builds(lambda x: AnyOf(tuple(x)), st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=6,
)
SYMBOLS = {"eq": "==", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "not_in": "not in"}  # fmt: skip


@settings(max_examples=100)
@given(TREES)
def test_what_is_printed_is_read_back(tree: Condition) -> None:
    """Every tree that strings can say survives being written and read."""
    assert parse_expression(write(tree)) == tree


def test_trees_are_walked_in_order() -> None:
    """Depth, paths and parts that need code are found without judging."""
    tree = parse_expression("a.x > b.y and not (exists(c.z) or d.w)")
    assert [path.text for _, path in paths_of(tree)] == ["a.x", "b.y", "c.z", "d.w"]
    assert depth_of(tree) == 4
    assert code_conditions(tree) == ()


def write(tree: Any) -> str:
    """Write a tree as an expression, with all the parentheses there can be."""
    match tree:
        case AllOf(children):
            return " and ".join(f"({write(child)})" for child in children)
        case AnyOf(children):
            return " or ".join(f"({write(child)})" for child in children)
        case Not(child):
            return f"not ({write(child)})"
        case Compare(left, _, must_be_boolean=True):
            return write_path(left)
        case Compare(left, "exists" | "empty" as operator):
            return f"{operator}({write_path(left)})"
        case Compare(left, operator, value, right):
            written = write_literal(value) if right is None else write_path(right)
            return f"{write_path(left)} {SYMBOLS.get(operator, operator)} {written}"
    raise AssertionError(tree)


def write_path(path: Path) -> str:
    return path.root + "".join(f"[{write_literal(segment)}]" for segment in path.segments)


def write_literal(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return "[" + ", ".join(map(write_literal, value)) + "]"
        case str():
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)
