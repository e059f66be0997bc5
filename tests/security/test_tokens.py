"""API tokens: whom they stand for, with how much, and until when."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from iaflow.auth.accounts import principal_of
from iaflow.auth.audit import Caller
from iaflow.data.accounts import Permission, Principal, permissions_of
from iaflow.errors import AccountRefused, Conflict, NotAllowed, NotFound
from tests.security.deployments import ANN, BOB, OPERATOR, Deployment


def make(deployment: Deployment, *scopes: str, user: str = ANN, days: int = 30) -> str:
    whose = principal_of(deployment.accounts.get_by_name(user))
    _, text = deployment.sessions.tokens.create(
        whose, "ci", scopes or ("runs:read",), days, caller=OPERATOR
    )
    return text


def id_of(text: str) -> str:
    return text.split("_")[1]


def test_a_token_stands_for_its_user_within_its_scopes(deployment: Deployment) -> None:
    text = make(deployment, "runs:read", "runs:start")
    assert re.fullmatch(r"iaf_[0-9a-f]{32}_[A-Za-z0-9_-]{43}", text)
    found = deployment.sessions.tokens.find(text)
    assert found is not None
    assert (found.name, found.token_id, found.session_id) == (ANN, id_of(text), None)
    assert found.permissions == {Permission.RUNS_READ, Permission.RUNS_START}
    assert all(isinstance(one, Permission) for one in found.permissions)
    # An admin's token without the right to answer answers in nobody's place.
    assert not found.is_admin


def test_scopes_beyond_the_user_have_no_effect(deployment: Deployment) -> None:
    text = make(deployment, *Permission, user=BOB)
    find = deployment.sessions.tokens.find
    found = find(text)
    assert found is not None
    assert found.permissions == permissions_of(["viewer"])
    # What the user may is asked each time.
    deployment.accounts.set(deployment.bob.user_id, roles=["approver"], caller=OPERATOR)
    found = find(text)
    assert found is not None
    assert found.permissions == {Permission.PAUSES_ANSWER}


def test_a_token_ends_with_its_time_its_user_or_by_a_word(deployment: Deployment) -> None:
    find, tokens = deployment.sessions.tokens.find, deployment.sessions.tokens
    short, long = make(deployment, user=BOB, days=1), make(deployment, user=BOB, days=365)
    deployment.clock.move(days=1, seconds=-1)
    assert find(short) is not None
    deployment.clock.move(seconds=1)
    assert find(short) is None
    assert find(long) is not None
    deployment.accounts.set(deployment.bob.user_id, is_disabled=True, caller=OPERATOR)
    assert find(long) is None
    deployment.accounts.set(deployment.bob.user_id, is_disabled=False, caller=OPERATOR)
    assert find(long) is not None
    tokens.revoke(id_of(long), caller=OPERATOR)
    assert find(long) is None
    assert deployment.actions(action="token.revoke") == ["token.revoke"]


def test_a_token_that_was_tampered_with_is_none(deployment: Deployment) -> None:
    text, other = make(deployment), make(deployment)
    find = deployment.sessions.tokens.find
    assert find(text) is not None
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at, letter in enumerate(text):
        replaced = "B" if letter != "B" else "C"
        assert find(text[:at] + replaced + text[at + 1 :]) is None, at
    # The last letter stands for four bits alone: other letters for the same bits are no match.
    assert [one for one in alphabet if find(text[:-1] + one)] == [text[-1]]
    # A secret counts for its own id.
    assert find(f"iaf_{id_of(text)}_{other.split('_', 2)[2]}") is None
    for wrong in ("", text[:-1], text + "A", text.upper(), f" {text}", f"{text}\n", "\x00" * 80):
        assert find(wrong) is None


def test_the_last_use_is_written_once_a_minute_at_most(deployment: Deployment) -> None:
    text, begun = make(deployment), deployment.clock.now()

    def used_after(seconds: float) -> timedelta | None:
        deployment.clock.move(seconds=seconds)
        assert deployment.sessions.tokens.find(text) is not None
        (token,) = deployment.sessions.tokens.list()
        return token.last_used_at and token.last_used_at - begun

    assert [used_after(seconds) for seconds in (1, 30, 30, 1)] == [
        timedelta(seconds=at) for at in (1, 1, 1, 62)
    ]


@pytest.mark.parametrize(
    ("given", "pointer"),
    (
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "a" * 101}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["runs:read", "everything"]}, "/scopes/1"),
        ({"days": 0}, "/days"),
        ({"days": 366}, "/days"),
    ),
    ids=str,
)
def test_what_cannot_be_used_is_refused(
    on_sqlite: Deployment, given: dict[str, Any], pointer: str
) -> None:
    wanted = {"name": "ci", "scopes": ["runs:read"], "days": 30} | given
    with pytest.raises(AccountRefused) as refused:
        on_sqlite.sessions.tokens.create(principal_of(on_sqlite.ann), caller=OPERATOR, **wanted)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_a_token_makes_no_token(on_sqlite: Deployment) -> None:
    by_token = on_sqlite.sessions.tokens.find(make(on_sqlite))
    assert by_token is not None
    nobody = Principal("dev", None, ("admin",), permissions_of(["admin"]))
    for principal in (by_token, nobody):
        with pytest.raises(NotAllowed):
            on_sqlite.sessions.tokens.create(
                principal, "ci", list(Permission), 365, caller=Caller(ANN)
            )


def test_a_user_has_a_hundred_at_most(on_sqlite: Deployment) -> None:
    for _ in range(100):
        make(on_sqlite)
    with pytest.raises(Conflict):
        make(on_sqlite)
    assert make(on_sqlite, user=BOB)


def test_tokens_are_listed_by_pages_and_ended_by_their_owner(deployment: Deployment) -> None:
    tokens = deployment.sessions.tokens
    made = [id_of(make(deployment, user=user)) for user in (ANN, BOB, ANN, ANN)]
    assert [one.token_id for one in tokens.list()] == made[::-1]
    anns = [made[3], made[2], made[0]]
    first = tokens.list(user_id=deployment.ann.user_id, limit=2)
    rest = tokens.list(user_id=deployment.ann.user_id, before=first[-1].token_id)
    assert [one.token_id for one in (*first, *rest)] == anns
    assert list(tokens.list(user_id="x")) == []
    for token_id in (made[1], "x", "", "0" * 32):
        with pytest.raises(NotFound):
            tokens.revoke(token_id, user_id=deployment.ann.user_id, caller=Caller(ANN))
    tokens.revoke(made[0], user_id=deployment.ann.user_id, caller=Caller(ANN))
    assert [one.token_id for one in tokens.list()] == made[:0:-1]
