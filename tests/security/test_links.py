"""One-time links: bound to a question, a person and an action; used once, whoever tries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from iaflow.auth.audit import Caller
from iaflow.data.accounts import LinkRecord
from iaflow.errors import AccountRefused, Conflict, NotFound
from tests.security.deployments import ANN, BOB, OPERATOR, Deployment

ASKER = Caller(ANN, "192.0.2.1", "r1")
SOMEBODY = Caller(None, "203.0.113.7", "r2")


def make(deployment: Deployment, pause_id: str | None = None, **given: Any) -> str:
    wanted: dict[str, Any] = {"person": "eve@example.org", "caller": ASKER} | given
    links = deployment.sessions.links
    return links.create(pause_id or deployment.ask_people(), **wanted)[1]


def test_a_link_is_bound_and_used_once(deployment: Deployment) -> None:
    links, pause_id = deployment.sessions.links, deployment.ask_people()
    kept, token = links.create(pause_id, "Eve@example.org", {"decision": "yes"}, caller=ASKER)
    assert (kept.pause_id, kept.person, kept.action) == (
        pause_id,
        "eve@example.org",
        {"decision": "yes"},
    )
    assert (kept.created_by, kept.used_at) == (ANN, None)
    # Scanners of mail read it as often as they like.
    assert [links.read(token) for _ in range(3)] == [kept] * 3
    deployment.clock.move(minutes=5)
    used = links.use(token, caller=SOMEBODY)
    assert (used.link_id, used.used_at) == (kept.link_id, deployment.clock.now())
    for again in (links.read, lambda token: links.use(token, caller=SOMEBODY)):
        with pytest.raises(Conflict):
            again(token)
    (event,) = deployment.audited(action="link.use")
    assert (event.actor, event.target, event.address, event.request_id) == (
        *(kept.person, pause_id, SOMEBODY.address, "r2"),
    )


def test_twenty_at_once_use_it_once(deployment: Deployment) -> None:
    token = make(deployment)
    came = deployment.at_once(20, lambda at: deployment.sessions.links.use(token, caller=SOMEBODY))
    assert sum(isinstance(one, LinkRecord) for one in came) == 1
    assert sum(isinstance(one, Conflict) for one in came) == 19
    assert deployment.actions(action="link.use") == ["link.use"]


def test_what_did_not_fit_gives_the_link_back(deployment: Deployment) -> None:
    links, token = deployment.sessions.links, make(deployment)
    used = links.use(token, caller=SOMEBODY)
    assert links.give_back(used)
    assert not links.give_back(used)
    deployment.clock.move(seconds=1)
    again = links.use(token, caller=SOMEBODY)
    # Who used it before has no say any more.
    assert not links.give_back(used)
    with pytest.raises(Conflict):
        links.read(token)
    assert links.give_back(again)


def test_a_link_ends(deployment: Deployment) -> None:
    links = deployment.sessions.links
    hour, week = make(deployment, lifetime=timedelta(hours=1)), make(deployment)
    for token, lifetime in ((hour, timedelta(hours=1)), (week, timedelta(days=7))):
        before = deployment.clock.now()
        deployment.clock.move(seconds=lifetime.total_seconds() - 1)
        assert links.read(token)
        deployment.clock.move(seconds=1)
        for end in (links.read, lambda token: links.use(token, caller=SOMEBODY)):
            with pytest.raises(NotFound):
                end(token)
        deployment.clock.instant = before


@pytest.mark.parametrize(("hours", "lives"), ((3, 3), (24 * 30, 24 * 7), (None, 24 * 7)))
def test_a_link_lives_no_longer_than_the_question(
    deployment: Deployment, hours: int | None, lives: int
) -> None:
    expires_in = None if hours is None else timedelta(hours=hours)
    pause_id = deployment.ask_people(expires_in=expires_in)
    kept, _ = deployment.sessions.links.create(pause_id, "eve", caller=ASKER)
    assert kept.expires_at - deployment.clock.now() == timedelta(hours=lives)


def test_only_to_what_is_open_and_asks_people(deployment: Deployment) -> None:
    answered = deployment.ask_people()
    pauses = deployment.sessions.database.tables.pauses
    with deployment.sessions.database.engine.begin() as connection:
        connection.execute(
            pauses.update().where(pauses.c.pause_id == answered).values(status="answered")
        )
    nothing = (answered, deployment.ask_people(event="paid"), deployment.ann.user_id, "x", "")
    for pause_id in nothing:
        with pytest.raises(NotFound):
            deployment.sessions.links.create(pause_id, "eve", caller=ASKER)


def test_a_link_of_who_is_disabled_is_none(deployment: Deployment) -> None:
    links, token = deployment.sessions.links, make(deployment, person=BOB)
    assert links.read(token).person == BOB
    deployment.accounts.set(deployment.bob.user_id, is_disabled=True, caller=OPERATOR)
    for ask in (links.read, lambda token: links.use(token, caller=SOMEBODY)):
        with pytest.raises(NotFound):
            ask(token)


def test_a_link_that_was_tampered_with_is_none(on_sqlite: Deployment) -> None:
    links, token = on_sqlite.sessions.links, make(on_sqlite)
    changed = [
        token[:at] + ("A" if letter != "A" else "B") + token[at + 1 :]
        for at, letter in enumerate(token)
    ]
    for other in (*changed, "", token[:-1], token + "A", f"{token}\n", "\x00" * 43, "é" * 43):
        with pytest.raises(NotFound):
            links.use(other, caller=SOMEBODY)
    assert links.read(token).used_at is None


def test_a_form_is_of_one_link(on_sqlite: Deployment) -> None:
    links = on_sqlite.sessions.links
    one, other = make(on_sqlite), make(on_sqlite)
    assert links.is_form_token(one, links.form_token(one))
    wrong = ("", one, links.form_token(other), on_sqlite.sessions.csrf_token(one))
    assert not any(links.is_form_token(one, given) for given in wrong)


def test_links_are_listed_and_taken_back(deployment: Deployment) -> None:
    links, pause_id = deployment.sessions.links, deployment.ask_people()
    first, second = make(deployment, pause_id), make(deployment, pause_id)
    listed = links.list(pause_id)
    assert [one.link_id for one in listed] == [
        links.read(token).link_id for token in (second, first)
    ]
    elsewhere = deployment.ask_people()
    for pause, link in ((elsewhere, listed[0].link_id), (pause_id, "x"), ("x", "y")):
        with pytest.raises(NotFound):
            links.revoke(pause, link, caller=ASKER)
    links.revoke(pause_id, listed[0].link_id, caller=ASKER)
    assert list(links.list(pause_id)) == [listed[1]]
    with pytest.raises(NotFound):
        links.read(second)
    assert (list(links.list("x")), list(links.list(elsewhere))) == ([], [])


@pytest.mark.parametrize(
    ("given", "pointer"),
    (
        ({"person": "a b"}, "/person"),
        ({"lifetime": timedelta(days=7, seconds=1)}, "/lifetime_seconds"),
        ({"lifetime": timedelta(seconds=1)}, "/lifetime_seconds"),
        ({"action": {"x": "a" * 5_000}}, "/action"),
    ),
    ids=str,
)
def test_what_cannot_be_used_is_refused(
    on_sqlite: Deployment, given: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(AccountRefused) as refused:
        make(on_sqlite, **given)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
