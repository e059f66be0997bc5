"""Which forms are legal, which answers they accept, and what of an answer is kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.fields import DEFAULT_MAX_LENGTH, FieldType, Option
from iaflow.pipeline.forms import (
    ANSWER_CODES,
    CODES,
    Form,
    describe_change,
    form_digest,
    parse_form,
    validate_answer,
)

REVIEW = {
    "title": "Review Content for Approval",
    "fields": [
        {"name": "decision", "type": "radio", "options": ["Approve", "Reject"]},
        {"name": "notes", "type": "textarea", "label": "Reasoning"},
    ],
}


def parsed(ui_schema: Any) -> Form:
    form, problems = parse_form(ui_schema)
    assert problems == []
    assert form is not None
    return form


def one(**spec: Any) -> Form:
    return parsed({"fields": [{"name": "f"} | spec]})


def test_the_form_of_the_first_example() -> None:
    """A radio must be answered, a textarea need not; labels default to the name."""
    form = parsed(REVIEW)
    decision, notes = form.fields
    assert (decision.label, decision.required) == ("decision", True)
    assert decision.options == (Option("Approve", "Approve"), Option("Reject", "Reject"))
    assert (notes.label, notes.required, notes.max_length) == ("Reasoning", False, 4_000)
    assert validate_answer(form, {"decision": "Approve"}) == (
        {"decision": "Approve", "notes": None},
        [],
    )


OPTIONS: dict[str, Any] = {"options": ["a", {"value": 1, "label": "One"}, {"value": True}]}


@pytest.mark.parametrize(
    ("spec", "accepted", "refused"),
    (
        ({"type": "text"}, ["", "x", "a\nb", "x" * 4_000], [1, "x" * 4_001, "\0", "\ud800", ["x"]]),
        ({"type": "text", "min_length": 2, "max_length": 3}, ["", "ab", "abc"], ["a", "abcd"]),
        ({"type": "text", "pattern": "[a-z]+"}, ["", "abc"], ["abc1", "1abc"]),
        ({"type": "textarea", "max_length": 5_000}, ["x" * 5_000], ["x" * 5_001]),
        ({"type": "number"}, [0, -1.5, 2**70], [True, "1", math.nan, math.inf, -math.inf, [1]]),
        ({"type": "number", "minimum": 0, "maximum": 1.5}, [0, 0.0, 1.5], [-0.1, 1.6]),
        ({"type": "integer"}, [0, -3, 2**70], [3.5, True, "3", 1e300, math.nan]),
        ({"type": "integer", "minimum": 1}, [1], [0, 0.0]),
        ({"type": "boolean"}, [True, False], [0, 1, "true", "", []]),
        ({"type": "checkbox"}, [True, False], [1, "on"]),
        ({"type": "radio"} | OPTIONS, ["a", 1, 1.0, True], ["b", False, 2, "", ["a"], "One"]),
        ({"type": "select"} | OPTIONS, ["a", 1, True], ["A", 0, {}]),
        ({"type": "multiselect"} | OPTIONS, [[], ["a"], [True, 1]], ["a", ["a", "a"], ["b"], [[]]]),
        ({"type": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-9", "20240229", 20240229]),
        ({"type": "date", "minimum": "2024-01-31"}, ["2024-01-31"], ["2024-01-30"]),
        (
            {"type": "datetime"},
            ["2024-02-29T12:00Z", "2024-02-29T12:00:01.5+02:00"],
            ["2024-02-29T12:00:00", "2024-02-29", "2024-02-29 12:00Z", "2024-02-29T25:00Z"],
        ),
        (
            {"type": "datetime", "maximum": "2024-01-01T00:00Z"},
            ["2024-01-01T01:00+01:00"],
            ["2024-01-01T00:00-01:00"],
        ),
        (
            {"type": "email"},
            ["a@b.example", "first.last+tag@sub.example.org"],
            ["a", "@b.c", "a@b", "a@b..c", "a b@c.d", "a@b@c.d", "a@b.c\n", "x" * 250 + "@b.de"],
        ),
        (
            {"type": "url"},
            ["https://example.org/a?b#c", "http://localhost:8000", "https://[::1]/"],
            ["javascript:alert(1)", "ftp://x.y", "https://", "x.y", "https://x y", "https://x\ty", "https://[::1", "https://x:99999", "data:text/html,x", "//x.y"],
        ),
        ({"type": "json"}, [{"a": [1, None]}, [], 0, "x", False], [math.nan, {1: 2}, "x" * 70_000]),
    ),
)  # fmt: skip
def test_a_field_accepts(spec: dict[str, Any], accepted: list[Any], refused: list[Any]) -> None:
    """Each type, and what is wrong for it; nothing is converted."""
    form = one(**spec)
    for value in accepted:
        assert validate_answer(form, {"f": value}) == ({"f": value}, []), value
    for value in refused:
        problems = validate_answer(form, {"f": value})[1]
        assert [problem.pointer for problem in problems] == ["/f"], value
        assert problems[0].code in ANSWER_CODES


def test_whole_numbers_written_as_floats_become_integers() -> None:
    """3.0 is a whole number, and kept as one; options keep the value of the form."""
    assert repr(validate_answer(one(type="integer"), {"f": 3.0})[0]["f"]) == "3"
    assert repr(validate_answer(one(type="radio", **OPTIONS), {"f": 1.0})[0]["f"]) == "1"


@pytest.mark.parametrize(
    ("kind", "blanks"),
    (
        ("text", [None, ""]),
        ("number", [None]),
        ("boolean", [None]),
        ("checkbox", [None, False]),
        ("radio", [None, ""]),
        ("multiselect", [None, []]),
        ("date", [None, ""]),
        ("email", [None, ""]),
        ("json", [None]),
    ),
)
def test_what_must_be_answered(kind: str, blanks: list[Any]) -> None:
    """Absent, null and what a page sends for nothing are no answer; a checkbox must be ticked."""
    options = {"options": ["x"]} if kind in {"radio", "multiselect"} else {}
    form = one(type=kind, required=True, **options)
    for answer in [{}, *({"f": blank} for blank in blanks)]:
        (problem,) = validate_answer(form, answer)[1]
        assert (problem.code, problem.pointer) == ("answer_required", "/f")


def test_defaults_stand_for_answers_that_are_not_given() -> None:
    """Also for required fields; without one an optional field is null, a checkbox false."""
    form = parsed(
        {
            "fields": [
                {"name": "a", "type": "text", "default": "x", "required": True},
                {"name": "b", "type": "select", "options": ["p", "q"], "default": "q"},
                {"name": "c", "type": "number"},
                {"name": "d", "type": "checkbox"},
                {"name": "e", "type": "date"},
            ]
        }
    )
    kept = {"a": "x", "b": "q", "c": None, "d": False, "e": None}
    assert validate_answer(form, {}) == (kept, [])
    assert validate_answer(form, {"a": None, "e": ""}) == (kept, [])
    assert validate_answer(form, {"c": 1})[0]["c"] == 1


def test_every_field_has_its_own_error() -> None:
    """All of them at once, unknown ones with the nearest name."""
    form = parsed({"fields": [*REVIEW["fields"], {"name": "n", "type": "number"}]})
    _, problems = validate_answer(form, {"desicion": "Approve", "notes": 1, "n": "1", "a/b": 2})
    assert [(problem.code, problem.pointer) for problem in problems] == [
        ("field_unknown", "/desicion"),
        ("field_unknown", "/a~1b"),
        ("answer_required", "/decision"),
        ("answer_invalid", "/notes"),
        ("answer_invalid", "/n"),
    ]
    assert "decision" in problems[0].hint
    assert "Approve" in validate_answer(form, {"decision": "Aprove"})[1][0].hint


@pytest.mark.parametrize("answer", (None, [], "x", 1))
def test_an_answer_is_an_object(answer: Any) -> None:
    """Anything else is refused as a whole."""
    assert validate_answer(parsed(REVIEW), answer)[1][0].pointer == ""


def field(**spec: Any) -> dict[str, Any]:
    return {"fields": [{"name": "f"} | spec]}


@pytest.mark.parametrize(
    ("ui_schema", "code", "pointer", "hint"),
    (
        ([], "form_invalid", "", ""),
        ({"titel": "x"}, "key_unknown", "/titel", "title"),
        ({"title": 1}, "form_invalid", "/title", ""),
        ({"fields": {}}, "form_invalid", "/fields", ""),
        ({"fields": ["name"]}, "field_invalid", "/fields/0", ""),
        (field(), "key_missing", "/fields/0", ""),
        (field(type="txt"), "field_invalid", "/fields/0/type", "text"),
        (field(type=["text"]), "field_invalid", "/fields/0/type", ""),
        (field(type="text", lable="x"), "key_unknown", "/fields/0/lable", "label"),
        (field(type="text", label=1), "field_invalid", "/fields/0/label", ""),
        (field(type="text", required="yes"), "field_invalid", "/fields/0/required", ""),
        (field(type="text", name="_answered_by"), "field_invalid", "/fields/0/name", ""),
        (field(type="text", name="a b"), "field_invalid", "/fields/0/name", ""),
        (field(type="radio"), "field_invalid", "/fields/0/options", ""),
        (field(type="radio", options=[]), "field_invalid", "/fields/0/options", ""),
        (field(type="radio", options=["a", "a"]), "field_invalid", "/fields/0/options/1", ""),
        (field(type="radio", options=[1]), "field_invalid", "/fields/0/options/0", ""),
        (field(type="radio", options=[{"value": []}]), "field_invalid", "/fields/0/options/0", ""),
        (
            field(type="radio", options=[{"value": "a", "lable": "A"}]),
            "key_unknown", "/fields/0/options/0/lable", "label",
        ),
        (field(type="text", options=["a"]), "key_misplaced", "/fields/0/options", ""),
        (field(type="text", minimum=1), "key_misplaced", "/fields/0/minimum", ""),
        (field(type="number", pattern="1"), "key_misplaced", "/fields/0/pattern", ""),
        (field(type="number", minimum="1"), "field_invalid", "/fields/0/minimum", ""),
        (field(type="number", minimum=2, maximum=1), "field_invalid", "/fields/0/minimum", ""),
        (field(type="date", minimum="soon"), "field_invalid", "/fields/0/minimum", ""),
        (field(type="text", min_length=-1), "field_invalid", "/fields/0/min_length", ""),
        (field(type="text", max_length=True), "field_invalid", "/fields/0/max_length", ""),
        (field(type="text", max_length=10**6), "field_invalid", "/fields/0/max_length", ""),
        (field(type="text", min_length=9, max_length=8), "field_invalid", "/fields/0/min_length", ""),
        (field(type="text", pattern="("), "pattern_invalid", "/fields/0/pattern", ""),
        (field(type="text", pattern="a" * 257), "pattern_invalid", "/fields/0/pattern", ""),
        (field(type="number", default="1"), "field_invalid", "/fields/0/default", ""),
        (field(type="select", options=["a"], default="b"), "field_invalid", "/fields/0/default", "a"),
        (
            {"fields": [{"name": "f", "type": "text"}, {"name": "f", "type": "text"}]},
            "field_invalid", "/fields/1/name", "",
        ),
    ),
)  # fmt: skip
def test_a_form_that_cannot_work_is_refused(
    ui_schema: Any, code: str, pointer: str, hint: str
) -> None:
    """With the place, and the nearest right spelling."""
    form, problems = parse_form(ui_schema)
    assert form is None
    assert (problems[0].code, problems[0].pointer) == (code, pointer)
    assert hint in problems[0].hint
    assert {problem.code for problem in problems} <= {
        *CODES,
        *("key_unknown", "key_missing", "key_misplaced", "pattern_invalid"),
    }


def test_a_form_may_ask_nothing() -> None:
    """Only to go on."""
    assert validate_answer(parsed({"title": "Ready?"}), {}) == ({}, [])


def test_the_digest_changes_with_all_that_was_shown() -> None:
    """The form, the shown values and the definition; not the order of keys."""
    digest = form_digest(REVIEW, {"a": 1, "b": "é"}, "h")
    assert len(digest) == 64
    assert form_digest(dict(reversed(REVIEW.items())), {"b": "é", "a": 1}, "h") == digest
    others = [
        form_digest({}, {"a": 1, "b": "é"}, "h"),
        form_digest(REVIEW, {"a": 2, "b": "é"}, "h"),
        form_digest(REVIEW, None, "h"),
        form_digest(REVIEW, {"a": 1, "b": "é"}, "i"),
    ]
    assert len({digest, *others}) == 5
    assert [describe_change(other, digest) for other in others] == [
        "the form",
        "what is shown",
        "what is shown",
        "the definition",
    ]
    assert describe_change(form_digest({}, None, "i"), digest) == (
        "the form and what is shown and the definition"
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "2024-01-01", "2024-01-01T00:00Z", "a@b.cd", "https://a.b", "", 3.0]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from([str(kind) for kind in FieldType]), VALUES),
    st.booleans(),
)
def test_what_is_kept_is_accepted_again_unchanged(answer: dict[str, Any], required: bool) -> None:
    """Validation is a fixed point, and gives every field exactly one value or one problem."""
    options = {"options": ["a", "b", {"value": 3}]}
    fields = [
        {"name": str(kind), "type": str(kind), "required": required}
        | (options if kind in {"radio", "select", "multiselect"} else {})
        for kind in FieldType
    ]
    form = parsed({"fields": fields})
    kept, problems = validate_answer(form, answer)
    refused = {problem.pointer[1:] for problem in problems}
    assert kept.keys() | refused == {str(kind) for kind in FieldType}
    assert not kept.keys() & refused
    again, problems = validate_answer(form, kept)
    assert repr({name: again[name] for name in kept}) == repr(kept)
    assert {problem.pointer[1:] for problem in problems} <= refused


def test_limits_are_the_documented_ones() -> None:
    """A text has 4,000 characters unless its field says otherwise."""
    assert DEFAULT_MAX_LENGTH == 4_000
