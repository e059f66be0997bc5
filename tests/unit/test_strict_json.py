"""Which JSON is safe to keep, and where it is said not to be."""

from __future__ import annotations

import json
import sys
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iaflow.errors import Problem
from iaflow.pipeline.strict_json import (
    CODES,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_STRING,
    JsonRefused,
    check_json_value,
    dump_json,
    join_pointer,
    read_json,
)

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=30
)


def attempt(text: str | bytes) -> tuple[Any, tuple[Problem, ...]]:
    try:
        return read_json(text), ()
    except JsonRefused as refused:
        return None, refused.problems


def refusal(text: str | bytes, **limits: int) -> list[tuple[str, str]]:
    """Return code and pointer of everything that is wrong with a text."""
    with pytest.raises(JsonRefused) as caught:
        read_json(text, **limits)
    assert all(problem.code in CODES for problem in caught.value.problems)
    return [(problem.code, problem.pointer) for problem in caught.value.problems]


def findings(value: Any, **limits: int) -> list[tuple[str, str]]:
    text, problems = check_json_value(value, **limits)
    assert bool(problems) == (text == "")
    assert all(problem.code in CODES for problem in problems)
    return [(problem.code, problem.pointer) for problem in problems]


def exactly(value: Any) -> Any:
    """Return what tells two JSON values apart where Python's == does not: 1, 1.0 and True."""
    match value:
        case dict():
            return [(key, exactly(member)) for key, member in value.items()]
        case list():
            return [exactly(member) for member in value]
        case _:
            return type(value), repr(value)


@given(JSON)
def test_every_value_comes_back_exactly(value: Any) -> None:
    text, problems = check_json_value(value)
    assert problems == []
    assert exactly(read_json(text)) == exactly(value)
    assert exactly(read_json(text.encode())) == exactly(value)
    assert exactly(read_json(json.dumps(value, indent=1))) == exactly(value)


@given(st.binary() | st.text() | JSON.map(json.dumps).map(lambda text: text[: len(text) // 2]))
def test_no_text_raises_anything_but_a_refusal(text: str | bytes) -> None:
    value, problems = attempt(text)
    assert {problem.code for problem in problems} <= set(CODES)
    if not problems:
        assert exactly(value) == exactly(json.loads(text))


@given(st.text(st.sampled_from('[]{}",:0\\ue')))
def test_what_is_read_is_what_the_standard_library_reads(text: str) -> None:
    value, problems = attempt(text)
    if not problems:
        assert exactly(value) == exactly(json.loads(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("", [("json_invalid", "")]),
        ("{", [("json_invalid", "")]),
        ("[1,]", [("json_invalid", "")]),
        ("{'a': 1}", [("json_invalid", "")]),
        ("1 2", [("json_invalid", "")]),
        ('"\x01"', [("json_invalid", "")]),
        ("[}", [("json_invalid", "")]),
        ("]", [("json_invalid", "")]),
        ('"never closed', [("json_invalid", "")]),
        ('"\\', [("json_invalid", "")]),
        ("\ufeff{}", [("json_bom", "")]),
        (b"\xef\xbb\xbf{}", [("json_bom", "")]),
        (b'"\xff"', [("json_not_utf8", "")]),
        (b"\xff\xfe{\x00}\x00", [("json_not_utf8", "")]),
        ('"\ud800"', [("json_surrogate", "")]),
        ('{"a": "\\ud800"}', [("json_surrogate", "/a")]),
        ('{"a": {"\\udfff": 1}}', [("json_surrogate", "/a/\\udfff")]),
        ("{}\0", [("json_nul", "")]),
        ('["x", "\\u0000"]', [("json_nul", "/1")]),
        ('{"\\u0000": 1}', [("json_nul", "/\\0")]),
        ("[1, NaN]", [("json_not_finite", "/1")]),
        ('{"a": Infinity}', [("json_not_finite", "/a")]),
        ("-Infinity", [("json_not_finite", "")]),
        ("[1e999]", [("json_not_finite", "/0")]),
        ("[-1E+0999]", [("json_not_finite", "/0")]),
        ("9" * 310 + ".0", [("json_not_finite", "")]),
        ("9" * 250 + "e99", [("json_not_finite", "")]),
        ("9" * 4301, [("json_integer_too_long", "")]),
        (f'{{"a": [-{"9" * 4301}]}}', [("json_integer_too_long", "/a/0")]),
        ('{"a": 1, "a": 1}', [("json_duplicate_key", "/a")]),
        (
            '{"a": [{"b": 1, "c/d~e": 2, "c/d~e": 3, "b": 4}]}',
            [("json_duplicate_key", "/a/0/b"), ("json_duplicate_key", "/a/0/c~1d~0e")],
        ),
        ('[{"a": 1, "\\u0061": 2}]', [("json_duplicate_key", "/0/a")]),
        ('[NaN, {"a": 1, "a": "\\u0000"}]', [("json_not_finite", "/0"), ("json_nul", "/1/a")]),
        ("[" * 33 + "]" * 33, [("json_too_deep", "")]),
        ('{"a":' * 33 + "1" + "}" * 33, [("json_too_deep", "")]),
        ("[" * 1_000_000, [("json_too_deep", "")]),
        ('[{"a":' * 100_000, [("json_too_deep", "")]),
        (" " * (MAX_BYTES + 1), [("json_too_large", "")]),
        ('"' + "ä" * (MAX_BYTES // 2) + '"', [("json_too_large", "")]),
        (f'["{"x" * (MAX_STRING + 1)}"]', [("json_string_too_long", "/0")]),
    ),
)
def test_what_is_refused(text: str | bytes, expected: list[tuple[str, str]]) -> None:
    found = refusal(text)
    assert set(expected) <= set(found)
    if len(expected) == 1:
        assert found == expected


@pytest.mark.parametrize(
    "text",
    (
        "[" * 32 + "]" * 32,
        "[" * 31 + "[],[]" + "]" * 31,
        '"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["',
        '"\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["',
        '"\\ud83d\\ude00"',
        "9" * 4300,
        "1e308",
        "[0.1, -0.0, 1.0, 1E2, 123456789012345678901234567890]",
        '{"__proto__": 1, "constructor": 2, "": 3, "$ref": 4}',
        f'"{"x" * MAX_STRING}"',
        '"\\\\u0000"',
        " \n\t[ ]\r ",
    ),
)
def test_what_is_legal(text: str) -> None:
    assert exactly(read_json(text)) == exactly(json.loads(text))


def test_limits_are_arguments() -> None:
    assert refusal("[[1]]", max_depth=1) == [("json_too_deep", "")]
    assert refusal("[1, 2]", max_bytes=5) == [("json_too_large", "")]
    assert refusal('["abc"]', max_string=2) == [("json_string_too_long", "/0")]
    assert refusal('{"abc": 1}', max_string=2) == [("json_string_too_long", "/abc")]


def test_a_syntax_error_names_line_and_column() -> None:
    with pytest.raises(JsonRefused, match="line 2, column 8"):
        read_json('{\n  "a": ,\n}')


def test_long_integers_are_refused_whatever_limit_the_host_has_set() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert refusal("9" * 100_000) == [("json_integer_too_long", "")]
        assert findings(10**4300) == [("json_integer_too_long", "")]
    finally:
        sys.set_int_max_str_digits(before)


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def shared(levels: int) -> list[Any]:
    """Return a value that is small in memory and has 10 ** levels members as text."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    (
        (float("nan"), [("json_not_finite", "")]),
        ([float("inf")], [("json_not_finite", "/0")]),
        ({"a": "\0"}, [("json_nul", "/a")]),
        ({"a\0": 1}, [("json_nul", "/a\\0")]),
        ({"a": "\udc00"}, [("json_surrogate", "/a")]),
        ({"\udc00": 1}, [("json_surrogate", "/\\udc00")]),
        ({1: 2}, [("json_key_not_text", "/1")]),
        ({None: 2}, [("json_key_not_text", "/a Python NoneType")]),
        ({"a": {(1,): 2}}, [("json_key_not_text", "/a/a Python tuple")]),
        ({"a": b"x"}, [("json_not_a_value", "/a")]),
        ({"a": (1, 2)}, [("json_not_a_value", "/a")]),
        ({"a": {1, 2}}, [("json_not_a_value", "/a")]),
        ([date(2026, 1, 1)], [("json_not_a_value", "/0")]),
        (object(), [("json_not_a_value", "")]),
        (10**4300, [("json_integer_too_long", "")]),
        ([-(10**4300)], [("json_integer_too_long", "/0")]),
        (endless(), [("json_too_deep", "/0" * MAX_DEPTH)]),
        (shared(20), [("json_too_large", "")]),
        ([{"k" * 100_000: 1}] * 1000, [("json_too_large", "")]),
        (["x" * 200_000] * 1000, [("json_too_large", "")]),
        ([10**4299] * 10_000, [("json_too_large", "")]),
        (["ä" * 200_000] * 3, [("json_too_large", "")]),
        (["\n" * 200_000] * 3, [("json_too_large", "")]),
        ("x" * (MAX_STRING + 1), [("json_string_too_long", "")]),
        ({"b": float("nan"), "a": b""}, [("json_not_finite", "/b"), ("json_not_a_value", "/a")]),
    ),
    ids=lambda value: type(value).__name__,
)
def test_which_python_values_are_no_json(value: Any, expected: list[tuple[str, str]]) -> None:
    assert findings(value) == expected


def test_the_text_of_a_value_is_compact_and_readable() -> None:
    value = {"ß": [1.0, 10**30, True, None, "é\n"], "a": {}}
    text, problems = check_json_value(value)
    assert problems == []
    assert text == '{"ß":[1.0,1000000000000000000000000000000,true,null,"é\\n"],"a":{}}'
    assert dump_json(value, sort_keys=True).startswith('{"a":{},')


def test_a_pointer_is_escaped_and_never_as_long_as_a_document() -> None:
    assert join_pointer("/a", "b/c~d", 3) == "/a/b~1c~0d/3"
    assert len(join_pointer("", "k" * 100_000)) < 300
