"""The only bridge between sync and async.

Decides how synchronous code waits for a coroutine and how a coroutine runs synchronous
code; never what they do. Used by worker processes, the database manager and attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = ["LoopThread", "run_async", "run_blocking"]

P = ParamSpec("P")
T = TypeVar("T")


class LoopThread:
    """
    One event loop in a thread of its own, which lives as long as the process.

    Why: HTTP clients and connection pools belong to a loop; a loop per step would close
    them after every step. Safe to call from any number of threads.
    """

    def __init__(self, name: str = "iaflow-loop") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop itself, for what must be scheduled on it from another thread."""
        return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and wait for its result; its exception is raised here."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            # An interrupt of the waiting thread must not leave the work running unseen.
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop and wait for its thread; unfinished coroutines are cancelled."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking `function` in a thread, with the caller's context, and await its result."""
    return await asyncio.to_thread(function, *args, **kwargs)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end from synchronous code that has no loop, such as a command."""
    return asyncio.run(coroutine)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
