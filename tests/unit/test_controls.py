"""Controls of forms: what a browser may be told of a field's rules, and no more than is so."""

from __future__ import annotations

from typing import Any

import pytest

from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.fields import Field, FieldType
from iaflow.pipeline.forms import parse_form
from iaflow.web.ui.controls import Control, list_controls
from iaflow.web.ui.input_form import make_input_fields


def control_of(**spec: Any) -> Control:
    form, problems = parse_form({"fields": [{"name": "x", **spec}]})
    assert form is not None, problems
    [control] = list_controls(form.fields)
    return control


def fields_of(schema: Any, **parameters: Any) -> dict[str, Field]:
    graph = compile_definition(
        {
            "name": "P",
            "slug": "p-v1",
            "parameters": parameters,
            "input_schema": schema,
            "steps": [{"id": "ask", "type": "human_input", "config": {"ui_schema": {}}}],
            "flow": {"start_at": "ask"},
        }
    )
    return {one.name: one for one in make_input_fields(graph.definition)}


@pytest.mark.parametrize(
    "pattern", ("[A-Z]+", r"\d{3}-\d{2,}", "a|b", r"[^a-z0-9_-]*", "(?:ab)+c?", r"\w+@\w+\.\w+")
)
def test_a_plain_pattern_is_the_browsers_too(pattern: str) -> None:
    assert control_of(type="text", pattern=pattern).attributes["pattern"] == pattern


@pytest.mark.parametrize(
    "pattern", ("(?i)a", "[[:alpha:]]+", r"\pL+", r"\Aa\z", "(?P<n>a)", r"[a&&b]", r"\s+", "(?s).*")
)
def test_a_pattern_that_means_something_else_there_is_not(pattern: str) -> None:
    assert "pattern" not in control_of(type="text", pattern=pattern).attributes


def test_a_longer_text_has_no_pattern_in_html() -> None:
    assert "pattern" not in control_of(type="textarea", pattern="a+").attributes


def test_what_describes_a_control_is_named() -> None:
    assert control_of(type="text").described_by == "field-0-error"
    assert control_of(type="text", help="!").described_by == "field-0-help field-0-error"


@pytest.mark.parametrize(
    ("schema", "default", "kind"),
    (
        ({"type": "string"}, "a", FieldType.TEXT),
        ({"type": "string"}, 5, FieldType.JSON),  # a default that no text can show
        ({"type": "string", "maxLength": 1000}, None, FieldType.TEXTAREA),
        ({"type": "integer"}, 5, FieldType.INTEGER),
        ({"type": ["integer", "string"]}, 5, FieldType.JSON),
        ({"type": "boolean"}, True, FieldType.CHECKBOX),
        ({"type": "boolean"}, None, FieldType.BOOLEAN),
        ({"enum": [1, 2]}, 1, FieldType.RADIO),
        ({"enum": [1, 2]}, True, FieldType.JSON),  # true is not 1
        ({"enum": [[1], 2]}, None, FieldType.JSON),
        ({"oneOf": [{"const": 1, "title": "One"}, {"const": 2}]}, None, FieldType.RADIO),
        ({"type": "array", "items": {"enum": ["a"]}}, None, FieldType.JSON),  # twice is allowed
        ({"type": "array", "uniqueItems": True, "items": {"enum": ["a"]}}, ["a"],
         FieldType.MULTISELECT),
        ({"type": "object"}, None, FieldType.JSON),
        (True, None, FieldType.JSON),
        ({"$ref": "#/$defs/a"}, None, FieldType.DATE),
    ),
)  # fmt: skip
def test_a_parameter_gets_the_field_that_can_hold_it(
    schema: Any, default: Any, kind: FieldType
) -> None:
    whole = {"properties": {"x": schema}, "$defs": {"a": {"type": "string", "format": "date"}}}
    if default is not None:
        whole["properties"]["x"] = {**schema, "default": default}
    field = fields_of(whole)["x"]
    assert field.type is kind
    assert field.default == default


def test_bounds_are_those_that_html_knows() -> None:
    found = fields_of(
        {
            "properties": {
                "a": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
                "b": {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 9.5},
                "c": {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
            }
        }
    )
    bounds = {name: (one.minimum, one.maximum) for name, one in found.items()}
    assert bounds == {"a": (1, 9), "b": (1, 9), "c": (0, 1.5)}


def test_a_pattern_of_a_schema_searches_and_that_of_html_does_not() -> None:
    found = fields_of(
        {
            "properties": {
                "whole": {"type": "string", "pattern": "^[a-z]+$"},
                "part": {"type": "string", "pattern": "[a-z]+"},
                "either": {"type": "string", "pattern": "^a|b$"},
            }
        }
    )
    patterns = {name: one.pattern for name, one in found.items()}
    assert patterns == {"whole": "[a-z]+", "part": None, "either": None}


def test_what_is_required_is_so_unless_null_is_an_answer() -> None:
    schema = {
        "required": ["a", "b", "c", "d"],
        "properties": {
            "a": {"type": "string"},
            "b": {"type": ["string", "null"]},
            "c": {"type": "boolean", "default": False},
            "d": {"enum": ["x", None]},
            "e": {"type": "string"},
        },
    }
    required = {name: one.required for name, one in fields_of(schema).items()}
    assert required == {"a": True, "b": False, "c": False, "d": False, "e": False}
