"""When people are reminded of a question, and when others are asked as well.

Decides the order of these by the step's `config` alone; never whom a notice reaches. Read by
attempts (the first of them) and by the engine (what comes next).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iaflow.data.status import NoticeKind

__all__ = ["Upcoming", "list_upcoming", "merge_assignees"]


@dataclass(frozen=True, slots=True)
class Upcoming:
    """
    A reminder or an escalation, `after` so many seconds of waiting.

    Attributes:
        assignees: who may answer from then on, beside those before; empty for a reminder.
    """

    after: float
    kind: NoticeKind
    assignees: Mapping[str, Any]


def list_upcoming(config: Mapping[str, Any]) -> tuple[Upcoming, ...]:
    """Return what `reminders` and `escalate` of a checked `config` ask for, in order of time."""
    upcoming = [
        Upcoming(after, NoticeKind.QUESTION_REMINDER, {}) for after in config.get("reminders") or ()
    ]
    upcoming += (
        Upcoming(one["after"], NoticeKind.QUESTION_ESCALATED, one["assignees"])
        for one in config.get("escalate") or ()
    )
    return tuple(sorted(upcoming, key=lambda one: one.after))


def merge_assignees(before: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, list[str]]:
    """
    Return who may answer once `added` are asked as well.

    A question that anybody may answer stays so: to name some would shut the others out.
    """
    if not any(before.values()):
        return dict(before)
    return {
        key: list(dict.fromkeys([*(before.get(key) or ()), *(added.get(key) or ())]))
        for key in ("users", "roles")
        if before.get(key) or added.get(key)
    }
