"""What the steps of random definitions do: by their config and inputs alone, never by chance.

Decides outcomes that are the same wherever they are executed. Loaded by workers as an allowed
module, and by embedded runs from this folder.
"""

from __future__ import annotations

from typing import Any

from iaflow.errors import Fail, Skip
from iaflow.pipeline import Step

__all__ = ["Act", "is_small", "raises"]


class Act(Step):
    """Returns what its config says; fails or skips where that says so."""

    async def work(self, data: Any) -> dict[str, Any]:
        """Fail the first attempts, for good, or not; skip; else return the values."""
        number = data.get("number", 0) if isinstance(data, dict) else 0
        if self.context.attempt <= self.config.get("fail_times", 0):
            raise ValueError("not yet")
        if self.config.get("fail") or data.get("fail"):
            raise Fail("as asked", code="as_asked")
        if self.config.get("skip"):
            raise Skip("as asked")
        return {"number": number, "given": data, **self.config.get("values", {})}


def is_small(context: Any) -> bool:
    """Tell whether the source's number is below the limit among the arguments."""
    result = context.result or {}
    return bool(result.get("number", 0) < context.arguments.get("limit", 5))


def raises(context: Any) -> bool:
    """Fail, as a broken condition does."""
    raise LookupError(f"nothing to compare at {context.step_id}")
