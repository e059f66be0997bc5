"""A deep backlog: 100,000 steps wait in a queue, and no sweep sends one of them again.

Decides by the broker's own count of messages; what it has lost is sent again, and no more.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from iaflow.bootstrap import Application
from iaflow.pipeline.executors.celery import CeleryExecutor
from iaflow.pipeline.maintenance import sweep
from tests.integration.houses import House, document, each

STEPS, LOST, SWEEPS = 100_000, 2_500, 5


@pytest.mark.slow
def test_what_waits_in_a_queue_is_not_sent_again(
    postgres_url: str, redis_url: str, open_app: Callable[..., Application]
) -> None:
    house = House(postgres_url)
    executor = open_app(postgres_url, redis_url).executor
    assert isinstance(executor, CeleryExecutor)
    items = each("{{ parameters.list }}")
    run_id = house.start(document({"each": items}, parameters={"list": list(range(STEPS))}))
    executor.submit(house.work(run_id, "each").tasks)
    assert executor.depth() == STEPS

    def sweep_often() -> int:
        """Sweep as workers do, each message old enough to be sent again; return how many were."""
        sent = 0
        for _ in range(SWEEPS):
            swept = sweep(house.engine, republish_seconds=0, depth=executor.depth)
            sent += executor.submit(swept.tasks)
        return sent

    assert (sweep_often(), executor.depth()) == (0, STEPS)
    with redis.Redis.from_url(redis_url) as client:
        [queue] = [key for key in client.scan_iter() if client.type(key) == b"list"]
        client.ltrim(queue, LOST, -1)
    assert executor.depth() == STEPS - LOST
    sent = sweep_often()
    print(f"{STEPS} steps waited; {LOST} messages were lost, {sent} sent again")
    assert (sent, executor.depth()) == (LOST, STEPS)
    assert (sweep_often(), executor.depth()) == (0, STEPS)
    house.database.close()
