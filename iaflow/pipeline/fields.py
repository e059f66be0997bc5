"""Fields of a form: which values each type takes.

Decides whether one value fits one field, and what of it is kept; never reads a form and never
sees an answer as a whole. Called by forms.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from iaflow.pipeline.strict_json import check_json_value

__all__ = [
    "CHOICES",
    "DATE",
    "DATES",
    "DATETIME",
    "DEFAULT_MAX_LENGTH",
    "LINES",
    "LONGEST_TEXT",
    "NUMBERS",
    "Field",
    "FieldType",
    "Option",
    "Refused",
    "accept",
    "check_bound",
    "find_option",
    "parse_instant",
    "rank",
]

DEFAULT_MAX_LENGTH: Final = 4_000
"""How many characters a text may have if its field does not say."""

LONGEST_TEXT: Final = 65_536
"""How many characters a field may allow at most."""


class FieldType(StrEnum):
    """What kind of value a field takes."""

    TEXT = "text"
    TEXTAREA = "textarea"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CHECKBOX = "checkbox"
    RADIO = "radio"
    SELECT = "select"
    MULTISELECT = "multiselect"
    DATE = "date"
    DATETIME = "datetime"
    EMAIL = "email"
    URL = "url"
    JSON = "json"


LINES: Final = frozenset({FieldType.TEXT, FieldType.TEXTAREA, FieldType.EMAIL, FieldType.URL})
"""Types whose values are texts with a length."""

NUMBERS: Final = frozenset({FieldType.NUMBER, FieldType.INTEGER})
"""Types whose values are numbers."""

DATES: Final = frozenset({FieldType.DATE, FieldType.DATETIME})
"""Types whose values are points in time, as ISO text."""

CHOICES: Final = frozenset({FieldType.RADIO, FieldType.SELECT, FieldType.MULTISELECT})
"""Types that choose among options."""


@dataclass(frozen=True, slots=True)
class Option:
    """One choice: the value (text, number or boolean) that is kept, and the text shown for it."""

    value: str | int | float | bool
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """
    One question of a form. Labels, help and placeholder are plain text.

    Attributes:
        name: the key of the answer.
        label: what is shown for it; the name if the form does not say.
        type: what kind of value it takes.
        required: whether it must be answered; a required checkbox must be ticked.
        options: the choices of `radio`, `select` and `multiselect`.
        default: stands for an answer that is not given; None if there is none.
        minimum, maximum: bounds, both included, of numbers and (as ISO text) of dates.
        min_length, max_length: bounds of texts in characters.
        pattern: RE2 that the whole text must match.
        help, placeholder: further text for the page.
        regex: `pattern` compiled.
    """

    name: str
    label: str
    type: FieldType
    required: bool
    options: tuple[Option, ...] = ()
    default: Any = None
    minimum: Any = None
    maximum: Any = None
    min_length: int = 0
    max_length: int = DEFAULT_MAX_LENGTH
    pattern: str | None = None
    help: str = ""
    placeholder: str = ""
    regex: Any = field(default=None, compare=False, repr=False)


class Refused(Exception):
    """An answer, or a value of a field's definition, does not fit."""

    def __init__(self, message: str, hint: str = "", code: str = "answer_invalid") -> None:
        self.code = code
        self.hint = hint
        super().__init__(message)


def accept(asked: Field, value: Any) -> Any:
    """
    Return the value to keep for one field.

    Args:
        asked: the field.
        value: what was answered; None if nothing was.

    Raises:
        Refused: the value does not fit.
    """
    if value is None or (value == "" and _is_blank_no_answer(asked)):
        value = asked.default
    if value is None:
        if asked.required:
            raise Refused("an answer is needed", code="answer_required")
        return False if asked.type is _T.CHECKBOX else None
    kept = _ACCEPT[asked.type](asked, value)
    if asked.required and (kept in ("", []) or (asked.type is _T.CHECKBOX and not kept)):
        raise Refused("an answer is needed", code="answer_required")
    return kept


def check_bound(kind: FieldType, value: Any) -> None:
    """
    Check that a bound (`minimum` or `maximum`) is itself a value of the field's type.

    Raises:
        Refused: it is none.
    """
    kind = FieldType.NUMBER if kind in NUMBERS else kind
    _ACCEPT[kind](Field(name="", label="", type=kind, required=False), value)


def rank(asked: Field, value: Any) -> Any:
    """Return what the values of a field are ordered by; `value` has passed its type."""
    match asked.type:
        case FieldType.DATE:
            return _read_date(value)
        case FieldType.DATETIME:
            return _read_datetime(value)
        case _:
            return value


def find_option(options: Iterable[Option], value: Any) -> Option | None:
    """Return the option of this value; true is not 1, but 1.0 is."""
    for option in options:
        if isinstance(option.value, bool) == isinstance(value, bool) and option.value == value:
            return option
    return None


_T: Final = FieldType
_BLANK_IS_NO_ANSWER: Final = DATES | {_T.EMAIL, _T.URL, _T.RADIO, _T.SELECT}

_MAX_EMAIL: Final = 254
_MAX_SAFE_INTEGER: Final = 2**53

DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DATETIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)


def _is_blank_no_answer(asked: Field) -> bool:
    if asked.type in CHOICES:
        return find_option(asked.options, "") is None and asked.type is not _T.MULTISELECT
    return asked.type in _BLANK_IS_NO_ANSWER


def _accept_text(asked: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused("this is no text")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused("the text holds NUL or half a character")
    if len(value) > asked.max_length:
        raise Refused(f"at most {asked.max_length} characters, not {len(value)}")
    if value and len(value) < asked.min_length:
        raise Refused(f"at least {asked.min_length} characters, not {len(value)}")
    if value and asked.regex is not None and asked.regex.fullmatch(value) is None:
        raise Refused(f"the text does not match the pattern {asked.pattern}")
    return value


def _accept_number(asked: Field, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused("this is no number")
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("a number is finite")
    _check_range(asked, value)
    return value


def _accept_integer(asked: Field, value: Any) -> int:
    number = _accept_number(asked, value)
    if isinstance(number, int):
        return number
    if number.is_integer() and abs(number) <= _MAX_SAFE_INTEGER:
        return int(number)
    raise Refused("this is no whole number")


def _accept_boolean(asked: Field, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Refused("this is neither true nor false")


def _accept_choice(asked: Field, value: Any) -> Any:
    option = find_option(asked.options, value)
    if option is None:
        raise Refused("this is none of the options", _nearest_option(asked, value))
    return option.value


def _accept_choices(asked: Field, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Refused("this is no list of options")
    chosen: list[Option] = []
    for one in value:
        option = find_option(asked.options, one)
        if option is None:
            raise Refused("this has more than the options", _nearest_option(asked, one))
        if option in chosen and find_option(chosen, option.value) is not None:
            raise Refused("an option stands there twice")
        chosen.append(option)
    return [option.value for option in chosen]


def _accept_date(asked: Field, value: Any) -> str:
    _read_date(value)
    _check_range(asked, value)
    return str(value)


def _accept_datetime(asked: Field, value: Any) -> str:
    _read_datetime(value)
    _check_range(asked, value)
    return str(value)


def _accept_email(asked: Field, value: Any) -> str:
    text = _accept_text(asked, value)
    local, _, domain = text.rpartition("@")
    labels = domain.split(".")
    if (
        not local
        or "@" in local
        or len(labels) < 2
        or not all(labels)
        or len(text) > _MAX_EMAIL
        or _has_space(text)
    ):
        raise Refused("this is no e-mail address")
    return text


def _accept_url(asked: Field, value: Any) -> str:
    text = _accept_text(asked, value)
    # Looked for first: urlsplit drops line breaks and tabs without a word.
    if _has_space(text):
        raise Refused("an address has no spaces")
    try:
        parts = urlsplit(text)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname)
        fine = fine and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise Refused("this is no http or https address")
    return text


def _accept_json(asked: Field, value: Any) -> Any:
    _, problems = check_json_value(value, max_bytes=LONGEST_TEXT)
    if problems:
        raise Refused(problems[0].message, problems[0].hint)
    return value


_ACCEPT: Final[Mapping[FieldType, Callable[[Field, Any], Any]]] = {
    _T.TEXT: _accept_text,
    _T.TEXTAREA: _accept_text,
    _T.NUMBER: _accept_number,
    _T.INTEGER: _accept_integer,
    _T.BOOLEAN: _accept_boolean,
    _T.CHECKBOX: _accept_boolean,
    _T.RADIO: _accept_choice,
    _T.SELECT: _accept_choice,
    _T.MULTISELECT: _accept_choices,
    _T.DATE: _accept_date,
    _T.DATETIME: _accept_datetime,
    _T.EMAIL: _accept_email,
    _T.URL: _accept_url,
    _T.JSON: _accept_json,
}


def _check_range(asked: Field, value: Any) -> None:
    if asked.minimum is not None and rank(asked, value) < rank(asked, asked.minimum):
        raise Refused(f"at least {asked.minimum}")
    if asked.maximum is not None and rank(asked, value) > rank(asked, asked.maximum):
        raise Refused(f"at most {asked.maximum}")


def _read_date(value: Any) -> date:
    if isinstance(value, str) and DATE.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise Refused("this is no date such as 2026-01-31")


def parse_instant(value: Any) -> datetime | None:
    """Return an ISO 8601 instant, in UTC if it names no zone; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _read_datetime(value: Any) -> datetime:
    if isinstance(value, str) and DATETIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise Refused("this is no time with a zone such as 2026-01-31T09:30:00Z")


def _nearest_option(asked: Field, value: Any) -> str:
    near = difflib.get_close_matches(
        str(value)[:64], [str(option.value) for option in asked.options[:256]], n=1
    )
    if near:
        return f"did you mean `{near[0]}`?"
    return "one of " + ", ".join(str(option.value)[:40] for option in asked.options[:10])


def _has_space(text: str) -> bool:
    return any(letter.isspace() or not letter.isprintable() for letter in text)
