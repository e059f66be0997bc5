"""Retries: whether a failed attempt is followed by another one, and after how long.

Decides from the step's policy and the error alone; never waits, never reads a clock and never
draws a random number (the caller gives `uniform`). Called by the planner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from iaflow.pipeline.definition import ErrorPolicy

__all__ = ["LONGEST_DELAY", "decide_retry", "read_rate", "retry_delay"]

LONGEST_DELAY: Final = 315_360_000.0
"""Ten years in seconds: no delay is longer, so that the time it is due stays representable."""


def decide_retry(
    policy: ErrorPolicy,
    *,
    attempt: int,
    code: str,
    names: Sequence[str],
    uniform: float,
    after: float | None = None,
    retryable: bool = True,
) -> float | None:
    """
    Return the seconds until the next attempt, or None if the failed one was the last.

    Args:
        policy: the step's merged policy.
        attempt: the attempt that just failed, from 1; attempts that a lost worker took with it
            are not counted.
        code: the error's code, such as ``timeout`` or an exception's `.code`.
        names: class names of the exception and its bases; empty for errors of the engine.
        uniform: a random number in [0, 1).
        after: seconds that the step itself asked for by raising `Retry`; they replace the
            computed delay, and `retry_on` is not asked, since the step was.
        retryable: False for what is never retried (`Fail`, `output_invalid`, `expired`, …).
    """
    if not retryable or attempt > policy.retries:
        return None
    known_as = {code, *names}
    if not known_as.isdisjoint(policy.give_up_on):
        return None
    if after is not None:
        return _bounded(after)
    if policy.retry_on is not None and known_as.isdisjoint(policy.retry_on):
        return None
    return retry_delay(policy, attempt, uniform)


def retry_delay(policy: ErrorPolicy, k: int, uniform: float) -> float:
    """
    Return the seconds before retry `k` (from 1).

    It is ``min(retry_delay · backoff^(k-1), max_delay) · (1 + jitter · uniform)``, and never
    over `LONGEST_DELAY`.
    """
    longest = LONGEST_DELAY if policy.max_delay is None else policy.max_delay
    return _bounded(min(_grown(policy, k), longest) * (1.0 + policy.jitter * uniform))


def read_rate(rate: str) -> float:
    """Return the seconds between two starts of a `rate_limit` such as ``10/s`` or ``100/m``."""
    count, unit = rate.split("/")
    return _UNITS[unit] / int(count)


_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _grown(policy: ErrorPolicy, k: int) -> float:
    if policy.retry_delay <= 0.0:
        return 0.0
    try:
        return float(policy.retry_delay * policy.backoff ** (k - 1))
    except OverflowError:
        return LONGEST_DELAY


def _bounded(seconds: float) -> float:
    # Written so that NaN, which a step may ask for, becomes 0 and not an endless wait.
    return min(seconds, LONGEST_DELAY) if seconds > 0.0 else 0.0
