"""The thread of a worker process that does what time alone brings about.

Decides when to look: at every sweep's turn, and when something that it knows of is due;
never what is overdue (maintenance does). Held by the worker process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from iaflow.pipeline.engine import Engine
from iaflow.telemetry import get_logger

__all__ = ["Sweeper"]

_log = get_logger(__name__)

LEAST_WAIT = 0.02
"""Seconds between two looks at most often, should a due row resist."""


class Sweeper:
    """
    Sweeps on a timer, and does what is due on time.

    Without the second, a retry after 0.3 s would wait for the next sweep. What is due in other
    processes is seen by each sweep, so nothing depends on the process that caused it.

    Args:
        engine: knows when something is due next.
        stage: does what is due by the clock, and publishes it.
        sweep: does a whole sweep and publishes what it found.
        seconds: time between two sweeps.
    """

    def __init__(
        self,
        engine: Engine,
        stage: Callable[[], object],
        sweep: Callable[[], object],
        seconds: float,
    ) -> None:
        self._engine = engine
        self._stage = stage
        self._sweep = sweep
        self._seconds = seconds
        self._due: datetime | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="iaflow-sweep", daemon=True)
        self._thread.start()

    def expect(self, due: datetime) -> None:
        """Look again at `due`, when something will be due."""
        with self._lock:
            if self._due is not None and self._due <= due:
                return
            self._due = due
        self._wake.set()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        next_sweep = time.monotonic() + self._seconds
        while not self._stop.is_set():
            self._wake.wait(max(LEAST_WAIT, min(next_sweep - time.monotonic(), self._until_due())))
            self._wake.clear()
            if self._stop.is_set():
                break
            if time.monotonic() >= next_sweep:
                self._try(self._sweep)
                self._try(self._read_next_due)
                next_sweep = time.monotonic() + self._seconds
            elif self._until_due() <= 0:
                self._try(self._stage)
                self._try(self._read_next_due)
        self._engine.database.release_thread()

    def _read_next_due(self) -> None:
        with self._lock:
            self._due = self._engine.next_due()

    def _until_due(self) -> float:
        due = self._due
        if due is None:
            return self._seconds
        return (due - self._engine.clock.now()).total_seconds()

    def _try(self, duty: Callable[[], object]) -> None:
        try:
            duty()
        except Exception as error:  # noqa: BLE001  the next sweep does it all again
            _log.warning("sweep failed", error=str(error))
            with self._lock:
                self._due = None
