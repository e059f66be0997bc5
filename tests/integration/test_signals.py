"""Events and timers (LANGUAGE section 2): what waits without a worker, and what ends its waiting.

Exactly one of signal, expiry and cancel wins; a timer rings once, on time, whoever looks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus, RunStatus, StepEnd
from iaflow.errors import AnswerRefused, Conflict, NotFound
from iaflow.pipeline.judging import conclude_alone
from iaflow.pipeline.maintenance import stage
from tests.integration.houses import House, Journal, child, document, question, race


def event(name: str = "paid", **config: Any) -> dict[str, Any]:
    return {"type": "event", "config": {"name": name, **config}}


def timer(**config: Any) -> dict[str, Any]:
    return {"type": "wait", "config": config}


def waiting(house: House, **config: Any) -> str:
    """Start a run that waits for the signal `paid`, and drive it there."""
    steps = {"on": event(**config), "after": {}, "late": {}}
    edges = [("on", "after"), ("on", "late", {"on": "expired"})]
    run_id = house.start(document(steps, edges))
    assert house.drive(run_id).status is RunStatus.WAITING
    return run_id


def send(house: House, run_id: str, payload: Any = None, **more: Any) -> tuple[PauseRecord, ...]:
    return house.engine.signal(run_id, "paid", payload or {}, sent_by="bank", **more)


def resume(house: House) -> None:
    for pause in house.engine.pauses.find_unsettled():
        conclude_alone(partial(house.engine.resume, pause.pause_id))


# --- signals


def test_a_signals_payload_is_the_output(house: House) -> None:
    run_id = waiting(house)
    payload = {"amount": 1.0, "big": 10**30, "none": None, "_answered_by": "me"}
    [pause] = send(house, run_id, payload)
    assert (pause.status, pause.answered_by) == (PauseStatus.ANSWERED, "bank")
    run = house.drive(run_id)
    assert (run.status, run.outputs) == (RunStatus.SUCCEEDED, payload)
    assert house.steps(run_id)["on"].output == payload


def test_an_event_is_no_question(house: House) -> None:
    """It stands in no inbox and cannot be answered."""
    run_id = waiting(house)
    assert house.engine.pauses.list_open(run_id=run_id) == []
    [pause] = house.engine.pauses.list_events(run_id)
    with pytest.raises(Conflict, match="signal"):
        house.engine.answer(pause.pause_id, {}, answered_by="ann")


@pytest.mark.parametrize("payload", ([1], "x", {"x": float("nan")}, {"x": "\x00"}, {1: 2}))
def test_a_payload_that_is_no_output_is_refused(house: House, payload: Any) -> None:
    run_id = waiting(house)
    with pytest.raises(AnswerRefused):
        send(house, run_id, payload)
    assert house.read(run_id).status is RunStatus.WAITING


def test_what_no_step_waits_for_is_refused(house: House) -> None:
    """Before it waits, after it has ended, under another name, in a run that there is not."""
    early = house.start(document({"on": event()}))
    run_id = waiting(house)
    with pytest.raises(Conflict, match="paid"):
        house.engine.signal(run_id, "Paid", {}, sent_by="bank")
    with pytest.raises(Conflict, match="none"):
        send(house, early)
    with pytest.raises(NotFound):
        send(house, "00000000-0000-7000-8000-000000000000")
    send(house, run_id)
    with pytest.raises(Conflict):
        send(house, run_id, {"again": 1})
    house.drive(run_id)
    with pytest.raises(Conflict):
        send(house, run_id)


def test_the_same_signal_twice_gets_the_same_reply(house: House) -> None:
    run_id = waiting(house)
    first = send(house, run_id, {"n": 1}, key="k")
    assert send(house, run_id, {"n": 1}, key="k") == first
    with pytest.raises(Conflict):
        send(house, run_id, {"n": 2}, key="k")
    house.drive(run_id)
    [again] = send(house, run_id, {"n": 1}, key="k")
    assert again.pause_id == first[0].pause_id


def test_a_signal_reaches_every_step_that_waits_for_it(house: House) -> None:
    steps: dict[str, Any] = {"root": {}, "a": event(), "b": event(), "c": event("other")}
    run_id = house.start(document(steps, [("root", name) for name in "abc"]))
    house.drive(run_id)
    assert len(send(house, run_id, {"n": 1})) == 2
    assert house.drive(run_id).status is RunStatus.WAITING
    assert house.statuses(run_id) == {
        "root": "succeeded",
        "a": "succeeded",
        "b": "succeeded",
        "c": "waiting",
    }


def test_an_event_expires(house: House) -> None:
    run_id = waiting(house, expires_in=60)
    house.pass_time(61)
    with pytest.raises(Conflict):
        send(house, run_id)
    run = house.drive(run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert house.statuses(run_id) == {"on": "failed", "after": "skipped", "late": "succeeded"}
    step = house.steps(run_id)["on"]
    assert step.error is not None
    assert (step.end, step.error["code"]) == (StepEnd.EXPIRED, "expired")


def test_cancelling_withdraws_the_event(house: House) -> None:
    run_id = waiting(house)
    house.engine.cancel_step(run_id, "on", "")
    with pytest.raises(Conflict):
        send(house, run_id)
    assert {pause.status for pause in house.engine.pauses.list_events(run_id)} == {
        PauseStatus.CANCELLED
    }


def test_a_signal_after_an_answer_that_cancels_its_event(house: House) -> None:
    """An answer that was accepted before takes effect before: the signal comes too late."""
    ask = {**question(), "cancels": ["on"]}
    steps: dict[str, Any] = {"root": {}, "ask": ask, "on": event()}
    run_id = house.start(document(steps, [("root", "ask"), ("root", "on")]))
    house.drive(run_id)
    pause = house.pause(run_id)
    house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="ann")
    with pytest.raises(Conflict):
        send(house, run_id)
    resume(house)
    assert house.statuses(run_id)["on"] == "cancelled"


def test_an_answer_after_a_signal_that_cancels_its_question(house: House) -> None:
    steps: dict[str, Any] = {"root": {}, "ask": question(), "on": {**event(), "cancels": ["ask"]}}
    run_id = house.start(document(steps, [("root", "ask"), ("root", "on")]))
    house.drive(run_id)
    pause = house.pause(run_id)
    send(house, run_id)
    with pytest.raises(Conflict, match="withdrawn"):
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="ann")


def test_the_process_dies_between_a_signal_and_its_step(house: House) -> None:
    run_id = waiting(house)
    send(house, run_id, {"n": 1})
    house.serve(run_id)
    assert house.read(run_id).outputs == {"n": 1}


def test_resuming_twice_changes_nothing(house: House) -> None:
    run_id = waiting(house)
    [pause] = send(house, run_id)
    assert not house.engine.resume(pause.pause_id).is_stale
    before = house.read(run_id)
    assert house.engine.resume(pause.pause_id).is_stale
    assert house.read(run_id) == before


def test_one_of_many_signals_wins(shared_house: House) -> None:
    """Eight signals and a cancel at the same moment: one has an effect, and says so."""
    for turn in range(8):
        run_id = shared_house.start(document({"on": event()}))
        shared_house.drive(run_id)
        calls: list[Any] = [partial(send, shared_house, run_id, {"n": n}) for n in range(7)]
        if turn % 2:
            calls.append(partial(shared_house.engine.cancel_run, run_id, ""))
        results = race(calls, shared_house)
        won = [place for place, found in enumerate(results[:7]) if isinstance(found, tuple)]
        assert len(won) <= 1
        run = shared_house.drive(run_id)
        if run.status is RunStatus.SUCCEEDED:
            assert run.outputs == {"n": won[0]}
        else:
            assert (run.status, turn % 2) == (RunStatus.CANCELLED, 1)


def test_a_child_that_waits_for_a_signal_makes_its_parent_wait(house: House) -> None:
    house.publish(document({"on": event()}, name="child"))
    run = house.run(document({"call": child("child", inputs={})}))
    assert (run.status, run.paused) == (RunStatus.WAITING, 1)
    [below] = house.children(run.run_id)
    send(house, below, {"n": 1})
    assert house.drive(run.run_id).outputs == {"n": 1}


# --- timers


def test_a_timer_waits_so_many_seconds(house: House) -> None:
    steps: dict[str, Any] = {"t": timer(seconds=90), "after": {"inputs": {"got": "{{ t }}"}}}
    run_id = house.start(document(steps, [("t", "after")]))
    began = house.clock.now()
    house.work(run_id, "t")
    step = house.steps(run_id)["t"]
    assert (step.status.value, step.due_at) == ("waiting", began + timedelta(seconds=90))
    assert (house.read(run_id).status, house.read(run_id).paused) == (RunStatus.RUNNING, 0)
    house.pass_time(89)
    assert stage(house.engine).duties == ()
    run = house.drive(run_id)
    assert run.outputs == {"got": {}}
    assert 90 <= (house.clock.now() - began).total_seconds() < 91


@pytest.mark.parametrize("seconds", (0, "{{ parameters.n }}", 1.5))
def test_seconds_may_be_a_template(house: House, seconds: Any) -> None:
    run = house.run(document({"t": timer(seconds=seconds)}, parameters={"n": 2.5}))
    assert run.status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("value", ("x", -1, None, True, 1e300, [1]))
def test_a_time_that_is_none_fails_the_step(house: House, value: Any) -> None:
    definition = document({"t": timer(seconds="{{ parameters.n }}")}, parameters={"n": value})
    assert house.run(definition).error_code == "wait_invalid"
    definition = document({"t": timer(until="{{ parameters.n }}")}, parameters={"n": value})
    assert house.run(definition).error_code == "wait_invalid"


@pytest.mark.parametrize("until", ("2030-01-01T00:10:00Z", "2030-01-01T01:10:00+01:00"))
def test_until_is_an_instant(house: House, until: str) -> None:
    run = house.run(document({"t": timer(until="{{ parameters.at }}")}, parameters={"at": until}))
    assert run.status is RunStatus.SUCCEEDED
    assert house.clock.now() >= datetime(2030, 1, 1, 0, 10, tzinfo=UTC)


def test_an_instant_that_is_over_waits_for_nothing(house: House) -> None:
    began = house.clock.now()
    run = house.run(document({"t": timer(until="2001-01-01T00:00:00Z")}))
    assert (run.status, house.clock.now()) == (RunStatus.SUCCEEDED, began)


def test_a_timer_rings_once(house: House, journal: Journal) -> None:
    run_id = house.start(document({"t": timer(seconds=5), "after": {}}, [("t", "after")]))
    house.work(run_id, "t")
    house.pass_time(6)
    [due] = house.engine.waits.find_due(now=house.clock.now(), run_id=run_id)
    assert [house.engine.ring(due).is_stale for _ in range(3)] == [False, True, True]
    house.drive(run_id)
    assert len(journal.data("after")) == 1


def test_a_cancelled_timer_never_rings(house: House) -> None:
    run_id = house.start(document({"t": timer(seconds=5)}))
    house.work(run_id, "t")
    [due] = house.engine.waits.find_due(now=house.clock.now() + timedelta(seconds=9), run_id=run_id)
    house.engine.cancel_run(run_id, "")
    house.pass_time(9)
    assert house.engine.ring(due).is_stale
    assert house.sweep().total() == 0


def test_a_timer_beside_people_keeps_the_run_running(house: House) -> None:
    """Something else than people can move: the run is not `waiting` before the timer has rung."""
    steps: dict[str, Any] = {"root": {}, "ask": question(), "t": timer(seconds=50)}
    run_id = house.start(document(steps, [("root", "ask"), ("root", "t")]))
    for step_id in ("root", "ask", "t"):
        house.work(run_id, step_id)
    assert (house.read(run_id).status, house.read(run_id).paused) == (RunStatus.RUNNING, 1)
    assert house.drive(run_id).status is RunStatus.WAITING
    assert house.statuses(run_id)["t"] == "succeeded"


def test_defaults_for_steps_do_not_reach_those_that_wait(house: House) -> None:
    """A global timeout or retries say nothing of people, events, timers."""
    handling = {"timeout": 5, "retries": 3}
    steps: dict[str, Any] = {"root": {}, "on": event(), "t": timer(seconds=50)}
    edges = [("root", "on"), ("root", "t")]
    run = house.run(document(steps, edges, error_handling=handling))
    assert run.status is RunStatus.WAITING
    [pause] = house.engine.pauses.list_events(run.run_id)
    assert pause.expires_at is None


def test_a_lost_message_for_a_timer_is_none(house: House) -> None:
    """Nothing but the sweep knows of it after a crash; it rings all the same."""
    run_id = house.start(document({"t": timer(seconds=5), "after": {}}, [("t", "after")]))
    house.work(run_id, "t")
    house.serve(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED
