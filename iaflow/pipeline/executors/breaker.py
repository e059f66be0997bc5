"""The breaker: keeps publishers off a broker that has just failed.

Decides whether it is worth trying now; never tries anything itself. Held by the Celery executor.
"""

from __future__ import annotations

import time

__all__ = ["Breaker"]


class Breaker:
    """
    Admits everybody until something fails; then nobody for a moment, then one, who shows.

    Why: each try at a server that is away costs its whole timeout, and a burst of callers would
    pay it one after the other. It closes again by itself. Safe in any number of threads and over
    a fork: it has no lock, since two that try in the same instant do no harm.

    Args:
        seconds: how long nobody is admitted after a failure.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._again_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether nobody would be admitted now."""
        again_at = self._again_at
        return again_at is not None and time.monotonic() < again_at

    def admits(self) -> bool:
        """Tell whether to try. Who is told so says afterwards how it went."""
        if self._again_at is None:
            return True
        if self.is_open:
            return False
        # The others wait for this one; should it never say how it went, the next one tries.
        self._again_at = time.monotonic() + self._seconds
        return True

    def note_success(self) -> None:
        """Admit everybody again."""
        self._again_at = None

    def note_failure(self) -> None:
        """Admit nobody for a moment."""
        self._again_at = time.monotonic() + self._seconds
