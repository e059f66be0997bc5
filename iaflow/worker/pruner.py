"""The thread of a worker process that removes what ended long ago, a little at a time.

Decides when it looks and how much of the time it rests; never what is old (maintenance does).
Held by the worker process, woken by its sweeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from iaflow.database.dialects import Database
from iaflow.database.locks import try_exclusively
from iaflow.pipeline.maintenance import Pruned
from iaflow.telemetry import get_logger

__all__ = ["Pruner"]

_log = get_logger(__name__)

TURN_SECONDS = 2.0
"""How long one process goes on before others may, or it is asked again."""

REST = 3.0
"""After each transaction it rests for so many times as long as that took: it is in no hurry."""

IDLE_SECONDS = 60.0
"""When it looks again, after nothing old was left."""


class Pruner:
    """
    Prunes in turns, of all processes together one at a time, so that no sweep waits for it.

    Args:
        database: where the turn is taken.
        begin: returns a pass over all that is old; each step of it is one transaction.
    """

    def __init__(self, database: Database, begin: Callable[[], Iterator[Pruned]]) -> None:
        self._database = database
        self._begin = begin
        self._pass: Iterator[Pruned] | None = None
        self._told = Pruned()
        self._look_at = 0.0
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take_turn(self) -> None:
        """Let the thread do some of it, unless it is at it, or has found nothing just now."""
        if self._stop.is_set() or time.monotonic() < self._look_at:
            return
        if self._busy.acquire(blocking=False):
            self._thread = threading.Thread(target=self._serve, name="iaflow-prune", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop after the present transaction and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _serve(self) -> None:
        try:
            try_exclusively(self._database, "prune", self._work)
        except Exception as error:  # noqa: BLE001  a later turn begins anew
            self._pass = None
            _log.warning("pruning failed", error=repr(error))
        finally:
            self._database.release_thread()
            self._busy.release()

    def _work(self) -> None:
        until = time.monotonic() + TURN_SECONDS
        while not self._stop.is_set() and time.monotonic() < until:
            if self._pass is None:
                self._pass, self._told = self._begin(), Pruned()
            began = time.monotonic()
            sofar = next(self._pass, None)
            if sofar is None:
                self._pass = None
                self._look_at = time.monotonic() + IDLE_SECONDS
                self._tell()
                return
            self._told = sofar
            self._stop.wait(REST * (time.monotonic() - began))

    def _tell(self) -> None:
        told = self._told
        if told != Pruned():
            _log.info(
                "pruned",
                runs=told.runs,
                rows=told.rows,
                fires=told.fires,
                notices=told.notices,
            )
