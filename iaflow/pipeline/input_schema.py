"""Parameters of a run: the definition's defaults, what was given, and the schema of both.

Decides whether a run may start with these parameters; never starts one. Called by check when a
definition is loaded, and by whoever starts runs.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import InputRefused, Problem
from iaflow.pipeline.definition import Definition
from iaflow.pipeline.operators import OperandInvalid, compile_pattern
from iaflow.pipeline.reading import clip
from iaflow.pipeline.strict_json import MAX_BYTES, check_json_value, dump_json, join_pointer

__all__ = ["CODES", "INPUT_CODES", "find_schema_problems", "known_parameters", "merge_parameters"]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"input_schema_invalid": "the input_schema is no JSON Schema that can be applied"}
)
"""Codes of the problems with a schema."""

INPUT_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"input_invalid": "the parameters do not satisfy the input_schema"}
)
"""Codes of the problems with a run's parameters, beside those of strict JSON."""


def merge_parameters(
    definition: Definition, given: Mapping[str, Any], *, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """
    Return the parameters of a run: what was given, laid over the defaults key by key.

    Args:
        definition: it has the defaults and perhaps an `input_schema`.
        given: the run's input.
        max_bytes: the largest merged parameters, in bytes of JSON.

    Returns:
        A value of its own, that shares nothing with the definition or the input.

    Raises:
        InputRefused: they are no JSON or do not satisfy the schema; pointers are into the
            merged parameters.
    """
    if not isinstance(given, Mapping):
        raise InputRefused((Problem("input_invalid", "", "a run's input is a JSON object"),))
    merged = {**definition.parameters, **given}
    text, problems = check_json_value(merged, max_bytes=max_bytes)
    if not problems and definition.input_schema is not None:
        problems = _judge_input(definition.input_schema, merged)
    if problems:
        raise InputRefused(tuple(problems))
    parameters: dict[str, Any] = json.loads(text)
    return parameters


def known_parameters(definition: Definition) -> frozenset[str]:
    """Return the names that templates and conditions may refer to."""
    schema = definition.input_schema
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return frozenset(
        {*definition.parameters, *(properties if isinstance(properties, dict) else ())}
    )


def find_schema_problems(schema: dict[str, Any] | bool) -> list[Problem]:
    """
    Find what keeps an `input_schema` from being applied; pointers are relative to it.

    References stay within the schema, patterns are those of RE2 and formats are known ones: so
    nothing is fetched, nothing takes for ever, and nothing is passed over in silence.
    """
    import jsonschema

    if isinstance(schema, bool):
        return []
    draft = schema.get("$schema", _NEWEST_DRAFT)
    if not isinstance(draft, str) or draft.rstrip("#") not in _DRAFTS:
        hint = f"one of {', '.join(_DRAFTS)}"
        return [Problem(_BAD, "/$schema", "this dialect of JSON Schema is not known", hint)]
    try:
        # Patterns are judged below, as those of RE2 that they are.
        checker = jsonschema.FormatChecker(formats=())
        _validator_class(draft).check_schema(schema, format_checker=checker)
    except jsonschema.SchemaError as error:
        return [Problem(_BAD, join_pointer("", *error.absolute_path), error.message[:300])]
    problems = list(_find_unusable(schema))
    if not problems:
        try:
            list(_find_input_problems(schema, {}))
        except RecursionError:
            problems.append(Problem(_BAD, "", "the schema refers to itself without end"))
        except _TooLaborious:
            problems.append(Problem(_BAD, "", "the schema takes too many steps to apply"))
    return problems


_BAD: Final = "input_schema_invalid"
_MAX_PROBLEMS: Final = 50
_NEWEST_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        _NEWEST_DRAFT: "Draft202012Validator",
        "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
        "http://json-schema.org/draft-07/schema": "Draft7Validator",
        "http://json-schema.org/draft-06/schema": "Draft6Validator",
        "http://json-schema.org/draft-04/schema": "Draft4Validator",
    }
)


# --- judging parameters


def _judge_input(schema: dict[str, Any] | bool, value: dict[str, Any]) -> list[Problem]:
    try:
        return list(_find_input_problems(schema, value))
    except RecursionError:
        return [Problem("input_invalid", "", "the input_schema refers to itself without end")]
    except _TooLaborious:
        return [Problem("input_invalid", "", "this takes too many steps of the input_schema")]
    except OverflowError:
        return [Problem("input_invalid", "", "a number is too large for the input_schema to judge")]


def _find_input_problems(schema: dict[str, Any] | bool, value: dict[str, Any]) -> Iterator[Problem]:
    draft = schema.get("$schema", _NEWEST_DRAFT) if isinstance(schema, dict) else _NEWEST_DRAFT
    validator = _validator_class(draft)(
        schema, registry=_empty_registry(), format_checker=_format_checker()
    )
    for error in islice(validator.iter_errors(value), _MAX_PROBLEMS):
        pointer = join_pointer("", *error.absolute_path)
        yield Problem("input_invalid", pointer, error.message[:300])


@lru_cache(maxsize=len(_DRAFTS))
def _validator_class(draft: str) -> Any:
    import jsonschema

    base = getattr(jsonschema, _DRAFTS[draft.rstrip("#")])
    keywords = {
        **base.VALIDATORS,
        "additionalProperties": _judge_additional_properties,
        "pattern": _judge_pattern,
        "patternProperties": _judge_pattern_properties,
        "uniqueItems": _judge_unique_items,
    }
    extend: Any = jsonschema.validators.extend
    return extend(base, {name: _counted(judge) for name, judge in keywords.items()})


class _TooLaborious(Exception):
    """A schema asks for more steps than any that a person wrote."""


_MAX_JUDGEMENTS: Final = 100_000


def _counted(judge: Any) -> Any:
    """Return a keyword's judge that takes its step from the budget of its validation."""

    def judge_and_count(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        checker = validator.format_checker
        if hasattr(checker, "steps_left"):
            checker.steps_left -= 1
            if checker.steps_left < 0:
                raise _TooLaborious
        yield from judge(validator, value, instance, schema) or ()

    return judge_and_count


def _judge_additional_properties(
    validator: Any, wanted: Any, value: Any, schema: Any
) -> Iterator[Any]:
    """As the library does, but with the patterns of RE2."""
    import jsonschema

    if not isinstance(value, dict):
        return
    patterns = [compile_pattern(pattern) for pattern in schema.get("patternProperties", ())]
    for key, member in value.items():
        if key in schema.get("properties", ()) or any(one.search(key) for one in patterns):
            continue
        if wanted is False:
            yield jsonschema.ValidationError(f"{clip(key)} is not expected")
        elif wanted is not True:
            yield from validator.descend(member, wanted, path=key)


@lru_cache(maxsize=1)
def _empty_registry() -> Any:
    """Return a registry that fetches nothing; the library's own default would."""
    import referencing

    return referencing.Registry()


def _format_checker() -> Any:
    import jsonschema

    checker: Any = jsonschema.FormatChecker(formats=())
    # Every validator of one validation has this checker, so it carries the budget too.
    checker.steps_left = _MAX_JUDGEMENTS
    for name, fits in _FORMATS.items():
        checker.checks(name)(lambda value, fits=fits: not isinstance(value, str) or fits(value))
    return checker


def _judge_pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(value, str) and not compile_pattern(pattern).search(value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _judge_unique_items(_validator: Any, wanted: Any, value: Any, _schema: Any) -> Iterator[Any]:
    """As the library does, but in time that grows with the list and not with its square."""
    import jsonschema

    if wanted and isinstance(value, list):
        texts = [dump_json(_normalise(member), sort_keys=True) for member in value]
        if len(set(texts)) < len(texts):
            yield jsonschema.ValidationError("the same value stands in the list twice")


def _normalise(value: Any) -> Any:
    """Return a value whose text is the same for all that JSON Schema calls equal: 1 is 1.0."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_normalise(member) for member in value]
        case dict():
            return {key: _normalise(member) for key, member in value.items()}
        case _:
            return value


def _judge_pattern_properties(
    validator: Any, patterns: dict[str, Any], value: Any, _schema: Any
) -> Iterator[Any]:
    if not isinstance(value, dict):
        return
    for pattern, schema in patterns.items():
        compiled = compile_pattern(pattern)
        for key, member in value.items():
            if compiled.search(key):
                yield from validator.descend(member, schema, path=key, schema_path=pattern)


# --- judging the schema itself

_ONE_SCHEMA: Final = (
    "additionalItems additionalProperties contains else if items not propertyNames then"
    " unevaluatedItems unevaluatedProperties"
).split()
_LIST_OF_SCHEMAS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED_SCHEMAS: Final = (
    "$defs definitions dependencies dependentSchemas patternProperties properties"
).split()
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def _find_unusable(root: dict[str, Any]) -> Iterator[Problem]:
    """Find references, patterns and formats that cannot be applied, in every part of a schema."""
    parts = list(_walk(root))
    known = {id(schema) for _, schema in parts}
    has_patterns = any("patternProperties" in schema for _, schema in parts)
    for pointer, schema in parts:
        for key in ("$id", "id"):
            if pointer and isinstance(schema.get(key), str):
                yield Problem(_BAD, f"{pointer}/{key}", "only the whole schema has an identity")
        for key in _REFERENCES:
            if key in schema and not _leads_somewhere(root, schema[key], known):
                message = f"{clip(str(schema[key]))} leads to no part of this schema"
                yield Problem(
                    _BAD, f"{pointer}/{key}", message, "nothing is fetched from elsewhere"
                )
        if "format" in schema and schema["format"] not in _FORMATS:
            message = f"the format {clip(str(schema['format']))} is not known"
            yield Problem(_BAD, f"{pointer}/format", message, f"known are {', '.join(_FORMATS)}")
        if "unevaluatedProperties" in schema and has_patterns:
            message = "beside `patternProperties` this would search by patterns that may never end"
            hint = "use `additionalProperties`"
            yield Problem(_BAD, f"{pointer}/unevaluatedProperties", message, hint)
        if "pattern" in schema:
            yield from _judge_regex(schema["pattern"], f"{pointer}/pattern")
        for pattern in schema.get("patternProperties", ()):
            yield from _judge_regex(pattern, join_pointer(pointer, "patternProperties", pattern))


def _walk(root: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every part of a schema that is a schema and an object, with its pointer."""
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        pointer, schema = todo.pop()
        if isinstance(schema, dict):
            yield pointer, schema
            todo += _list_parts(schema, pointer)


def _list_parts(schema: dict[str, Any], pointer: str) -> Iterator[tuple[str, Any]]:
    for key in _ONE_SCHEMA:
        if key in schema:
            yield f"{pointer}/{key}", schema[key]
    for key in _LIST_OF_SCHEMAS:
        if isinstance(schema.get(key), list):
            for index, part in enumerate(schema[key]):
                yield f"{pointer}/{key}/{index}", part
    for key in _NAMED_SCHEMAS:
        if isinstance(schema.get(key), dict):
            for name, part in schema[key].items():
                yield join_pointer(pointer, key, name), part


def _leads_somewhere(root: dict[str, Any], reference: Any, known: set[int]) -> bool:
    import referencing
    from referencing.jsonschema import DRAFT202012

    if not isinstance(reference, str) or not reference.startswith("#"):
        return False
    resource = referencing.Resource.from_contents(root, default_specification=DRAFT202012)
    try:
        found = _empty_registry().resolver_with_root(resource).lookup(reference).contents
    except (referencing.exceptions.Unresolvable, ValueError):
        return False
    return isinstance(found, bool) or id(found) in known


def _judge_regex(pattern: str, pointer: str) -> Iterator[Problem]:
    try:
        compile_pattern(pattern)
    except OperandInvalid as error:
        yield Problem(_BAD, pointer, error.message, error.hint)


# --- formats: asserted, so each one is judged here and not by whichever libraries are installed

_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME: Final = re.compile(
    r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION: Final = re.compile(
    r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)", re.ASCII
)
_EMAIL: Final = re.compile(r"[^\s@<>\"(),:;\[\]\\]{1,64}@[^\s@<>\"(),:;\[\]\\]{1,255}")
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")
_POINTER: Final = re.compile(r"(/([^~/]|~[01])*)*")


def _is_date(text: str) -> bool:
    found = _DATE.fullmatch(text)
    if found is None:
        return False
    year, month, day = (int(part) for part in found.groups())
    if not (year and 1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1]):
        return False
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return (month, day) != (2, 29) or is_leap


def _is_date_time(text: str) -> bool:
    return _is_date(text[:10]) and text[10:11] in {"T", "t"} and bool(_TIME.fullmatch(text[11:]))


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _is_regex(text: str) -> bool:
    try:
        compile_pattern(text)
    except OperandInvalid:
        return False
    return True


def _fits(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


_FORMATS: Final[Mapping[str, Callable[[str], bool]]] = MappingProxyType(
    {
        "date": _is_date,
        "date-time": _is_date_time,
        "time": _fits(_TIME),
        "duration": _fits(_DURATION),
        "email": _fits(_EMAIL),
        "hostname": _fits(_HOST),
        "ipv4": lambda text: _is_address(text, 4),
        "ipv6": lambda text: _is_address(text, 6),
        "json-pointer": _fits(_POINTER),
        "regex": _is_regex,
        "uri": _fits(_URI),
        "uuid": _fits(_UUID),
    }
)
