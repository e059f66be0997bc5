"""The terminal: where text goes, how a status looks, and what may be written at all.

Decides signs, colours and the safety of what is shown; never what is worth showing. Called
by every command. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from iaflow.phrasing import (
    STEERING,
    as_clause,
    format_age,
    format_bytes,
    format_instant,
    format_seconds,
    format_value,
    plain,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = [
    "LOOKS",
    "Look",
    "as_clause",
    "errors",
    "format_age",
    "format_bytes",
    "format_instant",
    "format_seconds",
    "format_value",
    "guard_stdout",
    "hint",
    "is_interactive",
    "line",
    "plain",
    "results",
    "status_text",
    "table",
    "write_error",
    "write_json",
    "write_json_line",
    "write_value",
]


@dataclass(frozen=True, slots=True)
class Look:
    """How one word is shown: a sign of its own shape, and a colour that only repeats it."""

    glyph: str
    style: str


LOOKS: Final[Mapping[str, Look]] = {
    "pending": Look("·", "dim"),
    "ready": Look("○", "blue"),
    "running": Look("▸", "cyan"),
    "retrying": Look("↻", "yellow"),
    "waiting": Look("‖", "magenta"),
    "succeeded": Look("✓", "green"),
    "failed": Look("✗", "red"),
    "skipped": Look("»", "dim"),
    "cancelled": Look("■", "yellow"),
    "taken": Look("✓", "green"),
    "refused": Look("✗", "red"),
    "undecided": Look("·", "dim"),
    "ended": Look("!", "yellow"),
    "ok": Look("✓", "green"),
    "warn": Look("!", "yellow"),
    "fail": Look("✗", "red"),
}
"""The sign and colour of each status and verdict; the word always stands beside them."""

WIDE: Final = 10_000
"""Columns where nobody looks on: what a program reads is never cut or wrapped."""

# In JSON what steers a terminal is escaped; and what some readers take for the end of a line.
_BREAKING: Final = re.compile(STEERING.pattern[:-1] + "\u2028\u2029]")
_UNKNOWN: Final = Look("·", "")


# --- where text goes


def results() -> Console:
    """Return the console of results: stdout."""
    return _console(sys.stdout)


def errors() -> Console:
    """Return the console of progress and errors: stderr."""
    return _console(sys.stderr)


def is_interactive() -> bool:
    """Tell whether a person sits at both ends, so that questions can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # What is shown is data: no markup, no emoji codes, no guessed highlights.
    width = None if stream.isatty() else WIDE
    return Console(
        file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False
    )


@contextlib.contextmanager
def guard_stdout(enabled: bool = True) -> Iterator[None]:
    """
    Let everything that is printed inside the block go to stderr.

    Why: with `--json` stdout holds the answer and nothing else, and steps print what they like,
    from their own code or from programs that they start.
    """
    if not enabled:
        yield
        return
    sys.stdout.flush()
    kept: int | None = None
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.fileno() == 1:
            kept = os.dup(1)
            os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            # What lower layers of the process still hold back belongs to stderr too.
            sys.stderr.flush()
            os.dup2(kept, 1)
            os.close(kept)


# --- writing


def write_json(value: Any) -> None:
    """Write a result for programs: one JSON value, indented for the people who look at it."""
    _write_out(_dump(value, indent=2))


def write_json_line(value: Any) -> None:
    """Write a result for programs on one line, as part of JSON lines."""
    _write_out(_dump(value, indent=None))


def write_value(value: Any) -> None:
    """Write a JSON value for people, coloured on a terminal."""
    text = _dump(value, indent=2)
    if not sys.stdout.isatty():
        _write_out(text)
        return
    from rich.highlighter import JSONHighlighter

    results().print(JSONHighlighter()(line(plain(text))), soft_wrap=True)


def write_error(message: str, *hints: str) -> None:
    """Write an error to stderr: what is wrong, then what to do."""
    console = errors()
    first, *rest = plain(message).splitlines() or [""]
    console.print(line(("✗ ", "red"), ("error", "bold red"), ": ", first), soft_wrap=True)
    for more in rest:
        console.print(line(more), soft_wrap=True)
    for text in hints:
        console.print(hint(text), soft_wrap=True)


def _dump(value: Any, *, indent: int | None) -> str:
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, ensure_ascii=not utf8, separators=separators)
    return _BREAKING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write_out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- pieces of text


def line(*parts: str | tuple[str, str] | Text) -> Text:
    """Return one text from plain and styled parts, cleaned of what could steer a terminal."""
    from rich.text import Text

    text = Text()
    for part in parts:
        match part:
            case str():
                text.append(plain(part))
            case (words, style):
                text.append(plain(words), style)
            case _:
                text.append_text(part)
    return text


def hint(text: str) -> Text:
    """Return a hint: what to do next."""
    return line(("  → ", "cyan"), text)


def status_text(status: str, *, width: int = 0) -> Text:
    """Return a status as sign and word, in its colour, padded to `width` letters of word."""
    look = LOOKS.get(status, _UNKNOWN)
    return line((f"{look.glyph} {plain(status):<{width}}", look.style))


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> list[Text]:
    """Return lines in columns: the headings, then a line for each row."""
    from rich.text import Text

    cells = [[line((word, "dim")) for word in headings]]
    cells += [[c if isinstance(c, Text) else line(plain(c)) for c in row] for row in rows]
    widths = [max(row[k].cell_len for row in cells) for k in range(len(headings))]
    lines: list[Text] = []
    for row in cells:
        one = Text()
        for cell, width in zip(row, widths, strict=True):
            one.append_text(cell)
            one.append(" " * (width - cell.cell_len + 2))
        one.rstrip()
        lines.append(one)
    return lines
