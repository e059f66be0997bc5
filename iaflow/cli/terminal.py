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
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

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
    "ok": Look("✓", "green"),
    "warn": Look("!", "yellow"),
    "fail": Look("✗", "red"),
}
"""The sign and colour of each status and verdict; the word always stands beside them."""

WIDE: Final = 10_000
"""Columns where nobody looks on: what a program reads is never cut or wrapped."""

# Escape sequences, and the marks that turn the direction of the text after them: what a
# definition, a step or a person wrote must not steer the reader's terminal.
_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# The same in JSON, where they can be escaped; and what some readers take for the end of a line.
_BREAKING: Final = re.compile(_STEERING.pattern[:-1] + "\u2028\u2029]")
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


def plain(text: str) -> str:
    """Return `text` without what could steer a terminal; line breaks and tabs stay."""
    return _STEERING.sub("\ufffd", text)


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


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: `0.04 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def format_age(instant: datetime, now: datetime) -> str:
    """Return how long ago, or how far ahead, an instant is."""
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 1:
        return "now"
    words = format_seconds(abs(seconds)) if abs(seconds) >= 60 else f"{abs(seconds):.0f} s"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def format_instant(instant: datetime | None) -> str | None:
    """Return an instant for programs: ISO 8601 in UTC."""
    return None if instant is None else instant.astimezone(UTC).isoformat()


def format_bytes(count: int) -> str:
    """Return a size, as in `12,345 bytes`."""
    return f"{count:,} bytes"


def format_value(value: Any, *, longest: int = 120) -> str:
    """Return a JSON value on one line, cut where it becomes unreadable."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return plain(text if len(text) <= longest else f"{text[: longest - 1]}…")


def as_clause(message: str) -> str:
    """Return a message as part of a sentence: one line, without its full stop."""
    return " ".join(message.split()).rstrip(".")
