"""The only bridge between sync and async.

Decides how synchronous code waits for a coroutine and how a coroutine runs synchronous
code; never what they do. Used by worker processes, the database manager and attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

__all__ = ["LoopThread", "run_async", "run_blocking", "run_in_own_thread"]

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


async def run_in_own_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run `function`, which may never return, in a thread of its own, and await its result.

    Unlike `run_blocking` it takes no thread of a shared pool away, should nobody wait for it any
    more, and a process that ends does not wait for it. The caller's context goes with it.
    """
    context = contextvars.copy_context()
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_OwnThread(), call)


class _OwnThread(Executor):
    """Starts a thread for each call, which nothing waits for at the end of the process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()

        def serve() -> None:
            try:
                result = fn(*args, **kwargs)
            except StopIteration as error:
                # No future takes one: it would end whoever awaits it in silence.
                future.set_exception(RuntimeError(f"the function raised {error!r}"))
            except BaseException as error:  # noqa: BLE001  who waits decides what it means
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=serve, name="iaflow-step", daemon=True).start()
        return future


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` to its end from synchronous code that has no loop, such as a command."""
    return asyncio.run(coroutine)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
