"""Holds the colours, outlines and signs of the SVG drawing.

Decides how each status and step type looks, in light and in dark; never draws. Called by the
SVG drawing, and by the test that measures the contrasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iaflow.data.status import StepStatus

__all__ = ["DARK", "GLYPHS", "ICONS", "LIGHT", "build_style"]

LIGHT: Final[Mapping[str, str]] = {
    "canvas": "#fcfcfd",
    "ink": "#1b2130",
    "muted": "#596275",
    "flow": "#8b95a7",
    "strong": "#2b3a55",
    "route": "#a6562b",
    "label": "#ffffff",
    "plain-fill": "#ffffff",
    "plain-line": "#b4bccb",
    "plain-ink": "#596275",
    "ready-fill": "#eff6ff",
    "ready-line": "#4d8be8",
    "ready-ink": "#1d57b5",
    "running-fill": "#dfecff",
    "running-line": "#1f66dd",
    "running-ink": "#174ea8",
    "retrying-fill": "#fff3da",
    "retrying-line": "#cf8500",
    "retrying-ink": "#845000",
    "waiting-fill": "#f2ebff",
    "waiting-line": "#8050d8",
    "waiting-ink": "#5a2fae",
    "succeeded-fill": "#e7f7ed",
    "succeeded-line": "#2b9a57",
    "succeeded-ink": "#17683a",
    "failed-fill": "#fdeaea",
    "failed-line": "#cf3434",
    "failed-ink": "#a01d1d",
    "skipped-fill": "#f4f5f8",
    "skipped-line": "#9aa3b3",
    "skipped-ink": "#596275",
    "cancelled-fill": "#f5f0e9",
    "cancelled-line": "#917a5c",
    "cancelled-ink": "#68543a",
}
DARK: Final[Mapping[str, str]] = {
    "canvas": "#14171d",
    "ink": "#e9ecf2",
    "muted": "#a3adbe",
    "flow": "#6d788b",
    "strong": "#cfd8e8",
    "route": "#e09a6c",
    "label": "#1b2028",
    "plain-fill": "#1d222b",
    "plain-line": "#4b5667",
    "plain-ink": "#a3adbe",
    "ready-fill": "#18253a",
    "ready-line": "#5b93e6",
    "ready-ink": "#9cc2fb",
    "running-fill": "#17305a",
    "running-line": "#5e9bff",
    "running-ink": "#b3d0ff",
    "retrying-fill": "#382a10",
    "retrying-line": "#e0a030",
    "retrying-ink": "#f5c876",
    "waiting-fill": "#2b2145",
    "waiting-line": "#a27bf0",
    "waiting-ink": "#cbb3ff",
    "succeeded-fill": "#14301f",
    "succeeded-line": "#43b374",
    "succeeded-ink": "#86dba8",
    "failed-fill": "#3b191b",
    "failed-line": "#ee6565",
    "failed-ink": "#ffa6a6",
    "skipped-fill": "#1b1f27",
    "skipped-line": "#6d778a",
    "skipped-ink": "#a3adbe",
    "cancelled-fill": "#2a241c",
    "cancelled-line": "#a58d6d",
    "cancelled-ink": "#d6c2a6",
}

ICONS: Final[Mapping[str, str]] = {
    "task": "M7 5.5 2.5 10 7 14.5M13 5.5 17.5 10 13 14.5M11.2 4 8.8 16",
    "human_input": "M10 2.6a3.6 3.6 0 1 1 0 7.2a3.6 3.6 0 0 1 0-7.2zM3.2 17.6"
    "c.5-3.6 3.2-5.3 6.8-5.3s6.3 1.7 6.8 5.3z",
    "pipeline": "M2.5 2.5h6v5h-6zM11.5 12.5h6v5h-6zM5.5 7.5V15h6",
    "wait": "M10 2.5a7.5 7.5 0 1 1 0 15a7.5 7.5 0 0 1 0-15zM10 5.8V10l3 1.9",
    "event": "M11.4 2 4.4 11.4h5L8.4 18l7.2-9.6h-5.2z",
    "terminate": "M6.9 2.5h6.2l4.4 4.4v6.2l-4.4 4.4H6.9l-4.4-4.4V6.9zM7.2 7.2h5.6v5.6H7.2z",
}
"""An icon for each step type: strokes in a square of 20 by 20."""

GLYPHS: Final[Mapping[str, str]] = {
    "pending": "M4 8h.1M8 8h.1M12 8h.1",
    "ready": "M8 3.8a4.2 4.2 0 1 1 0 8.4a4.2 4.2 0 0 1 0-8.4z",
    "running": "M5.8 3.6 12 8l-6.2 4.4z",
    "retrying": "M12.2 6.4A4.6 4.6 0 1 0 12.6 9M12.6 3.4v3.2H9.4",
    "waiting": "M5.8 4v8M10.2 4v8",
    "succeeded": "M3.6 8.4 6.8 11.6 12.6 4.8",
    "failed": "M4.4 4.4l7.2 7.2M11.6 4.4l-7.2 7.2",
    "skipped": "M3.6 4.4 7.6 8l-4 3.6M8.4 4.4l4 3.6l-4 3.6",
    "cancelled": "M4.6 4.6h6.8v6.8H4.6z",
}
"""A sign for each status: strokes in a square of 16 by 16, each of its own shape."""

_COLOURED: Final = tuple(status for status in StepStatus if status != StepStatus.PENDING)


def build_style() -> str:
    """
    Return the style sheet of a drawing.

    Every rule is under the class `iaf`, so that it changes nothing else on a page, and a page may
    set the custom properties (`--iaf-canvas` ...) itself. Programs that know no custom properties
    get the light colours.
    """
    rules = [
        ".iaf{color-scheme:light dark;" + _properties(LIGHT) + "}",
        "@media (prefers-color-scheme:dark){.iaf{" + _properties(DARK) + "}}",
        ".iaf text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',"
        "'DejaVu Sans',sans-serif;" + _paint("fill", "ink") + "}",
        ".iaf .canvas{" + _paint("fill", "canvas") + "}",
        ".iaf .name{font-size:13px;font-weight:600}",
        ".iaf .id{font-size:11.5px;" + _paint("fill", "muted") + "}",
        ".iaf .status{font-size:11.5px;font-weight:600;text-anchor:end;"
        + _paint("fill", "plain-ink")
        + "}",
        ".iaf .box{stroke-width:1.5;" + _paint("fill", "plain-fill") + _line("plain-line") + "}",
        ".iaf .inner{fill:none;stroke-width:1;" + _line("plain-line") + "}",
        ".iaf .icon,.iaf .glyph,.iaf .mark{fill:none;stroke-linecap:round;stroke-linejoin:round}",
        ".iaf .icon{stroke-width:1.5;" + _line("muted") + "}",
        ".iaf .human_input .icon{" + _line("ink") + "}",
        ".iaf .badge{" + _paint("fill", "plain-line") + "}",
        ".iaf .glyph{stroke-width:2;" + _line("canvas") + "}",
        ".iaf .edge .line{fill:none;stroke-width:1.5;" + _line("flow") + "}",
        ".iaf .edge .head{stroke:none;" + _paint("fill", "flow") + "}",
        ".iaf .route .line{stroke-dasharray:1.5 4;stroke-linecap:round;stroke-width:2;"
        + _line("route")
        + "}",
        ".iaf .route .head{" + _paint("fill", "route") + "}",
        ".iaf .undecided .line{stroke-width:1}",
        ".iaf .taken .line{stroke-width:2.5;stroke-dasharray:none;" + _line("strong") + "}",
        ".iaf .taken .head{" + _paint("fill", "strong") + "}",
        ".iaf .refused .line{stroke-width:1.25;stroke-dasharray:5 4;" + _line("flow") + "}",
        ".iaf .refused .head{" + _paint("fill", "flow") + "}",
        ".iaf .label rect{stroke-width:1;" + _paint("fill", "label") + _line("plain-line") + "}",
        ".iaf .label text{font-size:11.5px}",
        ".iaf .label.route text{" + _paint("fill", "route") + "}",
        ".iaf .label.route rect{" + _line("route") + "}",
        ".iaf .label.taken rect{stroke-width:1.75;" + _line("strong") + "}",
        ".iaf .label.taken text{font-weight:600;" + _paint("fill", "ink") + "}",
        ".iaf .label.refused rect{stroke-dasharray:4 3;" + _line("flow") + "}",
        ".iaf .label.refused text{" + _paint("fill", "muted") + "}",
        ".iaf .mark{stroke-width:1.8;" + _line("muted") + "}",
        ".iaf .taken .mark{" + _line("strong") + "}",
        ".iaf .hole{" + _paint("fill", "canvas") + "}",
        ".iaf .start{" + _paint("fill", "strong") + "}",
        ".iaf .skipped .box{stroke-dasharray:5 4}",
        ".iaf .cancelled .box{stroke-dasharray:2 3}",
        ".iaf .running .box,.iaf .waiting .box,.iaf .failed .box{stroke-width:2.5}",
        ".iaf .skipped .name,.iaf .cancelled .name{font-weight:400}",
    ]
    rules += [_status_rules(status) for status in _COLOURED]
    return "\n".join(rules)


def _status_rules(status: str) -> str:
    fill, line, ink = (f"{status}-{part}" for part in ("fill", "line", "ink"))
    return (
        f".iaf .{status} .box{{{_paint('fill', fill)}{_line(line)}}}"
        f".iaf .{status} .inner{{{_line(line)}}}"
        f".iaf .{status} .icon{{{_line(ink)}}}"
        f".iaf .{status} .badge{{{_paint('fill', line)}}}"
        f".iaf .{status} .status{{{_paint('fill', ink)}}}"
    )


def _properties(colours: Mapping[str, str]) -> str:
    return ";".join(f"--iaf-{name}:{colour}" for name, colour in colours.items())


def _paint(what: str, name: str) -> str:
    return f"{what}:{LIGHT[name]};{what}:var(--iaf-{name});"


def _line(name: str) -> str:
    return _paint("stroke", name)
