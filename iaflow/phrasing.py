"""Values in words: how a duration, an instant, a size or a JSON value is put on one line.

Decides the wording that every face and every report shares; never where text goes. Pure: the
present instant is an argument. Called by the command line and by explanations.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

__all__ = [
    "STEERING",
    "as_clause",
    "format_age",
    "format_bytes",
    "format_instant",
    "format_seconds",
    "format_value",
    "plain",
]

# Escape sequences, and the marks that turn the direction of the text after them: what a
# definition, a step or a person wrote must not steer the reader's terminal.
STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    """Return `text` without what could steer a terminal; line breaks and tabs stay."""
    return STEERING.sub("\ufffd", text)


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
