"""Time that is not waited for: an event loop that jumps to its next timer, and its clock.

Decides when virtual time moves and by how much; never touches the machine's clock and never
knows what a run is. Used by rehearsals, and by tests of their own with `asyncio.Runner`.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

__all__ = ["DEFAULT_START", "VirtualClock", "VirtualLoop"]

T = TypeVar("T")

DEFAULT_START: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""The instant at which virtual clocks begin, unless told otherwise."""

PATIENCE_SECONDS = 2.0
"""Real seconds for which virtual time stands still while threads work."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop whose time is virtual: with nothing ready, it jumps to its next timer.

    An hour of sleeping costs nothing, and the same code takes the same virtual time at every
    run. What happens outside the loop is really waited for: while threads work
    (`run_in_executor`, `asyncio.to_thread`) virtual time stands still, for two real seconds;
    from then on, and while sockets are open, it flows with the real one, so that nothing that
    waits for a timer beside them waits for ever.

    Use it with ``asyncio.Runner(loop_factory=VirtualLoop)``.
    """

    def __init__(self) -> None:
        self._virtual_seconds = 0.0
        self._in_threads = 0
        super().__init__(_JumpingSelector(self))
        # A timer is due when less than this is left. As fine as instants are; with the machine's
        # nanosecond, a timer after some months would fall between two floats and never be due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._virtual_seconds

    @property
    def is_working_outside(self) -> bool:
        """Tell whether work runs in threads that this loop waits for."""
        return self._in_threads > 0

    def advance(self, seconds: float) -> None:
        """Move the virtual time on; called when nothing can happen before."""
        if seconds <= 0:
            return
        # However small a step is against what has passed, it is one.
        later = math.nextafter(self._virtual_seconds, math.inf)
        self._virtual_seconds = max(self._virtual_seconds + seconds, later)

    def run_in_executor(  # type: ignore[override]  # typeshed's own is generic in another way
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` in a thread; until it has ended, virtual time does not jump."""
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._leave_thread)
        return future

    def _leave_thread(self, _: asyncio.Future[Any]) -> None:
        self._in_threads -= 1


class VirtualClock:
    """
    A clock of iaflow that follows a virtual loop; safe to be read from any thread.

    Args:
        loop: whose time it tells.
        start_at: the instant that its reading begins with, aware.
    """

    def __init__(self, loop: VirtualLoop, start_at: datetime = DEFAULT_START) -> None:
        if start_at.tzinfo is None:
            raise ValueError("start_at needs a time zone: datetime(…, tzinfo=UTC)")
        self._loop = loop
        self._base = start_at.astimezone(UTC) - timedelta(seconds=loop.time())

    def now(self) -> datetime:
        """Return the present virtual instant, aware, in UTC."""
        return self._base + timedelta(seconds=self._loop.time())

    def timestamp(self) -> float:
        """Return the present virtual instant as `time.time` would, in seconds."""
        return self._base.timestamp() + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of virtual time."""
        await asyncio.sleep(seconds)


class _JumpingSelector(selectors.DefaultSelector):
    """Waits as long as the loop asks in virtual time, and in real time only for what is real."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._stood_still = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            self._stood_still = 0.0
            return ready
        # The loop's own pipe, by which threads wake it, is always there.
        if self._loop.is_working_outside or len(self.get_map()) > 1:
            return self._wait_really(timeout)
        self._stood_still = 0.0
        if timeout is None:
            return self._wait_for_anybody()
        self._loop.advance(timeout)
        return []

    def _wait_really(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        flows = not self._loop.is_working_outside or self._stood_still >= PATIENCE_SECONDS
        limit = timeout if flows else PATIENCE_SECONDS - self._stood_still
        began = time.monotonic()
        ready = super().select(limit)
        elapsed = time.monotonic() - began
        if flows:
            # Not beyond the next timer, which is due at its own time exactly.
            self._loop.advance(elapsed if timeout is None else min(elapsed, timeout))
        elif ready:
            self._stood_still = 0.0
        else:
            self._stood_still += elapsed
        return ready

    def _wait_for_anybody(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing here can ever happen: somebody else's thread may still call in."""
        ready = super().select(PATIENCE_SECONDS)
        if not ready:
            raise RuntimeError(
                "virtual time stands still for ever: everything waits, and for no timer, thread "
                "or socket; something that should be set or cancelled never is"
            )
        return ready
