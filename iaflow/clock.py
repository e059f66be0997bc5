"""The only reader of time.

Decides what "now" is; never sleeps on its own account and never writes. Held by the
engine, the executors and maintenance, which hand times down as arguments.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "ReferenceClock", "SystemClock"]


class Clock(Protocol):
    """What tells the time, in UTC, and waits for it."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of this clock's time."""
        ...


class SystemClock:
    """The machine's own clock: right for one process on one machine."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        await asyncio.sleep(seconds)


class ReferenceClock:
    """
    A reference's clock (the database's), read rarely and carried on by the monotonic clock.

    Why: leases and timers of many machines must agree on one time, and a worker whose wall
    clock is an hour off must change nothing (RELIABILITY I21). Between two readings the
    monotonic clock is trusted, which no operator can set.

    Args:
        read: returns the reference's present instant; called at most once per `trust_seconds`.
        trust_seconds: how long one reading is carried on, in seconds.
    """

    def __init__(self, read: Callable[[], datetime], trust_seconds: float = 10.0) -> None:
        self._read = read
        self._trust = trust_seconds
        self._lock = threading.Lock()
        self._base: datetime | None = None
        self._at = 0.0

    def now(self) -> datetime:
        """Return the reference's present instant, aware, in UTC."""
        base, at = self._base, self._at
        elapsed = time.monotonic() - at
        if base is None or elapsed > self._trust:
            base, elapsed = self._calibrate(), 0.0
        return base + timedelta(seconds=elapsed)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        await asyncio.sleep(seconds)

    def _calibrate(self) -> datetime:
        with self._lock:
            # Taken before the reading is sent: the true instant is then never later than
            # what this clock says, so a lease is never believed to live longer than it does.
            at = time.monotonic()
            base = self._read().astimezone(UTC)
            self._base, self._at = base, at
            return base
