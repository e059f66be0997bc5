"""Sessions: how they begin, how long they go on, what ends them; on either database."""

from __future__ import annotations

from typing import Any

import pytest

from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.errors import AccountRefused, CredentialsRefused, NotAllowed, SignInRefused
from tests.security.deployments import ANN, BOB, HERE, OPERATOR, PASSWORDS, Deployment

NEW = "drei Giraffen im Fluss"


def is_signed_in(deployment: Deployment, token: str) -> bool:
    return deployment.sessions.find(token) is not None


def cookie(deployment: Deployment, token: str) -> tuple[bytes, bytes]:
    return b"cookie", f"{deployment.sessions.cookie_name}={token}".encode()


# --- how they begin


def test_a_sign_in_says_who_and_from_where(deployment: Deployment) -> None:
    signed_in = deployment.sign_in(user_agent="Firefox", request_id="r1")
    found = deployment.sessions.find(signed_in.token)
    assert found is not None
    session, principal = found
    assert (principal.name, principal.roles, principal.is_admin) == (ANN, ("admin",), True)
    assert (session.address, session.user_agent) == (HERE, "Firefox")
    assert principal == signed_in.principal
    (event,) = deployment.audited(action="sign_in.ok")
    assert (event.actor, event.address, event.request_id) == (ANN, HERE, "r1")


def test_a_name_is_the_same_in_any_case(deployment: Deployment) -> None:
    assert deployment.sessions.sign_in(" ANN ", PASSWORDS[ANN]).principal.name == ANN


def test_a_token_that_was_set_before_is_never_taken_over(deployment: Deployment) -> None:
    """Session fixation: what a stranger left in the browser stays what it is, nothing."""
    planted = "A" * 43
    signed_in = deployment.sign_in(replaces=planted)
    assert signed_in.token != planted
    assert not is_signed_in(deployment, planted)


def test_a_sign_in_ends_the_session_that_the_browser_had(deployment: Deployment) -> None:
    before = deployment.sign_in()
    after = deployment.sign_in(replaces=before.token)
    assert after.token != before.token
    assert not is_signed_in(deployment, before.token)
    assert is_signed_in(deployment, after.token)


def test_the_eleventh_session_ends_the_oldest(deployment: Deployment) -> None:
    tokens = []
    for _ in range(11):
        tokens.append(deployment.sign_in().token)
        deployment.clock.move(seconds=5)
    assert [is_signed_in(deployment, token) for token in tokens] == [False] + [True] * 10
    assert len(deployment.sessions.sessions_of(deployment.ann.user_id)) == 10


def test_sign_ins_at_once_are_ten_at_most(deployment: Deployment) -> None:
    deployment.at_once(16, lambda at: deployment.sign_in(address=f"192.0.2.{at}"))
    assert len(deployment.sessions.sessions_of(deployment.ann.user_id)) == 10


def test_a_password_under_yesterdays_costs_is_kept_under_todays(deployment: Deployment) -> None:
    dearer = Passwords(time_cost=2, memory_kib=16)
    sessions = deployment.open(passwords=dearer)
    before = deployment.sessions._users.find_signing(ANN)
    sessions.sign_in(ANN, PASSWORDS[ANN])
    after = deployment.sessions._users.find_signing(ANN)
    assert before is not None
    assert after is not None
    assert ("m=8,t=1" in str(before.password_hash), "m=16,t=2" in str(after.password_hash)) == (
        True,
        True,
    )
    sessions.sign_in(ANN, PASSWORDS[ANN])
    assert dearer.count == 3
    sessions.close()


# --- how long they go on


def test_who_is_idle_for_half_an_hour_is_signed_out(deployment: Deployment) -> None:
    token = deployment.sign_in().token
    deployment.clock.move(minutes=29)
    assert is_signed_in(deployment, token)
    deployment.clock.move(minutes=29)
    assert is_signed_in(deployment, token)
    deployment.clock.move(minutes=30)
    assert not is_signed_in(deployment, token)


def test_after_twelve_hours_everybody_signs_in_again(deployment: Deployment) -> None:
    token = deployment.sign_in().token
    for _ in range(35):
        deployment.clock.move(minutes=20)
        assert is_signed_in(deployment, token)
    deployment.clock.move(minutes=20)
    assert not is_signed_in(deployment, token)


def test_a_session_is_written_once_a_minute_at_most(deployment: Deployment) -> None:
    token = deployment.sign_in().token
    begun = deployment.clock.now()

    def seen_after(seconds: float) -> float:
        deployment.clock.move(seconds=seconds)
        assert is_signed_in(deployment, token)
        (session,) = deployment.sessions.sessions_of(deployment.ann.user_id)
        return (session.seen_at - begun).total_seconds()

    assert [seen_after(30), seen_after(30), seen_after(1), seen_after(59), seen_after(2)] == [
        *(0, 0, 61, 61, 122)
    ]


def test_what_is_over_is_removed(deployment: Deployment) -> None:
    deployment.sign_in(BOB)
    deployment.clock.move(days=2)
    deployment.sign_in()
    dumped = deployment.dump()
    assert deployment.ann.user_id in dumped
    with deployment.sessions.database.engine.connect() as connection:
        kept = connection.execute(deployment.sessions.database.tables.sessions.select()).all()
    assert len(kept) == 1


# --- what ends them


def test_a_token_is_worth_nothing_after_sign_out(deployment: Deployment) -> None:
    signed_in, other = deployment.sign_in(), deployment.sign_in()
    assert deployment.sessions.sign_out(signed_in.session.session_id, caller=Caller(ANN))
    assert not is_signed_in(deployment, signed_in.token)
    assert is_signed_in(deployment, other.token)
    assert not deployment.sessions.sign_out(signed_in.session.session_id)
    assert deployment.actions()[-1] == "sign_out"


def test_a_change_of_the_password_ends_all_sessions_and_begins_one(
    deployment: Deployment,
) -> None:
    first, second = deployment.sign_in(), deployment.sign_in()
    third = deployment.sessions.change_password(
        second.principal, second.token, PASSWORDS[ANN], NEW, address=HERE
    )
    signed_in = [is_signed_in(deployment, one.token) for one in (first, second, third)]
    assert signed_in == [False, False, True]
    with pytest.raises(SignInRefused):
        deployment.sessions.sign_in(ANN, PASSWORDS[ANN])
    assert deployment.sessions.sign_in(ANN, NEW).principal.name == ANN


@pytest.mark.parametrize(
    ("old", "new", "code", "pointer"),
    (
        ("something else it was", NEW, "password_wrong", "/old"),
        (PASSWORDS[ANN], "short", "password_short", "/new"),
        (PASSWORDS[ANN], "ann-password-2030", "password_common", "/new"),
    ),
)
def test_a_password_is_changed_for_a_good_one_by_who_knows_it(
    deployment: Deployment, old: str, new: str, code: str, pointer: str
) -> None:
    signed_in = deployment.sign_in()
    with pytest.raises(AccountRefused) as refused:
        deployment.sessions.change_password(signed_in.principal, signed_in.token, old, new)
    (problem,) = refused.value.problems
    assert (problem.code, problem.pointer) == (code, pointer)
    assert new not in str(refused.value)
    assert is_signed_in(deployment, signed_in.token)


def test_a_password_is_changed_from_ones_own_session_alone(deployment: Deployment) -> None:
    ann, bob = deployment.sign_in(), deployment.sign_in(BOB)
    for principal, token in ((ann.principal, bob.token), (ann.principal, "B" * 43)):
        with pytest.raises(NotAllowed):
            deployment.sessions.change_password(principal, token, PASSWORDS[ANN], NEW)


@pytest.mark.parametrize(
    ("change", "ends"),
    (
        ({"is_disabled": True}, True),
        ({"roles": ["operator"]}, True),
        ({"roles": ["viewer"]}, False),
        ({"pipelines": ["invoice-*"]}, False),
    ),
    ids=str,
)
def test_other_rights_end_sessions(
    deployment: Deployment, change: dict[str, Any], ends: bool
) -> None:
    token = deployment.sign_in(BOB).token
    deployment.accounts.set(deployment.bob.user_id, caller=OPERATOR, **change)
    assert is_signed_in(deployment, token) is not ends


def test_who_is_enabled_again_signs_in_anew(deployment: Deployment) -> None:
    token = deployment.sign_in(BOB).token
    for is_disabled in (True, False):
        deployment.accounts.set(deployment.bob.user_id, is_disabled=is_disabled, caller=OPERATOR)
    assert not is_signed_in(deployment, token)
    assert is_signed_in(deployment, deployment.sign_in(BOB).token)


def test_other_pipelines_are_seen_at_once(deployment: Deployment) -> None:
    token = deployment.sign_in(BOB).token
    deployment.accounts.set(deployment.bob.user_id, pipelines=["invoice-*"], caller=OPERATOR)
    found = deployment.sessions.find(token)
    assert found is not None
    assert [found[1].sight.sees(slug) for slug in ("invoice-2", "billing")] == [True, False]


def test_a_session_is_ended_by_its_owner_alone(deployment: Deployment) -> None:
    ann, bob = deployment.sign_in(), deployment.sign_in(BOB)
    end = deployment.sessions.end_session
    assert not end(deployment.bob.user_id, ann.session.session_id)
    assert not end(deployment.ann.user_id, "no id")
    assert is_signed_in(deployment, ann.token)
    assert end(deployment.ann.user_id, ann.session.session_id)
    assert [is_signed_in(deployment, one.token) for one in (ann, bob)] == [False, True]


def test_a_password_that_changes_meanwhile_lets_nobody_in(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the session somebody else may set another password."""
    compare = deployment.passwords.compare

    def compare_slowly(kept: str | None, password: str) -> Any:
        verdict = compare(kept, password)
        deployment.accounts.set_password(deployment.ann.user_id, NEW, caller=OPERATOR)
        return verdict

    monkeypatch.setattr(deployment.passwords, "compare", compare_slowly)
    with pytest.raises(SignInRefused):
        deployment.sign_in()
    assert deployment.sessions.sessions_of(deployment.ann.user_id) == []


# --- credentials of a request


def test_a_cookie_and_a_token_at_once_are_refused(deployment: Deployment) -> None:
    signed_in = deployment.sign_in()
    sessions = deployment.sessions
    _, text = sessions.tokens.create(
        signed_in.principal, "ci", ["runs:read"], 30, caller=Caller(ANN)
    )
    bearer = b"authorization", f"Bearer {text}".encode()
    by_cookie = sessions.authenticate([cookie(deployment, signed_in.token)])
    by_token = sessions.authenticate([bearer])
    assert by_cookie is not None
    assert by_token is not None
    assert (by_cookie.principal.session_id, by_cookie.token) == (
        signed_in.session.session_id,
        signed_in.token,
    )
    assert (by_token.principal.token_id is not None, by_token.token) == (True, None)
    # Also where one of them is worth nothing: which counts is not guessed.
    for headers in (
        [cookie(deployment, signed_in.token), bearer],
        [cookie(deployment, "x"), bearer],
        [cookie(deployment, signed_in.token), (b"Authorization", b"bearer x")],
        [cookie(deployment, signed_in.token), cookie(deployment, "x")],
        [bearer, bearer],
    ):
        with pytest.raises(CredentialsRefused):
            sessions.authenticate(headers)


def test_what_is_no_session_is_nobody(deployment: Deployment) -> None:
    for token in ("", "x", "A" * 43, "é" * 43, "A" * 100_000, "' OR 1=1 --", "\x00" * 43):
        assert deployment.sessions.find(token) is None


def test_the_csrf_token_is_of_one_session_and_one_key(on_sqlite: Deployment) -> None:
    sessions = on_sqlite.sessions
    one, other = on_sqlite.sign_in(), on_sqlite.sign_in()
    assert sessions.is_csrf_token(one.token, one.csrf_token)
    assert one.csrf_token == sessions.csrf_token(one.token)
    assert one.token not in one.csrf_token
    elsewhere = on_sqlite.open(secret_key=on_sqlite.key[::-1])
    wrong = [other.csrf_token, "", one.token, one.csrf_token[:-1], elsewhere.csrf_token(one.token)]
    assert not any(sessions.is_csrf_token(one.token, given) for given in [*wrong, "\ud800é"])
    # Another process with the same key takes it.
    assert on_sqlite.open().is_csrf_token(one.token, one.csrf_token)


def test_the_cookie_is_for_this_host_and_encrypted_ways_alone(on_sqlite: Deployment) -> None:
    sessions = on_sqlite.sessions
    kept = sessions.set_cookie("token").split("; ")
    assert kept[0] == "__Host-iaflow=token"
    assert set(kept[1:]) == {"Max-Age=43200", "Path=/", "HttpOnly", "SameSite=Lax", "Secure"}
    cleared = sessions.clear_cookie().split("; ")
    assert cleared[0] == "__Host-iaflow="
    assert set(cleared[1:]) == {"Max-Age=0", "Path=/", "HttpOnly", "SameSite=Lax", "Secure"}
    local = on_sqlite.open(is_development=True)
    assert local.set_cookie("token").startswith("iaflow-dev=token; ")
    assert "Secure" not in local.set_cookie("token")


def test_nothing_of_a_session_is_shown_by_chance(on_sqlite: Deployment) -> None:
    signed_in = on_sqlite.sign_in()
    found = on_sqlite.sessions.authenticate([cookie(on_sqlite, signed_in.token)])
    for shown in (repr(signed_in), repr(found), str(signed_in)):
        assert signed_in.token not in shown
        assert signed_in.csrf_token not in shown
