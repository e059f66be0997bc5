"""Signing in and out over HTTP, one's own sessions, the password, the setup token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.web.people import PASSWORD, People


def test_who_signs_in_is_told_who_they_are(people: People) -> None:
    name = people.account("operator", pipelines=("invoice-*",))
    nobody = people.nobody()
    replied = nobody.post("/api/v1/session", {"name": name.upper(), "password": PASSWORD})
    assert replied.status_code == 201
    told = replied.json()
    assert (told["name"], told["roles"], told["pipelines"]) == (name, ["operator"], ["invoice-*"])
    assert "runs:start" in told["permissions"]
    cookie = replied.headers["set-cookie"]
    assert cookie.startswith(f"{people.web.sessions.cookie_name}=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Secure"} <= set(cookie.split("; "))
    again = nobody.get("/api/v1/session").json()
    assert again == told


@pytest.mark.parametrize(
    ("body", "status", "code"),
    (
        ({"name": "nobody-there", "password": PASSWORD}, 401, "sign_in_refused"),
        ({"name": "nobody-there"}, 422, "body_refused"),
        ({"name": "x", "password": PASSWORD, "roles": ["admin"]}, 422, "body_refused"),
        ({"name": 7, "password": PASSWORD}, 422, "body_refused"),
        ([], 422, "body_refused"),
    ),
)
def test_a_sign_in_that_is_refused(people: People, body: object, status: int, code: str) -> None:
    replied = people.nobody().post("/api/v1/session", body)
    assert (replied.status_code, replied.json()["code"]) == (status, code)
    assert "set-cookie" not in replied.headers


def test_wrong_unknown_and_disabled_are_told_the_same(people: People) -> None:
    name, disabled = people.account("viewer"), people.account("viewer")
    people.disable(disabled)
    told = set()
    for who, password in ((name, "wrong"), ("unknown-to-all", PASSWORD), (disabled, PASSWORD)):
        replied = people.nobody().post("/api/v1/session", {"name": who, "password": password})
        told.add((replied.status_code, replied.json()["detail"]))
    assert len(told) == 1
    assert next(iter(told))[0] == 401


def test_a_page_of_another_host_signs_nobody_in(people: People) -> None:
    body = {"name": people.account("viewer"), "password": PASSWORD}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ):
        replied = people.nobody().post("/api/v1/session", body, headers=headers)
        assert (replied.status_code, replied.json()["code"]) == (403, "origin_refused")


def test_a_form_or_text_signs_nobody_in(people: People) -> None:
    name = people.account("viewer")
    body = f'{{"name": "{name}", "password": "{PASSWORD}"}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        replied = people.nobody()(
            "POST", "/api/v1/session", content=body, headers={"Content-Type": kind}
        )
        assert (replied.status_code, replied.json()["code"]) == (415, "body_not_json")


def test_nobody_is_told_nothing(people: People) -> None:
    nobody = people.nobody()
    for method, path in (
        ("GET", "/api/v1/session"),
        ("DELETE", "/api/v1/session"),
        ("GET", "/api/v1/sessions"),
        ("DELETE", "/api/v1/sessions/0199"),
        ("PUT", "/api/v1/password"),
    ):
        replied = nobody(method, path, json={} if method == "PUT" else None)
        assert (replied.status_code, replied.json()["code"]) == (401, "not_signed_in"), path


def test_a_sign_out_ends_the_session_at_once(people: People) -> None:
    someone = people.person("viewer")
    stolen = replace(someone)
    assert stolen.get("/api/v1/session").status_code == 200
    replied = someone.delete("/api/v1/session")
    assert replied.status_code == 204
    assert '"cookies"' in replied.headers["clear-site-data"]
    assert "Max-Age=0" in replied.headers["set-cookie"]
    assert stolen.get("/api/v1/session").status_code == 401


def test_changes_need_the_token_of_the_session(people: People) -> None:
    someone = people.person("viewer")
    other = people.person("viewer")
    for wrong in ("", "x", other.csrf):
        replied = someone.delete("/api/v1/session", headers={"X-CSRF-Token": wrong})
        # In a place where anybody may sign in, too.
        assert (replied.status_code, replied.json()["code"]) == (403, "csrf_refused")
        replied = someone.put(
            "/api/v1/password", {"old": "a", "new": "b"}, headers={"X-CSRF-Token": wrong}
        )
        assert (replied.status_code, replied.json()["code"]) == (403, "csrf_refused")
    assert someone.get("/api/v1/session").status_code == 200


def test_sessions_are_listed_and_ended_by_their_owner_alone(people: People) -> None:
    name = people.account("viewer")
    here, there, other = people.as_user(name), people.as_user(name), people.person("admin")
    listed = here.get("/api/v1/sessions").json()["items"]
    assert [one["is_current"] for one in listed].count(True) == 1
    [elsewhere] = [one["session_id"] for one in listed if not one["is_current"]]
    foreign = other.delete(f"/api/v1/sessions/{elsewhere}")
    absent = other.delete("/api/v1/sessions/01990000-0000-7000-8000-000000000000")
    assert foreign.status_code == absent.status_code == 404
    assert there.get("/api/v1/session").status_code == 200
    for odd in ("x", "%00", "..%2f", "a" * 500):
        assert here.delete(f"/api/v1/sessions/{odd}").status_code == 404
    assert here.delete(f"/api/v1/sessions/{elsewhere}").status_code == 204
    assert there.get("/api/v1/session").status_code == 401
    assert here.get("/api/v1/session").status_code == 200


def test_another_password_ends_all_sessions(people: People) -> None:
    name = people.account("viewer")
    here, there = people.as_user(name), people.as_user(name)
    refused = here.put("/api/v1/password", {"old": PASSWORD, "new": "short"})
    assert (refused.status_code, refused.json()["code"]) == (422, "account_refused")
    assert refused.json()["problems"][0]["pointer"] == "/new"
    refused = here.put("/api/v1/password", {"old": "not it at all", "new": "oak river candle 9"})
    assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "password_wrong")
    changed = here.put("/api/v1/password", {"old": PASSWORD, "new": "oak river candle 9"})
    assert changed.status_code == 200
    assert there.get("/api/v1/session").status_code == 401
    # The new session came with the reply.
    assert here.get("/api/v1/session").json()["csrf_token"] == changed.json()["csrf_token"]
    assert people.sign_in(name, "oak river candle 9").get("/api/v1/session").status_code == 200


def test_a_token_neither_signs_out_nor_changes_a_password(people: People) -> None:
    name = people.account("admin")
    program = people.by_token(name, "users:manage")
    for replied in (
        program.delete("/api/v1/session"),
        program.put("/api/v1/password", {"old": PASSWORD, "new": "oak river candle 9"}),
        program.get("/api/v1/sessions"),
    ):
        assert (replied.status_code, replied.json()["code"]) == (403, "not_allowed")
    told = program.get("/api/v1/session").json()
    assert (told["csrf_token"], told["permissions"]) == (None, ["users:manage"])


def test_a_setup_token_sets_a_password_once(people: People) -> None:
    admin = people.person("admin")
    name = people.name("new")
    assert admin.post("/api/v1/users", {"name": name}).status_code == 201
    told = admin.post(f"/api/v1/users/{name}/setup").json()
    nobody = people.nobody()
    body = {"token": told["setup_token"], "password": "oak river candle 9"}
    refused = nobody.post("/api/v1/setup", {**body, "password": "password1234"})
    assert (refused.status_code, refused.json()["code"]) == (422, "account_refused")
    done = nobody.post("/api/v1/setup", body)
    assert (done.status_code, done.json()["has_password"]) == (200, True)
    assert "set-cookie" not in done.headers
    again = nobody.post("/api/v1/setup", body)
    unknown = nobody.post("/api/v1/setup", {**body, "token": "x" * 43})
    assert again.status_code == unknown.status_code == 404
    assert again.json()["detail"] == unknown.json()["detail"]
    assert people.sign_in(name, "oak river candle 9").get("/api/v1/session").status_code == 200
    replied = nobody.post("/api/v1/setup", body, headers={"Origin": "https://evil.example"})
    assert replied.status_code == 403
