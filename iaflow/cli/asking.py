"""Asking a person at the terminal: a form becomes questions, one after the other.

Decides how a field is asked and when it is asked again; never which answers fit (the form
does) and never sends one. Called by `iaflow answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import rich_click as click

from iaflow.cli.inputs import read_field
from iaflow.cli.terminal import errors, format_value, line
from iaflow.pipeline.fields import CHOICES, Field, FieldType, Refused, accept
from iaflow.pipeline.forms import parse_form

__all__ = ["ask_answer"]

_WITHOUT_WORDS: Final = frozenset({FieldType.BOOLEAN, FieldType.CHECKBOX})


def ask_answer(ui_schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    Ask each field of a form on the terminal until its answer fits.

    Raises:
        click.Abort: the person pressed Ctrl-C or Ctrl-D; nothing was sent.
    """
    form, _ = parse_form(dict(ui_schema))
    assert form is not None, "checked when the definition was loaded"
    specs = {str(spec["name"]): spec for spec in ui_schema.get("fields", ())}
    return {asked.name: _ask_field(asked, specs[asked.name]) for asked in form.fields}


def _ask_field(asked: Field, spec: Mapping[str, Any]) -> Any:
    if asked.help:
        errors().print(line("  ", (asked.help, "dim")), soft_wrap=True)
    if asked.type in CHOICES:
        _list_options(asked)
    while True:
        value = _ask_once(asked, spec)
        try:
            return accept(asked, value)
        except Refused as refused:
            advice = f" ({refused.hint})" if refused.hint else ""
            errors().print(line(("  ✗ ", "red"), f"{refused}{advice}"), soft_wrap=True)


def _ask_once(asked: Field, spec: Mapping[str, Any]) -> Any:
    label = f"  {asked.label}{'' if asked.required else ' (optional)'}"
    if asked.type in _WITHOUT_WORDS and (asked.required or asked.type is FieldType.CHECKBOX):
        return click.confirm(label, default=asked.default or None, err=True)
    default = "" if asked.default is None else _spell(asked.default)
    text = click.prompt(label, default=default, show_default=bool(default), err=True)
    if text == "" or text == default:
        return asked.default
    if asked.type is FieldType.MULTISELECT:
        return [read_field({**spec, "type": "select"}, _pick(asked, t)) for t in text.split(",")]
    return read_field(spec, _pick(asked, text) if asked.type in CHOICES else text)


def _list_options(asked: Field) -> None:
    for number, option in enumerate(asked.options, start=1):
        label = "" if str(option.value) == option.label else f"  {option.label}"
        errors().print(
            line((f"    {number}  ", "cyan"), _spell(option.value), (label, "dim")), soft_wrap=True
        )
    if asked.type is FieldType.MULTISELECT:
        errors().print(line(("    several: separate them with commas", "dim")))


def _pick(asked: Field, text: str) -> str:
    """Return the option that a number stands for; an option that is spelled so comes first."""
    text = text.strip()
    if any(_spell(option.value) == text for option in asked.options):
        return text
    if text.isascii() and text.isdigit() and 1 <= int(text) <= len(asked.options):
        return _spell(asked.options[int(text) - 1].value)
    return text


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else format_value(value)
