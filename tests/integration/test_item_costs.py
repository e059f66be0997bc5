"""What items cost, in statements: no more than plain steps, and a fan-out the same for any number."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iaflow.data.records import StepTask
from tests.integration.houses import House, document, each

# Beyond a plain step of a chain (`test_life.BUDGET`), an item's end writes its step's counts.
BUDGET = {"memory": 11, "sqlite": 11, "postgres": 12}
FAN_OUT = {"memory": 18, "sqlite": 18, "postgres": 20}


def count(house: House, run_id: str, tasks: tuple[StepTask, ...]) -> int:
    """Carry a run's tasks out to its end, without looks at it; return the statements."""
    before = house.database.tally.statements

    async def follow() -> None:
        todo = list(tasks)
        async with house.executor() as executor:
            while todo:
                settled = await executor.execute(todo.pop())
                assert settled is not None
                todo += settled.tasks

    asyncio.run(follow())
    assert house.read(run_id).finished_at is not None
    return house.database.tally.statements - before


def kind_of(house: House) -> str:
    if house.database.dialect == "postgresql":
        return "postgres"
    return "memory" if house.database.is_memory else "sqlite"


@pytest.mark.parametrize("limit", (None, 1, 7))
def test_an_item_costs_little_more_than_a_step(house: House, limit: int | None) -> None:
    def cost(items: int) -> int:
        rule = {} if limit is None else {"max_parallel": limit}
        step = each(list(range(items)), inputs={}, **rule)
        started = house.begin(document({"each": step}))
        return count(house, started.run_id, started.tasks)

    per_item = (cost(60) - cost(10)) / 50
    more = 0 if limit is None else 1  # what starts the next one
    assert per_item <= BUDGET[kind_of(house)] + more, per_item


@pytest.mark.parametrize(
    "step", ({}, {"max_parallel": 5}, {"rate_limit": "100/s"}, {"concurrency_key": "one"})
)
def test_a_fan_out_costs_the_same_for_any_number(house: House, step: dict[str, Any]) -> None:
    """Ten items or a thousand: as many statements."""
    costs = []
    for items in (10, 1_000):
        name = f"fan-{items}-{next(iter(step), 'plain')}"
        definition = document(
            {"each": each("{{ parameters.list }}", **step)},
            name=name,
            parameters={"list": list(range(items))},
        )
        run_id = house.start(definition)
        before = house.database.tally.statements
        house.work(run_id, "each")
        costs.append(house.database.tally.statements - before)
        assert len(house.items(run_id)) == items
        house.engine.cancel_run(run_id, "")
    assert costs[0] == costs[1] <= FAN_OUT[kind_of(house)]


def test_dropping_the_rest_costs_the_same_for_any_number(house: House) -> None:
    """The n-th success, a failure too many, a cancel: what is left is cancelled as a set."""
    costs = []
    for items in (10, 1_000):
        run_id = house.start(document({"each": each(list(range(items)), n=1)}))
        house.work(run_id, "each")
        before = house.database.tally.statements
        house.work(run_id, "each", 3)
        costs.append(house.database.tally.statements - before)
    assert costs[0] == costs[1] <= FAN_OUT[kind_of(house)]
