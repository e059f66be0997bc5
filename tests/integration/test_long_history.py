"""A step costs the same beside a long past, of other runs and of its own: told from rows read.

Statements are prepared while the tables are nearly empty, as in a deployment that has just begun,
and their plans are kept. Times are compared by ``python -m benchmarks history``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.walking import Walker
from tests.servers import ServerRoom

PAST = 300_000
STEPS = 50


@pytest.fixture
def walker(server_room: ServerRoom) -> Iterator[Walker]:
    url = server_room.create_database()
    walker = Walker(url, 10 * STEPS)
    yield walker
    walker.close()
    server_room.postgres.drop_database(url)


def ask(walker: Walker, statement: str) -> list[Any]:
    """Ask on the connection that steps are taken over."""
    connection: Any = walker.database._connection()
    cursor = connection._raw.cursor()
    cursor.execute(statement)
    return list(cursor.fetchall())


def count_reads(walker: Walker, steps: int) -> float:
    """Return how many rows and entries of indexes each of so many steps reads."""

    def read() -> int:
        ask(walker, "SELECT pg_stat_force_next_flush()")
        [(count,)] = ask(
            walker,
            "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)"
            " + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)",
        )
        return int(count)

    before = read()
    walker.walk(steps)
    return (read() - before) / steps


@pytest.mark.slow
def test_a_step_reads_no_more_beside_a_long_past(walker: Walker) -> None:
    walker.walk(STEPS)
    alone = count_reads(walker, STEPS)

    assert walker.add_past_runs(PAST) > 1_000
    walker.walk(STEPS)
    beside_others = count_reads(walker, STEPS)

    walker.add_own_past(PAST)
    walker.walk(STEPS)
    beside_its_own = count_reads(walker, STEPS)

    print(f"rows read per step: {alone:.1f}, {beside_others:.1f}, {beside_its_own:.1f}")
    assert 1 <= alone <= 100
    assert beside_others <= 1.2 * alone + 2
    assert beside_its_own <= 1.2 * alone + 2
    assert_indexes_are_used(walker)


def assert_indexes_are_used(walker: Walker) -> None:
    """Assert that no statement that the engine has prepared reads a whole table of a past."""
    ask(walker, "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)")
    prepared = ask(walker, "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements")
    assert {"iaflow_mark_running", "iaflow_lock_run"} <= {name for name, _ in prepared}
    for name, count in prepared:
        slots = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = [row[0] for row in ask(walker, f"EXPLAIN EXECUTE {name}{slots}")]
        whole = [line for line in plan if re.search(r"Seq Scan on (?!key_holds)", line)]
        assert whole == [], (name, plan)
