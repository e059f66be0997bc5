"""The three records of a chaos run, each kept apart from the others.

The client's journal says what was asked and acknowledged, the ledger what steps really did, the
rows what the database says in the end. None is written by what another one judges.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Asked",
    "Entry",
    "EventRow",
    "Journal",
    "Rows",
    "RunRow",
    "StepRow",
    "append",
    "read_ledger",
]


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A run that somebody asked for.

    Attributes:
        key: its idempotency key.
        run_id: what was acknowledged; None: nobody knows.
        expected: how it must end.
        outputs: what it must return; None: nothing is expected of them.
        executions: how often each step must be executed when nothing befalls it.
        answer: what was accepted as the answer to its question; None: it asks none.
    """

    key: str
    run_id: str | None
    expected: str
    outputs: Mapping[str, Any] | None
    executions: Mapping[str, int]
    answer: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a step said: `phase` is begun or ended; `at` is on the machine's monotonic clock."""

    run_id: str
    step_id: str
    attempt: int
    phase: str
    nonce: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class StepRow:
    step_id: str
    status: str
    attempt: int
    worker_losses: int
    output: Any


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event of a run; `completed` are the steps that came to their end in it."""

    seq: int
    kind: str
    completed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunRow:
    run_id: str
    key: str | None
    status: str
    outputs: Any
    steps: tuple[StepRow, ...]
    events: tuple[EventRow, ...]
    open_pauses: int
    answers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database says at the end."""

    runs: tuple[RunRow, ...]


class Journal:
    """What a client asked for and was told; each line is on disk before the next request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: dict[str, Asked] = {}
        self.unknown_replies = 0

    def note(self, asked: Asked) -> None:
        self.asked[asked.key] = asked
        line = {"key": asked.key, "run_id": asked.run_id, "answer": asked.answer}
        append(self.path, json.dumps(line, default=dict), sync=True)


def append(path: Path, line: str, *, sync: bool = False) -> None:
    """Append a line in one write, which no other process can tear."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, line.encode() + b"\n")
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)


def read_ledger(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    return [*_entries(path.read_text().splitlines())]


def _entries(lines: Iterable[str]) -> Iterator[Entry]:
    for line in lines:
        phase, run_id, step_id, attempt, nonce, pid, at = line.split(" ")
        yield Entry(run_id, step_id, int(attempt), phase, nonce, int(pid), float(at))


@dataclass(slots=True)
class Hits:
    """How often faults really hit; printed by every test, and asserted not to be nothing."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for name, number in self.counts.items())


def now() -> float:
    return time.monotonic()
