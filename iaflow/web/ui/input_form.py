"""The form that starts a run: fields made of a definition's parameters and `input_schema`.

Decides which type of field each parameter gets; never whether an input is accepted. Called by the
page of a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from iaflow.pipeline.definition import Definition
from iaflow.pipeline.fields import Field, FieldType, Option

__all__ = ["make_input_fields"]

_T: Final = FieldType
_LONG: Final = 200
"""From so many characters on a text gets an area."""

_LONGEST: Final = 256 * 1024
_MOST_OPTIONS: Final = 500
_FEW_OPTIONS: Final = 4

_FORMATS: Final[Mapping[str, FieldType]] = {
    "date": _T.DATE,
    "date-time": _T.DATETIME,
    "email": _T.EMAIL,
    "uri": _T.URL,
}

Schema = Mapping[str, Any]


def make_input_fields(definition: Definition) -> list[Field]:
    """
    Return a field for each parameter that a definition names, those of its schema first.

    What no simple control can hold (objects, lists, values of several types) is asked as JSON.
    """
    root = definition.input_schema if isinstance(definition.input_schema, dict) else {}
    properties = root.get("properties")
    known = dict(properties) if isinstance(properties, dict) else {}
    listed = root.get("required")
    required = set(listed) if isinstance(listed, list) else set()
    fields = []
    for name in dict.fromkeys([*known, *definition.parameters]):
        schema = _resolve(known.get(name), root)
        has_default = name in definition.parameters
        default = definition.parameters.get(name) if has_default else schema.get("default")
        if not schema:
            schema = _guess(default) if has_default else {}
        fields.append(_make(name, schema, default, is_required=name in required))
    return fields


def _resolve(schema: Any, root: Schema) -> Schema:
    """Return a property's schema with what it refers to inside the whole."""
    found: dict[str, Any] = dict(schema) if isinstance(schema, dict) else {}
    for _ in range(8):
        reference = found.pop("$ref", None)
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        target: Any = root
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            target = target.get(key) if isinstance(target, dict) else None
        found = {**(target if isinstance(target, dict) else {}), **found}
    return found


def _guess(default: Any) -> Schema:
    """Return what a parameter without a schema is, by its default."""
    match default:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case _:
            return {}


def _make(name: str, schema: Schema, default: Any, *, is_required: bool) -> Field:
    title, told = schema.get("title"), schema.get("description")
    base = Field(
        name=name,
        label=title if isinstance(title, str) and title else name,
        type=_T.JSON,
        required=is_required,
        max_length=_LONGEST,
        help=told if isinstance(told, str) else "",
        placeholder=_example(schema),
    )
    made = _shape(base, schema, default)
    if default is None:
        return made
    return (
        replace(made, default=default)
        if _fits(made, default)
        else replace(base, default=default, options=())
    )


def _shape(base: Field, schema: Schema, default: Any) -> Field:
    options, is_optional = _options_of(schema)
    if options:
        kind = _T.RADIO if len(options) <= _FEW_OPTIONS else _T.SELECT
        return replace(base, type=kind, options=options, required=base.required and not is_optional)
    types = schema.get("type")
    named = [one for one in (types if isinstance(types, list) else [types]) if one != "null"]
    is_nullable = isinstance(types, list) and "null" in types
    base = replace(base, required=base.required and not is_nullable)
    match named:
        case ["string"]:
            return _shape_text(base, schema, default)
        case ["integer" | "number"]:
            kind = _T.INTEGER if named == ["integer"] else _T.NUMBER
            return replace(
                base,
                type=kind,
                minimum=_bound(schema, "minimum", "exclusiveMinimum", kind, 1),
                maximum=_bound(schema, "maximum", "exclusiveMaximum", kind, -1),
            )
        case ["boolean"] if isinstance(default, bool):
            # A required checkbox would have to be ticked.
            return replace(base, type=_T.CHECKBOX, required=False)
        case ["boolean"]:
            return replace(base, type=_T.BOOLEAN)
        case ["array"]:
            chosen, _ = _options_of(schema.get("items"))
            if chosen and schema.get("uniqueItems") is True:
                least = schema.get("minItems")
                is_needed = isinstance(least, int) and least > 0
                return replace(base, type=_T.MULTISELECT, options=chosen, required=is_needed)
    return base


def _shape_text(base: Field, schema: Schema, default: Any) -> Field:
    longest, least = (_whole(schema.get(key)) for key in ("maxLength", "minLength"))
    format_ = schema.get("format")
    kind = _FORMATS.get(format_, _T.TEXT) if isinstance(format_, str) else _T.TEXT
    is_long = isinstance(default, str) and ("\n" in default or len(default) > _LONG)
    if kind is _T.TEXT and (is_long or (longest or 0) > _LONG):
        kind = _T.TEXTAREA
    return replace(
        base,
        type=kind,
        min_length=least or 0,
        max_length=_LONGEST if longest is None else longest,
        pattern=_whole_pattern(schema.get("pattern")),
    )


def _whole_pattern(pattern: Any) -> str | None:
    """Return a pattern as HTML wants it, for the whole text; JSON Schema searches in it."""
    if not isinstance(pattern, str) or "|" in pattern or pattern.endswith("\\$"):
        return None
    if pattern.startswith("^") and pattern.endswith("$"):
        return pattern[1:-1] or None
    return None


def _options_of(schema: Any) -> tuple[tuple[Option, ...], bool]:
    """Return the options that a schema leaves, and whether null is one too."""
    if not isinstance(schema, dict):
        return (), False
    listed = schema.get("enum")
    pairs: list[tuple[Any, str]] = []
    if isinstance(listed, list):
        pairs = [(value, _spell(value)) for value in listed]
    else:
        for key in ("oneOf", "anyOf"):
            parts = schema.get(key)
            if isinstance(parts, list) and all(
                isinstance(part, dict) and "const" in part for part in parts
            ):
                pairs = [
                    (part["const"], str(part.get("title") or _spell(part["const"])))
                    for part in parts
                ]
    is_optional = any(value is None for value, _ in pairs)
    pairs = [(value, label) for value, label in pairs if value is not None]
    if len(pairs) > _MOST_OPTIONS or not all(
        isinstance(value, str | int | float) for value, _ in pairs
    ):
        return (), False
    return tuple(Option(value, label) for value, label in pairs), is_optional


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _bound(schema: Schema, name: str, exclusive: str, kind: FieldType, step: int) -> Any:
    """Return a bound, itself allowed; a browser knows no other, and the API is stricter."""
    other = schema.get(exclusive)
    if isinstance(other, int | float) and not isinstance(other, bool):
        if kind is not _T.INTEGER:
            return other
        return (math.floor(other) if step > 0 else math.ceil(other)) + step
    bound = schema.get(name)
    return bound if _is_number(bound) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _example(schema: Schema) -> str:
    examples = schema.get("examples")
    first = examples[0] if isinstance(examples, list) and examples else None
    return first if isinstance(first, str) else ""


def _fits(made: Field, default: Any) -> bool:
    """Tell whether a control of this type can show the default; JSON can show any."""
    match made.type:
        case FieldType.JSON:
            return True
        case FieldType.CHECKBOX | FieldType.BOOLEAN:
            return isinstance(default, bool)
        case FieldType.NUMBER | FieldType.INTEGER:
            return _is_number(default)
        case FieldType.RADIO | FieldType.SELECT:
            return any(
                type(one.value) is type(default) and one.value == default for one in made.options
            )
        case FieldType.MULTISELECT:
            return isinstance(default, list) and all(
                any(type(one.value) is type(part) and one.value == part for one in made.options)
                for part in default
            )
        case _:
            return isinstance(default, str)
