"""What each condition comes to, what the ledger keeps of it, and what is refused at load."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.condition_parser import CODES
from iaflow.pipeline.conditions import (
    ALIASES,
    ALWAYS,
    OPERATORS,
    AgentCondition,
    Condition,
    ConditionFailed,
    FunctionCondition,
    Otherwise,
    ParameterTruthy,
    Verdict,
    VerdictMissing,
    code_conditions,
    evaluate,
    parse_condition,
    paths_of,
)
from iaflow.pipeline.paths import Scope

SCOPE = Scope(
    parameters={"mode": "auto", "limit": 3, "off": False, "null": None},
    outputs={
        "a": {
            "score": 0.9,
            "one": 1,
            "yes": True,
            "null": None,
            "text": "hello",
            "blank": "",
            "tags": ["x", 1, None],
            "none": [],
            "object": {"k": [1, {"d": 2.0}]},
            "zero": 0,
            "pair": [0, 1],
        }
    },
    errors={"b": {"code": "timeout", "message": "too slow", "attempts": 3}},
    result={"score": 0.9},
)


def parsed(value: Any) -> Condition:
    condition, problems = parse_condition(value)
    assert problems == []
    assert condition is not None
    return condition


def judged(value: Any, scope: Scope = SCOPE, **options: Any) -> Verdict:
    return evaluate(parsed(value), scope, **options)


def compare(source: str, operator: str, *value: Any, **more: Any) -> dict[str, Any]:
    config = {"source": source, "operator": operator} | more
    return {"type": "expression", "config": config | ({"value": value[0]} if value else {})}


@pytest.mark.parametrize(
    ("source", "operator", "value", "verdict"),
    (
        ("a.one", "eq", 1.0, True),
        ("a.one", "eq", 2, False),
        ("a.null", "eq", None, True),
        ("a.object", "eq", {"k": [1.0, {"d": 2}]}, True),
        ("a.object", "eq", {"k": [True, {"d": 2}]}, False),
        ("a.object", "eq", {"k": [1, {"e": 2}]}, False),
        ("a.object.k", "eq", [1], False),
        ("a.pair", "eq", [False, True], False),
        ("a.one", "ne", 1, False),
        ("a.score", "gt", 0.8, True),
        ("a.score", "lte", 0.8, False),
        ("a.text", "gt", "hell", True),
        ("a.text", "lt", "Z", False),
        ("a.one", "in", [1.0], True),
        ("a.yes", "in", [1], False),
        ("a.text", "in", "say hello", True),
        ("a.one", "not_in", [2], True),
        ("a.tags", "contains", None, True),
        ("a.tags", "contains", True, False),
        ("a.text", "contains", "ell", True),
        ("a.tags", "not_contains", "y", True),
        ("a.text", "starts_with", "he", True),
        ("a.text", "ends_with", "he", False),
        ("a.text", "matches", "l+", True),
        ("a.text", "matches", "^l", False),
        ("a.score", "between", [0.9, 1], True),
        ("a.text", "between", ["a", "h"], False),
        ("a.null", "exists", True, True),
        ("a.gone", "exists", True, False),
        ("a.gone", "exists", False, True),
        ("a.gone", "not_exists", True, True),
        ("skipped.x", "exists", True, False),
        ("a.blank", "empty", True, True),
        ("a.none", "empty", True, True),
        ("a.null", "empty", True, True),
        ("a.gone", "empty", True, True),
        ("skipped.x", "empty", True, True),
        ("a.zero", "empty", True, False),
        ("a.zero", "not_empty", True, True),
        ("a.null", "is_null", True, True),
        ("skipped.x", "is_null", True, True),
        ("a.yes", "is_bool", True, True),
        ("a.zero", "is_bool", False, True),
        ("a.yes", "is_number", True, False),
        ("a.one", "is_number", True, True),
        ("a.text", "is_string", True, True),
        ("errors.b.code", "eq", "timeout", True),
        ("errors.a.code", "eq", None, True),
        ("skipped.deep.down", "eq", None, True),
        ("result.score", "gte", 0.9, True),
    ),
)
def test_a_comparison_comes_to(source: str, operator: str, value: Any, verdict: bool) -> None:
    """Every operator, on operands that it is made for."""
    got = judged(compare(source, operator, value))
    assert got.taken is verdict
    assert got.reason["verdict"] is verdict
    assert "note" not in got.reason


@pytest.mark.parametrize("operator", ("eq", "gt", "gte", "lt", "lte"))
@pytest.mark.parametrize("left", ("score", "yes", "null", "text", "tags", "object"))
@pytest.mark.parametrize("right", ("score", "yes", "null", "text", "tags", "object"))
def test_kinds_do_not_compare(operator: str, left: str, right: str) -> None:
    """Across kinds `eq` and the orderings are false, `ne` is true, and the ledger says why."""
    if left == right:
        return
    got = judged(compare(f"a.{left}", operator, value_source=f"a.{right}"))
    assert (got.taken, got.reason["note"]) == (False, "kind_mismatch")
    assert judged(compare(f"a.{left}", "ne", value_source=f"a.{right}")).taken is True


@pytest.mark.parametrize(
    ("source", "operator", "value"),
    (
        ("a.score", "in", "0.9"),
        ("a.one", "contains", 1),
        ("a.tags", "starts_with", "x"),
        ("a.one", "matches", "1"),
        ("a.text", "between", [0, 1]),
        ("a.yes", "gt", False),
    ),
)
def test_operators_say_when_the_kinds_are_not_theirs(
    source: str, operator: str, value: Any
) -> None:
    """False, with a note; their contraries are true with the same note."""
    assert judged(compare(source, operator, value)).reason["note"] == "kind_mismatch"
    if f"not_{operator}" in OPERATORS:
        contrary = judged(compare(source, f"not_{operator}", value))
        assert (contrary.taken, contrary.reason["note"]) == (True, "kind_mismatch")


def test_the_ledger_keeps_what_was_seen() -> None:
    """Paths with their values, literals, the operator under its own name, and the verdict."""
    assert judged(compare("a.score", ">", 0.8)).reason == {
        "kind": "compare",
        "left": {"path": "a.score", "value": 0.9},
        "operator": "gt",
        "right": {"value": 0.8},
        "verdict": True,
    }
    assert judged("a.one < parameters.limit").reason["right"] == {
        "path": "parameters.limit",
        "value": 3,
    }
    assert judged("exists(a.gone)").reason["left"] == {"path": "a.gone", "missing": True}
    assert judged("parameter:mode").reason == {
        "kind": "parameter",
        "name": "mode",
        "value": "auto",
        "verdict": True,
    }
    assert judged("always").reason == {"kind": "always", "verdict": True}


def test_groups_stop_early_and_show_only_what_was_judged() -> None:
    """The path that is missing is never looked up, because the order decides first."""
    got = judged("a.one == 2 and a.gone == 1")
    assert got.taken is False
    assert [child["verdict"] for child in got.reason["conditions"]] == [False]
    got = judged({"type": "any", "conditions": ["a.one == 1", "a.gone == 1"]})
    assert (got.taken, got.reason["kind"], len(got.reason["conditions"])) == (True, "any", 1)
    got = judged({"type": "not", "condition": "a.one == 1"})
    assert (got.taken, got.reason["kind"]) == (False, "not")
    assert got.reason["conditions"][0]["verdict"] is True


def test_large_operands_are_kept_shortened() -> None:
    """Over 2 KiB of JSON the ledger keeps the beginning, the size and a digest."""
    value = "é" * 2_000
    scope = Scope(outputs={"a": {"x": value, "y": "e" * 2_000, "n": 10**3_000}})
    text = json.dumps(value, ensure_ascii=False)
    shown = judged("exists(a.x)", scope).reason["left"]["value"]
    assert shown == {
        "truncated": text[:200],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "bytes": 4_002,
    }
    assert judged("exists(a.y)", scope).reason["left"]["value"] == "e" * 2_000
    assert judged("exists(a.n)", scope).reason["left"]["value"]["bytes"] == 3_001


@pytest.mark.parametrize(
    ("condition", "code"),
    (
        ("a.gone == 1", "reference_missing"),
        ("a.one == a.gone", "reference_missing"),
        ("a.text.x == 1", "reference_missing"),
        (compare("a.gone", "is_null"), "reference_missing"),
        ("parameters.gone == 1", "reference_missing"),
        ("a.one", "condition_invalid"),
        ("a.null", "condition_invalid"),
        ("skipped.x", "condition_invalid"),
    ),
)
def test_what_cannot_be_judged_is_an_error_and_no_verdict(condition: Any, code: str) -> None:
    """The reason keeps what was seen until then, with the error in place of the verdict."""
    with pytest.raises(ConditionFailed) as caught:
        judged({"type": "all", "conditions": ["a.yes", {"type": "not", "condition": condition}]})
    reason = caught.value.reason
    assert caught.value.code == code
    assert (reason["error"], reason["conditions"][0]["verdict"]) == (code, True)
    assert "verdict" not in reason
    assert reason["conditions"][1]["conditions"][0]["error"] == code
    json.dumps(reason)


def test_a_subject_too_long_to_search_in_is_an_error() -> None:
    """`matches` never fails into false."""
    scope = Scope(outputs={"a": {"x": "x" * 65_536, "y": "é" * 32_769}})
    assert judged("a.x matches 'x$'", scope).taken is True
    with pytest.raises(ConditionFailed, match="longer than"):
        judged("a.y matches 'x'", scope)


def test_a_path_alone_must_be_boolean() -> None:
    """True and false decide; anything else is an error, tested above."""
    assert judged("a.yes").taken is True
    assert judged("not a.yes").taken is False
    assert judged("parameters.off").taken is False


@pytest.mark.parametrize(
    ("value", "truthy"),
    (
        (None, False),
        (False, False),
        (0, False),
        (0.0, False),
        ("", False),
        ([], False),
        ({}, False),
        (True, True),
        (-1, True),
        ("false", True),
        ([0], True),
        ({"a": None}, True),
    ),
)
def test_parameters_are_truthy_or_not(value: Any, truthy: bool) -> None:
    """Null, false, zero and what is empty are not; a parameter that was not given is not."""
    assert judged("parameter:p", Scope({"p": value})).taken is truthy
    assert judged("parameter:p", Scope()).taken is False


def test_numbers_compare_exactly() -> None:
    """Whole numbers beyond the precision of floats keep their last digit."""
    big = 2**53
    scope = Scope(outputs={"a": {"x": big + 1, "f": float(big)}})
    assert judged(f"a.x > {big}", scope).taken is True
    assert judged("a.x == a.f", scope).taken is False
    assert judged("a.x > a.f", scope).taken is True


def test_recorded_verdicts_of_functions_and_agents_are_looked_up() -> None:
    """By the pointer of each, from what a worker recorded before."""
    function = {"type": "function", "config": {"module": "rules", "function": "is_fine"}}
    agent = {
        "type": "agent",
        "config": {"service": "router", "question": "Which?", "choices": ["a", "b"], "choice": "a"},
    }
    condition = parsed(
        {"type": "all", "conditions": [function, {"type": "not", "condition": agent}]}
    )
    assert code_conditions(condition) == (
        FunctionCondition("rules", "is_fine", {}, "/conditions/0"),
        AgentCondition("router", "Which?", ("a", "b"), "a", "/conditions/1/condition"),
    )
    recorded: dict[str, dict[str, Any]] = {
        "/conditions/0": {"verdict": True},
        "/conditions/1/condition": {"answer": "b", "reason": "it is no a"},
    }
    got = evaluate(condition, SCOPE, recorded)
    assert got.taken is True
    assert got.reason["conditions"][1]["conditions"][0]["reason"] == "it is no a"
    for wrong, code in (
        ({"answer": "c"}, "condition_invalid"),
        ({"error": "timeout", "message": "too slow"}, "timeout"),
        ({}, "condition_invalid"),
    ):
        with pytest.raises(ConditionFailed) as caught:
            evaluate(condition, SCOPE, recorded | {"/conditions/1/condition": wrong})
        assert caught.value.code == code
    for known in (None, {}):
        with pytest.raises(VerdictMissing) as missing:
            evaluate(condition, SCOPE, known)
        assert missing.value.pointer == "/conditions/0", "judged in order, stopping early"
    with pytest.raises(ConditionFailed):
        evaluate(condition, SCOPE, {"/conditions/0": {"verdict": 1}})


def test_simple_forms() -> None:
    """The words, and the parameter."""
    assert parsed("always") is ALWAYS
    assert parsed("otherwise") == Otherwise()
    assert parsed("parameter:any name") == ParameterTruthy("any name")


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_mean_the_same(alias: str) -> None:
    """Other spellings give the same tree."""
    assert parsed(compare("a.x", alias, 1)) == parsed(compare("a.x", ALIASES[alias], 1))


def test_strings_and_objects_give_equal_trees() -> None:
    """So that checks, meaning and ledger are one."""
    text = "result.score > 0.8 and (parameters.mode == 'auto' or not exists(a.gone))"
    tree = {
        "type": "all",
        "conditions": [
            compare("result.score", "gt", 0.8),
            {
                "type": "any",
                "conditions": [
                    compare("parameters.mode", "eq", "auto"),
                    {"type": "not", "condition": compare("a.gone", "exists")},
                ],
            },
        ],
    }
    assert parsed(text) == parsed(tree)
    assert judged(text) == judged(tree)


def test_paths_point_to_where_they_are_written() -> None:
    """The load-time check names the very place."""
    condition = parsed(
        {
            "type": "any",
            "conditions": [
                compare("a.x", "eq", value_source="b.y"),
                {"type": "not", "condition": "c.z and d.w > 1"},
                "parameter:mode",
            ],
        }
    )
    assert [(pointer, path.text) for pointer, path in paths_of(condition)] == [
        ("/conditions/0/config/source", "a.x"),
        ("/conditions/0/config/value_source", "b.y"),
        ("/conditions/1/condition", "c.z"),
        ("/conditions/1/condition", "d.w"),
        ("/conditions/2", "parameters.mode"),
    ]


@pytest.mark.parametrize(
    ("condition", "code", "pointer", "hint"),
    (
        (3, "condition_invalid", "", ""),
        (None, "condition_invalid", "", ""),
        ("", "condition_syntax", "", ""),
        ("Always", "condition_syntax", "", "always"),
        ("parameter:", "condition_invalid", "", "parameter:name"),
        ("a.x >", "condition_syntax", "", "a path"),
        ("a.x matches '('", "pattern_invalid", "", ""),
        ("item.x == 1", "path_syntax", "", ""),
        ({}, "condition_invalid", "", "expression"),
        ({"type": "expresion"}, "condition_invalid", "/type", "expression"),
        ({"type": "all"}, "key_missing", "", ""),
        ({"type": "all", "conditions": []}, "condition_invalid", "/conditions", ""),
        ({"type": "any", "conditions": ["otherwise"]}, "condition_invalid", "/conditions/0", ""),
        ({"type": "not", "conditions": ["a.x"]}, "key_unknown", "/conditions", "condition"),
        ({"type": "expression", "config": []}, "condition_invalid", "/config", ""),
        (compare("a.x", "eq"), "condition_invalid", "/config", ""),
        (compare("a.x", "eq", 1, value_source="b.y"), "condition_invalid", "/config", ""),
        (compare("a.x", "eq", 1, vlaue=2), "key_unknown", "/config/vlaue", "value"),
        (compare("a.x", "equal", 1), "operator_unknown", "/config/operator", "equals"),
        (compare("a.x", "not_exist"), "operator_unknown", "/config/operator", "not_exists"),
        (compare("a..x", "eq", 1), "path_syntax", "/config/source", "a key"),
        (compare("index", "eq", 1), "path_syntax", "/config/source", ""),
        (compare("{{ a.x }}", "eq", 1), "path_syntax", "/config/source", "write a.x"),
        (compare("a.x", "eq", "{{ b.y }}"), "condition_invalid", "/config/value", '"b.y"'),
        (compare("a.x", "in", 3), "condition_invalid", "/config/value", ""),
        (compare("a.x", "between", [2, 1]), "condition_invalid", "/config/value", "smaller"),
        (compare("a.x", "between", [1, "2"]), "condition_invalid", "/config/value", ""),
        (compare("a.x", "between", [1]), "condition_invalid", "/config/value", ""),
        (compare("a.x", "exists", "yes"), "condition_invalid", "/config/value", ""),
        (compare("a.x", "matches", "a" * 257), "pattern_invalid", "/config/value", ""),
        (compare("a.x", "matches", "(a?){1000}(a){1000}" * 12), "pattern_invalid", "/config/value", "repeat"),
        (compare("a.x", "matches", "\ud800"), "pattern_invalid", "/config/value", ""),
        (compare("a.x", "matches", "(a)\\1"), "pattern_invalid", "/config/value", "RE2"),
        (compare("a.x", "matches", value_source="b.y"), "condition_invalid", "/config/value_source", ""),
        ({"type": "function", "config": {"module": "m"}}, "key_missing", "/config", ""),
        ({"type": "function", "config": {"module": "", "function": "f"}}, "condition_invalid", "/config/module", ""),
        (
            {"type": "agent", "config": {"service": "s", "question": "q", "choices": ["yes", "no"], "choice": "yess"}},
            "condition_invalid", "/config/choice", "yes",
        ),
    ),
)  # fmt: skip
def test_what_cannot_work_is_refused(condition: Any, code: str, pointer: str, hint: str) -> None:
    """With a code, the place, and the nearest right spelling."""
    tree, problems = parse_condition(condition)
    assert tree is None
    assert (problems[0].code, problems[0].pointer) == (code, pointer)
    assert hint in problems[0].hint


def test_every_problem_is_found() -> None:
    """Not only the first one."""
    _, problems = parse_condition(
        {"type": "all", "conditions": ["a.x >", compare("a.x", "gtt", 1), {"type": "not"}]}
    )
    assert [problem.pointer for problem in problems] == [
        "/conditions/0",
        "/conditions/1/config/operator",
        "/conditions/2",
    ]


@pytest.mark.parametrize("levels", (7, 8, 5_000))
def test_conditions_nest_eight_deep(levels: int) -> None:
    """In objects and strings alike, and mixed; no recursion error at any depth."""
    nested: Any = "a.yes"
    for _ in range(levels):
        nested = {"type": "not", "condition": nested}
    mixed = {"type": "not", "condition": "not " * (levels - 1) + "a.yes"}
    for condition in (nested, "not " * levels + "a.yes", mixed):
        assert (parse_condition(condition)[0] is not None) is (levels == 7)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 2.5, "", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


@settings(max_examples=100)
@given(JSON, JSON)
def test_laws_of_comparison(left: Any, right: Any) -> None:
    """Contraries differ, equality is symmetric, an order has one answer, `in` mirrors `contains`."""

    def holds(operator: str, one: str = "l", other: str = "r") -> bool:
        scope = Scope(outputs={"s": {"l": left, "r": right}})
        return judged(compare(f"s.{one}", operator, value_source=f"s.{other}"), scope).taken

    for operator, contrary in (("eq", "ne"), ("in", "not_in"), ("contains", "not_contains")):
        assert holds(operator) is not holds(contrary)
    assert holds("eq") is holds("eq", "r", "l")
    assert holds("eq", "l", "l")
    assert holds("in") is holds("contains", "r", "l")
    assert holds("gt") is holds("lt", "r", "l")
    ordered = [holds("lt"), holds("gt"), holds("eq")]
    assert sum(ordered) <= 1
    if isinstance(left, str) and isinstance(right, str):
        assert sum(ordered) == 1
        assert holds("lte") is (holds("lt") or holds("eq"))
        assert holds("gte") is not holds("lt")
    assert holds("eq") is is_same(left, right)


@settings(max_examples=60)
@given(st.recursive(JSON | st.text(), lambda inner: st.fixed_dictionaries(
    {"type": st.sampled_from(["expression", "all", "any", "not", "function", "agent"])},
    optional={"config": inner, "condition": inner, "conditions": st.lists(inner, max_size=2)},
), max_leaves=6))  # fmt: skip
def test_no_value_breaks_the_parser(value: Any) -> None:
    """Any JSON value is a condition or has problems with known codes."""
    tree, problems = parse_condition(value)
    assert (tree is None) is bool(problems)
    assert {problem.code for problem in problems} <= {*CODES, "key_unknown", "key_missing"}


def is_same(left: Any, right: Any) -> bool:
    """Compare as the language says, the slow and plain way."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    match left, right:
        case list(), list():
            return len(left) == len(right) and all(map(is_same, left, right))
        case dict(), dict():
            return left.keys() == right.keys() and all(is_same(left[k], right[k]) for k in left)
    return bool(left == right)
