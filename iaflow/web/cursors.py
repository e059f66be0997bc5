"""Cursors: where the next page of a list begins, in a form that promises nothing.

Decides how a position is written and that only what was given here is read; never how a page is
found. Called by the routes that reply lists.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from iaflow.web.problems import Refused

__all__ = ["cut_page", "read_cursor", "write_cursor"]

T = TypeVar("T")


def write_cursor(kind: str, position: str) -> str:
    """Return the cursor of a position in a list; `kind` names the list."""
    return base64.urlsafe_b64encode(f"{kind}:{position}".encode()).decode().rstrip("=")


def read_cursor(kind: str, cursor: str | None) -> str | None:
    """
    Return the position that a cursor stands for; None: the list's beginning.

    Raises:
        Refused: it is no cursor of such a list.
    """
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        text = ""
    found, _, position = text.partition(":")
    # What is spelt otherwise than here was not given here.
    if found != kind or not position or "\x00" in text or write_cursor(kind, position) != cursor:
        raise Refused("cursor_invalid", "take `next` of a page of this very list, as it is")
    return position


def cut_page(
    found: Sequence[T], limit: int, kind: str, position_of: Callable[[T], str]
) -> tuple[Sequence[T], str | None]:
    """
    Return a page, and the cursor of the one behind it.

    Args:
        found: one more than `limit`, if there are more.
    """
    if len(found) <= limit:
        return found, None
    page = found[:limit]
    return page, write_cursor(kind, position_of(page[-1]))
