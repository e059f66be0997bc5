"""Controls: how a field of a form stands on a page, whoever asks: a question or a start.

Decides which element each type gets and what a browser may refuse by itself; never whether a value
is accepted (the API does). Called by the pages of questions and of pipelines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from iaflow.pipeline.fields import LINES, NUMBERS, Field, FieldType
from iaflow.pipeline.strict_json import dump_json

__all__ = ["Choice", "Control", "list_controls"]

_T: Final = FieldType


@dataclass(frozen=True, slots=True)
class Choice:
    """
    One option as a page offers it.

    Attributes:
        literal: its value as JSON text, which is sent as it stands.
    """

    literal: str
    label: str
    is_chosen: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """
    A field as a page shows it.

    Attributes:
        id: of its element; those of its help and its error begin with it.
        kind: the field's type.
        text: what stands in it at first; of choices see `choices`.
        is_on: of a checkbox.
        attributes: what the browser checks, and how it asks: names and values of HTML.
    """

    id: str
    name: str
    label: str
    kind: str
    is_required: bool
    help: str
    text: str = ""
    is_on: bool = False
    choices: tuple[Choice, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_group(self) -> bool:
        """Several elements under one legend."""
        return self.kind in ("radio", "multiselect", "boolean")

    @property
    def described_by(self) -> str:
        """The ids of what describes it."""
        return f"{self.id}-help {self.id}-error" if self.help else f"{self.id}-error"


def list_controls(fields: Iterable[Field], prefix: str = "field") -> list[Control]:
    """
    Return the controls of a form, in its order.

    Args:
        prefix: begins their ids; another one for each form of a page.
    """
    return [_make(asked, f"{prefix}-{place}") for place, asked in enumerate(fields)]


def _make(asked: Field, id_: str) -> Control:
    return Control(
        id=id_,
        name=asked.name,
        label=asked.label,
        kind=asked.type.value,
        is_required=asked.required,
        help=asked.help,
        text=_as_text(asked),
        is_on=asked.default is True,
        choices=tuple(_list_choices(asked)),
        attributes=dict(_list_attributes(asked)),
    )


def _as_text(asked: Field) -> str:
    value = asked.default
    match value:
        case None:
            return ""
        case str() if asked.type is not _T.JSON:
            return value
        case _ if asked.type is _T.JSON:
            return json.dumps(value, ensure_ascii=False, indent=2)
        case _:
            return dump_json(value)


def _list_choices(asked: Field) -> Iterable[Choice]:
    options: list[tuple[Any, str]] = [(one.value, one.label) for one in asked.options]
    if asked.type is _T.BOOLEAN:
        options = [(True, "Yes"), (False, "No")]
    default = asked.default
    chosen = default if isinstance(default, list) else [] if default is None else [default]
    literals = {dump_json(value) for value in chosen}
    for value, label in options:
        literal = dump_json(value)
        yield Choice(literal, label, literal in literals)
    if asked.type in (_T.RADIO, _T.BOOLEAN) and not asked.required:
        # Nobody can take the dot out of a radio button again.
        yield Choice("null", "No answer", default is None)


def _list_attributes(asked: Field) -> Iterable[tuple[str, str]]:
    """Yield what HTML knows of a field's rules; those that it does not know the API has."""
    if asked.placeholder:
        yield "placeholder", asked.placeholder
    if asked.type in LINES:
        yield "maxlength", str(asked.max_length)
        if asked.min_length:
            yield "minlength", str(asked.min_length)
        if asked.pattern is not None and asked.type is not _T.TEXTAREA and _is_plain(asked.pattern):
            yield "pattern", asked.pattern
    if asked.type in NUMBERS:
        yield "step", "1" if asked.type is _T.INTEGER else "any"
    for name, bound in (("min", asked.minimum), ("max", asked.maximum)):
        if bound is not None:
            # A browser compares local times: the page's script translates these.
            is_instant = asked.type is _T.DATETIME
            text = bound if isinstance(bound, str) else dump_json(bound)
            yield (f"data-{name}" if is_instant else name), text


_PLAIN: Final = re.compile(
    r"(?:[A-Za-z0-9 _@/,;:<>=!\"'#%~-]|\\[dDwW.\-/+*?()\[\]{}|^$]|[.*+?()|^$]|\{[0-9]+(?:,[0-9]*)?\}"
    r"|\[\^?(?:[A-Za-z0-9 _@.,:;+=#%]|\\[dDwW.\-/\]\[]|-(?=[A-Za-z0-9\]]))+\])+"
)
"""Patterns that mean to a browser what they mean to RE2: no classes in classes, no flags."""


def _is_plain(pattern: str) -> bool:
    return _PLAIN.fullmatch(pattern) is not None and "(?" not in pattern.replace("(?:", "(")
