"""The thread of a worker process that ends attempts which do not end themselves.

Decides when an attempt has overrun its timeout for good, and when the worker's grace is over;
never how an attempt is stopped or settled. Held by the worker process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from iaflow.data.records import Outcome, Released
from iaflow.pipeline.attempt import Attempt
from iaflow.telemetry import get_logger
from iaflow.worker.stopping import StopFlag

__all__ = ["Warden"]

_log = get_logger(__name__)

LOOK_SECONDS: Final = 0.25
STUBBORN_SECONDS: Final = 2.0
"""What awaits ends at once when it is stopped: what has not after so long cannot be."""
STOPPED: Final = "the worker was stopped"


class Warden:
    """
    Watches the attempts of one process from a thread of its own, which nothing blocks.

    Args:
        stop: says when the worker's grace is over: attempts are given back then.
        end: is called once with an attempt that could not be stopped, because its code blocks
            the event loop or refuses to be cancelled, and with the outcome to be recorded.
    """

    def __init__(self, stop: StopFlag, end: Callable[[Attempt, Outcome], None]) -> None:
        self._stop_flag = stop
        self._end = end
        self._attempts: set[Attempt] = set()
        self._told_at: dict[Attempt, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="iaflow-warden", daemon=True)
        self._thread.start()

    def watch(self, attempt: Attempt) -> None:
        """Look after this attempt from now on."""
        with self._lock:
            self._attempts.add(attempt)

    def forget(self, attempt: Attempt) -> bool:
        """Leave this attempt alone from now on. False: it was ended from here."""
        with self._lock:
            is_watched = attempt in self._attempts
            self._attempts.discard(attempt)
            self._told_at.pop(attempt, None)
            return is_watched

    def watched(self) -> list[Attempt]:
        """Return the attempts that are on their way."""
        with self._lock:
            return list(self._attempts)

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  it must look again
                _log.error("warden failed", error=repr(error))

    def _look(self) -> None:
        now = time.monotonic()
        for attempt in self.watched():
            overran_at = attempt.overran_at
            if overran_at is not None and now > overran_at + STUBBORN_SECONDS:
                if self.forget(attempt):
                    self._end(attempt, attempt.timed_out())
            elif self._stop_flag.is_over:
                told_at = self._told_at.setdefault(attempt, now)
                if told_at == now:
                    attempt.give_back(STOPPED)
                elif now > told_at + STUBBORN_SECONDS and self.forget(attempt):
                    self._end(attempt, Released(STOPPED))
