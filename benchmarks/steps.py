"""The steps that are measured: the body every contender has, and one that says it is done.

Decides nothing but that body. Loaded by iaflow as a step module; the references call
`work_on` too, so that nobody works more than another.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

import redis

from iaflow.pipeline.step import Step

__all__ = ["NOTES_VARIABLE", "Gather", "Hello", "LastHello", "Waits", "tell", "work_on"]

NOTES_VARIABLE = "BENCHMARK_NOTES_URL"
"""Names the Redis database whose lists the waiting client reads."""


def work_on(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a step makes of what it is given."""
    return {"n": data["n"] + 1, "msg": "hello"}


def tell(key: str, note: str) -> None:
    """Push a note to the list that the client blocks on: being waited for costs nothing more."""
    open_notes(os.getpid()).lpush(key, note)


@cache
def open_notes(_pid: int) -> redis.Redis:
    return redis.Redis.from_url(os.environ[NOTES_VARIABLE])


class Hello(Step):
    """A step with the body that all contenders have."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the next number."""
        return work_on(data)


class Waits(Step):
    """A step that waits for something elsewhere, as most steps do."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the next number, 50 ms later, or as many seconds as the definition says."""
        await asyncio.sleep(self.config.get("seconds", 0.05))
        return work_on(data)


class LastHello(Hello):
    """The last step of a chain: tells the client, then settles like every other."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the next number, and tell it."""
        result = work_on(data)
        tell(self.config["key"], str(result["n"]))
        return result


class Gather(Step):
    """The join of a fan-out: tells the client that all branches were there."""

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the number that the branches agree on, and tell it."""
        tell(self.config["key"], str(data["n"]))
        return {"n": data["n"]}
