"""Accounts: what may be given, that somebody can always manage them, and the first password."""

from __future__ import annotations

from typing import Any

import pytest

from iaflow.auth.audit import Caller
from iaflow.errors import AccountRefused, Conflict, NotFound, SignInRefused
from tests.security.deployments import ANN, BOB, OPERATOR, PASSWORDS, Deployment

NEW = "drei Giraffen im Fluss"


# --- what may be given


def test_a_user_is_made_listed_and_changed(deployment: Deployment) -> None:
    accounts = deployment.accounts
    made = accounts.create(
        "Eve@Example.org",
        roles=["approver", "finance", "approver"],
        pipelines=["invoice-*", "billing"],
        caller=OPERATOR,
    )
    assert (made.name, made.roles) == ("eve@example.org", ("approver", "finance"))
    assert accounts.get(made.user_id) == made == accounts.get_by_name("EVE@example.org")
    assert [user.name for user in accounts.list()] == [ANN, BOB, made.name]
    assert [user.name for user in accounts.list(after=ANN, limit=1)] == [BOB]
    changed = accounts.set(made.user_id, roles=["viewer"], caller=OPERATOR)
    assert (changed.roles, changed.pipelines) == (("viewer",), ("billing", "invoice-*"))
    assert accounts.get(made.user_id) == changed
    accounts.delete(made.user_id, caller=OPERATOR)
    with pytest.raises(NotFound):
        accounts.get(made.user_id)
    actions = deployment.actions(target=made.name)
    assert actions == ["user.create", "user.set", "user.delete"]


def test_two_names_that_differ_by_case_are_one(deployment: Deployment) -> None:
    with pytest.raises(Conflict):
        deployment.add("ANN", "viewer", password=NEW)
    assert deployment.accounts.get_by_name(ANN).roles == ("admin",)


@pytest.mark.parametrize(
    ("given", "pointer"),
    (
        ({"name": ""}, "/name"),
        ({"name": "a b"}, "/name"),
        ({"name": "a" * 129}, "/name"),
        ({"name": "-a"}, "/name"),
        ({"name": "a\x00"}, "/name"),
        ({"name": "schedule:x"}, "/name"),
        ({"roles": ["viewer", "Admin"]}, "/roles/1"),
        ({"roles": ['x"admin']}, "/roles/0"),
        ({"roles": [f"r{at}" for at in range(51)]}, "/roles"),
        ({"pipelines": ["*-x"]}, "/pipelines/0"),
        ({"pipelines": ["a%"]}, "/pipelines/0"),
        ({"pipelines": [""]}, "/pipelines/0"),
        ({"password": "short"}, "/password"),
        ({"password": "eve-eve-eve-2030"}, "/password"),
    ),
    ids=str,
)
def test_what_cannot_be_used_is_refused(
    on_sqlite: Deployment, given: dict[str, Any], pointer: str
) -> None:
    wanted = {"name": "eve", "roles": ["viewer"], "caller": OPERATOR} | given
    with pytest.raises(AccountRefused) as refused:
        on_sqlite.accounts.create(**wanted)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
    assert len(on_sqlite.accounts.list()) == 2


@pytest.mark.parametrize("user_id", ("x", "", "' OR 1=1", "0" * 36, "\x00"))
def test_what_is_no_id_is_nobody(deployment: Deployment, user_id: str) -> None:
    accounts = deployment.accounts
    for ask in (
        lambda: accounts.get(user_id),
        lambda: accounts.get_by_name(user_id),
        lambda: accounts.set(user_id, is_disabled=True, caller=OPERATOR),
        lambda: accounts.set_password(user_id, NEW, caller=OPERATOR),
        lambda: accounts.make_setup(user_id, caller=OPERATOR),
        lambda: accounts.delete(user_id, caller=OPERATOR),
    ):
        with pytest.raises(NotFound):
            ask()
    assert list(deployment.sessions.sessions_of(user_id)) == []


def test_a_user_who_goes_takes_sessions_and_tokens_along(deployment: Deployment) -> None:
    signed_in = deployment.sign_in(BOB)
    _, text = deployment.sessions.tokens.create(
        signed_in.principal, "ci", ["runs:read"], 1, caller=Caller(BOB)
    )
    deployment.accounts.delete(deployment.bob.user_id, caller=OPERATOR)
    assert deployment.sessions.find(signed_in.token) is None
    assert deployment.sessions.tokens.find(text) is None
    # Who comes after under the same name is somebody else.
    deployment.add(BOB, "viewer")
    assert deployment.sessions.find(signed_in.token) is None


def test_what_changes_nothing_is_no_event(on_sqlite: Deployment) -> None:
    before = on_sqlite.audited()
    on_sqlite.accounts.set(on_sqlite.bob.user_id, roles=["viewer"], caller=OPERATOR)
    assert on_sqlite.audited() == before


# --- the last admin


@pytest.mark.parametrize(
    "change", ({"is_disabled": True}, {"roles": ["operator"]}, {"roles": []}), ids=str
)
def test_the_last_admin_stays(deployment: Deployment, change: dict[str, Any]) -> None:
    token = deployment.sign_in().token
    with pytest.raises(Conflict):
        deployment.accounts.set(deployment.ann.user_id, caller=OPERATOR, **change)
    with pytest.raises(Conflict):
        deployment.accounts.delete(deployment.ann.user_id, caller=OPERATOR)
    assert deployment.accounts.get(deployment.ann.user_id) == deployment.ann
    assert deployment.sessions.find(token) is not None


def test_a_disabled_admin_is_none(deployment: Deployment) -> None:
    eve = deployment.add("eve", "admin", "viewer")
    deployment.accounts.set(eve.user_id, is_disabled=True, caller=OPERATOR)
    with pytest.raises(Conflict):
        deployment.accounts.delete(deployment.ann.user_id, caller=OPERATOR)
    # One who is disabled can go, also while there is only one who is not.
    deployment.accounts.set(eve.user_id, roles=["viewer"], caller=OPERATOR)
    deployment.accounts.delete(eve.user_id, caller=OPERATOR)


def test_roles_that_look_like_it_are_not_admin(deployment: Deployment) -> None:
    deployment.add("eve", "admin-x", "xadmin", "not-admin")
    with pytest.raises(Conflict):
        deployment.accounts.delete(deployment.ann.user_id, caller=OPERATOR)


def test_admins_who_remove_each_other_at_once_leave_one(deployment: Deployment) -> None:
    others = [deployment.add(f"admin{at}", "admin") for at in range(7)]
    everybody = [deployment.ann, *others]

    def remove(at: int) -> None:
        user_id = everybody[at].user_id
        if at % 2:
            deployment.accounts.set(user_id, is_disabled=True, caller=OPERATOR)
        else:
            deployment.accounts.delete(user_id, caller=OPERATOR)

    came = deployment.at_once(8, remove)
    assert sum(isinstance(one, Conflict) for one in came) == 1
    left = [u for u in deployment.accounts.list() if "admin" in u.roles and not u.is_disabled]
    assert len(left) == 1


# --- the first password


def test_a_setup_token_sets_a_password_once(deployment: Deployment) -> None:
    accounts = deployment.accounts
    eve = deployment.add("eve", "viewer")
    token = accounts.make_setup(eve.user_id, caller=OPERATOR)
    with pytest.raises(SignInRefused):
        deployment.sessions.sign_in("eve", "")
    assert accounts.find_by_setup(token) is not None
    with pytest.raises(AccountRefused):
        accounts.use_setup(token, "eve-password", caller=Caller())
    used = accounts.use_setup(token, NEW, caller=Caller(None, "192.0.2.1", "r1"))
    assert (used.name, used.has_password) == ("eve", True)
    assert deployment.sessions.sign_in("eve", NEW).principal.name == "eve"
    with pytest.raises(NotFound):
        accounts.use_setup(token, "noch eine Giraffe im Fluss", caller=Caller())
    assert accounts.find_by_setup(token) is None
    (event,) = deployment.audited(action="user.use_setup")
    assert (event.actor, event.address) == ("eve", "192.0.2.1")


def test_a_setup_token_is_used_once_by_twenty_at_once(deployment: Deployment) -> None:
    eve = deployment.add("eve", "viewer")
    token = deployment.accounts.make_setup(eve.user_id, caller=OPERATOR)
    passwords = [f"{at} Giraffen im grossen Fluss" for at in range(20)]

    def use(at: int) -> int:
        deployment.accounts.use_setup(token, passwords[at], caller=Caller())
        return at

    (used,) = [one for one in deployment.at_once(20, use) if isinstance(one, int)]
    assert deployment.sessions.sign_in("eve", passwords[used]).principal.name == "eve"


def test_a_setup_token_ends(deployment: Deployment) -> None:
    accounts = deployment.accounts

    def is_good(token: str) -> bool:
        return accounts.find_by_setup(token) is not None

    first = accounts.make_setup(deployment.bob.user_id, caller=OPERATOR)
    second = accounts.make_setup(deployment.bob.user_id, caller=OPERATOR)
    assert [is_good(first), is_good(second)] == [False, True]
    # The password that is there lets in until it is used.
    assert deployment.sign_in(BOB).principal.name == BOB
    accounts.set(deployment.bob.user_id, is_disabled=True, caller=OPERATOR)
    assert not is_good(second)
    accounts.set(deployment.bob.user_id, is_disabled=False, caller=OPERATOR)
    deployment.clock.move(hours=23, minutes=59)
    assert is_good(second)
    deployment.clock.move(minutes=1)
    assert not is_good(second)
    third = accounts.make_setup(deployment.bob.user_id, caller=OPERATOR)
    accounts.set_password(deployment.bob.user_id, NEW, caller=OPERATOR)
    assert not is_good(third)


def test_a_setup_token_that_was_tampered_with_is_none(on_sqlite: Deployment) -> None:
    token = on_sqlite.accounts.make_setup(on_sqlite.bob.user_id, caller=OPERATOR)
    hashed = on_sqlite.passwords.count
    for at in range(len(token)):
        other = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(NotFound):
            on_sqlite.accounts.use_setup(other, NEW, caller=Caller())
    # And makes nobody hash.
    assert on_sqlite.passwords.count == hashed


def test_a_password_that_an_admin_sets_ends_sessions(deployment: Deployment) -> None:
    token = deployment.sign_in(BOB).token
    deployment.accounts.set_password(deployment.bob.user_id, NEW, caller=OPERATOR)
    assert deployment.sessions.find(token) is None
    with pytest.raises(SignInRefused):
        deployment.sessions.sign_in(BOB, PASSWORDS[BOB])
    assert deployment.sessions.sign_in(BOB, NEW).principal.name == BOB
