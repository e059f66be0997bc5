"""Who may answer and how many must (LANGUAGE section 8), and answers that come in turn."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus, RunStatus, StepEnd
from iaflow.errors import AnswerRefused, Conflict, NotAllowed
from iaflow.pipeline.judging import conclude_alone
from tests.integration.houses import House, child, document, each, question, race

YES, NO = {"decision": "yes"}, {"decision": "no"}


def ask(house: House, *, started_by: str | None = None, **config: Any) -> PauseRecord:
    """Start a run that asks so, and return its question."""
    steps = {"ask": question(**config), "go": {}, "care": {}}
    edges: list[Any] = [("ask", "go"), ("ask", "care", {"on": "failure"})]
    run_id = house.start(document(steps, edges), started_by=started_by)
    assert house.drive(run_id).status is RunStatus.WAITING
    return house.pause(run_id)


def answer(house: House, pause: PauseRecord, by: str, given: Any = YES, **more: Any) -> PauseRecord:
    return house.engine.answer(pause.pause_id, given, answered_by=by, **more)


def counted(house: House, pause: PauseRecord) -> int:
    rows = house.ask(
        "SELECT COUNT(*) FROM {}pause_answers WHERE CAST(pause_id AS TEXT) = :pause_id",
        pause_id=pause.pause_id,
    )
    count: int = rows[0][0]
    return count


# --- quorum


def test_a_quorum_wants_different_people(house: House) -> None:
    """The fields are the last one's; `_answers` holds all of them, with who and when."""
    pause = ask(house, quorum=3)
    assert answer(house, pause, "ann", YES | {"note": "a"}).status is PauseStatus.OPEN
    house.pass_time(5)
    with pytest.raises(Conflict, match="same person"):
        answer(house, pause, "ann", YES)
    assert answer(house, pause, "bob", NO | {"note": "b"}).status is PauseStatus.OPEN
    assert house.drive(pause.run_id).status is RunStatus.WAITING
    house.pass_time(5)
    assert answer(house, pause, "cem", YES | {"note": "c"}).status is PauseStatus.ANSWERED
    house.drive(pause.run_id)
    output = house.steps(pause.run_id)["ask"].output
    assert output is not None
    assert (output["decision"], output["note"], output["_answered_by"]) == ("yes", "c", "cem")
    assert [one["_answered_by"] for one in output["_answers"]] == ["ann", "bob", "cem"]
    assert [one["note"] for one in output["_answers"]] == ["a", "b", "c"]
    assert output["_answered_at"] == output["_answers"][-1]["_answered_at"]
    assert house.statuses(pause.run_id)["go"] == "succeeded"


def test_one_answer_has_no_answers(house: House) -> None:
    pause = ask(house)
    answer(house, pause, "ann")
    house.drive(pause.run_id)
    output = house.steps(pause.run_id)["ask"].output
    assert output is not None
    assert set(output) == {"decision", "_answered_by", "_answered_at"} | set(output) & {"note"}


def test_one_that_rejects_is_enough(house: House) -> None:
    pause = ask(house, quorum=3, reject_when="result.decision == 'no'")
    answer(house, pause, "ann")
    assert answer(house, pause, "bob", NO).status is PauseStatus.ANSWERED
    with pytest.raises(Conflict):
        answer(house, pause, "cem")
    house.drive(pause.run_id)
    step = house.steps(pause.run_id)["ask"]
    assert (step.end, house.statuses(pause.run_id)["care"]) == (StepEnd.REJECTED, "succeeded")
    assert step.output is not None
    assert [one["_answered_by"] for one in step.output["_answers"]] == ["ann", "bob"]


def test_too_few_answers_in_time_expire(house: House) -> None:
    pause = ask(house, quorum=2, expires_in=60)
    answer(house, pause, "ann")
    house.pass_time(61)
    with pytest.raises(Conflict, match="expired"):
        answer(house, pause, "bob")
    house.drive(pause.run_id)
    assert house.steps(pause.run_id)["ask"].end is StepEnd.EXPIRED


def test_a_repeated_answer_to_a_quorum_gets_the_same_reply(house: House) -> None:
    pause = ask(house, quorum=2)
    first = answer(house, pause, "ann", key="a")
    assert answer(house, pause, "ann", key="a") == first
    with pytest.raises(Conflict):
        answer(house, pause, "ann", NO, key="a")
    with pytest.raises(Conflict):
        answer(house, pause, "ann", key="b")
    answer(house, pause, "bob", key="a")
    assert answer(house, pause, "ann", key="a").status is PauseStatus.ANSWERED
    assert answer(house, pause, "bob", key="a").status is PauseStatus.ANSWERED
    assert counted(house, pause) == 2


def test_a_wrong_answer_counts_for_nothing(house: House) -> None:
    pause = ask(house, quorum=2)
    with pytest.raises(AnswerRefused):
        answer(house, pause, "ann", {"decision": "perhaps"})
    assert counted(house, pause) == 0
    with pytest.raises(Conflict, match="read it again"):
        answer(house, pause, "ann", digest="stale")
    assert counted(house, pause) == 0


def test_a_quorum_at_once(shared_house: House) -> None:
    """Eight people answer at the same moment: three are counted, the others come too late."""
    for _ in range(5):
        pause = ask(shared_house, quorum=3)
        calls = [partial(answer, shared_house, pause, f"p{n}") for n in range(8)]
        results = race(calls, shared_house)
        assert sum(isinstance(found, PauseRecord) for found in results) == 3
        assert sum(isinstance(found, Conflict) for found in results) == 5
        assert shared_house.drive(pause.run_id).status is RunStatus.SUCCEEDED
        output = shared_house.steps(pause.run_id)["ask"].output
        assert output is not None
        assert len({one["_answered_by"] for one in output["_answers"]}) == 3


def test_the_same_person_many_times_at_once(shared_house: House) -> None:
    pause = ask(shared_house, quorum=2)
    results = race([lambda: answer(shared_house, pause, "ann")] * 8, shared_house)
    assert sum(isinstance(found, PauseRecord) for found in results) == 1
    assert (counted(shared_house, pause), shared_house.pause(pause.run_id)) == (1, pause)


def test_an_answer_of_a_quorum_and_a_cancel_at_once(shared_house: House) -> None:
    for _ in range(5):
        pause = ask(shared_house, quorum=2)
        answer(shared_house, pause, "ann")
        race(
            [
                partial(answer, shared_house, pause, "bob"),
                partial(shared_house.engine.cancel_run, pause.run_id, ""),
            ],
            shared_house,
        )
        assert shared_house.drive(pause.run_id).status is RunStatus.CANCELLED


# --- who may answer


@pytest.mark.parametrize(
    ("assignees", "by", "roles", "may"),
    (
        ({"users": ["ann"]}, "ann", (), True),
        ({"users": ["ann"]}, "Ann", (), False),
        ({"users": ["ann"]}, "bob", ("boss",), False),
        ({"roles": ["boss"]}, "bob", ("clerk", "boss"), True),
        ({"roles": ["boss"]}, "boss", (), False),
        ({"users": ["ann"], "roles": ["boss"]}, "bob", ("boss",), True),
        ({"users": ["ann"], "roles": ["boss"]}, "ann", (), True),
    ),
)
def test_only_assignees_may_answer(
    house: House, assignees: Any, by: str, roles: tuple[str, ...], may: bool
) -> None:
    pause = ask(house, assignees=assignees)
    if may:
        assert answer(house, pause, by, roles=roles).status is PauseStatus.ANSWERED
        return
    with pytest.raises(NotAllowed):
        answer(house, pause, by, roles=roles)
    assert house.pause(pause.run_id) == pause
    assert answer(house, pause, by, roles=roles, is_admin=True).answered_by == by


def test_who_started_the_run_may_be_excluded(house: House) -> None:
    pause = ask(house, started_by="ann", exclude_starter=True)
    for more in ({}, {"roles": ("boss",)}, {"is_admin": True}):
        with pytest.raises(NotAllowed, match="exclude_starter"):
            answer(house, pause, "ann", **more)
    assert answer(house, pause, "bob").status is PauseStatus.ANSWERED


def test_who_started_the_parent_is_the_childs_starter(house: House) -> None:
    """A detour over a sub-pipeline makes nobody another person."""
    house.publish(document({"ask": question(exclude_starter=True)}, name="child"))
    step = each([1], type="pipeline", pipeline="child", inputs={})
    run_id = house.start(document({"each": step}), started_by="ann")
    house.drive(run_id)
    with pytest.raises(NotAllowed):
        answer(house, house.pause(run_id), "ann")
    answer(house, house.pause(run_id), "bob")
    assert house.drive(run_id).status is RunStatus.SUCCEEDED


# --- answers in turn


def both(house: House, **more: Any) -> tuple[str, dict[str, PauseRecord]]:
    """Start a run with two questions, of which an answer to the first withdraws the second."""
    first = {**question(**more), "cancels": ["second"]}
    steps: dict[str, Any] = {"root": {}, "first": first, "second": question(), "after": {}}
    edges = [("root", "first"), ("root", "second"), ("first", "after")]
    run_id = house.start(document(steps, edges))
    house.drive(run_id)
    return run_id, {p.step_id: p for p in house.engine.pauses.list_open(run_id=run_id)}


def test_an_accepted_answer_goes_before_a_later_one(house: House) -> None:
    """No worker has come yet; what the first answer withdraws cannot be answered any more."""
    run_id, pauses = both(house)
    answer(house, pauses["first"], "ann")
    tasks: list[Any] = []
    with pytest.raises(Conflict, match="withdrawn"):
        answer(house, pauses["second"], "bob", publish=tasks.extend)
    assert [task.step_id for task in tasks] == ["after"]
    assert house.drive(run_id).status is RunStatus.SUCCEEDED


def test_an_expired_question_goes_before_a_later_answer(house: House) -> None:
    """What expired first has failed the run before the other answer arrives."""
    run_id, pauses = both(house, expires_in=60)
    house.pass_time(61)
    house.engine.pauses.mark_expired(now=house.clock.now())
    with pytest.raises(Conflict):
        answer(house, pauses["second"], "bob")
    assert house.read(run_id).error_code == "expired"


def test_two_answers_at_once_are_in_some_order(shared_house: House) -> None:
    """Both accepted, or the second withdrawn: never accepted and without effect."""
    for _ in range(8):
        run_id, pauses = both(shared_house)
        results = race(
            [
                partial(answer, shared_house, pauses["first"], "ann"),
                partial(answer, shared_house, pauses["second"], "bob"),
            ],
            shared_house,
        )
        assert isinstance(results[0], PauseRecord)
        assert shared_house.drive(run_id).status is RunStatus.SUCCEEDED
        accepted = isinstance(results[1], PauseRecord)
        status = shared_house.statuses(run_id)["second"]
        assert status == ("succeeded" if accepted else "cancelled")


def test_the_process_dies_between_an_answer_and_its_step(house: House) -> None:
    house.publish(document({"ask": question(quorum=2)}, name="child"))
    run_id = house.start(document({"call": child("child", inputs={})}))
    house.drive(run_id)
    for who in ("ann", "bob"):
        answer(house, house.pause(run_id), who)
    with house.crashing():
        for pause in house.engine.pauses.find_unsettled():
            conclude_alone(partial(house.engine.resume, pause.pause_id))
    house.serve(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED
