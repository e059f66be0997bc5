"""What one definition has that another has not, by meaning and not by lines.

Decides what belongs together in two documents: steps of one id, transitions that watch the same;
never which versions are compared. Called by the client.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Difference", "DifferenceKind", "Subject", "compare_definitions"]


class DifferenceKind(StrEnum):
    """What happened between two definitions."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Subject(StrEnum):
    """What a difference is about."""

    PIPELINE = "pipeline"
    STEP = "step"
    TRANSITION = "transition"


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One thing that is another in the newer of two definitions.

    Attributes:
        subject: the pipeline as a whole, a step, or a transition.
        name: the step's id, or from where to where the transition leads; empty of the pipeline.
        pointer: where in the newer document; in the older one if it was removed.
        before, after: the values; None where there was or is none.
    """

    kind: DifferenceKind
    subject: Subject
    name: str
    pointer: str
    before: Any = None
    after: Any = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON; `before` is left out of what was added, `after` of what was removed."""
        described: dict[str, Any] = {
            "kind": self.kind.value,
            "subject": self.subject.value,
            "name": self.name,
            "pointer": self.pointer,
        }
        if self.kind is not DifferenceKind.ADDED:
            described["before"] = self.before
        if self.kind is not DifferenceKind.REMOVED:
            described["after"] = self.after
        return described


def compare_definitions(older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[Difference]:
    """
    Return what another document has that one has not: the pipeline's own, steps, transitions.

    The order of keys, of steps and of transitions says nothing, nor do defaults that a transition
    spells out. Of each subject, what was removed or changed comes as the older document has it,
    then what was added as the newer one does.

    Args:
        older, newer: legal documents, as parsed JSON.
    """
    return [
        *_compare_values(Subject.PIPELINE, "", _own_of(older), _own_of(newer)),
        *_compare_steps(older, newer),
        *_compare_transitions(older, newer),
    ]


def _compare_steps(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = (
        {step["id"]: (place, step) for place, step in enumerate(document.get("steps") or ())}
        for document in (older, newer)
    )
    for step_id, (place, step) in before.items():
        pointer = f"/steps/{place}"
        if step_id not in after:
            yield Difference(DifferenceKind.REMOVED, Subject.STEP, step_id, pointer, step)
            continue
        new_place, new_step = after[step_id]
        values = (_flatten(step), _flatten(new_step))
        places = (pointer, f"/steps/{new_place}")
        yield from _compare_values(Subject.STEP, step_id, *values, *places)
    for step_id, (place, step) in after.items():
        if step_id not in before:
            pointer = f"/steps/{place}"
            yield Difference(DifferenceKind.ADDED, Subject.STEP, step_id, pointer, after=step)


def _compare_transitions(
    older: Mapping[str, Any], newer: Mapping[str, Any]
) -> Iterator[Difference]:
    """Match transitions by what makes them those they are; of several alike the first first."""
    subject = Subject.TRANSITION
    unmatched: dict[str, deque[tuple[str, Mapping[str, Any]]]] = {}
    for pointer, entry in _transitions_of(newer):
        unmatched.setdefault(_meaning_of(entry), deque()).append((pointer, entry))
    matched: set[str] = set()
    for pointer, entry in _transitions_of(older):
        twins = unmatched.get(_meaning_of(entry))
        if not twins:
            yield Difference(DifferenceKind.REMOVED, subject, _name(entry), pointer, entry)
            continue
        new_pointer, twin = twins.popleft()
        matched.add(new_pointer)
        values = (_flatten(_rest_of(entry)), _flatten(_rest_of(twin)))
        yield from _compare_values(subject, _name(entry), *values, pointer, new_pointer)
    for pointer, entry in _transitions_of(newer):
        if pointer not in matched:
            yield Difference(DifferenceKind.ADDED, subject, _name(entry), pointer, after=entry)


_Values = dict[tuple[str, ...], Any]


def _compare_values(
    subject: Subject, name: str, before: _Values, after: _Values, old_at: str = "", new_at: str = ""
) -> Iterator[Difference]:
    """Compare values by their place; where a value became an object, it was removed."""
    for place, value in before.items():
        if place not in after:
            pointer = old_at + _point(place)
            yield Difference(DifferenceKind.REMOVED, subject, name, pointer, value)
        elif _spell(value) != _spell(after[place]):
            pointer = new_at + _point(place)
            yield Difference(DifferenceKind.CHANGED, subject, name, pointer, value, after[place])
    for place, value in after.items():
        if place not in before:
            pointer = new_at + _point(place)
            yield Difference(DifferenceKind.ADDED, subject, name, pointer, after=value)


def _own_of(document: Mapping[str, Any]) -> _Values:
    """Return what is neither of a step nor of a transition."""
    own = {key: value for key, value in document.items() if key not in ("steps", "flow")}
    flow = {k: v for k, v in document["flow"].items() if k not in ("transitions", "paths")}
    return _flatten({**own, "flow": flow})


def _flatten(document: Mapping[str, Any]) -> _Values:
    """Return the values of an object by their place; lists, and objects without keys, are values."""
    found: _Values = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping) and (value or not place):
            waiting += [((*place, key), one) for key, one in reversed([*value.items()])]
        else:
            found[place] = value
    return found


def _point(place: tuple[str, ...]) -> str:
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in place)


def _transitions_of(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    flow = document["flow"]
    key = "paths" if "paths" in flow else "transitions"
    for place, entry in enumerate(flow.get(key) or ()):
        yield f"/flow/{key}/{place}", entry


def _meaning_of(entry: Mapping[str, Any]) -> str:
    watched = (entry.get("on", "success"), entry.get("condition", "always"))
    return _spell([entry["from"], entry["to"], *watched])


def _rest_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in ("from", "to", "on", "condition")}


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['from']} -> {entry['to']}"


def _spell(value: Any) -> str:
    """Return what is the same for equal JSON alone: to Python true is 1, and 1.0 too."""
    return json.dumps(value, sort_keys=True)
