"""When a failed attempt is followed by another, and after how long."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.pipeline.definition import ErrorPolicy
from iaflow.pipeline.retry import LONGEST_DELAY, decide_retry, retry_delay


def decide(policy: ErrorPolicy, **given_: Any) -> float | None:
    arguments: dict[str, Any] = {"attempt": 1, "code": "Boom", "names": ("Boom",), "uniform": 0.0}
    return decide_retry(policy, **(arguments | given_))


@pytest.mark.parametrize(
    ("policy", "delays"),
    (
        (ErrorPolicy(retries=3), [0.0, 0.0, 0.0]),
        (ErrorPolicy(retries=3, retry_delay=2.0), [2.0, 2.0, 2.0]),
        (ErrorPolicy(retries=3, retry_delay=2.0, backoff=3.0), [2.0, 6.0, 18.0]),
        (ErrorPolicy(retries=3, retry_delay=2.0, backoff=3.0, max_delay=7.0), [2.0, 6.0, 7.0]),
        (ErrorPolicy(retries=2, retry_delay=4.0, jitter=0.5), [5.0, 5.0]),
        (ErrorPolicy(retries=2, retry_delay=4.0, max_delay=4.0, jitter=1.0), [6.0, 6.0]),
    ),
)
def test_delays_grow_as_the_formula_says(policy: ErrorPolicy, delays: list[float]) -> None:
    """Jitter comes after the cap; the example draws u = 0.5."""
    assert [retry_delay(policy, k, 0.5) for k in range(1, len(delays) + 1)] == delays


def test_retries_are_extra_attempts() -> None:
    """Two retries make three attempts; none is the default."""
    policy = ErrorPolicy(retries=2)
    assert [decide(policy, attempt=k) for k in (1, 2, 3)] == [0.0, 0.0, None]
    assert decide(ErrorPolicy()) is None


@pytest.mark.parametrize(
    ("policy", "error", "again"),
    (
        (ErrorPolicy(retries=1, retry_on=("OSError",)), {"names": ("TimeoutError", "OSError")}, True),
        (ErrorPolicy(retries=1, retry_on=("OSError",)), {"names": ("KeyError",)}, False),
        (ErrorPolicy(retries=1, retry_on=("timeout",)), {"code": "timeout", "names": ()}, True),
        (ErrorPolicy(retries=1, retry_on=()), {}, False),
        (ErrorPolicy(retries=1, give_up_on=("E42",)), {"code": "E42"}, False),
        (ErrorPolicy(retries=1, retry_on=("Boom",), give_up_on=("Base",)), {"names": ("Boom", "Base")}, False),
        (ErrorPolicy(retries=1), {"retryable": False}, False),
        (ErrorPolicy(retries=1, retry_on=("OSError",)), {"names": ("Retry",), "after": 3.0}, True),
        (ErrorPolicy(retries=1, give_up_on=("Retry",)), {"names": ("Retry",), "after": 3.0}, False),
    ),
)  # fmt: skip
def test_which_errors_are_tried_again(
    policy: ErrorPolicy, error: dict[str, Any], again: bool
) -> None:
    """By class, base or code; `give_up_on` wins; a step that asks is not asked back."""
    assert (decide(policy, **error) is not None) is again


def test_what_a_step_asks_for_replaces_the_delay_and_uses_a_retry() -> None:
    """It is taken as it is, without jitter, but never negative, endless or no number."""
    policy = ErrorPolicy(retries=1, retry_delay=60.0, jitter=1.0)
    assert decide(policy, after=5.0, uniform=0.9) == 5.0
    assert decide(policy, after=5.0, attempt=2) is None
    assert decide(policy, after=-1.0) == 0.0
    assert decide(policy, after=math.nan) == 0.0
    assert decide(policy, after=math.inf) == LONGEST_DELAY


@settings(max_examples=100)
@given(
    st.builds(
        ErrorPolicy,
        retries=st.just(100),
        retry_delay=st.floats(0, 1e9),
        backoff=st.floats(1, 1e308),
        max_delay=st.none() | st.floats(0, 1e9),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, 100),
    st.floats(0, 1, exclude_max=True),
)
def test_delays_stay_within_bounds(policy: ErrorPolicy, k: int, uniform: float) -> None:
    """A delay is finite, at least 0, never shrinks with k, and at most twice the cap."""
    delay = retry_delay(policy, k, uniform)
    assert 0.0 <= delay <= LONGEST_DELAY
    assert delay <= retry_delay(policy, k + 1, uniform)
    if policy.max_delay is not None:
        assert delay <= policy.max_delay * (1 + policy.jitter * uniform)
    assert decide(policy, attempt=k, uniform=uniform) == delay
