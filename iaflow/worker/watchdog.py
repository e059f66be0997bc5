"""The thread in a worker's head that notices when no message reaches it any more.

Decides when a worker counts as deaf; never mends its connection: a new process has a new one.
Started by the app where `celery worker` runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from iaflow.telemetry import get_logger

__all__ = ["Sight", "Watchdog"]

_log = get_logger(__name__)

LOOK_SECONDS: Final = 3.0
DEAF_SECONDS = 15.0
"""How long messages may wait beside an idle worker (RELIABILITY I24)."""


@dataclass(frozen=True, slots=True)
class Sight:
    """
    What is seen of a worker at one moment.

    Attributes:
        waiting: messages in the queues that it reads; None if the broker does not tell.
        taken: messages that it has taken since it began.
        is_idle: at least one of its processes has nothing to do.
    """

    waiting: int | None
    taken: int
    is_idle: bool


class Watchdog:
    """
    Ends a worker that takes no messages though some wait and it has nothing to do.

    Why: a consumer can lose its ear without an error after the broker was away, and look
    healthy for ever. Whoever supervises the worker (compose, systemd, a stack) starts another.

    Args:
        look: returns what is seen now; may raise, which counts as nothing seen.
        stop: asks the worker to finish what it has and leave.
        grace_seconds: how long it may take for that, before this process is ended at once.
        deaf_seconds: how long messages may wait beside it.
    """

    def __init__(
        self,
        look: Callable[[], Sight],
        stop: Callable[[], None],
        *,
        grace_seconds: float,
        deaf_seconds: float | None = None,
    ) -> None:
        self._look = look
        self._stop_worker = stop
        self._grace = grace_seconds
        self._deaf_seconds = DEAF_SECONDS if deaf_seconds is None else deaf_seconds
        self._since: float | None = None
        self._taken = -1
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="iaflow-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()

    def _serve(self) -> None:
        pause = min(LOOK_SECONDS, self._deaf_seconds / 5)
        while not self._closed.wait(pause):
            if self._is_deaf():
                _log.critical(
                    "worker is deaf", seconds=self._deaf_seconds, advice="a supervisor restarts it"
                )
                self._stop_worker()
                if not self._closed.wait(self._grace):
                    # The head itself may be what hangs.
                    os._exit(os.EX_SOFTWARE)
                return

    def _is_deaf(self) -> bool:
        """Tell whether nothing was taken for too long while something could have been."""
        now = time.monotonic()
        try:
            sight = self._look()
        except Exception as error:  # noqa: BLE001  a broker that is away is no deafness of ours
            _log.debug("nothing seen", error=repr(error))
            sight = Sight(None, -1, is_idle=False)
        hears = not sight.waiting or not sight.is_idle or sight.taken != self._taken
        self._taken = sight.taken
        if hears:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._deaf_seconds
