"""What a step sees is fixed at its first claim (LANGUAGE section 4), also where joins fire early.

A worker that is lost after it, a retry: each sees what the first attempt saw.
"""

from __future__ import annotations

from typing import Any

from iaflow.data.records import Failed
from iaflow.data.status import RunStatus
from tests.integration.houses import House, Journal, document, each

EDGES = [("root", "quick"), ("root", "slow"), ("quick", "join"), ("slow", "join")]


def begin(house: House, join: dict[str, Any]) -> str:
    """Start a run whose join has fired with `quick`, while `slow` works on."""
    steps: dict[str, Any] = {"root": {}, "quick": {}, "slow": {}, "join": {"join": "any", **join}}
    run_id = house.start(document(steps, EDGES))
    house.finish(run_id, "root")
    house.finish(run_id, "quick")
    return run_id


def lose_worker(house: House) -> None:
    house.pass_time(31)
    assert house.sweep()["lost"] == 1


def test_a_fault_is_met_again_after_a_lost_worker(house: House, journal: Journal) -> None:
    """Inputs that could not be resolved are no inputs: `work` is never given null instead."""
    run_id = begin(house, {"inputs": {"x": "{{ quick.absent }}"}})
    assert house.claim(run_id, "join").inputs.fault is not None
    lose_worker(house)
    house.work(run_id, "join")
    assert house.read(run_id).error_code == "reference_missing"
    assert journal.data("join") == []


def test_items_are_the_same_after_a_lost_worker(house: House) -> None:
    """The list was resolved before the branch ended that it now could name."""
    run_id = begin(house, each("{{ slow.list | default([]) }}"))
    assert house.claim(run_id, "join").inputs.items == ()
    house.finish(run_id, "slow", list=[1, 2])
    lose_worker(house)
    house.work(run_id, "join")
    assert house.steps(run_id)["join"].output == {"results": []}


def test_an_items_retry_sees_what_its_first_attempt_saw(house: House) -> None:
    inputs = {"item": "{{ item }}", "slow": "{{ slow.n | default('none') }}"}
    step = each([1], inputs=inputs, error_handling={"retries": 1})
    run_id = begin(house, step)
    house.work(run_id, "join")
    first = house.claim(run_id, "join", 0)
    house.finish(run_id, "slow", n=7)
    house.engine.settle(first, Failed("OSError", "once"))
    house.engine.claims.stage_due(now=house.clock.now(), run_id=run_id)
    second = house.claim(run_id, "join", 0)
    assert first.inputs.data == second.inputs.data == {"item": 1, "slow": "none"}


def test_each_item_has_a_first_claim_of_its_own(house: House) -> None:
    """Items are claimed one by one: what one sees is fixed at its own first claim."""
    inputs = {"slow": "{{ slow.n | default('none') }}"}
    run_id = begin(house, each([1, 2], inputs=inputs, max_parallel=1))
    house.work(run_id, "join")
    house.work(run_id, "join", 0)
    house.finish(run_id, "slow", n=7)
    house.work(run_id, "join", 1)
    output = house.steps(run_id)["join"].output
    assert output == {"results": [{"slow": "none"}, {"slow": 7}]}


def test_a_timer_is_the_same_after_a_lost_worker(house: House) -> None:
    """What `until` came to at the first claim stays, whatever ended since."""
    until = "{{ slow.at | default('2030-01-01T00:05:00Z') }}"
    steps: dict[str, Any] = {
        "root": {},
        "quick": {},
        "slow": {},
        "join": {"join": "any", "type": "wait", "config": {"until": until}},
    }
    run_id = house.start(document(steps, EDGES))
    house.finish(run_id, "root")
    house.finish(run_id, "quick")
    house.claim(run_id, "join")
    house.finish(run_id, "slow", at="2030-01-01T09:00:00Z")
    lose_worker(house)
    house.work(run_id, "join")
    due = house.steps(run_id)["join"].due_at
    assert due is not None
    assert (due.hour, due.minute) == (0, 5)
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
