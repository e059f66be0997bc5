"""When a step that runs once per item is done, and what its items came to.

Decides from counts alone (LANGUAGE section 6); never which rows change. Called by the planner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Any

from iaflow.data.records import ItemCounts
from iaflow.data.status import StepEnd
from iaflow.pipeline.definition import Foreach
from iaflow.pipeline.strict_json import check_json_value

__all__ = ["Progress", "begin_items", "count_end", "count_startable", "gather", "judge_items"]


class Progress(Enum):
    """Where a foreach stands."""

    GOES_ON = auto()
    DONE = auto()
    FAILED = auto()


def begin_items(foreach: Foreach, total: int) -> ItemCounts:
    """Return the counts of a foreach that begins: as many items start as may run at once."""
    return ItemCounts(total, started=min(total, foreach.max_parallel or total))


def count_end(counts: ItemCounts, end: StepEnd) -> ItemCounts:
    """Return the counts after one more item has ended; a skipped one neither worked nor failed."""
    return replace(
        counts,
        ended=counts.ended + 1,
        succeeded=counts.succeeded + (end is StepEnd.SUCCESS),
        failed=counts.failed + (end not in _HARMLESS),
    )


def judge_items(foreach: Foreach, counts: ItemCounts) -> Progress:
    """
    Tell whether a foreach goes on, is done, or has failed.

    With `n` the step is done at the n-th success, and fails as soon as these are out of
    reach; failures are then not counted otherwise.
    """
    still_to_end = counts.total - counts.ended
    if foreach.n is not None:
        if counts.succeeded >= foreach.n:
            return Progress.DONE
        in_reach = counts.succeeded + still_to_end >= foreach.n
        return Progress.GOES_ON if in_reach else Progress.FAILED
    if counts.failed > foreach.tolerated_failures:
        return Progress.FAILED
    return Progress.GOES_ON if still_to_end else Progress.DONE


def count_startable(foreach: Foreach, counts: ItemCounts) -> int:
    """Return how many more items may be made ready now."""
    at_work = counts.started - counts.ended
    free = (foreach.max_parallel or counts.total) - at_work
    return max(0, min(free, counts.total - counts.started))


def gather(results: tuple[Any, ...]) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """
    Return the output of a foreach, and the error if it is no legal output.

    Args:
        results: outputs of the items in order, None for those that did not succeed.
    """
    output = {"results": list(results)}
    _, problems = check_json_value(output)
    if not problems:
        return output, None
    message = f"the results of {len(results):,} items together: {problems[0].message}"
    return output, {"code": "output_invalid", "message": message, "attempts": 1}


_HARMLESS = frozenset({StepEnd.SUCCESS, StepEnd.SKIPPED, StepEnd.CANCELLED})
