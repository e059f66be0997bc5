"""What is typed behind the options: inputs of runs, and the options that commands share.

Decides how `--input` and `--set` become values; never checks them against a definition or
reads more than the files that were named. Called by the commands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import rich_click as click

from iaflow.pipeline.fields import Option, find_option
from iaflow.pipeline.strict_json import MAX_BYTES_CEILING, JsonRefused, read_json

__all__ = [
    "FALSE_WORDS",
    "INTERVAL_UNITS",
    "TRUE_WORDS",
    "db_option",
    "input_option",
    "json_option",
    "read_answer",
    "read_inputs",
    "read_interval",
    "read_object",
    "read_value",
    "split_pair",
]

F = TypeVar("F", bound=Callable[..., Any])

TRUE_WORDS: Final = frozenset({"true", "yes", "y", "on"})
FALSE_WORDS: Final = frozenset({"false", "no", "n", "off"})

INTERVAL_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_INTERVAL: Final = re.compile(r"(?:\d+[smhd])+")


def json_option(function: F) -> F:
    """Add `--json`: the result for programs, on stdout."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
    )(function)


def db_option(function: F) -> F:
    """Add `--db URL`: another database than the settings name."""
    return click.option(
        "--db",
        metavar="URL",
        help="Database: sqlite:///path or postgresql://… (else IAFLOW_DATABASE_URL).",
    )(function)


def input_option(function: F) -> F:
    """Add `--input`, which may be repeated."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter; VALUE is JSON if it parses, else text. Or a whole object: "
        "@file.json, or - for stdin. May be repeated; later ones win.",
    )(function)


def read_interval(text: str, option: str) -> timedelta:
    """
    Return how long `90s`, `15m`, `6h` or `1d12h` is.

    Raises:
        click.UsageError: it is written otherwise, or longer than time is counted.
    """
    if not _INTERVAL.fullmatch(text):
        raise click.UsageError(f"{option}: {text!r} is no interval such as 90s, 15m, 6h or 1d12h")
    parts = re.findall(r"(\d+)([smhd])", text)
    seconds = sum(int(count) * INTERVAL_UNITS[unit] for count, unit in parts)
    if seconds > timedelta.max.total_seconds() // 2:
        raise click.UsageError(f"{option}: {text!r} is too long")
    return timedelta(seconds=seconds)


def read_inputs(given: Iterable[str]) -> dict[str, Any]:
    """
    Return the parameters that `--input` options name, laid over each other in their order.

    Raises:
        click.UsageError: an option is neither `name=value`, `@file` nor `-`, or a file cannot
            be read as an object.
    """
    parameters: dict[str, Any] = {}
    for text in given:
        if text == "-":
            parameters |= _read_object(sys.stdin.buffer.read(MAX_BYTES_CEILING + 1), "stdin")
        elif text.startswith("@"):
            parameters |= _read_object(_read_file(Path(text[1:])), text[1:])
        else:
            name, value = split_pair(text, "--input")
            parameters[name] = read_value(value)
    return parameters


def split_pair(text: str, option: str) -> tuple[str, str]:
    """Return name and value of `name=value`; only the first `=` divides."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        also = ", @file.json or -" if option == "--input" else ""
        raise click.UsageError(f"{option} {text!r} is no pair: write {option} name=value{also}")
    return name, value


def read_value(text: str) -> Any:
    """Return the JSON value that `text` spells, or `text` itself if it spells none."""
    try:
        return read_json(text)
    except JsonRefused:
        return text


def read_answer(ui_schema: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """
    Return the answer that `--set field=value` options give, in the types that the form asks for.

    Text stays text where the form wants text, whatever it looks like; a choice is matched with
    its options; several values of a multiselect make a list. What does not fit is handed on as
    it was typed: the form says what is wrong with it.
    """
    fields = {
        str(spec.get("name")): spec
        for spec in ui_schema.get("fields", [])
        if isinstance(spec, Mapping)
    }
    answer: dict[str, Any] = {}
    for text in given:
        name, value = split_pair(text, "--set")
        spec = fields.get(name, {})
        if spec.get("type") == "multiselect":
            answer.setdefault(name, []).extend(_read_choices(spec, value))
        else:
            answer[name] = read_field(spec, value)
    return answer


def read_field(spec: Mapping[str, Any], text: str) -> Any:
    """Return what was typed for one field, in the type that the field asks for."""
    match spec.get("type"):
        case "text" | "textarea" | "email" | "url" | "date" | "datetime":
            return text
        case "radio" | "select":
            return _read_choice(spec, text)
        case "multiselect":
            return _read_choices(spec, text)
        case "boolean" | "checkbox":
            word = text.strip().lower()
            return word in TRUE_WORDS if word in TRUE_WORDS | FALSE_WORDS else read_value(text)
        case _:
            return read_value(text)


def _read_choices(spec: Mapping[str, Any], text: str) -> list[Any]:
    listed = read_value(text)
    if isinstance(listed, list):
        return listed
    return [_read_choice(spec, text)] if text else []


def _read_choice(spec: Mapping[str, Any], text: str) -> Any:
    """Return the option whose value, else whose label, is spelled `text`."""
    options = [
        option if isinstance(option, Mapping) else {"value": option}
        for option in spec.get("options", [])
    ]
    listed = [Option(option.get("value", ""), str(option.get("label"))) for option in options]
    found = find_option(listed, text) or find_option(listed, read_value(text))
    found = found or next((option for option in listed if option.label == text), None)
    return text if found is None else found.value


def read_object(name: str, what: str) -> dict[str, Any]:
    """
    Return the object in a file.

    Raises:
        click.UsageError: it cannot be read, or holds something else; `what` says what it should.
    """
    return _read_object(_read_file(Path(name)), name, what)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES_CEILING + 1)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _read_object(
    text: bytes, source: str, what: str = "a run's input is an object of parameters"
) -> dict[str, Any]:
    try:
        value = read_json(text, max_bytes=MAX_BYTES_CEILING)
    except JsonRefused as error:
        raise click.UsageError(f"{source}: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{source}: {what}")
    return value
