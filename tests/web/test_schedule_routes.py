"""Schedules over HTTP: written, read, stopped, fired by hand; and who may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.people import Asker, People, approval


def write(people: People, asker: Asker, **change: Any) -> tuple[str, str, Any]:
    slug, name = people.keep(approval(people.name("scheduled"))), people.name("nightly")
    body = {"slug": slug, "cron": "30 2 * * *", "zone": "Europe/Berlin", **change}
    return name, slug, asker.put(f"/api/v1/schedules/{name}", body)


def test_a_schedule_from_its_writing_to_its_end(people: People) -> None:
    operator = people.person("operator")
    name, slug, written = write(people, operator, input={"amount": 2.0})
    assert written.status_code == 200
    told = written.json()
    assert (told["name"], told["slug"], told["cron"]) == (name, slug, "30 2 * * *")
    assert (told["input"], told["is_paused"], told["misfire"]) == ({"amount": 2.0}, False, "latest")
    assert told["next_at"].endswith(("Z", "+00:00"))
    assert operator.read(f"/api/v1/schedules/{name}") == told
    instants = operator.read(f"/api/v1/schedules/{name}/next", count=3)["items"]
    assert instants[0] == told["next_at"]
    assert len(instants) == 3
    paused = operator.post(f"/api/v1/schedules/{name}/pause").json()
    assert (paused["is_paused"], paused["next_at"]) == (True, None)
    assert operator.post(f"/api/v1/schedules/{name}/resume").json()["next_at"] == told["next_at"]
    fired = operator.post(f"/api/v1/schedules/{name}/fire")
    assert fired.status_code == 201
    run_id = fired.json()["run_id"]
    assert fired.headers["location"] == f"/api/v1/runs/{run_id}"
    assert people.web.client.run(run_id).slug == slug
    [fire] = operator.read(f"/api/v1/schedules/{name}/fires")["items"]
    assert (fire["run_id"], fire["status"]) == (run_id, "started")
    assert operator.delete(f"/api/v1/schedules/{name}").status_code == 204
    assert operator.get(f"/api/v1/schedules/{name}").status_code == 404
    audited = people.person("admin").read("/api/v1/audit", target=name)["items"]
    assert [one["action"].partition(".")[2] for one in audited] == [
        *("delete", "fire", "resume", "pause", "put")
    ]


def test_an_interval_in_the_place_of_cron(people: People) -> None:
    operator = people.person("operator")
    _, _, written = write(
        people, operator, cron=None, zone="UTC", interval_seconds=900, instant_as="amount"
    )
    # The input must be able to take an instant: `amount` is a number by default alone.
    assert written.status_code == 200, written.text
    assert (written.json()["interval_seconds"], written.json()["cron"]) == (900, None)


@pytest.mark.parametrize(
    ("change", "code"),
    (
        ({"cron": "every day"}, "schedule_refused"),
        ({"cron": "0 0 30 2 *"}, "schedule_refused"),
        ({"zone": "Nowhere/Land"}, "schedule_refused"),
        ({"ends_at": "2001-01-01T00:00:00Z"}, "schedule_refused"),
        ({"interval_seconds": 60}, "body_refused"),
        ({"cron": None}, "body_refused"),
        ({"cron": None, "interval_seconds": 0}, "body_refused"),
        ({"cron": None, "interval_seconds": 1.5}, "body_refused"),
        ({"misfire": "never"}, "body_refused"),
        ({"starts_at": "2026-03-08T07:00:00"}, "body_refused"),
        ({"starts_at": 1700000000}, "body_refused"),
        ({"name": "other"}, "body_refused"),
        ({"input": []}, "body_refused"),
        ({"slug": ""}, "body_refused"),
    ),
)
def test_a_schedule_that_is_refused(people: People, change: dict[str, Any], code: str) -> None:
    name, _, written = write(people, people.person("operator"), **change)
    assert (written.status_code, written.json()["code"]) == (422, code), written.text
    assert written.json()["problems"]
    assert people.person("viewer").get(f"/api/v1/schedules/{name}").status_code == 404


def test_a_pipeline_that_is_not_there_is_not_scheduled(people: People) -> None:
    here = people.person("operator", pipelines=("mine-*",))
    _, slug, foreign = write(people, here)
    _, _, absent = write(people, here, slug="no-such-thing")
    assert foreign.status_code == absent.status_code == 404
    told = [one.json()["detail"] for one in (foreign, absent)]
    assert told[0].replace(slug, "") == told[1].replace("no-such-thing", "")


def test_what_is_out_of_sight_is_not_there(people: People) -> None:
    name, slug, _ = write(people, people.person("operator"))
    other = people.person("operator", pipelines=("other-*",))
    body = {"slug": slug, "cron": "@daily"}
    for method, path in (
        *(("GET", ""), ("GET", "/fires"), ("GET", "/next"), ("DELETE", "")),
        *(("POST", "/pause"), ("POST", "/resume"), ("POST", "/fire"), ("PUT", "")),
    ):
        more = {"json": body} if method == "PUT" else {}
        foreign = other(method, f"/api/v1/schedules/{name}{path}", **more)
        absent = other(method, f"/api/v1/schedules/no-such-thing{path}", **more)
        assert foreign.status_code == absent.status_code == 404, (method, path)
        told = [one.json()["detail"] for one in (foreign, absent)]
        assert told[0].replace(name, "") == told[1].replace("no-such-thing", "")
        if method != "PUT":
            for odd in ("%00", "a%2fb", "x" * 500):
                assert other(method, f"/api/v1/schedules/{odd}{path}").status_code == 404
    assert name not in other.get("/api/v1/schedules").text
    assert people.web.client.schedules.get(name).is_paused is False


def test_roles_read_and_write(people: People) -> None:
    name, slug, _ = write(people, people.person("operator"))
    body = {"slug": slug, "cron": "@daily"}
    for role, reads in (("viewer", True), ("author", True), ("approver", False)):
        someone = people.person(role)
        for path in ("", f"/{name}", f"/{name}/fires", f"/{name}/next"):
            expected = 200 if reads else 403
            assert someone.get(f"/api/v1/schedules{path}").status_code == expected
        assert someone.put(f"/api/v1/schedules/{name}", body).status_code == 403
        assert someone.delete(f"/api/v1/schedules/{name}").status_code == 403
        for verb in ("pause", "resume", "fire"):
            assert someone.post(f"/api/v1/schedules/{name}/{verb}").status_code == 403


def test_its_input_is_for_who_may_read_payloads(people: People) -> None:
    account = people.account("operator")
    name, _, _ = write(people, people.as_user(account), input={"amount": 77.5})
    program = people.by_token(account, "schedules:read")
    replied = program.get(f"/api/v1/schedules/{name}")
    assert replied.json()["input"] is None
    assert "77.5" not in replied.text + program.get("/api/v1/schedules").text


def test_schedules_and_fires_are_listed_page_by_page(people: People) -> None:
    operator = people.person("operator")
    names = [write(people, operator)[0] for _ in range(3)]
    pages = list(operator.pages("/api/v1/schedules", limit=2))
    listed = [one["name"] for page in pages for one in page]
    assert listed == sorted(listed)
    assert set(names) <= set(listed)
    run_ids = []
    for _ in range(3):
        fired = operator.post(f"/api/v1/schedules/{names[0]}/fire")
        if fired.status_code == 409:
            continue
        run_ids.append(fired.json()["run_id"])
    pages = list(operator.pages(f"/api/v1/schedules/{names[0]}/fires", limit=1))
    assert [one["run_id"] for page in pages for one in page] == run_ids[::-1]
    for cursor in ("x", "ZmlyZXM6eA"):
        path = f"/api/v1/schedules/{names[0]}/fires"
        replied = operator.get(path, params={"cursor": cursor})
        assert (replied.status_code, replied.json()["code"]) == (422, "cursor_invalid")
