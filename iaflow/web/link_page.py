"""The page of a one-time link: a question as plain HTML, and what was filled in, read back.

Decides how a form looks without any script and how its texts become an answer; never whether the
answer is accepted. Everything that is not ours is escaped. Called by the route of links.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

from iaflow.data.accounts import LinkRecord
from iaflow.data.records import PauseRecord
from iaflow.errors import Problem
from iaflow.pipeline.fields import Field, FieldType
from iaflow.pipeline.forms import Form
from iaflow.pipeline.strict_json import JsonRefused, dump_json, read_json

__all__ = ["POLICY", "Given", "LinkPage", "render_message", "read_answer"]

Given = Mapping[str, Sequence[str]]
"""What a browser sent: the texts of each of the page's fields."""

PREFIX: Final = "field."
"""Before the name of a field of the form, so that none can be one of the page's own."""

_STYLE: Final = """
:root { color-scheme: light dark; font: 100%/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  --page: light-dark(#f5f6f9, #0f1217); --card: light-dark(#fff, #171b22);
  --raised: light-dark(#fff, #1f242d); --line: light-dark(#d9dee8, #2c333f);
  --strong: light-dark(#8a94a8, #687386); --ink: light-dark(#1b2130, #e9ecf2);
  --muted: light-dark(#566075, #a3adbe); --accent: light-dark(#1d57c4, #2a62c9);
  --danger: light-dark(#b3261e, #ff9d97); }
* { box-sizing: border-box; }
body { max-width: 40rem; margin: 2rem auto; padding: 1.5rem; background: var(--card);
  color: var(--ink); border: 1px solid var(--line); border-radius: .6rem; font-size: .9375rem; }
html { background: var(--page); padding: 0 .75rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
label, legend { display: block; margin-top: 1rem; padding: 0; font-weight: 600; }
p { white-space: pre-wrap; }
fieldset { border: 0; padding: 0; margin: 1rem 0 0; min-width: 0; }
legend { margin: 0; }
fieldset label { font-weight: 400; margin-top: .3rem; }
input:not([type=checkbox], [type=radio]), textarea, select { width: 100%; font: inherit;
  font-weight: 400; margin-top: .25rem;
  color: var(--ink); background: var(--raised); border: 1px solid var(--strong);
  border-radius: .45rem; padding: .45rem .6rem; }
input[type=checkbox], input[type=radio] { accent-color: var(--accent); width: 1.1rem;
  height: 1.1rem; vertical-align: -.2em; }
:focus-visible { outline: 3px solid light-dark(#1d57c4, #9cc2fb); outline-offset: 2px; }
dl { border-left: 3px solid var(--line); padding-left: .9rem; }
dt { color: var(--muted); font-size: .88rem; }
dd { margin: 0 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.help, footer { font-size: .88rem; color: var(--muted); }
.fault { color: var(--danger); font-weight: 600; }
button { margin-top: 1.5rem; padding: .5rem 1.1rem; font: inherit; font-weight: 600; color: #fff;
  background: var(--accent); border: 1px solid var(--accent); border-radius: .45rem; }
@media (max-width: 40rem) { body { margin: .75rem auto; padding: 1rem; } }
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: no script, no picture, its own style alone."""

_INPUTS: Final[Mapping[FieldType, str]] = {
    FieldType.TEXT: "text",
    FieldType.EMAIL: "email",
    FieldType.URL: "url",
    FieldType.DATE: "date",
    FieldType.DATETIME: "text",
    FieldType.NUMBER: "text",
    FieldType.INTEGER: "text",
}
_HINTS: Final[Mapping[FieldType, str]] = {FieldType.DATETIME: "2026-03-08T07:00:00Z"}


@dataclass(frozen=True, slots=True)
class LinkPage:
    """
    A question as a page.

    Attributes:
        form_token: what only this page knows of.
        given: what was filled in before, if it did not fit.
        problems: why not.
    """

    link: LinkRecord
    pause: PauseRecord
    form: Form
    form_token: str
    given: Given = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def render(self) -> str:
        """Return the page."""
        title = self.form.title or self.pause.step_id
        parts = [f"<h1>{escape(title)}</h1>"]
        if self.form.description:
            parts.append(f"<p>{escape(self.form.description)}</p>")
        parts += _render_shown(self.pause.shown or {})
        if self.problems:
            parts.append('<p class="fault">This does not fit yet; nothing was sent on.</p>')
            parts += [
                f'<p class="fault">{escape(one.message)}</p>'
                for one in self.problems
                if one.pointer.strip("/") not in self._open_names()
            ]
        hidden = {"form_token": self.form_token, "digest": self.pause.digest}
        parts.append('<form method="post">')
        parts += [
            f'<input type="hidden" name="{name}" value="{escape(value)}">'
            for name, value in hidden.items()
        ]
        parts += [self._render_field(one) for one in self._open_fields()]
        parts.append(f'<button type="submit">{escape(self._button())}</button></form>')
        parts.append(
            f"<footer><p>You answer as {escape(self.link.person)}. This page works once, until "
            f"{self.link.expires_at:%Y-%m-%d %H:%M} UTC.</p></footer>"
        )
        return _page(title, parts)

    def _open_fields(self) -> list[Field]:
        """Return the fields that the link does not answer by itself."""
        return [one for one in self.form.fields if one.name not in self.link.action]

    def _open_names(self) -> set[str]:
        return {one.name for one in self._open_fields()}

    def _button(self) -> str:
        labels = {one.name: one.label for one in self.form.fields}
        bound = [
            f"{labels.get(name, name)}: {_label_of(self.form, name, value)}"
            for name, value in self.link.action.items()
        ]
        return ", ".join(bound) or "Send the answer"

    def _render_field(self, asked: Field) -> str:
        faults = [one for one in self.problems if one.pointer.split("/")[1:2] == [asked.name]]
        told = "".join(
            f'<span class="fault"> {escape(one.message)} {escape(one.hint)}</span>'
            for one in faults
        )
        help_ = f'<span class="help">{escape(asked.help)}</span>' if asked.help else ""
        name = escape(PREFIX + asked.name)
        mark = " *" if asked.required else ""
        label = f"{escape(asked.label)}{mark}{told}"
        values = self.given.get(PREFIX + asked.name)
        match asked.type:
            case FieldType.RADIO:
                return _render_options(asked, name, label, values, "radio") + help_
            case FieldType.MULTISELECT:
                return _render_options(asked, name, label, values, "checkbox") + help_
            case FieldType.SELECT:
                options = [(str(at), one.label) for at, one in enumerate(asked.options)]
                chosen = _chosen(asked, values)
                return f"<label>{label}{_render_select(name, options, chosen)}</label>{help_}"
            case FieldType.BOOLEAN:
                chosen = set(values if values is not None else [_as_text(asked.default)])
                options = [("true", "yes"), ("false", "no")]
                return f"<label>{label}{_render_select(name, options, chosen)}</label>{help_}"
            case FieldType.CHECKBOX:
                is_on = bool(values) if self.given else asked.default is True
                box = f'<input type="checkbox" name="{name}" value="true"{_on(is_on)}>'
                return f"<label>{box} {label}</label>{help_}"
        text = values[0] if values else _as_text(asked.default)
        hint = escape(asked.placeholder or _HINTS.get(asked.type, ""))
        if asked.type in (FieldType.TEXTAREA, FieldType.JSON):
            area = (
                f'<textarea name="{name}" rows="6" placeholder="{hint}">\n{escape(text)}</textarea>'
            )
            return f"<label>{label}{area}</label>{help_}"
        kind = _INPUTS[asked.type]
        mode = ' inputmode="decimal"' if asked.type in (FieldType.NUMBER, FieldType.INTEGER) else ""
        typed = f'type="{kind}"{mode} name="{name}" value="{escape(text)}" placeholder="{hint}"'
        return f"<label>{label}<input {typed}></label>{help_}"


def read_answer(form: Form, action: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """
    Return the answer that a page's fields make; whether it fits is judged elsewhere.

    Args:
        action: what the link answers by itself; the page cannot say otherwise.
    """
    answer: dict[str, Any] = {}
    for asked in form.fields:
        if asked.name not in action:
            answer[asked.name] = _read_field(asked, given.get(PREFIX + asked.name, ()))
    return {**answer, **action}


def render_message(title: str, text: str) -> str:
    """Return a page that only tells something."""
    return _page(title, [f"<h1>{escape(title)}</h1>", f"<p>{escape(text)}</p>"])


# --- reading


def _read_field(asked: Field, values: Sequence[str]) -> Any:
    text = values[0] if values else ""
    match asked.type:
        case FieldType.CHECKBOX:
            return bool(values)
        case FieldType.BOOLEAN:
            return {"true": True, "false": False}.get(text, text or None)
        case FieldType.RADIO | FieldType.SELECT:
            return _option_value(asked, text) if text else None
        case FieldType.MULTISELECT:
            return [_option_value(asked, one) for one in values if one]
        case FieldType.NUMBER | FieldType.INTEGER | FieldType.JSON:
            if not text.strip():
                return None
            try:
                return read_json(text.strip())
            except JsonRefused:
                # As it stands: the form says what is wrong with it.
                return text
    # Browsers send line ends as CR LF.
    return text.replace("\r\n", "\n")


def _option_value(asked: Field, at: str) -> Any:
    if at.isdecimal() and len(at) < 6 and int(at) < len(asked.options):
        return asked.options[int(at)].value
    # No option's value is a list: the form says that it is none.
    return [at]


# --- writing


def _page(title: str, parts: Iterable[str]) -> str:
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="robots" content="noindex">'
    )
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _render_shown(shown: Mapping[str, Any]) -> list[str]:
    if not shown:
        return []
    rows = [
        f"<dt>{escape(str(key))}</dt><dd>{escape(_as_text(value))}</dd>"
        for key, value in shown.items()
    ]
    return ["<dl>", *rows, "</dl>"]


def _render_options(
    asked: Field, name: str, label: str, values: Sequence[str] | None, kind: str
) -> str:
    chosen = _chosen(asked, values)
    boxes = [
        f'<label><input type="{kind}" name="{name}" value="{at}"{_on(str(at) in chosen)}> '
        f"{escape(one.label)}</label>"
        for at, one in enumerate(asked.options)
    ]
    return f"<fieldset><legend>{label}</legend>{''.join(boxes)}</fieldset>"


def _render_select(name: str, options: Sequence[tuple[str, str]], chosen: set[str]) -> str:
    listed = [
        f'<option value="{value}"{" selected" if value in chosen else ""}>{escape(text)}</option>'
        for value, text in options
    ]
    return f'<select name="{name}"><option value=""></option>{"".join(listed)}</select>'


def _chosen(asked: Field, values: Sequence[str] | None) -> set[str]:
    """Return which options are ticked: by their places, as strings."""
    if values is not None:
        return set(values)
    default = asked.default if isinstance(asked.default, list) else [asked.default]
    return {str(at) for at, one in enumerate(asked.options) if one.value in default}


def _label_of(form: Form, name: str, value: Any) -> str:
    for asked in form.fields:
        if asked.name == name:
            for option in asked.options:
                if option.value == value:
                    return option.label
    return _as_text(value)


def _on(is_on: bool) -> str:
    return " checked" if is_on else ""


def _as_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, indent=2)
        case _:
            return dump_json(value)
