"""The environment of the templates: what escapes, and how values are written for people.

Decides how an instant, a duration, a status and a value of JSON look; never which of them a page
shows. Used by the pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from iaflow.phrasing import format_seconds
from iaflow.pipeline.drawing.palette import GLYPHS
from iaflow.pipeline.strict_json import dump_json
from iaflow.web.ui.assets import load_assets

__all__ = ["build_environment", "format_ago", "format_duration", "render_badge", "render_tree"]

_LOOKS: Final[Mapping[str, str]] = {
    "open": "waiting",
    "answered": "succeeded",
    "expired": "failed",
    "started": "succeeded",
    "missed": "skipped",
    "refused": "failed",
    "active": "succeeded",
    "paused": "waiting",
    "disabled": "cancelled",
}
"""Which status of a step each further word looks like."""

_BROWSERS: Final = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
"""Marks of a User-Agent: the first that fits, since each claims to be some of the others too."""

_PLAIN: Final = "pending"

MOST_NODES: Final = 2_000
"""Values that one tree shows; a browser has enough of it there."""

_OPEN_DEPTH: Final = 2
_LONG_TEXT: Final = 400
_DEEPEST: Final = 60


@cache
def build_environment() -> Environment:
    """Return the environment; everything that is not ours is escaped, and no name may be missing."""
    environment = Environment(
        loader=PackageLoader("iaflow.web.ui", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        instant=render_instant,
        short_instant=render_short_instant,
        ago=format_ago,
        agent=describe_agent,
        duration=format_duration,
        badge=render_badge,
        json_tree=render_tree,
        json_text=_as_json,
    )
    environment.globals.update(asset=_name_asset)
    return environment


def render_instant(value: datetime | None) -> Markup:
    """Return an instant as an element: in UTC, until a script says it in the viewer's zone."""
    if value is None:
        return Markup('<span class="none">\u2014</span>')
    return Markup('<time datetime="{}">{}</time>').format(_as_iso(value), _as_words(value))


def render_short_instant(value: datetime) -> Markup:
    """Return how long ago an instant was, as an element that has the instant too."""
    return Markup('<time data-short datetime="{}" title="{}">{}</time>').format(
        _as_iso(value), _as_words(value), format_ago(value)
    )


def describe_agent(text: str) -> str:
    """Return which browser on which system a User-Agent says it is; else its first words."""
    browser = next((name for mark, name in _BROWSERS if mark in text), None)
    system = next((name for mark, name in _SYSTEMS if mark in text), None)
    if browser is None:
        return text.partition("(")[0].strip()[:60] or "an unknown program"
    return browser if system is None else f"{browser} on {system}"


def _as_iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_words(value: datetime) -> str:
    utc = value.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y, %H:%M} UTC"


def format_ago(value: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago an instant was, or how far it is, in one unit."""
    if value is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - value).total_seconds()
    size = abs(seconds)
    if size < 5:
        return "now"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if size >= length:
            words = f"{int(size // length)} {unit}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "now"


def format_duration(value: float | timedelta | None) -> str:
    """Return seconds as people say them: 340 ms, 1.23 s, 4 min 05 s, 3 h 12 min, 2 d 4 h."""
    if value is None:
        return "\u2014"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0:
        return "0 s"
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    return format_seconds(seconds)


def render_badge(status: object) -> Markup:
    """Return a status as a shape, a word and a colour: never told apart by the colour alone."""
    word = str(status)
    look = _LOOKS.get(word, word)
    if look not in GLYPHS:
        look = _PLAIN
    return Markup(
        '<span class="badge s-{}" data-status="{}"><svg viewBox="0 0 16 16" aria-hidden="true">'
        '<path d="{}"/></svg>{}</span>'
    ).format(look, word, GLYPHS[look], word)


def render_tree(value: Any, open_depth: int = _OPEN_DEPTH) -> Markup:
    """
    Return a value of JSON as a tree that folds: text, whatever is in it.

    Args:
        open_depth: so many storeys stand open at first.
    """
    left = _Left(MOST_NODES, open_depth)
    return Markup('<div class="tree">{}</div>').format(_render_value(value, 0, left))


@dataclass(slots=True)
class _Left:
    """How many more values a tree may show, and how deep it stands open."""

    nodes: int
    open_depth: int


def _render_value(value: Any, depth: int, left: _Left) -> Markup:
    left.nodes -= 1
    if left.nodes < 0:
        return Markup('<span class="none">more is not shown here</span>')
    match value:
        case None:
            return Markup('<span class="v-null">null</span>')
        case bool():
            return Markup('<span class="v-bool">{}</span>').format("true" if value else "false")
        case str():
            return _render_text(value)
        case int() | float():
            return Markup('<span class="v-num">{}</span>').format(_as_json(value))
        case Mapping():
            return _render_many(
                [(str(key), each) for key, each in value.items()], "field", "{}", depth, left
            )
        case list() | tuple():
            return _render_many(
                [(str(at), each) for at, each in enumerate(value)], "item", "[]", depth, left
            )
        case _:
            return Markup('<span class="v-str">{}</span>').format(str(value))


def _render_text(text: str) -> Markup:
    if not text:
        return Markup('<span class="v-null">empty text</span>')
    if len(text) <= _LONG_TEXT:
        return Markup('<span class="v-str">{}</span>').format(text)
    return Markup(
        '<details class="long"><summary><span class="v-str">{}…</span> '
        '<span class="none">{} characters</span></summary><span class="v-str">{}</span></details>'
    ).format(text[:160], f"{len(text):,}", text)


def _render_many(
    pairs: list[tuple[str, Any]], word: str, empty: str, depth: int, left: _Left
) -> Markup:
    if not pairs:
        return Markup('<span class="v-null">{}</span>').format(empty)
    if depth >= _DEEPEST:
        return Markup('<span class="none">deeper than is shown here</span>')
    rows: list[Markup] = []
    for key, each in pairs:
        if left.nodes <= 0:
            rows.append(Markup('<div class="none">more is not shown here</div>'))
            break
        rows.append(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(
                key, _render_value(each, depth + 1, left)
            )
        )
    inner = Markup("<dl>{}</dl>").format(Markup("").join(rows))
    if depth == 0:
        return inner
    count = f"{len(pairs)} {word}{'' if len(pairs) == 1 else 's'}"
    return Markup("<details{}><summary>{}</summary>{}</details>").format(
        Markup(" open") if depth < left.open_depth and len(pairs) <= 12 else "", count, inner
    )


def _as_json(value: Any) -> str:
    try:
        return dump_json(value)
    except (TypeError, ValueError):
        return json.dumps(value, ensure_ascii=False, default=str)


def _name_asset(name: str) -> str:
    """Return the path of a file of the pages, below the root."""
    assets = load_assets()
    assert name in assets.files, f"there is no static file {name}"
    return str(escape(f"/static/{assets.digest}/{name}"))
