"""Event streams over HTTP: live, taken up again where they broke, and ended with the right to them.

The web of these tests looks often: what takes half a minute in production takes a part of a
second here.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from iaflow.auth.audit import Caller
from iaflow.client import Client
from iaflow.web.server import GRACE_SECONDS
from iaflow.web.tracking import Tracker
from tests.servers import wait_until
from tests.web.flows import make_event, make_items, make_line, make_question
from tests.web.webs import PASSWORD, Told, Visitor, Web

TEST = Caller("test")
PER_USER, IN_ALL = 6, 9


def watch_often(client: Client) -> Tracker:
    return Tracker(
        client,
        tick_seconds=0.05,
        per_user=PER_USER,
        in_all=IN_ALL,
        heartbeat_seconds=0.3,
        recheck_seconds=0.3,
    )


@pytest.fixture(scope="module")
def quick(web_url: str) -> Iterator[Web]:
    with Web(web_url, tracker=watch_often) as web:
        yield web


def begin(web: Web, definition: dict[str, object], **given: object) -> str:
    run_id = web.user("otto").start(web.publish(definition), given)
    web.wait_for(run_id)
    return run_id


def stream_of(run_id: str) -> str:
    return f"/api/v1/runs/{run_id}/stream"


def make_person(web: Web, *roles: str, pipelines: tuple[str, ...] = ("*",)) -> Visitor:
    name = f"person-{uuid4().hex[:8]}"
    web.sessions.accounts.create(
        name, roles=roles, pipelines=pipelines, password=PASSWORD, caller=TEST
    )
    return web.sign_in(name)


def until(told: Iterator[Told], *kinds: str) -> list[Told]:
    """Return what is told up to the first event of one of these kinds, without signs of life."""
    found = []
    for one in told:
        if one.kind:
            found.append(one)
        if one.kind in kinds:
            break
    return found


def seqs(told: list[Told]) -> list[int]:
    return [one.data["seq"] for one in told if one.kind == "change"]


# --- runs


def test_a_run_is_told_of_as_it_goes_on(quick: Web) -> None:
    run_id = begin(quick, make_event())
    with quick.user("vera").listen(stream_of(run_id)) as told:
        first = next(told)
        assert (first.kind, first.data["status"]) == ("run", "waiting")
        assert first.data == {"run_id": run_id, "status": "waiting", "seq": first.data["seq"]}
        before = [next(told) for _ in range(first.data["seq"])]
        assert seqs(before) == list(range(1, first.data["seq"] + 1))
        quick.client.signal(run_id, "payment", {}, sent_by="test")
        live = list(told)
    last = quick.client.run(run_id)
    assert seqs(live) == list(range(first.data["seq"] + 1, last.seq + 1))
    statuses = [(one.data["status"], one.data["seq"]) for one in live if one.kind == "run"]
    assert statuses[-1] == ("succeeded", last.seq)
    assert live[-1].kind == "end"
    assert live[-1].data == {"run_id": run_id, "status": "succeeded", "seq": last.seq}


def test_changes_are_the_events_that_are_listed(quick: Web) -> None:
    run_id = begin(quick, make_line(), n=12)
    with quick.user("vera").listen(stream_of(run_id)) as told:
        listened = list(told)
    changes = [one for one in listened if one.kind == "change"]
    assert [one.data for one in changes] == quick.user("vera").read(
        f"/api/v1/runs/{run_id}/events"
    )["items"]
    assert [one.id for one in changes] == [str(one.data["seq"]) for one in changes]
    assert [one.kind for one in listened] == ["run", *["change"] * len(changes), "end"]


def test_a_stream_begins_behind_a_number(quick: Web) -> None:
    run_id = begin(quick, make_line(), n=12)
    last = quick.client.run(run_id).seq
    vera = quick.user("vera")
    with vera.listen(stream_of(run_id), after=2) as told:
        assert seqs(list(told)) == list(range(3, last + 1))
    # What a browser sends by itself counts before what stands in the address.
    with vera.listen(stream_of(run_id), last="3", after=1) as told:
        assert seqs(list(told)) == list(range(4, last + 1))
    with vera.listen(stream_of(run_id), after=last) as told:
        assert [one.kind for one in told] == ["run", "end"]
    with vera.listen(stream_of(run_id), after=last + 1000) as told:
        assert [one.kind for one in told] == ["run", "end"]


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_that_breaks_goes_on_where_it_was(quick: Web, seed: int) -> None:
    """Broken after any event, also while the run goes on: no change is missing, none comes twice."""
    draw = random.Random(seed)
    items = [{"n": n, "seconds": draw.choice((0, 0.01, 0.05))} for n in range(12)]
    run_id = quick.user("otto").start(quick.publish(make_items()), {"items": items})
    vera, heard, is_over = quick.user("vera"), list[Told](), False
    last: str | None = None
    for _ in range(100):
        with vera.listen(stream_of(run_id), last=last) as told:
            left = draw.randint(1, 8)
            for one in told:
                if one.kind == "change":
                    heard.append(one)
                    last = one.id
                    left -= 1
                is_over = one.kind == "end"
                if not left:
                    break
        if is_over:
            break
    assert is_over
    assert seqs(heard) == list(range(1, quick.client.run(run_id).seq + 1))


def test_many_streams_of_one_run_hear_the_same(quick: Web) -> None:
    run_id = begin(quick, make_event())
    heard: list[list[Told]] = [[] for _ in range(5)]
    ready = threading.Barrier(6)

    def listen(place: int) -> None:
        with quick.user("vera").listen(stream_of(run_id)) as told:
            heard[place].append(next(told))
            ready.wait(20)
            heard[place] += [one for one in told if one.kind]

    threads = [threading.Thread(target=listen, args=(place,)) for place in range(5)]
    for thread in threads:
        thread.start()
    ready.wait(20)
    quick.client.signal(run_id, "payment", {}, sent_by="test")
    for thread in threads:
        thread.join(20)
    assert heard[0][-1].kind == "end"
    assert seqs(heard[0]) == list(range(1, quick.client.run(run_id).seq + 1))
    assert all(one == heard[0] for one in heard)


def test_a_quiet_stream_shows_signs_of_life(quick: Web) -> None:
    run_id = begin(quick, make_question())
    with quick.user("vera").listen(stream_of(run_id)) as told:
        kinds = [one.kind for one in itertools.islice(told, 8)]
    assert kinds[-3:] == ["", "", ""]


def test_a_run_that_is_removed_ends_its_stream(quick: Web) -> None:
    """It may have ended and been pruned between two looks."""
    run_id = begin(quick, make_question())
    database = quick.application.database
    with quick.user("vera").listen(stream_of(run_id)) as told:
        until(told, "change")
        with database.alone(), database.engine.begin() as connection:
            for table in reversed(database.tables.metadata.sorted_tables):
                if "run_id" in table.c:
                    connection.execute(table.delete().where(table.c.run_id == run_id))
        assert until(told, "closed")[-1].data == {"reason": "gone"}
        assert list(told) == []


# --- who may


def test_streams_need_what_their_lists_need(quick: Web) -> None:
    run_id = begin(quick, make_question())
    for path, name in ((stream_of(run_id), "paula"), ("/api/v1/inbox/stream", "vera")):
        assert quick.nobody.get(path).status_code == 401
        reply = quick.user(name).get(path)
        assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed")
    program = quick.token("otto", "runs:start")
    assert program.get(stream_of(run_id)).status_code == 403
    assert quick.user("fremd").get(stream_of(run_id)).status_code == 404


@pytest.mark.parametrize("last", ("x", "-1", "1.5", "9" * 16, "1 2"))
def test_an_id_that_was_never_given_is_refused(quick: Web, last: str) -> None:
    path = stream_of(begin(quick, make_line()))
    reply = quick.user("vera").ask("GET", path, headers={"Last-Event-ID": last})
    assert (reply.status_code, reply.json()["code"]) == (422, "parameters_refused")


@pytest.mark.parametrize(
    "lose", ("sign_out", "password", "disable", "roles", "sight", "other_sight")
)
def test_a_stream_ends_with_the_right_to_it(quick: Web, lose: str) -> None:
    run_id = begin(quick, make_question())
    person = make_person(quick, "viewer")
    assert person.signed_in is not None
    session, user_id = person.signed_in.session, person.signed_in.session.user_id
    accounts = quick.sessions.accounts
    with person.listen(stream_of(run_id)) as told:
        until(told, "change")
        match lose:
            case "sign_out":
                quick.sessions.sign_out(session.session_id)
            case "password":
                accounts.set_password(user_id, "other-cradle-oxide-74", caller=TEST)
            case "disable":
                accounts.set(user_id, is_disabled=True, caller=TEST)
            case "roles":
                accounts.set(user_id, roles=("author",), caller=TEST)
            case "sight":
                accounts.set(user_id, pipelines=("foreign-*",), caller=TEST)
            case _:
                # Whoever sees other things comes again, to hear what these are.
                accounts.set(user_id, pipelines=("house", "own-*"), caller=TEST)
        rest = until(told, "closed")
        assert rest[-1].data == {"reason": "credentials"}
        assert list(told) == []


def test_a_stream_ends_with_its_token(quick: Web) -> None:
    run_id = begin(quick, make_question())
    program = quick.token("otto", "runs:read")
    token_id = program.headers["Authorization"].split("_")[1]
    with program.listen(stream_of(run_id)) as told:
        until(told, "change")
        quick.sessions.tokens.revoke(token_id, caller=TEST)
        assert until(told, "closed")[-1].data == {"reason": "credentials"}


def test_an_open_stream_keeps_no_session_from_being_idle(quick: Web) -> None:
    run_id = begin(quick, make_question())
    person = make_person(quick, "viewer")
    assert person.signed_in is not None
    token = person.signed_in.token
    clock = quick.sessions._clock
    moved = timedelta(minutes=2)

    class Later:
        def now(self) -> object:
            return clock.now() + moved

    quick.sessions._clock = Later()  # type: ignore[assignment]
    try:
        found = quick.sessions.find(token, is_use=False)
        assert found is not None
        seen_at = found[0].seen_at
        with person.listen(stream_of(run_id)) as told:
            # Opening it is a use, as any request is.
            until(told, "change")
            opened = quick.sessions.find(token, is_use=False)
            assert opened is not None
            assert opened[0].seen_at > seen_at
            moved = timedelta(minutes=20)
            for _ in zip(range(4), told, strict=False):
                pass
            found = quick.sessions.find(token, is_use=False)
            assert found is not None
            assert found[0].seen_at == opened[0].seen_at
            moved = timedelta(minutes=33)
            assert until(told, "closed")[-1].data == {"reason": "credentials"}
    finally:
        quick.sessions._clock = clock


# --- the inbox


def test_the_inbox_is_told_now_and_at_every_change(quick: Web) -> None:
    asker = make_person(quick, "approver")
    name = asker.name
    mine = begin(quick, make_question(assignees={"users": [name]}))
    begin(quick, make_question(assignees={"users": ["somebody-else"]}))
    with asker.listen("/api/v1/inbox/stream") as told:
        (first,) = until(told, "inbox")
        theirs = {one["run_id"]: one for one in first.data["items"]}
        pause = quick.client.inbox(mine)[0]
        assert theirs[mine]["pause_id"] == pause.pause_id
        assert (theirs[mine]["title"], theirs[mine]["slug"]) == ("ask", "house")
        assert first.data["has_more"] is False
        # What is asked of others is no change of this one.
        begin(quick, make_question("foreign-other", assignees={"users": ["somebody-else"]}))
        second_run = begin(quick, make_question("own-two", assignees={"users": [name]}))
        (second,) = until(told, "inbox")
        runs = [one["run_id"] for one in second.data["items"]]
        assert set(runs) == {*theirs, second_run}
        assert second.id != first.id
        quick.client.answer(pause.pause_id, {"decision": "yes"}, answered_by=name)
        (third,) = until(told, "inbox")
        assert [one["run_id"] for one in third.data["items"]] == [
            run_id for run_id in runs if run_id != mine
        ]
    assert set(first.data["items"][0]) == {
        "pause_id",
        "run_id",
        "step_id",
        "index",
        "slug",
        "title",
        "created_at",
        "expires_at",
    }


def test_an_inbox_that_is_known_is_not_told_again(quick: Web) -> None:
    asker = make_person(quick, "approver", pipelines=())
    begin(quick, make_question(assignees={"users": [asker.name]}))
    path = "/api/v1/inbox/stream"
    with asker.listen(path) as told:
        (first,) = until(told, "inbox")
    with asker.listen(path, last=first.id) as told:
        assert [one.kind for one in itertools.islice(told, 2)] == ["", ""]
        more = begin(quick, make_question(assignees={"users": [asker.name]}))
        (second,) = until(told, "inbox")
        assert more in [one["run_id"] for one in second.data["items"]]
    # Missed while nobody listened: told at once.
    with asker.listen(path, last=first.id) as told:
        assert next(told) == second


def test_the_inbox_stream_ends_with_the_right_to_it(quick: Web) -> None:
    asker = make_person(quick, "approver")
    assert asker.signed_in is not None
    with asker.listen("/api/v1/inbox/stream") as told:
        until(told, "inbox")
        quick.sessions.sign_out(asker.signed_in.session.session_id)
        assert until(told, "closed")[-1].data == {"reason": "credentials"}


# --- how many


def test_a_look_is_one_statement_for_all_runs_and_one_for_the_inbox(quick: Web) -> None:
    runs = [begin(quick, make_question()) for _ in range(3)]
    tally = quick.application.database.tally
    quick.carrier.is_idle = True
    try:
        wait_until(lambda: quick.tracker.open_streams == 0, 10, "all streams are closed")
        for look, cost in ((lambda: quick.client.watch(runs), 1), (quick.client.inbox_mark, 1)):
            look()

            def is_alone(look: Callable[[], object] = look, cost: int = cost) -> bool:
                before = tally.statements
                look()
                return tally.statements - before == cost

            # The carrier may be in the middle of a last sweep.
            wait_until(is_alone, 10, f"{cost} statement")
    finally:
        quick.carrier.is_idle = False


def test_there_are_only_so_many_streams_per_user_and_in_all(quick: Web) -> None:
    run_id = begin(quick, make_question())
    wait_until(lambda: quick.tracker.open_streams == 0, 10, "all streams are closed")
    opened: list[httpx2.Response] = []

    def open_one(name: str) -> httpx2.Response:
        request = quick.http.build_request(
            "GET", stream_of(run_id), headers=quick.user(name).headers
        )
        reply = quick.http.send(request, stream=True)
        if reply.status_code == 200:
            opened.append(reply)
        else:
            reply.read()
        return reply

    try:
        assert [open_one("vera").status_code for _ in range(PER_USER)] == [200] * PER_USER
        refused = open_one("vera")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        for _ in range(IN_ALL - PER_USER):
            assert open_one("otto").status_code == 200
        refused = open_one("adele")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        opened.pop().close()
        wait_until(lambda: quick.tracker.open_streams < IN_ALL, 10, "a place is free")
        assert open_one("adele").status_code == 200
    finally:
        for reply in opened:
            reply.close()
    wait_until(lambda: quick.tracker.open_streams == 0, 10, "all streams are closed")


# --- the end of the server


def test_a_server_that_stops_ends_its_streams_at_once(tmp_path: Path) -> None:
    with Web(f"sqlite:///{tmp_path / 'runs.db'}", tracker=watch_often) as web:
        run_id = begin(web, make_question())
        with web.user("vera").listen(stream_of(run_id)) as told:
            until(told, "change")
            stopping = threading.Thread(target=web.stop)
            stopping.start()
            assert until(told, "closed")[-1].data == {"reason": "stopping"}
            assert list(told) == []
            # Sooner than the patience with replies that have begun is over.
            stopping.join(GRACE_SECONDS - 1)
            assert not stopping.is_alive()
