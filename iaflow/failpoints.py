"""Failpoints: places where a test lets this process die, stall, or lose its database.

Decides what happens at a place by its name; never where the places are. Nothing of it is active,
and nothing of it is called, unless ``IAFLOW_FAILPOINTS`` was in the environment when the process
began: no data and no setting of a deployment reaches it.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from iaflow.errors import SettingsRefused

__all__ = ["ACTIVE", "FOLDER_VARIABLE", "VARIABLE", "Failpoint", "WatchedConnection", "reach"]

VARIABLE: Final = "IAFLOW_FAILPOINTS"
FOLDER_VARIABLE: Final = "IAFLOW_FAILPOINTS_FOLDER"

_FORM: Final = re.compile(
    r"(?P<place>[a-z_.]+)=(?P<action>kill|lose|(?:stop|sleep):(?P<seconds>\d+(?:\.\d+)?))"
    r"(?:\*(?P<times>\d+))?(?:@(?P<first>\d+))?(?:/(?P<every>[1-9]\d*))?"
)


@dataclass(frozen=True, slots=True)
class Failpoint:
    """
    What happens at one place, as ``move_step.before_commit=kill*2@3/10`` says it.

    Attributes:
        place: its name.
        action: ``kill`` (SIGKILL), ``stop`` (SIGSTOP; somebody lets it go on), ``sleep``, or
            ``lose`` (the connection to the database is gone).
        seconds: how long it sleeps.
        times: how often it happens, in all processes together.
        first: at which visit it happens first, counted from 1 over all processes.
        every: so many visits from one time to the next.
    """

    place: str
    action: str
    seconds: float
    times: int
    first: int
    every: int


def read_failpoints(text: str) -> dict[str, Failpoint]:
    """
    Return the failpoints that a text lists, by place.

    Raises:
        SettingsRefused: a part of it is none.
    """
    found: dict[str, Failpoint] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        match = _FORM.fullmatch(part)
        if match is None:
            raise SettingsRefused(
                f"{VARIABLE} has {part!r}; a failpoint is written place=kill|stop:S|sleep:S|lose, "
                "with *TIMES, @FIRST and /EVERY behind it"
            )
        found[match["place"]] = Failpoint(
            match["place"],
            match["action"].partition(":")[0],
            float(match["seconds"] or 0),
            int(match["times"] or 1),
            int(match["first"] or 1),
            int(match["every"] or 1),
        )
    return found


_FAILPOINTS: Final = read_failpoints(os.environ.get(VARIABLE, ""))
_FOLDER: Final = Path(os.environ.get(FOLDER_VARIABLE, "."))

ACTIVE: Final = bool(_FAILPOINTS)
"""Whether there are any. Whoever has a place asks this once, and wires nothing if there are none."""


def reach(place: str, lose: Callable[[], None] | None = None) -> None:
    """
    Tell that this process is at a place; whatever is to happen there happens.

    Each visit of a place that has a failpoint is a line in the folder's file of that name.

    Args:
        lose: loses the connection to the database, and raises what its driver would.
    """
    failpoint = _FAILPOINTS.get(place)
    if failpoint is None:
        return
    turn, rest = divmod(_count_visit(place) - failpoint.first, failpoint.every)
    if rest or not 0 <= turn < failpoint.times:
        return
    _note(place, f"{failpoint.action} {os.getpid()}\n")
    match failpoint.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            # A stopped process cannot wake itself: who placed it here lets it go on.
            os.kill(os.getpid(), signal.SIGSTOP)
        case "sleep":
            time.sleep(failpoint.seconds)
        case _ if lose is not None:
            lose()


def _count_visit(place: str) -> int:
    """Return which visit of a place this is, of all processes together."""
    handle = os.open(_FOLDER / f"{place}.visits", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, b".")
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _note(place: str, line: str) -> None:
    handle = os.open(_FOLDER / f"{place}.hits", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


class WatchedConnection:
    """
    A connection to a database, with a place on both sides of each commit.

    The places of a transaction have the names of its statements, without ``iaflow_``:
    ``mark_settled.before_commit``, ``mark_settled.after_commit``. So no statement that comes
    later can be left out.

    Args:
        inner: the connection.
        outage: raises what the driver raises when the server is gone.
    """

    def __init__(self, inner: Any, outage: Callable[[], None]) -> None:
        self._inner = inner
        self._outage = outage
        self._sent: dict[str, None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def begin(self, **how: bool) -> None:
        self._sent = {}
        self._inner.begin(**how)

    def queue(self, statement: Any, **params: Any) -> None:
        self._sent[statement.name] = None
        self._inner.queue(statement, **params)

    def fetch(self, statement: Any, **params: Any) -> list[Any]:
        self._sent[statement.name] = None
        rows: list[Any] = self._inner.fetch(statement, **params)
        return rows

    def fetch_alone(self, statement: Any, params: Mapping[str, Any], *, durable: bool) -> list[Any]:
        self._sent = {statement.name: None}
        self._reach("before_commit")
        rows: list[Any] = self._inner.fetch_alone(statement, params, durable=durable)
        self._reach("after_commit")
        return rows

    def commit(self) -> None:
        self._reach("before_commit")
        self._inner.commit()
        self._reach("after_commit")

    def _reach(self, side: str) -> None:
        for name in self._sent:
            reach(f"{name.removeprefix('iaflow_')}.{side}", self._lose)

    def _lose(self) -> None:
        self._inner.close()
        self._outage()
