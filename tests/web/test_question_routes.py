"""Questions over HTTP: who is asked, who answers, what is told, what comes too late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from iaflow.data.status import RunStatus
from tests.web.people import People

YES = {"decision": "approve"}
ABSENT = "01990000-0000-7000-8000-000000000000"


def names(*users: str, roles: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"assignees": {"users": list(users), "roles": list(roles)}}


def test_a_question_from_the_inbox_to_its_answer(people: People) -> None:
    account = people.account("approver")
    someone, pause = people.as_user(account), people.ask(**names(account))
    [told] = someone.read("/api/v1/pauses")["items"]
    assert told["pause_id"] == pause.pause_id
    assert (told["status"], told["answers"], told["quorum"]) == ("open", 0, 1)
    assert told["shown"] == {"amount": 1.0}
    assert told["assignees"] == {"users": [account], "roles": []}
    assert told["ui_schema"]["title"] == "Approve <this>?"
    assert someone.read(f"/api/v1/pauses/{pause.pause_id}") == told
    assert someone.read("/api/v1/pauses", run_id=pause.run_id)["items"] == [told]
    assert someone.read("/api/v1/pauses", run_id=ABSENT)["items"] == []
    replied = someone.post(
        f"/api/v1/pauses/{pause.pause_id}/answer", {"answer": YES, "digest": told["digest"]}
    )
    assert replied.status_code == 200, replied.text
    answered = replied.json()
    assert (answered["status"], answered["answered_by"]) == ("answered", account)
    assert answered["answer"] == {"decision": "approve", "comment": None, "count": None}
    people.web.wait_for(pause.run_id, RunStatus.SUCCEEDED)
    assert someone.read("/api/v1/pauses")["items"] == []
    assert someone.read(f"/api/v1/pauses/{pause.pause_id}")["status"] == "answered"
    [kept] = people.web.sessions.audit.list(target=pause.pause_id)
    assert (kept.action, kept.actor, dict(kept.detail)) == (
        "pause.answer",
        account,
        {"channel": "session"},
    )


def test_an_answer_that_does_not_fit_is_refused_field_by_field(people: People) -> None:
    account = people.account("approver")
    someone, pause = people.as_user(account), people.ask(**names(account))
    path = f"/api/v1/pauses/{pause.pause_id}/answer"
    wrong = {"decision": "maybe", "count": -1, "unknown": 1}
    replied = someone.post(path, {"answer": wrong})
    assert (replied.status_code, replied.json()["code"]) == (422, "answer_refused")
    pointers = {one["pointer"]: one["code"] for one in replied.json()["problems"]}
    assert pointers == {
        "/decision": "answer_invalid",
        "/count": "answer_invalid",
        "/unknown": "field_unknown",
    }
    for body in ({}, {"answer": []}, {"answer": YES, "answered_by": "root"}, {"answer": None}):
        assert someone.post(path, body).json()["code"] == "body_refused"
    for digest in ("x", "A" * 64, 7):
        replied = someone.post(path, {"answer": YES, "digest": digest})
        assert replied.json()["code"] == "body_refused"
    stale = someone.post(path, {"answer": YES, "digest": "0" * 64})
    assert (stale.status_code, stale.json()["code"]) == (409, "conflict")
    assert "changed since then" in stale.json()["detail"]
    assert people.is_open(pause)


def test_a_late_answer_is_a_conflict_and_a_repeated_one_is_not(people: People) -> None:
    one, two = people.account("approver"), people.account("approver")
    pause = people.ask(**names(one, two))
    path = f"/api/v1/pauses/{pause.pause_id}/answer"
    headers = {"Idempotency-Key": "order-4711"}
    first = people.as_user(one).post(path, {"answer": YES}, headers=headers)
    again = people.as_user(one).post(path, {"answer": YES}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    for asker, body, more in (
        (people.as_user(two), {"answer": YES}, {}),
        (people.as_user(one), {"answer": {"decision": "reject"}}, headers),
        (people.as_user(one), {"answer": YES}, {"Idempotency-Key": "other"}),
    ):
        late = asker.post(path, body, headers=more)
        assert (late.status_code, late.json()["code"]) == (409, "conflict")
    for key in ("", "a b", "x" * 201, "ä"):
        replied = people.as_user(one).post(
            path, {"answer": YES}, headers={"Idempotency-Key": key.encode()}
        )
        assert (replied.status_code, replied.json()["code"]) == (422, "parameters_refused")


def test_of_many_answers_at_once_one_wins(people: People) -> None:
    accounts = [people.account("approver") for _ in range(8)]
    pause = people.ask(**names(*accounts))
    path = f"/api/v1/pauses/{pause.pause_id}/answer"
    askers = [people.as_user(name) for name in accounts]
    with ThreadPoolExecutor(8) as pool:
        replies = [*pool.map(lambda one: one.post(path, {"answer": YES}).status_code, askers)]
    assert sorted(replies) == [200] + [409] * 7


def test_a_question_is_there_for_who_is_asked_alone(people: People) -> None:
    asked = people.account("approver")
    pause = people.ask(**names(asked, roles=("clerk",)))
    sees = {
        "named": people.as_user(asked),
        "by role": people.person("approver", "clerk"),
        "by role, out of sight": people.person("approver", "clerk", pipelines=("x-*",)),
        "admin": people.person("admin"),
    }
    sees_not = {
        "approver": people.person("approver"),
        "admin of others": people.person("admin", pipelines=("x-*",)),
        "approver of others": people.person("approver", pipelines=("x-*",)),
    }
    for who, asker in sees.items():
        assert asker.get(f"/api/v1/pauses/{pause.pause_id}").status_code == 200, who
        listed = asker.read("/api/v1/pauses", limit=200)["items"]
        assert pause.pause_id in {one["pause_id"] for one in listed}, who
    for who, asker in sees_not.items():
        for method, path, body in (
            ("GET", "", None),
            ("POST", "/answer", {"answer": YES}),
        ):
            more = {} if body is None else {"json": body}
            foreign = asker(method, f"/api/v1/pauses/{pause.pause_id}{path}", **more)
            absent = asker(method, f"/api/v1/pauses/{ABSENT}{path}", **more)
            assert foreign.status_code == absent.status_code == 404, who
            told = [one.json()["detail"] for one in (foreign, absent)]
            assert told[0].replace(pause.pause_id, "") == told[1].replace(ABSENT, "")
        assert pause.pause_id not in asker.get("/api/v1/pauses", params={"limit": 200}).text
    for role in ("viewer", "operator", "author"):
        assert people.person(role).get(f"/api/v1/pauses/{pause.pause_id}").status_code == 403
    # A token without that scope is no better than a role without it.
    program = people.by_token(asked, "runs:read")
    assert program.post(f"/api/v1/pauses/{pause.pause_id}/answer", {"answer": YES}).status_code in (
        401,
        403,
    )
    assert people.is_open(pause)


def test_a_question_to_nobody_is_one_to_all_in_sight(people: People) -> None:
    pause = people.ask()
    inside = people.person("approver", pipelines=(pause.slug,))
    outside = people.person("approver", pipelines=("x-*",))
    assert outside.get(f"/api/v1/pauses/{pause.pause_id}").status_code == 404
    shown = inside.read(f"/api/v1/pauses/{pause.pause_id}")
    # What oneself is asked about is shown, without the permission to read payloads.
    assert shown["shown"] == {"amount": 1.0}
    replied = inside.post(f"/api/v1/pauses/{pause.pause_id}/answer", {"answer": YES})
    assert replied.status_code == 200


@pytest.mark.parametrize("odd", ("x", "%00", "..%2f", "x" * 500, ABSENT[:-1], ABSENT.upper()))
def test_an_id_that_is_none_is_not_there(people: People, odd: str) -> None:
    admin = people.person("admin")
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/answer", {"answer": {}}),
        ("POST", "/reassign", {"users": ["ann"]}),
        ("POST", "/links", {"person": "ann"}),
        ("GET", "/links", None),
        ("DELETE", f"/links/{ABSENT}", None),
    ):
        more = {} if body is None else {"json": body}
        replied = admin(method, f"/api/v1/pauses/{odd}{path}", **more)
        assert (replied.status_code, replied.json()["code"]) == (404, "not_found"), path


def test_payloads_of_other_peoples_questions_are_not_shown_to_a_narrow_token(
    people: People,
) -> None:
    admin, asked = people.account("admin"), people.account("approver")
    pause = people.ask(**names(asked))
    program = people.by_token(admin, "pauses:answer")
    shown = program.read(f"/api/v1/pauses/{pause.pause_id}")
    assert (shown["shown"], shown["ui_schema"]["title"]) == (None, "Approve <this>?")
    people.as_user(asked).post(f"/api/v1/pauses/{pause.pause_id}/answer", {"answer": YES})
    shown = program.read(f"/api/v1/pauses/{pause.pause_id}")
    assert (shown["answer"], shown["answered_by"]) == (None, asked)


def test_who_started_may_be_excluded(people: People) -> None:
    starter, other = people.account("approver"), people.account("approver")
    pause = people.ask(started_by=starter, exclude_starter=True, **names(starter, other))
    path = f"/api/v1/pauses/{pause.pause_id}/answer"
    refused = people.as_user(starter).post(path, {"answer": YES})
    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert people.is_open(pause)
    assert people.as_user(other).post(path, {"answer": YES}).status_code == 200


def test_a_quorum_stays_open_until_all_have_answered(people: People) -> None:
    one, two = people.account("approver"), people.account("approver")
    pause = people.ask(quorum=2, **names(one, two))
    path = f"/api/v1/pauses/{pause.pause_id}/answer"
    first = people.as_user(one).post(path, {"answer": YES}).json()
    assert (first["status"], first["answers"], first["quorum"]) == ("open", 1, 2)
    assert people.as_user(one).post(path, {"answer": YES}).status_code == 409
    second = people.as_user(two).post(path, {"answer": YES}).json()
    assert (second["status"], second["answers"]) == ("answered", 2)


def test_the_inbox_is_read_page_by_page(people: People) -> None:
    account = people.account("approver")
    asked = [people.ask(**names(account)).pause_id for _ in range(5)]
    someone = people.as_user(account)
    pages = list(someone.pages("/api/v1/pauses", limit=2))
    assert [[one["pause_id"] for one in page] for page in pages] == [
        *(asked[:2], asked[2:4], asked[4:])
    ]
    replied = someone.get("/api/v1/pauses", params={"cursor": "x"})
    assert (replied.status_code, replied.json()["code"]) == (422, "cursor_invalid")


# --- other assignees


def test_others_are_asked_in_the_place_of_who_was(people: People) -> None:
    before, after = people.account("approver"), people.account("approver")
    pause = people.ask(**names(before))
    operator = people.person("operator")
    replied = operator.post(f"/api/v1/pauses/{pause.pause_id}/reassign", {"users": [after]})
    assert replied.status_code == 200, replied.text
    assert replied.json()["assignees"] == {"users": [after], "roles": []}
    assert people.as_user(before).get(f"/api/v1/pauses/{pause.pause_id}").status_code == 404
    assert people.as_user(after).get(f"/api/v1/pauses/{pause.pause_id}").status_code == 200
    for body in ({"users": []}, {}, {"users": [""]}, {"users": "ann"}, {"by": "x", "users": ["a"]}):
        replied = operator.post(f"/api/v1/pauses/{pause.pause_id}/reassign", body)
        assert replied.status_code == 422, body
    elsewhere = people.person("operator", pipelines=("x-*",))
    path = f"/api/v1/pauses/{pause.pause_id}/reassign"
    assert elsewhere.post(path, {"users": ["ann"]}).status_code == 404
    for role in ("viewer", "author", "approver"):
        assert people.person(role).post(path, {"users": ["ann"]}).status_code == 403
    answer = f"/api/v1/pauses/{pause.pause_id}/answer"
    assert people.as_user(after).post(answer, {"answer": YES}).status_code == 200
    late = operator.post(path, {"users": [before]})
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
