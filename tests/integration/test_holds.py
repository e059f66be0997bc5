"""Concurrency keys, rates and turns of runs (LANGUAGE sections 1 and 2), on every database.

What must never be at work together never is; what is freed by an end, a retry, a cancel or a lost
worker goes to who waits; and what a crash left undone the next sweep does.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from iaflow.data.records import Failed, StepTask, Succeeded
from iaflow.data.status import RunStatus
from iaflow.pipeline.maintenance import stage
from tests.integration.houses import House, Journal, document, each, race

KEY = {"concurrency_key": "{{ parameters.key }}"}


def keyed(name: str = "keyed", **step: Any) -> dict[str, Any]:
    return document({"a": {**KEY, **step}}, name=name, parameters={"key": "k"})


def is_ready(house: House, run_id: str) -> bool:
    return bool(house.ready(run_id))


# --- keys


def test_two_runs_with_one_key_never_work_at_once(house: House) -> None:
    """The second is ready and held back; it gets its message with the first one's end."""
    first, second = (house.start(keyed()) for _ in range(2))
    assert (house.ready(first), house.ready(second)) == ([("a", -1)], [])
    assert house.statuses(second) == {"a": "ready"}
    assert house.engine.claim(StepTask(second, "a", -1, 1), "too early") is None
    settled = house.work(first, "a")
    assert [task.run_id for task in settled.tasks] == [second]
    house.work(second, "a")
    assert house.holders() == []


def test_another_key_does_not_wait(house: House) -> None:
    one, other = house.start(keyed()), house.start(keyed(), {"key": "another"})
    assert (house.ready(one), house.ready(other)) == ([("a", -1)], [("a", -1)])


def test_the_oldest_that_waits_is_next(house: House) -> None:
    runs = [house.start(keyed()) for _ in range(4)]
    for place, run_id in enumerate(runs):
        assert [is_ready(house, one) for one in runs[place:]] == [True] + [False] * (3 - place)
        house.work(run_id, "a")


def test_a_key_may_be_a_number_or_an_object(house: House) -> None:
    """Anything but null makes a key: what is no text by its JSON."""
    for key in (7, True, [1], {"a": 1}, "x" * 1_000):
        first, second = (house.start(keyed(), {"key": key}) for _ in range(2))
        assert (is_ready(house, first), is_ready(house, second)) == (True, False)
        house.engine.cancel_run(first, "")


@pytest.mark.parametrize("key", (None, "", "x" * 1_001))
@pytest.mark.parametrize("first", (True, False))
def test_null_is_an_error(house: House, key: str | None, first: bool) -> None:
    """A key that is none fails the step, which is not worked on; a transition may mend it."""
    steps: dict[str, Any] = {"root": {}} if not first else {}
    steps |= {"a": KEY, "mend": {"inputs": {"code": "{{ errors.a.code }}"}}}
    edges: list[Any] = [("a", "mend", {"on": "failure"})]
    if not first:
        edges.insert(0, ("root", "a"))
    run = house.run(document(steps, edges, parameters={"key": key}))
    assert run.status is RunStatus.SUCCEEDED
    assert run.outputs == {"code": "concurrency_key_invalid"}
    assert house.steps(run.run_id)["a"].attempt == 0


def test_a_start_whose_key_is_null_fails_its_run(house: House) -> None:
    run = house.run(keyed(), {"key": None})
    assert (run.status, run.error_code) == (RunStatus.FAILED, "concurrency_key_invalid")


def test_a_faulty_key_may_need_code_to_go_on(house: House, journal: Journal) -> None:
    """Its failure transitions may be judged by a function, also where the run begins with it."""
    rule = {"module": "tests.integration.houses", "function": "says_yes"}
    condition = {"type": "function", "config": rule}
    steps = {"a": KEY, "mend": {}}
    edges = [("a", "mend", {"on": "failure", "condition": condition})]
    run = house.run(document(steps, edges, parameters={"key": None}))
    assert run.status is RunStatus.SUCCEEDED
    assert [context.error["code"] for context in journal.asked] == ["concurrency_key_invalid"]


def test_a_key_is_not_held_while_retrying(house: House, journal: Journal) -> None:
    """It is held per attempt: between two of them another step has it."""
    policy = {"retries": 1, "retry_delay": 60}
    first = house.start(keyed(error_handling=policy, config={"fail": 1}))
    second = house.start(keyed())
    settled = house.work(first, "a")
    assert [task.run_id for task in settled.tasks] == [second]
    house.pass_time(61)
    stage(house.engine)
    assert (house.statuses(first), house.ready(first)) == ({"a": "ready"}, [])
    house.work(second, "a")
    house.work(first, "a")
    assert house.read(first).status is RunStatus.SUCCEEDED
    assert journal.attempts("a") == [1, 1, 2]


@pytest.mark.parametrize("how", ("run", "step", "timeout", "worker", "skip"))
def test_whatever_ends_the_holder_frees_the_key(house: House, how: str) -> None:
    limit = {"error_handling": {"run_timeout": 100}} if how == "timeout" else {}
    policy = {"max_worker_losses": 0}
    first = house.start({**keyed(error_handling=policy, config={"skip": how == "skip"}), **limit})
    second = house.start(keyed())
    third = house.start(keyed())
    if how == "skip":
        house.work(first, "a")
    else:
        house.claim(first, "a")
    match how:
        case "run":
            house.engine.cancel_run(first, "")
        case "step":
            house.engine.cancel_step(first, "a", "")
        case "timeout":
            house.pass_time(101)
            house.sweep()
        case "worker":
            house.pass_time(31)
            house.sweep()
    assert [is_ready(house, one) for one in (first, second, third)] == [False, True, False]
    assert house.holders() == [(second, "a", -1)]


def test_a_waiter_that_is_cancelled_is_passed_over(house: House) -> None:
    first, second, third = (house.start(keyed()) for _ in range(3))
    house.engine.cancel_run(second, "")
    house.work(first, "a")
    assert house.holders() == [(third, "a", -1)]


def test_a_dead_holder_frees_the_key_for_a_process_of_its_own(house: House) -> None:
    """Embedded, nobody drives the dead process's run: who waits for its key gets it all the same."""
    dead = house.start(keyed())
    waiting = house.start(keyed())
    house.claim(dead, "a")
    house.pass_time(31)
    assert house.drive(waiting, 5.0).status is RunStatus.SUCCEEDED
    assert house.drive(dead).status is RunStatus.SUCCEEDED


def test_a_key_that_was_given_to_a_run_which_nobody_drives(house: House) -> None:
    """Embedded, its process died while it waited: those behind it do not wait for ever."""
    first, dead, last = (house.start(keyed()) for _ in range(3))
    house.work(first, "a")
    assert house.holders() == [(dead, "a", -1)]
    assert house.drive(last, 5.0).status is RunStatus.SUCCEEDED
    assert house.drive(dead).status is RunStatus.SUCCEEDED


def test_items_with_keys_of_their_own(house: House, journal: Journal) -> None:
    """A key may name the item: those with the same one take turns, the others do not wait."""
    step = each(["a", "b", "a", "a"], concurrency_key="key-{{ item }}")
    run_id = house.start(document({"each": step}))
    house.work(run_id, "each")
    assert house.ready(run_id) == [("each", 0), ("each", 1)]
    house.work(run_id, "each", 0)
    assert house.ready(run_id) == [("each", 1), ("each", 2)]
    house.engine.cancel_step(run_id, "each", "")
    assert house.holders() == []


def test_keyed_items_of_several_runs_end(house: House) -> None:
    step = each(list(range(6)), concurrency_key="two", max_parallel=3)
    started = [house.begin(document({"each": step})) for _ in range(3)]
    house.serve(
        *(one.run_id for one in started), tasks=[task for one in started for task in one.tasks]
    )
    assert {house.read(one.run_id).status for one in started} == {RunStatus.SUCCEEDED}
    assert house.holders() == []


def test_a_key_of_an_item_that_is_null(house: House) -> None:
    """One item without a key fails the step before any item starts."""
    step = each(["a", None], concurrency_key="{{ item }}")
    run = house.run(document({"each": step}))
    assert run.error_code == "concurrency_key_invalid"
    assert house.items(run.run_id) == []


@pytest.mark.parametrize("crash", ("before the grant", "before the message"))
def test_a_crash_between_a_free_key_and_its_next_holder(house: House, crash: str) -> None:
    """The key is free, or given, and nobody was told: the sweep does it."""
    first, second = (house.start(keyed()) for _ in range(2))
    if crash == "before the grant":
        with house.crashing():
            house.work(first, "a")
        assert house.holders() == []
    else:
        house.work(first, "a")
    house.serve(second)
    assert house.read(second).status is RunStatus.SUCCEEDED


def test_a_crash_right_after_a_keyed_start(house: House) -> None:
    with house.crashing():
        run_id = house.start(keyed())
    assert house.holders() == []
    house.serve(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED


def test_a_cancel_that_crashes_leaves_its_key_to_others(house: House) -> None:
    first, second = (house.start(keyed()) for _ in range(2))
    house.claim(first, "a")
    with house.crashing():
        house.engine.cancel_run(first, "")
    house.sweep()
    assert house.holders() == [(second, "a", -1)]


def test_threads_never_hold_a_key_twice(shared_house: House) -> None:
    """Eight threads work on forty runs with three keys: a key's attempts never overlap."""
    runs = [shared_house.start(keyed(), {"key": f"k{n % 3}"}) for n in range(40)]
    inside: dict[str, list[str]] = {f"k{n}": [] for n in range(3)}
    worst: list[int] = []

    def work(place: int) -> None:
        for _ in range(400):
            for run_id in runs[place:] + runs[:place]:
                claimed = shared_house.engine.claim(StepTask(run_id, "a", -1, 1), f"w{place}")
                if claimed is None:
                    continue
                key = claimed.header.parameters["key"]
                inside[key].append(run_id)
                shared_house.read(run_id)  # work that takes a moment
                worst.append(len(inside[key]))
                inside[key].remove(run_id)
                fails = (place + len(worst)) % 5 == 0
                outcome = Failed("x", "x") if fails else Succeeded({}, "{}")
                shared_house.engine.settle(claimed, outcome)
            if all(shared_house.engine.reads.run(one).finished_at for one in runs):  # type: ignore[union-attr]
                break
        shared_house.database.release_thread()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(worst) == 1
    assert len(worst) == 40
    assert shared_house.holders() == []


def test_a_grant_and_a_cancel_at_once(shared_house: House) -> None:
    """Whichever comes first, the key is never left with a run that has ended."""
    for turn in range(15):
        first, second, third = (shared_house.start(keyed(), {"key": f"r{turn}"}) for _ in range(3))
        claimed = shared_house.claim(first, "a")
        race(
            [
                partial(shared_house.engine.settle, claimed, Succeeded({}, "{}")),
                partial(shared_house.engine.cancel_run, second, ""),
            ],
            shared_house,
        )
        shared_house.sweep()
        assert [held[0] for held in shared_house.holders()] == [third]
        shared_house.work(third, "a")


# --- rates


def rated(rate: str = "10/s", **step: Any) -> dict[str, Any]:
    return document({"a": {"rate_limit": rate, **step}}, name=f"rated-{rate.replace('/', '-')}")


def starts_of(house: House, run_ids: list[str]) -> list[datetime]:
    found = [step.started_at for one in run_ids for step in house.engine.reads.steps(one)]
    return sorted(instant for instant in found if instant is not None)


def spacings(starts: list[datetime]) -> Iterator[float]:
    return ((late - early).total_seconds() for early, late in pairwise(starts))


def test_the_starts_of_a_step_are_evenly_spaced_over_runs(house: House) -> None:
    started = [house.begin(rated("2/s", config={"seconds": 0})) for _ in range(5)]
    runs = [one.run_id for one in started]
    assert [is_ready(house, one) for one in runs] == [True] + [False] * 4
    house.work(runs[0], "a")
    for place in range(1, 5):
        house.pass_time(0.25)
        assert stage(house.engine).tasks == ()
        house.pass_time(0.25)
        assert [task.run_id for task in stage(house.engine).tasks] == [runs[place]]
        house.work(runs[place], "a")
    assert min(spacings(starts_of(house, runs))) >= 0.5


def test_a_rate_counts_items_and_retries(house: House) -> None:
    policy = {"retries": 1}
    step = each([{"fail": 1}, {}, {}], rate_limit="1/s", error_handling=policy)
    run_id = house.start(document({"each": step}, name="rated-items"))
    began = house.clock.now()
    run = house.drive(run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert house.clock.now() - began >= timedelta(seconds=3)
    starts = starts_of(house, [run_id])
    assert len(starts) == 4


def test_what_is_overdue_is_not_let_loose_at_once(house: House) -> None:
    """No sweep came for ten seconds: the starts that were due by then are spaced all the same."""
    runs = [house.start(rated("1/s")) for _ in range(4)]
    house.work(runs[0], "a")
    house.pass_time(10)
    assert [task.run_id for task in stage(house.engine).tasks] == [runs[1]]
    house.pass_time(0.5)
    assert stage(house.engine).tasks == ()
    house.pass_time(0.5)
    assert [task.run_id for task in stage(house.engine).tasks] == [runs[2]]
    later = house.start(rated("1/s"))
    house.pass_time(1)
    assert [task.run_id for task in stage(house.engine).tasks] == [runs[3]]
    house.pass_time(1)
    assert [task.run_id for task in stage(house.engine).tasks] == [later]


def test_a_rate_is_not_saved_up(house: House) -> None:
    """After a quiet hour two starts are as far apart as ever."""
    first = house.start(rated("1/m"))
    house.work(first, "a")
    house.pass_time(3_600)
    second, third = (house.start(rated("1/m")) for _ in range(2))
    assert (is_ready(house, second), is_ready(house, third)) == (True, False)
    house.pass_time(59)
    assert stage(house.engine).tasks == ()


def test_a_key_and_a_rate_together(house: House) -> None:
    """A step starts when the rate lets it and the key is free, whichever is later."""
    runs = [house.start({**keyed("both", rate_limit="1/s"), "slug": "both"}) for _ in range(3)]
    assert [is_ready(house, one) for one in runs] == [True, False, False]
    first = house.claim(runs[0], "a")
    house.pass_time(10)
    assert stage(house.engine).tasks == ()
    settled = house.engine.settle(first, Succeeded({}, "{}"))
    assert [task.run_id for task in settled.tasks] == [runs[1]]
    house.serve(*runs, tasks=settled.tasks)
    assert {house.read(one).status for one in runs} == {RunStatus.SUCCEEDED}


def test_the_first_starts_of_a_rate_at_once(shared_house: House) -> None:
    """Eight runs that begin at the same moment, the first ones ever: one start at a time."""
    definition = rated("10/m")
    shared_house.start(document({"a": {}}))  # the connections are open by now
    runs = [
        started.run_id
        for started in race([lambda: shared_house.begin(definition)] * 8, shared_house)
    ]
    due = [shared_house.steps(one)["a"].due_at for one in runs]
    now = [one for one in due if one is None]
    later = sorted(one for one in due if one is not None)
    assert len(now) <= 1
    assert len(set(later)) == len(later)
    assert all(gap >= 5.9 for gap in spacings(later))
