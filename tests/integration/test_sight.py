"""What somebody may see, asked in SQL: runs, pipelines, schedules and questions, on each database.

What is out of sight reads as what is not there. Each statement is held against a plain reading of
the same rule.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iaflow.client import Client
from iaflow.data.accounts import EVERYTHING, Asked, Sight
from iaflow.data.filters import RunFilter
from iaflow.data.records import NewPause, PauseRecord, RunRecord
from iaflow.data.status import RunStatus
from iaflow.database.statements import POSTGRES, Statement, is_seen
from iaflow.errors import IaflowError, NotFound
from iaflow.pipeline.core import is_uuid
from tests.integration.houses import House, document, question

SLUGS = ("billing-v1", "billing-v2", "billing_v1", "invoice-eu", "invoice-us", "ops")

NO_IDS = (
    "x",
    "",
    "\0",
    "a" * 10_000,
    "😀" * 36,
    "\ud800",
    # What Python's own reading of a UUID takes, and Postgres or SQLite does not.
    "urn:uuid:019360f0-0000-7000-8000-000000000000",
    "{019360f0-0000-7000-8000-000000000000}",
    "019360f0000070008000000000000000",
    "\u0660\u06619360f0-0000-7000-8000-000000000000",
    "019360F0-0000-7000-8000-000000000000",
    "019360f0-0000-7000-8000-000000000000\n",
)
UNKNOWN = "019360f0-0000-7000-8000-000000000000"


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    client = Client(engine=house.engine)
    yield client
    client.close()


def ask_people(slug: str, **config: Any) -> dict[str, Any]:
    return document({"ask": question(**config)}, name=slug)


def write(house: House, statement: str, **values: Any) -> None:
    schema = "iaflow." if house.database.dialect == POSTGRES else ""
    with house.database.alone(), house.database.engine.begin() as connection:
        connection.execute(sa.text(statement.replace("{}", schema)), values)


def page_through(listed: Callable[[str | None], list[Any]], key: str, size: int) -> list[Any]:
    found: list[Any] = []
    last = None
    while page := listed(last):
        assert len(page) <= size
        found += page
        last = getattr(page[-1], key)
    return found


# --- sight


slugs = st.text(st.sampled_from("ab-_1"), min_size=1, max_size=6)
patterns = st.one_of(st.just("*"), slugs, slugs.map(lambda slug: f"{slug}*"))
sights = st.one_of(
    st.just(EVERYTHING), st.lists(patterns, max_size=4).map(lambda some: Sight(tuple(some)))
)

_SEEN = Statement("test_seen", sa.select(is_seen(sa.bindparam("slug", type_=sa.Text()), "likes")))


@pytest.mark.parametrize("house", ("memory", "postgres"), indirect=True)
def test_what_is_seen_is_the_same_in_sql(house: House) -> None:
    @settings(max_examples=300)
    @given(slug=slugs, sight=sights)
    def agree(slug: str, sight: Sight) -> None:
        likes = sight.as_likes()
        if likes is None:
            assert sight.sees(slug)
        else:
            [[seen]] = house.database.fetch(_SEEN, slug=slug, likes=likes)
            assert bool(seen) is sight.sees(slug)

    agree()


# --- runs


class Runs:
    """Runs of several pipelines, in several states, by several people, some of them children."""

    def __init__(self, house: House) -> None:
        for slug in SLUGS:
            house.publish(ask_people(slug))
        self.records: list[RunRecord] = []
        parents: list[str] = []
        for n in range(60):
            slug = SLUGS[n % 5 if n % 7 else 5]
            run_id = house.start(ask_people(slug), started_by=("ada", "bob", None)[n % 3])
            if n % 4 == 1:
                house.engine.cancel_run(run_id, "enough")
            if n % 5 == 4:
                parent = parents[n % 2]
                write(
                    house,
                    "UPDATE {}runs SET parent_run_id = :parent, parent_step_id = 'ask',"
                    " parent_index = -1 WHERE run_id = :run",
                    parent=parent,
                    run=run_id,
                )
            parents.append(run_id)
        self.records = [house.read(run_id) for run_id in parents]
        self.ids = frozenset(parents)
        self._house = house

    def leave(self) -> None:
        """Make them what the engine wrote, for the audit."""
        write(self._house, "UPDATE {}runs SET parent_run_id = NULL, parent_step_id = NULL")

    def expect(self, wanted: RunFilter, sight: Sight, before: str | None = None) -> list[str]:
        def matches(run: RunRecord) -> bool:
            stamp = (uuid.UUID(run.run_id).int >> 80) / 1000
            return (
                sight.sees(run.slug)
                and wanted.slug in (None, run.slug)
                and wanted.status in (None, run.status)
                and wanted.started_by in (None, run.started_by)
                and wanted.parent_run_id in (None, run.parent_run_id)
                and (not wanted.is_top_level or run.parent_run_id is None)
                and (wanted.since is None or stamp >= wanted.since.timestamp())
                and (wanted.until is None or stamp < wanted.until.timestamp())
                and (before is None or run.run_id < before)
            )

        return sorted((run.run_id for run in self.records if matches(run)), reverse=True)


NARROWED = (
    EVERYTHING,
    Sight(("billing-*",)),
    Sight(("billing_v1", "ops")),
    Sight(("nothing-*",)),
    Sight(()),
)


def test_every_set_of_filters_finds_what_it_says(house: House, client: Client) -> None:
    runs = Runs(house)
    parent = runs.records[0].run_id
    middle = [uuid.UUID(runs.records[n].run_id).int >> 80 for n in (15, 45)]
    since, until = (datetime.fromtimestamp(at / 1000, UTC) for at in middle)
    asked = 0
    for slug, status, starter, above, top, times, sight in itertools.product(
        (None, "billing-v1", "ops"),
        (None, RunStatus.RUNNING, RunStatus.CANCELLED),
        (None, "ada"),
        (None, parent),
        (False, True),
        ((None, None), (since, None), (since, until)),
        NARROWED,
    ):
        wanted = RunFilter(slug, status, starter, times[0], times[1], above, top)
        expected = runs.expect(wanted, sight)
        found = page_through(
            lambda last, wanted=wanted, sight=sight: client.runs(  # type: ignore[misc]
                wanted, sight=sight, before=last, limit=20
            ),
            "run_id",
            20,
        )
        assert [run.run_id for run in found if run.run_id in runs.ids] == expected, (wanted, sight)
        asked += 1
    assert asked == 3 * 3 * 2 * 2 * 2 * 3 * 5
    runs.leave()


def test_the_old_words_still_filter(house: House, client: Client) -> None:
    runs = Runs(house)
    wanted = RunFilter(slug="ops", status=RunStatus.CANCELLED)
    expected = runs.expect(wanted, EVERYTHING)
    found = client.runs(slug="ops", status=RunStatus.CANCELLED)
    assert [run.run_id for run in found if run.run_id in runs.ids] == expected
    assert expected
    runs.leave()


def test_a_run_out_of_sight_reads_as_one_that_is_not_there(house: House, client: Client) -> None:
    run_id = house.start(ask_people("ops"))
    assert client.run(run_id, sight=Sight(("o*",))).run_id == run_id
    with pytest.raises(NotFound) as unseen:
        client.run(run_id, sight=Sight(("billing-*",)))
    with pytest.raises(NotFound) as unknown:
        client.run(UNKNOWN)
    assert str(unseen.value).replace(run_id, UNKNOWN) == str(unknown.value)


def test_how_far_runs_are_is_asked_at_once(house: House, client: Client) -> None:
    first, second = (house.start(ask_people("ops")) for _ in range(2))
    before = house.database.tally.statements
    found = client.watch([first, second, UNKNOWN, "x"])
    assert house.database.tally.statements == before + 1
    assert found == {
        run_id: (house.read(run_id).seq, RunStatus.RUNNING) for run_id in (first, second)
    }
    house.engine.cancel_run(first, "enough")
    assert client.watch([first])[first] == (found[first][0] + 1, RunStatus.CANCELLED)
    assert client.watch([]) == {}


# --- ids


def find_verbs(client: Client, run_id: str) -> dict[str, Callable[[str], Any]]:
    """Return every request that takes an id, and must say that there is none."""
    asked = Asked("ada")
    answer: dict[str, Any] = {"decision": "yes"}
    return {
        "run": client.run,
        "run in sight": lambda one: client.run(one, sight=Sight(("ops",))),
        "graph_of": client.graph_of,
        "is_at_rest": client.is_at_rest,
        "wait": lambda one: client.wait(one, timeout=0),
        "root_of": client.root_of,
        "steps": client.steps,
        "step": lambda one: client.step(one, "ask"),
        "step of a run": lambda one: client.step(run_id, one),
        "items": lambda one: client.items(one, "ask"),
        "items of a step": lambda one: client.items(run_id, one),
        "waiting_payload": client.waiting_payload,
        "cancel": client.cancel,
        "cancel a step": lambda one: client.cancel(run_id, step_id=one or "x"),
        "retry": client.retry,
        "rerun": lambda one: client.rerun(one, "ask"),
        "rerun a step": lambda one: client.rerun(run_id, one),
        "signal": lambda one: client.signal(one, "go", sent_by="ada"),
        "pause": client.pause,
        "pause that is asked": lambda one: client.pause(one, asked=asked),
        "answer": lambda one: client.answer(one, answer, answered_by="ada"),
        "answer that is asked": lambda one: client.answer(
            one, answer, answered_by="ada", asked=asked
        ),
        "reassign": lambda one: client.reassign(one, {"users": ["ada"]}, by="bob"),
        "pipeline": client.pipeline,
        "pipeline in sight": lambda one: client.pipeline(one, sight=Sight(("ops",))),
        "versions": client.versions,
        "version": lambda one: client.version(one, 1),
        "compare_versions": lambda one: client.compare_versions(one, 1, 1),
        "pause_pipeline": client.pause_pipeline,
        "resume_pipeline": client.resume_pipeline,
        "start": client.start,
        "schedule": client.schedules.get,
        "schedule pause": client.schedules.pause,
        "schedule delete": client.schedules.delete,
        "schedule fires": client.schedules.fires,
        "schedule fire": client.schedules.fire,
        "schedule of": lambda one: client.schedules.put("nightly", one, cron="@daily"),
    }


def is_refused(verb: Callable[[str], Any], text: str) -> bool:
    try:
        verb(text)
    except NotFound:
        return True
    return False


def test_what_is_no_id_is_not_there(house: House, client: Client) -> None:
    run_id = house.start(ask_people("ops"))
    for name, verb in find_verbs(client, run_id).items():
        for text in NO_IDS:
            assert is_refused(verb, text), (name, text[:50])


def test_a_list_of_what_is_no_id_is_empty(house: House, client: Client) -> None:
    house.start(ask_people("ops"))
    for text in NO_IDS:
        assert not is_uuid(text)
        assert client.runs(before=text) == []
        assert client.runs(RunFilter(parent_run_id=text)) == []
        assert client.runs(RunFilter(slug=text)) == []
        assert client.runs(RunFilter(started_by=text)) == []
        assert client.children(text) == []
        assert client.events(text) == []
        assert client.decisions(text) == []
        assert client.failed_items(text, "ask") == []
        assert client.notices(text) == []
        assert client.inbox(text) == []
        assert client.inbox(after=text) == []
        assert client.watch([text]) == {}
        assert client.answers_to(text) == 0
        assert client.holder_of(text) is None


def test_a_number_beyond_its_column_is_not_there(house: House, client: Client) -> None:
    run_id = house.start(ask_people("ops"))
    for number in (-(2**70), -2, 2**31, 2**70):
        with pytest.raises(NotFound):
            client.step(run_id, "ask", index=number)
        with pytest.raises(NotFound):
            client.version("ops", number)
    assert client.items(run_id, "ask", after=2**70) == []
    assert client.items(run_id, "ask", after=-(2**70)) == []
    assert client.events(run_id, after=2**70) == []
    assert client.events(run_id, after=-(2**70))
    assert client.versions("ops", before=2**70)
    assert client.versions("ops", before=-(2**70)) == []


# --- pipelines and schedules


def test_pipelines_and_versions_are_seen_or_not_there(house: House, client: Client) -> None:
    for slug in ("ops", "billing-v1"):
        house.publish(ask_people(slug))
        house.publish(ask_people(slug, quorum=2))
    sight = Sight(("billing-*",))
    assert "billing-v1" in [one.slug for one in client.pipelines(sight=sight)]
    assert all(one.slug.startswith("billing-") for one in client.pipelines(sight=sight))
    assert {one.slug for one in client.pipelines()} >= {"billing-v1", "ops"}
    assert client.pipeline("billing-v1", sight=sight).number == 2
    assert [one.number for one in client.versions("billing-v1", sight=sight)] == [2, 1]
    assert [one.number for one in client.versions("billing-v1", before=2)] == [1]
    assert client.versions("billing-v1", before=1) == []
    assert client.version("billing-v1", 1, sight=sight).number == 1
    for verb in (
        lambda slug: client.pipeline(slug, sight=sight),
        lambda slug: client.versions(slug, sight=sight),
        lambda slug: client.version(slug, 1, sight=sight),
        lambda slug: client.compare_versions(slug, 1, 2, sight=sight),
        lambda slug: client.pause_pipeline(slug, sight=sight),
        lambda slug: client.resume_pipeline(slug, sight=sight),
        lambda slug: client.start(slug, sight=sight),
        lambda slug: client.schedules.put("nightly", slug, cron="@daily", sight=sight),
    ):
        with pytest.raises(NotFound) as unseen:
            verb("ops")
        with pytest.raises(NotFound) as unknown:
            verb("opz")
        assert str(unseen.value) == str(unknown.value).replace("opz", "ops")
    assert not client.pipeline("ops").is_paused
    with pytest.raises(NotFound, match="no version 3"):
        client.version("billing-v1", 3)


def test_versions_are_compared(house: House, client: Client) -> None:
    house.publish(ask_people("ops"))
    house.publish(ask_people("ops", quorum=2))
    [difference] = client.compare_versions("ops", 1, 2)
    assert difference.as_json() == {
        "kind": "added",
        "subject": "step",
        "name": "ask",
        "pointer": "/steps/0/config/quorum",
        "after": 2,
    }
    assert client.compare_versions("ops", 2, 2) == []


def test_schedules_are_seen_or_not_there(house: House, client: Client) -> None:
    for slug in ("ops", "billing-v1"):
        house.publish(ask_people(slug))
        client.schedules.put(f"nightly-{slug}", slug, cron="@daily")
    sight = Sight(("billing-*",))
    assert [one.name for one in client.schedules.all(sight=sight)] == ["nightly-billing-v1"]
    assert client.schedules.get("nightly-billing-v1", sight=sight).slug == "billing-v1"
    for verb in (
        lambda name: client.schedules.get(name, sight=sight),
        lambda name: client.schedules.pause(name, sight=sight),
        lambda name: client.schedules.resume(name, sight=sight),
        lambda name: client.schedules.delete(name, sight=sight),
        lambda name: client.schedules.next(name, sight=sight),
        lambda name: client.schedules.fires(name, sight=sight),
        lambda name: client.schedules.fire(name, sight=sight),
    ):
        with pytest.raises(NotFound) as unseen:
            verb("nightly-ops")
        with pytest.raises(NotFound) as unknown:
            verb("nightly-opz")
        assert str(unseen.value) == str(unknown.value).replace("opz", "ops")
    with pytest.raises(NotFound):
        client.schedules.put("nightly-ops", "billing-v1", cron="@hourly", sight=sight)
    kept = client.schedules.get("nightly-ops")
    assert (kept.slug, kept.cron, kept.is_paused) == ("ops", "@daily", False)
    client.schedules.delete("nightly-billing-v1", sight=sight)
    client.schedules.delete("nightly-ops")


# --- questions

words = st.one_of(
    st.sampled_from(
        ("ada", "bob", "a%", "a_a", "aba", "A", '["', '"', "\\", 'x","y', "é", "finance")
    ),
    st.text(
        st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"),
        min_size=1,
        max_size=4,
    ),
)
people = st.lists(words, max_size=3, unique=True)
assignees = st.one_of(
    st.just({}),
    st.fixed_dictionaries({}, optional={"users": people, "roles": people}),
)
who = st.builds(
    Asked,
    name=words,
    roles=people.map(tuple),
    is_admin=st.booleans(),
    sight=st.sampled_from(NARROWED),
)


def open_question(house: House, run_id: str, slug: str, wanted: dict[str, Any]) -> str:
    pause_id = str(uuid.uuid4())
    form = {"fields": [{"name": "note", "type": "text"}]}
    with house.database.transaction() as tx:
        house.engine.pauses.insert_open(
            tx,
            pause_id=pause_id,
            run_id=run_id,
            step_id="ask",
            index=-1,
            slug=slug,
            pause=NewPause(form, {}, "0" * 64, assignees=wanted),
            now=house.clock.now(),
        )
    return pause_id


@pytest.mark.parametrize("house", ("memory", "postgres"), indirect=True)
def test_the_inbox_in_sql_is_the_inbox_of_the_rule(house: House, client: Client) -> None:
    run_id = house.start(ask_people("ops"))

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(
        asked=st.lists(st.tuples(st.sampled_from(SLUGS), assignees), max_size=8),
        readers=st.lists(who, min_size=1, max_size=4),
    )
    def agree(asked: list[tuple[str, dict[str, Any]]], readers: list[Asked]) -> None:
        write(house, "DELETE FROM {}pauses")
        made = {
            open_question(house, run_id, slug, wanted): (slug, wanted) for slug, wanted in asked
        }
        for reader in readers:
            expected = {one for one, (slug, to) in made.items() if reader.is_asked(slug, to)}
            found = client.inbox(asked=reader)
            assert {pause.pause_id for pause in found} == expected, reader
            for pause_id in made:
                if pause_id in expected:
                    assert client.pause(pause_id, asked=reader).pause_id == pause_id
                else:
                    with pytest.raises(NotFound):
                        client.pause(pause_id, asked=reader)

    agree()
    write(house, "DELETE FROM {}pauses")


def test_an_inbox_is_paged_in_the_order_of_asking(house: House, client: Client) -> None:
    run_id = house.start(ask_people("ops"))
    made = []
    for n in range(25):
        if n % 5 == 0 and isinstance(getattr(house.clock, "instant", None), datetime):
            house.clock.move(1)  # type: ignore[attr-defined]
        to = {"users": ["ada"]} if n % 2 else {}
        made.append((open_question(house, run_id, "ops", to), n % 2 == 1))
    everybody, ada = Asked("eve", sight=Sight(("ops",))), Asked("ada", sight=Sight(()))
    for asked, expected in (
        (None, {one for one, _ in made}),
        (everybody, {one for one, to_ada in made if not to_ada}),
        (ada, {one for one, to_ada in made if to_ada}),
    ):
        for of_run in (None, run_id):
            found: list[PauseRecord] = page_through(
                lambda last, asked=asked, of_run=of_run: client.inbox(  # type: ignore[misc]
                    of_run, asked=asked, after=last, limit=4
                ),
                "pause_id",
                4,
            )
            assert len(found) == len(expected)
            assert {pause.pause_id for pause in found} == expected
            opened = [(pause.created_at, pause.pause_id) for pause in found]
            assert opened == sorted(opened)
    assert client.inbox(after=UNKNOWN) == []
    write(house, "DELETE FROM {}pauses")


def test_what_is_not_asked_of_somebody_is_not_answered_by_them(
    house: House, client: Client
) -> None:
    run_id = house.start(ask_people("ops", assignees={"users": ["ada"], "roles": ["finance"]}))
    house.work(run_id, "ask")
    pause_id = house.pause(run_id).pause_id
    answer = {"decision": "yes", "note": "fine"}
    for asked in (
        Asked("eve"),
        Asked("eve", ("financ", "admin")),
        Asked("root", ("admin",), True, Sight(("billing-*",))),
    ):
        with pytest.raises(NotFound) as unseen:
            client.answer(pause_id, answer, answered_by=asked.name, asked=asked)
        with pytest.raises(NotFound) as unknown:
            client.answer(UNKNOWN, answer, answered_by=asked.name, asked=asked)
        assert str(unseen.value).replace(pause_id, UNKNOWN) == str(unknown.value)
    # Being named is enough, whatever else is in sight.
    bob = Asked("bob", ("finance",), sight=Sight(("billing-*",)))
    assert [pause.pause_id for pause in client.inbox(asked=bob)] == [pause_id]
    client.answer(pause_id, answer, answered_by="bob", asked=bob)
    assert client.inbox(asked=bob) == []
    assert client.pause(pause_id, asked=bob).answered_by == "bob"


def test_what_waits_for_a_signal_asks_nobody(house: House, client: Client) -> None:
    waits = {"type": "event", "config": {"name": "go"}}
    run_id = house.start(document({"wait": waits}, name="ops"))
    house.work(run_id, "wait")
    [event] = house.engine.pauses.list_events(run_id)
    assert client.pause(event.pause_id).event == "go"
    with pytest.raises(NotFound):
        client.pause(event.pause_id, asked=Asked("root", ("admin",), True))
    assert client.inbox() == []


def test_the_mark_of_the_inbox_tells_of_every_change(house: House, client: Client) -> None:
    marks = [client.inbox_mark()]

    def tell(is_another: bool = True) -> None:
        mark = client.inbox_mark()
        assert (mark not in marks) is is_another
        marks.append(mark)

    first, second, third = (
        house.start(ask_people("ops", quorum=2, assignees={"users": ["ada", "bob", "eve"]}))
        for _ in range(3)
    )
    tell(is_another=False)
    for run_id in (first, second):
        house.work(run_id, "ask")
        tell()
    answer = {"decision": "yes", "note": "fine"}
    pause_id = house.pause(first).pause_id
    client.answer(pause_id, answer, answered_by="ada")
    tell()
    client.reassign(pause_id, {"users": ["bob", "eve"]}, by="root")
    tell()
    client.answer(pause_id, answer, answered_by="bob")
    tell()
    # One closes and another opens between two looks.
    client.cancel(second)
    house.work(third, "ask")
    tell()
    tell(is_another=False)
    client.cancel(third)
    assert client.inbox_mark() == marks[0], "none is open, as at first"


def test_errors_are_ours(client: Client) -> None:
    """A start by a name that nothing has is refused by us, and not by a driver."""
    with pytest.raises(IaflowError):
        client.start("\0", key="\0")


def test_the_json_of_assignees_is_compact(house: House) -> None:
    """The statements look for words as they stand in the stored text."""
    run_id = house.start(ask_people("ops"))
    write(house, "DELETE FROM {}pauses")
    open_question(house, run_id, "ops", {"users": ["é\"'"], "roles": []})
    [[text]] = house.ask("SELECT CAST(assignees AS TEXT) FROM {}pauses")
    assert text == '{"users":["é\\"\'"],"roles":[]}'
    assert json.loads(text) == {"users": ["é\"'"], "roles": []}
    write(house, "DELETE FROM {}pauses")
