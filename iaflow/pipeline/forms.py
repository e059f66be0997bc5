"""Forms: what a person is asked, and which answers are accepted.

Decides whether a `ui_schema` is a form and whether an answer fits it, field by field; never
stores, shows or routes anything. Called by graph, engine and the faces.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.fields import (
    CHOICES,
    DATES,
    DEFAULT_MAX_LENGTH,
    LINES,
    LONGEST_TEXT,
    NUMBERS,
    Field,
    FieldType,
    Option,
    Refused,
    accept,
    check_bound,
    rank,
)
from iaflow.pipeline.operators import OperandInvalid, compile_pattern
from iaflow.pipeline.reading import clip
from iaflow.pipeline.strict_json import dump_json, join_pointer

__all__ = [
    "ANSWER_CODES",
    "CODES",
    "DEFAULT_MAX_LENGTH",
    "FIELD_KEYS",
    "FIELD_NAME",
    "FORM_KEYS",
    "LONGEST_TEXT",
    "OPTION_KEYS",
    "REQUIRED_BY_DEFAULT",
    "TYPES_OF_KEY",
    "Field",
    "FieldType",
    "Form",
    "Option",
    "describe_change",
    "form_digest",
    "parse_form",
    "validate_answer",
]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "form_invalid": "a ui_schema has the wrong keys or values",
        "field_invalid": "a field of a form has the wrong keys or values",
        "pattern_invalid": "a pattern is too long, or RE2 does not know it",
    }
)
"""Codes of the problems that `parse_form` finds, with their meaning."""

ANSWER_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "answer_invalid": "the answer to a field has the wrong type or value",
        "answer_required": "a field that must be answered is not",
        "field_unknown": "the form has no such field",
    }
)
"""Codes of the problems that `validate_answer` finds, with their meaning."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a person is asked: a title, a description and fields in their order."""

    title: str
    description: str
    fields: tuple[Field, ...]


def parse_form(ui_schema: Any) -> tuple[Form | None, list[Problem]]:
    """
    Read the `ui_schema` of a person's step.

    Args:
        ui_schema: ``{"title"?, "description"?, "fields"?: [{"name", "type", …}]}``; a form
            without fields asks only to go on.

    Returns:
        The form, or None if there are problems; pointers are relative to the `ui_schema`.
    """
    if not isinstance(ui_schema, dict):
        return None, [Problem("form_invalid", "", "a form is an object with `fields`")]
    problems = _check_keys(ui_schema, FORM_KEYS, "")
    for key in ("title", "description"):
        if not isinstance(ui_schema.get(key, ""), str):
            problems.append(Problem("form_invalid", f"/{key}", f"`{key}` is text"))
    listed = ui_schema.get("fields", [])
    if not isinstance(listed, list):
        problems.append(Problem("form_invalid", "/fields", "`fields` is a list"))
        listed = []
    fields: list[Field] = []
    names: set[str] = set()
    for index, spec in enumerate(listed):
        parsed, found = _parse_field(spec, f"/fields/{index}")
        problems += found
        if parsed is None:
            continue
        if parsed.name in names:
            problems.append(
                Problem("field_invalid", f"/fields/{index}/name", "two fields have this name")
            )
        names.add(parsed.name)
        fields.append(parsed)
    if problems:
        return None, problems
    return Form(ui_schema.get("title", ""), ui_schema.get("description", ""), tuple(fields)), []


def validate_answer(form: Form, answer: Any) -> tuple[dict[str, Any], list[Problem]]:
    """
    Check an answer against its form, every field of it.

    A field without answer (absent, null, or an empty date, address or choice) has its default,
    else null, an optional checkbox false: every field is in the result, so that later steps may
    refer to it. What is returned is accepted again and comes back unchanged.

    Args:
        form: the parsed form.
        answer: ``{field: value}``.

    Returns:
        The values to keep, in the order of the form, and the problems with pointers such as
        ``/decision``; the values are of no meaning if there are problems.
    """
    if not isinstance(answer, dict):
        return {}, [Problem("answer_invalid", "", "an answer is an object of fields and values")]
    names = [asked.name for asked in form.fields]
    problems = [
        Problem("field_unknown", join_pointer("", str(key)), "the form has no such field", hint)
        for key in answer
        if key not in names
        for hint in (_nearest(key, names),)
    ]
    values: dict[str, Any] = {}
    for asked in form.fields:
        try:
            values[asked.name] = accept(asked, answer.get(asked.name))
        except Refused as refused:
            problems.append(Problem(refused.code, f"/{asked.name}", str(refused), refused.hint))
    return values, problems


def form_digest(form_json: Any, shown: Any, content_hash: str) -> str:
    """
    Return what an answer is bound to: the form, what was shown with it, and the definition.

    Args:
        form_json: the `ui_schema` as JSON.
        shown: the rendered `show` as JSON; None if there is none.
        content_hash: the definition's.

    Returns:
        64 hexadecimal digits: the beginnings of the SHA-256 of each, side by side, so that
        `describe_change` can tell what of it is another.
    """
    parts = (form_json, shown, content_hash)
    return "".join(_hash(part)[:digits] for part, (_, digits) in zip(parts, _BOUND, strict=True))


def describe_change(seen: str, now: str) -> str:
    """Return what is another in one digest than in the other, in words for people."""
    names, at = [], 0
    for name, digits in _BOUND:
        if seen[at : at + digits] != now[at : at + digits]:
            names.append(name)
        at += digits
    return " and ".join(names) or "nothing"


_BOUND: Final = (("the form", 20), ("what is shown", 20), ("the definition", 24))
"""What an answer is bound to, and how many digits of a digest stand for it: 80 bits and more."""


def _hash(value: Any) -> str:
    return hashlib.sha256(dump_json(value, sort_keys=True).encode()).hexdigest()


_TYPES: Final = tuple(str(kind) for kind in FieldType)
REQUIRED_BY_DEFAULT: Final = frozenset({FieldType.RADIO, FieldType.SELECT})
FORM_KEYS: Final = ("title", "description", "fields")
FIELD_KEYS: Final = (
    "name",
    "label",
    "type",
    "required",
    "options",
    "default",
    "minimum",
    "maximum",
    "min_length",
    "max_length",
    "pattern",
    "help",
    "placeholder",
)
OPTION_KEYS: Final = ("value", "label")
TYPES_OF_KEY: Final[Mapping[str, frozenset[FieldType]]] = {
    "options": CHOICES,
    "minimum": NUMBERS | DATES,
    "maximum": NUMBERS | DATES,
    "min_length": LINES,
    "max_length": LINES,
    "pattern": LINES,
}
"""Keys that have a meaning for some types only, and would be silently ignored on others."""

FIELD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
# --- reading a form


def _parse_field(spec: Any, pointer: str) -> tuple[Field | None, list[Problem]]:
    if not isinstance(spec, dict):
        return None, [Problem("field_invalid", pointer, "a field is an object")]
    problems = _check_keys(spec, FIELD_KEYS, pointer)
    problems += [
        Problem("key_missing", pointer, f"`{key}` is missing")
        for key in ("name", "type")
        if key not in spec
    ]
    if problems:
        return None, problems
    name, kind = spec["name"], spec["type"]
    if not isinstance(name, str) or FIELD_NAME.fullmatch(name) is None:
        message = "`name` is letters, digits, _ and -, not beginning with _ or -"
        problems.append(Problem("field_invalid", f"{pointer}/name", message))
    if not isinstance(kind, str) or kind not in _TYPES:
        hint = _nearest(kind, _TYPES) or f"one of {', '.join(_TYPES)}"
        problems.append(
            Problem("field_invalid", f"{pointer}/type", "the field needs a known `type`", hint)
        )
    if problems:
        return None, problems
    parsed = _FieldReader(spec, FieldType(str(kind)), pointer)
    built = parsed.read()
    return built, parsed.problems


class _FieldReader:
    """Reads one field whose name and type are known, and notes what is wrong with the rest."""

    __slots__ = ("kind", "pointer", "problems", "spec")

    def __init__(self, spec: dict[str, Any], kind: FieldType, pointer: str) -> None:
        self.spec = spec
        self.kind = kind
        self.pointer = pointer
        self.problems: list[Problem] = []

    def read(self) -> Field | None:
        """Return the field, or None if there are problems."""
        for key in self.spec:
            types = TYPES_OF_KEY.get(key)
            if types is not None and self.kind not in types:
                message = f"`{key}` has no meaning for `{self.kind}`"
                self._refuse(key, message, code="key_misplaced")
        if self.problems:
            return None
        built = Field(
            name=self.spec["name"],
            label=self._read_text("label") or self.spec["name"],
            type=self.kind,
            required=self._read_required(),
            options=self._read_options() if self.kind in CHOICES else (),
            minimum=self._read_bound("minimum"),
            maximum=self._read_bound("maximum"),
            min_length=self._read_length("min_length", 0),
            max_length=self._read_length("max_length", DEFAULT_MAX_LENGTH),
            pattern=self._read_text("pattern") or None,
            help=self._read_text("help"),
            placeholder=self._read_text("placeholder"),
            regex=self._read_pattern(),
        )
        self._check_order(built)
        if self.problems:
            return None
        return self._with_default(built)

    def _read_text(self, key: str) -> str:
        value = self.spec.get(key, "")
        if isinstance(value, str):
            return value
        self._refuse(key, f"`{key}` is text")
        return ""

    def _read_required(self) -> bool:
        value = self.spec.get("required", self.kind in REQUIRED_BY_DEFAULT)
        if isinstance(value, bool):
            return value
        self._refuse("required", "`required` is true or false")
        return False

    def _read_options(self) -> tuple[Option, ...]:
        listed = self.spec.get("options")
        if not isinstance(listed, list) or not listed:
            self._refuse("options", f"`{self.kind}` needs a list of `options`")
            return ()
        options: list[Option] = []
        # As `find_option` tells values apart: true is not 1, but 1.0 is.
        taken: set[tuple[bool, Any]] = set()
        for index, spec in enumerate(listed):
            option = self._read_option(spec, f"options/{index}")
            if option is None:
                continue
            value = (isinstance(option.value, bool), option.value)
            if value in taken:
                shown = clip(str(option.value))
                self._refuse(f"options/{index}", f"the option {shown} stands there twice")
            taken.add(value)
            options.append(option)
        return tuple(options)

    def _read_option(self, spec: Any, where: str) -> Option | None:
        match spec:
            case str():
                return Option(spec, spec)
            case {"value": bool() | int() | float() | str() as value}:
                self.problems += _check_keys(spec, OPTION_KEYS, f"{self.pointer}/{where}")
                label = spec.get("label", value if isinstance(value, str) else dump_json(value))
                if isinstance(label, str):
                    return Option(value, label)
        self._refuse(where, "an option is a text or {value, label}")
        return None

    def _read_bound(self, key: str) -> Any:
        if key not in self.spec:
            return None
        value = self.spec[key]
        try:
            check_bound(self.kind, value)
        except Refused as refused:
            self._refuse(key, f"`{key}`: {refused}")
            return None
        return value

    def _read_length(self, key: str, default: int) -> int:
        value = self.spec.get(key, default)
        if type(value) is int and 0 <= value <= LONGEST_TEXT:
            return value
        self._refuse(key, f"`{key}` is a whole number from 0 to {LONGEST_TEXT}")
        return default

    def _read_pattern(self) -> Any:
        pattern = self.spec.get("pattern")
        if not isinstance(pattern, str) or not pattern:
            return None
        try:
            return compile_pattern(pattern)
        except OperandInvalid as error:
            self._refuse("pattern", error.message, error.hint, error.code)
            return None

    def _check_order(self, built: Field) -> None:
        low, high = built.minimum, built.maximum
        if low is not None and high is not None and rank(built, low) > rank(built, high):
            self._refuse("minimum", "`minimum` is greater than `maximum`")
        if built.min_length > built.max_length:
            self._refuse("min_length", "`min_length` is greater than `max_length`")

    def _with_default(self, built: Field) -> Field | None:
        default = self.spec.get("default")
        if default is None:
            return built
        try:
            # Not required here: an unticked default of a required checkbox is a fine beginning.
            value = accept(replace(built, required=False), default)
        except Refused as refused:
            self._refuse("default", f"the default does not fit: {refused}", refused.hint)
            return None
        return replace(built, default=value)

    def _refuse(
        self, where: str, message: str, hint: str = "", code: str = "field_invalid"
    ) -> None:
        self.problems.append(Problem(code, f"{self.pointer}/{where}", message, hint))


def _check_keys(spec: dict[str, Any], known: Iterable[str], pointer: str) -> list[Problem]:
    return [
        Problem(
            "key_unknown",
            join_pointer(pointer, key),
            f"unknown key {key[:64]!r}",
            _nearest(key, known),
        )
        for key in spec
        if key not in known
    ]


def _nearest(word: Any, known: Iterable[str]) -> str:
    """Return a hint with the nearest known spelling, or an empty one."""
    near = difflib.get_close_matches(str(word)[:64], list(known)[:256], n=1)
    return f"did you mean `{near[0]}`?" if near else ""
