"""What operators do: let a pipeline rest, ask others, cancel and retry many, look at items.

On each database, through the client.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from iaflow.client import Client
from iaflow.data.accounts import Asked, Sight
from iaflow.data.filters import ManyOutcome, RunFilter
from iaflow.data.status import FireStatus, NoticeKind, PauseStatus, RunStatus, StepStatus
from iaflow.database.statements import POSTGRES
from iaflow.errors import AnswerRefused, Conflict, NotFound
from iaflow.pipeline.firing import timetable_of
from iaflow.pipeline.maintenance import prune
from tests.integration.houses import House, child, document, each, question

ANSWER = {"decision": "yes", "note": "fine"}
ASKED = {"users": ["ada"], "roles": ["finance"]}


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    client = Client(engine=house.engine)
    yield client
    for one in client.pipelines():
        client.resume_pipeline(one.slug)
    client.close()


def ask_people(slug: str, **config: Any) -> dict[str, Any]:
    return document({"ask": question(**config)}, name=slug)


def open_question(house: House, slug: str = "asks", **config: Any) -> str:
    run_id = house.start(ask_people(slug, **config))
    house.work(run_id, "ask")
    return run_id


# --- a pipeline rests


def test_a_paused_pipeline_is_not_started(house: House, client: Client) -> None:
    house.publish(document({"a": {}}, name="rests"))
    kept = client.start("rests", key=f"kept-{house.database.dialect}")
    house.started.append(kept.run_id)
    paused = client.pause_pipeline("rests")
    assert paused.is_paused
    assert client.pipeline("rests").is_paused
    assert [one.is_paused for one in client.pipelines() if one.slug == "rests"] == [True]
    before = len(client.runs(slug="rests"))
    with pytest.raises(Conflict, match=r"paused.*iaflow pipelines resume rests"):
        client.start("rests")
    with pytest.raises(Conflict, match="paused"):
        client.start("rests", key="another")
    # What was asked for before it rests is answered as it was then.
    again = client.start("rests", key=f"kept-{house.database.dialect}")
    assert (again.run_id, again.is_new) == (kept.run_id, False)
    assert len(client.runs(slug="rests")) == before
    assert not client.resume_pipeline("rests").is_paused
    started = client.start("rests")
    house.started.append(started.run_id)
    assert started.is_new


def test_pausing_costs_a_start_no_statement(house: House, client: Client) -> None:
    house.publish(document({"a": {}}, name="counted"))
    house.started.append(client.start("counted").run_id)

    def count() -> int:
        before = house.database.tally.statements
        house.started.append(client.start("counted").run_id)
        return house.database.tally.statements - before

    # The pipeline, and what there was before anything could be paused: one each for the run, its
    # parameters, its first step and the step's payload, and its event.
    assert count() == 6


@pytest.mark.parametrize("house", ("sqlite", "postgres"), indirect=True)
def test_nothing_starts_a_paused_pipeline_in_a_callers_transaction(
    house: House, client: Client
) -> None:
    house.publish(document({"a": {}}, name="rests"))
    client.pause_pipeline("rests")
    with house.database.engine.begin() as connection, pytest.raises(Conflict, match="paused"):
        client.start("rests", connection=connection)


def test_an_import_keeps_the_pause(house: House, client: Client) -> None:
    house.publish(document({"a": {}}, name="rests"))
    client.pause_pipeline("rests")
    house.publish(document({"a": {}, "b": {}}, [("a", "b")], name="rests"))
    assert client.pipeline("rests").is_paused
    house.publish(document({"a": {}}, name="rests"))
    assert client.pipeline("rests").is_paused


def test_what_has_begun_goes_on(house: House, client: Client) -> None:
    """Child runs of a run that has begun, its retry and its rerun are no starts."""
    house.publish(document({"inner": {}}, name="below"))
    above = document({"first": {}, "then": child("below")}, [("first", "then")], name="above")
    house.publish(above)
    run_id = client.start("above").run_id
    house.started.append(run_id)
    client.pause_pipeline("below")
    client.pause_pipeline("above")
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    again = client.rerun(run_id, "first")
    house.started.append(again.run_id)
    assert house.drive(again.run_id).status is RunStatus.SUCCEEDED

    failing = document({"a": {"config": {"give_up": True}}}, name="fails")
    house.publish(failing)
    failed = client.start("fails").run_id
    house.started.append(failed)
    assert house.drive(failed).status is RunStatus.FAILED
    client.pause_pipeline("fails")
    client.retry(failed, by="ada")
    assert house.read(failed).status is RunStatus.RUNNING
    assert house.events(failed)[-1].changes["by"] == "ada"
    assert house.drive(failed).status is RunStatus.FAILED


def test_a_schedule_of_a_paused_pipeline_is_refused_and_goes_on(
    house: House, client: Client
) -> None:
    house.publish(document({"a": {}}, name="rests"))
    client.schedules.put("hourly", "rests", every=timedelta(hours=1))
    client.pause_pipeline("rests")
    with pytest.raises(Conflict, match="paused"):
        client.schedules.fire("hourly")
    house.pass_time(3601)
    house.sweep()
    [fire] = client.schedules.fires("hourly")
    assert fire.status is FireStatus.REFUSED
    assert "paused" in (fire.error or "")
    client.resume_pipeline("rests")
    house.pass_time(3600)
    house.sweep()
    newest = client.schedules.fires("hourly")[0]
    assert newest.status is FireStatus.STARTED
    assert newest.run_id is not None
    house.started.append(newest.run_id)
    assert timetable_of(client.schedules.get("hourly")).interval == timedelta(hours=1)
    client.schedules.delete("hourly")


# --- asking others


def test_a_question_is_asked_of_others(house: House, client: Client) -> None:
    run_id = open_question(house, assignees={"users": ["eve"]})
    pause = house.pause(run_id)
    eve, ada = Asked("eve"), Asked("ada")
    assert pause.pause_id in [one.pause_id for one in client.inbox(asked=eve)]
    asked = client.reassign(pause.pause_id, ASKED, by="eve", asked=eve)
    assert asked.assignees == ASKED
    assert pause.pause_id not in [one.pause_id for one in client.inbox(asked=eve)]
    assert pause.pause_id in [one.pause_id for one in client.inbox(asked=ada)]
    with pytest.raises(NotFound):
        client.answer(pause.pause_id, ANSWER, answered_by="eve", asked=eve)
    [notice] = [one for one in client.notices(run_id) if one.kind is NoticeKind.QUESTION_REASSIGNED]
    assert notice.body["assignees"] == ASKED
    assert notice.body["by"] == "eve"
    assert notice.pause_id == pause.pause_id
    client.reassign(pause.pause_id, {"roles": ["legal", "legal"]}, by="ada")
    assert client.pause(pause.pause_id).assignees == {"roles": ["legal"]}
    kinds = [one.kind for one in client.notices(run_id)]
    assert kinds.count(NoticeKind.QUESTION_REASSIGNED) == 2
    client.answer(pause.pause_id, ANSWER, answered_by="lea", asked=Asked("lea", ("legal",)))
    house.drive(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("assignees", "pointer"),
    (
        ({}, "/assignees"),
        ({"users": [], "roles": []}, "/assignees"),
        ({"users": "ada"}, "/assignees/users"),
        ({"users": [""]}, "/assignees/users/0"),
        ({"users": [7]}, "/assignees/users/0"),
        ({"people": ["ada"]}, "/assignees/people"),
        ({"users": ["ada\0"]}, "/assignees/users/0"),
        (["ada"], "/assignees"),
        ({"users": ["ada"]}, "/quorum"),
    ),
)
def test_what_names_nobody_is_refused(
    house: House, client: Client, assignees: Any, pointer: str
) -> None:
    pause = house.pause(open_question(house, quorum=2))
    with pytest.raises(AnswerRefused) as refused:
        client.reassign(pause.pause_id, assignees, by="ada")
    assert refused.value.problems[0].pointer == pointer
    assert client.pause(pause.pause_id).assignees == {}
    client.cancel(pause.run_id)


def test_only_an_open_question_is_reassigned(house: House, client: Client) -> None:
    run_id = open_question(house)
    pause_id = house.pause(run_id).pause_id
    client.answer(pause_id, ANSWER, answered_by="ada")
    with pytest.raises(Conflict, match="answered by ada"):
        client.reassign(pause_id, ASKED, by="bob")
    assert client.pause(pause_id).status is PauseStatus.ANSWERED
    assert client.pause(pause_id).assignees == {}
    assert all(one.kind is NoticeKind.QUESTION_OPENED for one in client.notices(run_id))
    expired = house.pause(open_question(house, "expires", expires_in=60))
    house.pass_time(61)
    with pytest.raises(Conflict, match="expired"):
        client.reassign(expired.pause_id, ASKED, by="bob")
    client.cancel(expired.run_id)


def test_an_escalation_adds_to_those_who_were_asked_anew(house: House, client: Client) -> None:
    escalate = [{"after": 60, "assignees": {"users": ["boss"]}}]
    run_id = open_question(house, assignees={"users": ["eve"]}, escalate=escalate)
    pause_id = house.pause(run_id).pause_id
    client.reassign(pause_id, {"users": ["ada"]}, by="eve")
    house.pass_time(61)
    house.engine.remind(pause_id)
    assert client.pause(pause_id).assignees == {"users": ["ada", "boss"]}
    client.cancel(run_id)


def test_of_an_answer_and_a_reassigning_one_is_first(shared_house: House) -> None:
    """Whatever comes first, the question is not reassigned after its answer."""
    client = Client(engine=shared_house.engine)
    for _ in range(5):
        run_id = open_question(shared_house)
        pause_id = shared_house.pause(run_id).pause_id
        gate = threading.Barrier(2)
        conflicts: list[str] = []

        def answer(pause_id: str = pause_id, gate: threading.Barrier = gate) -> None:
            gate.wait(10)
            client.answer(pause_id, ANSWER, answered_by="ada", is_admin=True)
            shared_house.database.release_thread()

        def reassign(
            pause_id: str = pause_id,
            gate: threading.Barrier = gate,
            conflicts: list[str] = conflicts,
        ) -> None:
            gate.wait(10)
            try:
                client.reassign(pause_id, ASKED, by="bob")
            except Conflict as error:
                conflicts.append(str(error))
            shared_house.database.release_thread()

        threads = [threading.Thread(target=one) for one in (answer, reassign)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        pause = client.pause(pause_id)
        assert pause.status is PauseStatus.ANSWERED
        assert (pause.assignees == ASKED) is not bool(conflicts)
        shared_house.drive(run_id)


# --- many at once


def test_many_are_cancelled_each_by_itself(house: House, client: Client) -> None:
    mine = [open_question(house, "many") for _ in range(4)]
    theirs = open_question(house, "others")
    wanted = RunFilter(slug="many")
    dry = client.cancel_many(wanted, dry_run=True)
    assert [(one.run_id, one.outcome) for one in dry] == [
        (run_id, ManyOutcome.WOULD_CHANGE) for run_id in reversed(mine)
    ]
    assert house.read(mine[0]).status is RunStatus.WAITING
    assert client.cancel_many(RunFilter(slug="many"), sight=Sight(("others",))) == []
    first = client.cancel_many(wanted, limit=2, by="ada", reason="a mistake")
    assert [one.run_id for one in first] == [mine[3], mine[2]]
    assert {one.outcome for one in first} == {ManyOutcome.CANCELLED}
    assert house.read(mine[3]).error_message == "a mistake (ada asked for it)"
    assert house.events(mine[3])[-1].changes["by"] == "ada"
    rest = client.cancel_many(RunFilter(slug="many"), sight=Sight(("many",)))
    assert [one.run_id for one in rest] == [mine[1], mine[0]]
    again = client.cancel_many(RunFilter(slug="many", status=RunStatus.CANCELLED))
    assert {one.outcome for one in again} == {ManyOutcome.UNCHANGED}
    assert {one.reason for one in again} == {"its status is cancelled"}
    assert house.read(theirs).status is RunStatus.WAITING
    client.cancel(theirs)


def test_one_that_cannot_be_retried_holds_up_no_other(house: House, client: Client) -> None:
    house.publish(document({"leaf": {"config": {"give_up": True}}}, name="retried-child"))
    parent = house.start(document({"then": child("retried-child")}, name="retried-parent"))
    assert house.drive(parent).status is RunStatus.FAILED
    [below] = house.children(parent)
    alone = house.start(document({"leaf": {"config": {"give_up": True}}}, name="retried-child"))
    assert house.drive(alone).status is RunStatus.FAILED
    done = {one.run_id: one for one in client.retry_many(RunFilter(slug="retried-child"), by="ada")}
    assert done[alone].outcome is ManyOutcome.RETRIED
    assert done[below].outcome is ManyOutcome.REFUSED
    assert "retry that" in done[below].reason
    assert house.read(alone).status is RunStatus.RUNNING
    assert house.drive(alone).status is RunStatus.FAILED


def test_a_run_that_leaves_sight_between_is_left_alone(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is looked at again, by the same sight, before it is changed."""
    mine, theirs = open_question(house, "many"), open_question(house, "others")
    monkeypatch.setattr(client, "runs", lambda *_, **__: [house.read(mine), house.read(theirs)])
    done = {
        one.run_id: one.outcome
        for one in client.cancel_many(RunFilter(status=RunStatus.WAITING), sight=Sight(("many",)))
    }
    assert done == {mine: ManyOutcome.CANCELLED, theirs: ManyOutcome.UNCHANGED}
    assert house.read(theirs).status is RunStatus.WAITING
    client.cancel(theirs)


# --- items


def test_items_are_looked_through(house: House, client: Client) -> None:
    items = [{"fail": 9} if n % 3 == 0 else {"n": n} for n in range(10)]
    step = each(items, tolerated_failures=10)
    run_id = house.start(document({"each": step}, name="items"))
    house.drive(run_id)
    found: list[int] = []
    after = -1
    while page := client.items(run_id, "each", after=after, limit=4):
        found += [one.index for one in page]
        after = page[-1].index
    assert found == list(range(10))
    failed = client.items(run_id, "each", status=StepStatus.FAILED)
    assert [one.index for one in failed] == [0, 3, 6, 9]
    assert all(one.inputs is None for one in failed)
    assert client.step(run_id, "each", index=4).output == {"n": 4}
    assert client.step(run_id, "each").items is not None
    with pytest.raises(NotFound, match="item 10"):
        client.step(run_id, "each", index=10)
    with pytest.raises(NotFound):
        client.items(run_id, "other")


# --- pruning


def test_pruning_takes_the_links_to_answers_along(house: House, client: Client) -> None:
    run_id = open_question(house, "pruned")
    pause_id = house.pause(run_id).pause_id
    links = house.database.tables.answer_links
    link = {
        "token_hash": uuid.uuid4().hex * 2,
        "link_id": str(uuid.uuid4()),
        "pause_id": pause_id,
        "person": "ada",
        "action": {} if house.database.dialect == POSTGRES else "{}",
        "created_by": "bob",
        "created_at": _stored(house, house.clock.now()),
        "expires_at": _stored(house, house.clock.now()),
    }
    with house.database.alone(), house.database.engine.begin() as connection:
        connection.execute(sa.insert(links).values(link))
    client.cancel(run_id)
    house.started.remove(run_id)
    # Until then a notice that is due keeps it.
    house.pass_time(3 * 86_400)
    for _ in prune(house.engine, older_than=timedelta(minutes=1)):
        pass
    with pytest.raises(NotFound):
        Client(engine=house.engine).run(run_id)
    query = "SELECT count(*) FROM {}answer_links"
    assert [tuple(row) for row in house.ask(query)] == [(0,)]


def _stored(house: House, instant: datetime) -> Any:
    return instant if house.database.dialect == POSTGRES else instant.isoformat()
