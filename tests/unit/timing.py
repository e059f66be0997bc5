"""Bounded time, judged so that a busy machine does not decide.

Decides by the CPU time of this process, and by the best of three tries; never by one clock
reading. Used by tests that a cost is not exponential or quadratic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TRIES = 3


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what `work` returns; fail if none of three tries took less CPU than `seconds`."""
    spent: list[float] = []
    for _ in range(TRIES):
        began = time.process_time()
        result = work()
        spent.append(time.process_time() - began)
        if spent[-1] < seconds:
            return result
    raise AssertionError(f"took {min(spent):.2f} s of CPU at best, allowed are {seconds} s")
