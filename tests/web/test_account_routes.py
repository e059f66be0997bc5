"""Users, tokens and the audit over HTTP: by whom, what is told, what ends."""

from __future__ import annotations

import pytest

from iaflow.data.accounts import ROLES, Permission
from tests.web.people import PASSWORD, People

NOBODYS_ID = "0" * 32
OTHERS = tuple(role for role in ROLES if role != "admin")


def test_an_account_from_its_making_to_its_end(people: People) -> None:
    admin, name = people.person("admin"), people.name("ann")
    made = admin.post(
        "/api/v1/users", {"name": name.upper(), "roles": ["clerk", "viewer"], "pipelines": ["a-*"]}
    )
    assert made.status_code == 201
    told = made.json()
    assert (told["name"], told["roles"], told["pipelines"]) == (name, ["clerk", "viewer"], ["a-*"])
    assert (told["has_password"], told["is_disabled"]) == (False, False)
    assert "hash" not in made.text
    assert admin.read(f"/api/v1/users/{name}") == told
    assert admin.read(f"/api/v1/users/{name.upper()}") == told
    twice = admin.post("/api/v1/users", {"name": name})
    assert (twice.status_code, twice.json()["code"]) == (409, "conflict")
    changed = admin.patch(f"/api/v1/users/{name}", {"roles": ["operator"]}).json()
    assert (changed["roles"], changed["pipelines"]) == (["operator"], ["a-*"])
    assert admin.delete(f"/api/v1/users/{name}").status_code == 204
    assert admin.get(f"/api/v1/users/{name}").status_code == 404
    actions = [one["action"] for one in admin.read("/api/v1/audit", target=name, limit=10)["items"]]
    assert actions == ["user.delete", "user.set", "user.create"]


@pytest.mark.parametrize(
    ("body", "code"),
    (
        ({"name": "ä b"}, "body_refused"),
        ({"name": "-x"}, "body_refused"),
        ({"name": ""}, "body_refused"),
        ({"name": "x" * 129}, "body_refused"),
        ({"name": "fine", "roles": ["Admin"]}, "body_refused"),
        ({"name": "fine", "roles": "admin"}, "body_refused"),
        ({"name": "fine", "pipelines": ["a*b"]}, "body_refused"),
        ({"name": "fine", "password": "lamp violin harbour 77"}, "body_refused"),
        ({"name": "fine", "user_id": "7"}, "body_refused"),
        ({}, "body_refused"),
    ),
)
def test_an_account_that_is_refused(people: People, body: object, code: str) -> None:
    replied = people.person("admin").post("/api/v1/users", body)
    assert (replied.status_code, replied.json()["code"]) == (422, code)
    assert replied.json()["problems"]


@pytest.mark.parametrize("roles", (*((role,) for role in OTHERS), (), ("clerk",)))
def test_only_admins_manage_users(people: People, roles: tuple[str, ...]) -> None:
    someone, name = people.person(*roles), people.account("viewer")
    for method, path, body in (
        ("GET", "/api/v1/users", None),
        ("POST", "/api/v1/users", {"name": "x"}),
        ("GET", f"/api/v1/users/{name}", None),
        ("GET", "/api/v1/users/nobody-there", None),
        ("PATCH", f"/api/v1/users/{name}", {"roles": ["admin"]}),
        ("DELETE", f"/api/v1/users/{name}", None),
        ("POST", f"/api/v1/users/{name}/setup", None),
        ("DELETE", f"/api/v1/users/{name}/sessions", None),
        ("GET", "/api/v1/audit", None),
        ("GET", f"/api/v1/tokens?user={name}", None),
    ):
        replied = someone(method, path, **({} if body is None else {"json": body}))
        assert (replied.status_code, replied.json()["code"]) == (403, "not_allowed"), path
    assert people.principal(name).roles == ("viewer",)


def test_nobody_manages_anything(people: People) -> None:
    for path in ("users", "users/x", "tokens", "audit", "metrics", "openapi.json"):
        replied = people.nobody().get(f"/api/v1/{path}")
        assert (replied.status_code, replied.json()["code"]) == (401, "not_signed_in")


@pytest.mark.parametrize(
    ("method", "path"),
    (
        ("GET", "users/{name}"),
        ("PATCH", "users/{name}"),
        ("DELETE", "users/{name}"),
        ("POST", "users/{name}/setup"),
        ("DELETE", "users/{name}/sessions"),
    ),
)
def test_a_user_who_is_not_there(people: People, method: str, path: str) -> None:
    admin = people.person("admin")
    for name in ("nobody-there", "%00", "a%2fb", "x" * 300, "%ff"):
        body = {"json": {"roles": ["viewer"]}} if method == "PATCH" else {}
        replied = admin(method, f"/api/v1/{path.format(name=name)}", **body)
        assert (replied.status_code, replied.json()["code"]) == (404, "not_found"), name


def test_other_roles_and_disabling_end_sessions(people: People) -> None:
    admin = people.person("admin")
    for change in ({"roles": ["operator"]}, {"is_disabled": True}):
        name = people.account("viewer")
        someone = people.as_user(name)
        program = people.by_token(name, "runs:read")
        assert admin.patch(f"/api/v1/users/{name}", change).status_code == 200
        assert someone.get("/api/v1/session").status_code == 401
        # A token lives on with the roles of its user, and ends with the account.
        gone = "is_disabled" in change
        assert program.get("/api/v1/session").status_code == (401 if gone else 200)
    other = people.account("viewer")
    someone = people.as_user(other)
    assert admin.patch(f"/api/v1/users/{other}", {"pipelines": ["b-*"]}).status_code == 200
    assert someone.read("/api/v1/session")["pipelines"] == ["b-*"]
    assert admin.delete(f"/api/v1/users/{other}/sessions").status_code == 204
    assert someone.get("/api/v1/session").status_code == 401


def test_users_are_listed_page_by_page(people: People) -> None:
    admin = people.person("admin")
    made = {people.account("viewer") for _ in range(5)}
    pages = list(admin.pages("/api/v1/users", limit=2))
    names = [one["name"] for page in pages for one in page]
    assert names == sorted(set(names))
    assert made <= set(names)
    assert {len(page) for page in pages[:-1]} == {2}
    foreign = admin.read("/api/v1/tokens", limit=1)["next"]
    for cursor in ("x", "dXNlcnM6", "YXVkaXQ6MQ", "%C3%A4", "A" * 1001, foreign or "bm9uZQ"):
        replied = admin.get("/api/v1/users", params={"cursor": cursor})
        assert replied.status_code == 422
        assert replied.json()["code"] in ("cursor_invalid", "parameters_refused")
    for limit in ("0", "201", "x", "-1"):
        assert admin.get("/api/v1/users", params={"limit": limit}).status_code == 422


# --- tokens


def test_a_token_is_shown_once_and_may_what_its_scopes_say(people: People) -> None:
    name = people.account("operator")
    someone = people.as_user(name)
    made = someone.post("/api/v1/tokens", {"name": "ci", "scopes": ["schedules:read"], "days": 7})
    assert made.status_code == 201
    told = made.json()
    text = told.pop("token")
    assert text.startswith(f"iaf_{told['token_id']}_")
    assert told["user"] == name
    assert someone.read("/api/v1/tokens")["items"] == [told]
    program = people.nobody(Authorization=f"Bearer {text}")
    assert program.get("/api/v1/schedules").status_code == 200
    assert program.get("/api/v1/pipelines").status_code == 403
    assert someone.read("/api/v1/tokens")["items"][0]["last_used_at"] is not None
    both = replace_cookie(people, someone.cookie, text)
    assert (both.status_code, both.json()["code"]) == (400, "credentials_refused")
    assert someone.delete(f"/api/v1/tokens/{told['token_id']}").status_code == 204
    assert program.get("/api/v1/schedules").status_code == 401


def replace_cookie(people: People, cookie: str | None, text: str):  # type: ignore[no-untyped-def]
    headers = {"Authorization": f"Bearer {text}", "Cookie": f"__Host-iaflow={cookie}"}
    return people.nobody().get("/api/v1/session", headers=headers)


@pytest.mark.parametrize(
    "change",
    (
        {"scopes": []},
        {"scopes": ["runs:*"]},
        {"scopes": "runs:read"},
        {"days": 0},
        {"days": 366},
        {"days": "7"},
        {"days": True},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"user": "root"},
    ),
)
def test_a_token_that_is_refused(people: People, change: dict[str, object]) -> None:
    body = {"name": "ci", "scopes": ["runs:read"], "days": 7, **change}
    replied = people.person("viewer").post("/api/v1/tokens", body)
    assert (replied.status_code, replied.json()["code"]) == (422, "body_refused")


def test_a_token_gives_no_more_than_its_user_has(people: People) -> None:
    someone = people.person("viewer")
    scopes = [one.value for one in Permission]
    made = someone.post("/api/v1/tokens", {"name": "all", "scopes": scopes}).json()
    program = people.nobody(Authorization=f"Bearer {made['token']}")
    assert set(program.read("/api/v1/session")["permissions"]) == set(ROLES["viewer"])
    assert program.get("/api/v1/users").status_code == 403


def test_a_token_makes_lists_and_ends_no_other(people: People) -> None:
    name = people.account("viewer")
    someone, program = people.as_user(name), people.by_token(name, "runs:read")
    [own] = someone.read("/api/v1/tokens")["items"]
    other = someone.post("/api/v1/tokens", {"name": "b", "scopes": ["runs:read"]}).json()
    body = {"name": "c", "scopes": ["runs:read"]}
    assert program.post("/api/v1/tokens", body).status_code == 403
    assert program.get("/api/v1/tokens").status_code == 403
    assert program.delete(f"/api/v1/tokens/{other['token_id']}").status_code == 404
    assert program.delete(f"/api/v1/tokens/{own['token_id']}").status_code == 204
    assert program.get("/api/v1/session").status_code == 401


def test_tokens_of_others_are_not_there_but_for_admins(people: People) -> None:
    name = people.account("viewer")
    someone, other, admin = people.as_user(name), people.person("operator"), people.person("admin")
    made = someone.post("/api/v1/tokens", {"name": "a", "scopes": ["runs:read"]}).json()
    foreign = other.delete(f"/api/v1/tokens/{made['token_id']}")
    absent = other.delete(f"/api/v1/tokens/{NOBODYS_ID}")
    assert foreign.status_code == absent.status_code == 404
    said = [one.json()["detail"] for one in (foreign, absent)]
    assert said[0].replace(made["token_id"], "") == said[1].replace(NOBODYS_ID, "")
    assert other.read("/api/v1/tokens")["items"] == []
    assert [one["name"] for one in admin.read("/api/v1/tokens", user=name)["items"]] == ["a"]
    assert admin.get("/api/v1/tokens", params={"user": "nobody-there"}).status_code == 404
    assert admin.delete(f"/api/v1/tokens/{made['token_id']}").status_code == 204
    assert someone.read("/api/v1/tokens")["items"] == []


# --- the audit, and what is told of the installation


def test_the_audit_has_what_was_done_and_what_was_refused(people: People) -> None:
    admin, name = people.person("admin"), people.account("viewer")
    people.nobody().post("/api/v1/session", {"name": name, "password": "wrong"})
    people.sign_in(name)
    someone = people.as_user(name)
    someone.get("/api/v1/users")
    someone.delete("/api/v1/session")
    found = admin.read("/api/v1/audit", actor=name)["items"]
    assert [one["action"] for one in found[:2]] == ["sign_out", "permission.refused"]
    assert found[1]["target"] == "/api/v1/users"
    assert found[1]["detail"] == {"permission": "users:manage"}
    assert found[1]["address"] == "127.0.0.1"
    assert found[1]["request_id"]
    [refused] = admin.read("/api/v1/audit", action="sign_in.refused", target=name)["items"]
    assert refused["actor"] is None
    text = admin.get("/api/v1/audit", params={"limit": 200}).text
    assert PASSWORD not in text
    assert "wrong" not in text.replace("password_wrong", "")
    pages = list(admin.pages("/api/v1/audit", actor=name, limit=2))
    assert [one["event_id"] for page in pages for one in page] == sorted(
        (one["event_id"] for page in pages for one in page), reverse=True
    )
    assert admin.get("/api/v1/audit", params={"actor": "a\x00b"}).status_code == 422


def test_figures_are_for_who_operates(people: People) -> None:
    replied = people.person("operator").get("/api/v1/metrics")
    assert replied.status_code == 200
    assert replied.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'iaflow_ready_steps{queue="iaflow"}' in replied.text
    for role in ("viewer", "author", "approver"):
        assert people.person(role).get("/api/v1/metrics").status_code == 403
    assert (
        people.by_token(people.account("operator"), "metrics:read")
        .get("/api/v1/metrics")
        .is_success
    )


def test_the_description_is_for_who_has_signed_in(people: People) -> None:
    described = people.person().read("/api/v1/openapi.json")
    assert described["openapi"].startswith("3.")
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation.get("description"), (method, path)
    assert not any(path.startswith("/l/") for path in described["paths"])


def test_a_method_that_is_not_there(people: People) -> None:
    replied = people.person("admin").put("/api/v1/users", {})
    assert (replied.status_code, replied.json()["code"]) == (405, "method_not_allowed")
    replied = people.person("admin").get("/api/v1/nothing")
    assert (replied.status_code, replied.json()["code"]) == (404, "not_found")
