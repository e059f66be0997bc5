"""Runs changed over HTTP: cancelled, retried, repeated, signalled, and many at once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from iaflow.data.status import RunStatus
from tests.integration.houses import document
from tests.servers import wait_until
from tests.web.flows import (
    make_event,
    make_failing,
    make_hanging,
    make_line,
    make_parent,
    make_question,
)
from tests.web.webs import Web


def begin(web: Web, definition: dict[str, Any], name: str = "otto", **given: Any) -> str:
    """Start a run and wait until it rests."""
    run_id = web.user(name).start(web.publish(definition), given)
    web.wait_for(run_id)
    return run_id


def status(web: Web, run_id: str) -> str:
    return str(web.client.run(run_id).status)


# --- cancel


def test_a_run_is_cancelled_with_its_reason_and_those_below(web: Web) -> None:
    web.publish(make_question("own-below"))
    run_id = begin(web, make_parent("own-above", "own-below"))
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/cancel", {"reason": "too late"})
    assert reply.status_code == 200
    assert reply.json() == {"run_id": run_id, "slug": "own-above", "status": "cancelled"}
    error = web.user("otto").read(f"/api/v1/runs/{run_id}")["error"]
    assert error["code"] == "cancelled"
    assert "too late" in error["message"]
    assert "otto" in error["message"]
    (below,) = web.client.children(run_id)
    web.wait_for(below.run_id, RunStatus.CANCELLED)
    events = web.user("otto").read(f"/api/v1/runs/{run_id}/events")["items"]
    assert [event["by"] for event in events if event["by"]] == ["otto"]
    assert (events[-1]["run"], events[-1]["by"]) == ("cancelled", "otto")
    (kept,) = [one for one in web.audited("run.cancel") if one.target == run_id]
    assert (kept.actor, kept.detail) == ("otto", {"slug": "own-above"})


def test_a_run_that_has_ended_is_not_cancelled(web: Web) -> None:
    run_id = begin(web, make_line())
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/cancel", {})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert status(web, run_id) == "succeeded"
    assert not [one for one in web.audited("run.cancel") if one.target == run_id]


def test_one_step_is_cancelled_and_the_others_go_on(web: Web) -> None:
    run_id = web.user("otto").start(web.publish(make_hanging()))
    path = f"/api/v1/runs/{run_id}/steps"
    otto = web.user("otto")
    wait_until(lambda: otto.read(f"{path}/hangs")["status"] == "running", 20, "the step hangs")
    assert otto.post(f"{path}/hangs/cancel", {"reason": "enough"}).status_code == 200
    web.wait_for(run_id)
    assert otto.read(f"{path}/hangs")["status"] == "cancelled"
    assert otto.read(f"{path}/quick")["status"] == "succeeded"
    again = otto.post(f"{path}/hangs/cancel", {})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    other = otto.post(f"{path}/other/cancel", {})
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
    (kept,) = [one for one in web.audited("step.cancel") if run_id in one.target]
    assert kept.target == f"{run_id}/hangs"


def test_a_step_that_has_ended_is_not_cancelled_while_its_run_goes_on(web: Web) -> None:
    run_id = begin(
        web,
        document(
            {"first": {}, "wait": {"type": "event", "config": {"name": "x"}}}, [("first", "wait")]
        ),
    )
    before = web.client.run(run_id)
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/steps/first/cancel", {})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert web.client.run(run_id) == before


# --- retry and rerun


def test_a_failed_run_is_retried(web: Web) -> None:
    """It fails once more: what was mended outside is not there."""
    run_id = begin(web, make_failing())
    before = web.client.run(run_id).seq
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/retry")
    assert reply.status_code == 200
    assert reply.json()["run_id"] == run_id
    web.wait_for(run_id, RunStatus.FAILED)
    assert web.client.run(run_id).seq > before
    good, bad = (web.user("otto").read(f"/api/v1/runs/{run_id}/steps/{s}") for s in ("good", "bad"))
    assert (good["attempts"], bad["attempts"]) == (1, 2)
    assert [one.actor for one in web.audited("run.retry") if one.target == run_id] == ["otto"]


@pytest.mark.parametrize("definition", (make_line(), make_question()), ids=("ended", "waiting"))
def test_only_a_failed_run_is_retried(web: Web, definition: dict[str, Any]) -> None:
    run_id = begin(web, definition)
    before = web.client.run(run_id)
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/retry")
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert web.client.run(run_id) == before


def test_a_run_is_repeated_from_a_step_on_with_other_inputs(web: Web) -> None:
    run_id = begin(web, make_line(), n=12)
    path = f"/api/v1/runs/{run_id}/steps/big/rerun"
    reply = web.user("otto").post(path, {"inputs": {"n": 99}})
    again = reply.json()["run_id"]
    assert reply.status_code == 201
    assert again != run_id
    assert reply.headers["location"] == f"/api/v1/runs/{again}"
    web.wait_for(again)
    run = web.user("otto").read(f"/api/v1/runs/{again}")
    assert (run["rerun_of"], run["started_by"], run["outputs"]) == (run_id, "otto", {"n": 99})
    (kept,) = [one for one in web.audited("run.rerun") if one.target == again]
    assert kept.detail == {"of": run_id, "step": "big"}


def test_a_rerun_is_refused_where_it_cannot_be(web: Web) -> None:
    waiting, ended = begin(web, make_question()), begin(web, make_line())
    otto = web.user("otto")
    for path, body, expected in (
        (f"{waiting}/steps/ask/rerun", {}, (409, "conflict")),
        (f"{ended}/steps/other/rerun", {}, (404, "not_found")),
        (f"{ended}/steps/first/rerun", {"inputs": [1]}, (422, "body_refused")),
        (f"{ended}/steps/first/rerun", {"run_id": waiting}, (422, "body_refused")),
    ):
        reply = otto.post(f"/api/v1/runs/{path}", body)
        assert (reply.status_code, reply.json()["code"]) == expected, path


# --- signals


def test_a_signal_lets_the_run_go_on(web: Web) -> None:
    run_id = begin(web, make_event())
    path = f"/api/v1/runs/{run_id}/signals/payment"
    reply = web.user("otto").post(path, {"payload": {"sum": 3}})
    assert reply.status_code == 200
    assert reply.json() == {
        "run_id": run_id,
        "name": "payment",
        "steps": [{"step_id": "paid", "index": None}],
    }
    web.wait_for(run_id, RunStatus.SUCCEEDED)
    step = web.user("otto").read(f"/api/v1/runs/{run_id}/steps/paid")
    assert step["output"] == {"sum": 3}
    (kept,) = [one for one in web.audited("run.signal") if one.target == run_id]
    assert (kept.actor, kept.detail) == ("otto", {"name": "payment"})


def test_a_signal_that_nothing_waits_for_is_a_conflict(web: Web) -> None:
    run_id = begin(web, make_event())
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/signals/other", {})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
    assert status(web, run_id) == "waiting"


def test_the_same_signal_with_a_key_is_given_once(web: Web) -> None:
    run_id = begin(web, make_event())
    path, key = f"/api/v1/runs/{run_id}/signals/payment", {"Idempotency-Key": str(uuid4())}
    first, second = (
        web.user("otto").post(path, {"payload": {"sum": 3}}, headers=key) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    other = web.user("otto").post(path, {"payload": {"sum": 4}}, headers=key)
    assert other.status_code == 409
    assert web.user("otto").post(path, {"payload": {"sum": 3}}).status_code == 409
    web.wait_for(run_id, RunStatus.SUCCEEDED)
    assert web.user("otto").read(f"/api/v1/runs/{run_id}/steps/paid")["output"] == {"sum": 3}


# --- many


def make_many(web: Web, count: int) -> tuple[list[str], str]:
    """Return waiting runs of a slug, and one of a slug that `clara` does not see."""
    mine = [begin(web, make_question("own-many")) for _ in range(count)]
    return mine, begin(web, make_question("foreign-many"))


def test_many_are_cancelled_and_only_those_in_sight(web: Web) -> None:
    mine, foreign = make_many(web, 3)
    clara = web.user("clara")
    filters = {"started_by": "otto", "status": "waiting"}
    plan = clara.post("/api/v1/runs/bulk/cancel", {"filter": filters, "dry_run": True})
    planned = {item["run_id"]: item["outcome"] for item in plan.json()["items"]}
    assert plan.json()["dry_run"] is True
    assert set(planned.values()) == {"would_change"}
    assert set(planned) >= set(mine)
    assert foreign not in planned
    assert {status(web, run_id) for run_id in mine} == {"waiting"}

    body = {"filter": {"slug": "own-many", **filters}, "reason": "a wrong list", "limit": 2.0}
    reply = clara.post("/api/v1/runs/bulk/cancel", body)
    assert reply.status_code == 200
    assert reply.json() == {
        "dry_run": False,
        "items": [
            {"run_id": run_id, "outcome": "cancelled", "reason": None} for run_id in mine[:0:-1]
        ],
        "counts": {"changed": 2},
    }
    assert [status(web, run_id) for run_id in mine] == ["waiting", "cancelled", "cancelled"]
    assert "a wrong list" in str(web.client.run(mine[2]).error_message)
    body = {"filter": {"slug": "foreign-many"}}
    assert clara.post("/api/v1/runs/bulk/cancel", body).json()["items"] == []
    assert status(web, foreign) == "waiting"
    audited = {one.target for one in web.audited("run.cancel") if one.actor == "clara"}
    assert audited >= set(mine[1:])
    assert not audited & {mine[0], foreign}
    web.client.cancel(foreign)
    web.client.cancel(mine[0])


def test_many_failed_runs_are_retried_each_by_itself(web: Web) -> None:
    """One that is not to be retried holds up no other."""
    failed = [begin(web, make_failing("own-failing")) for _ in range(2)]
    web.publish(make_failing("own-failing-below"))
    above = begin(web, make_parent("own-failing-above", "own-failing-below"))
    (below,) = web.client.children(above)
    clara = web.user("clara")
    for slug, expected in (
        ("own-failing", dict.fromkeys(failed, "retried")),
        ("own-failing-below", {below.run_id: "refused"}),
    ):
        reply = clara.post("/api/v1/runs/bulk/retry", {"filter": {"slug": slug}})
        items = reply.json()["items"]
        assert {item["run_id"]: item["outcome"] for item in items} == expected
    assert above in items[0]["reason"]
    assert reply.json()["counts"] == {"refused": 1}
    for run_id in failed:
        web.wait_for(run_id, RunStatus.FAILED)


@pytest.mark.parametrize(
    "body",
    (
        {"filter": {"run_ids": []}},
        {"filter": {"parent_run_id": "019ab3f2-7c1e-7d5a-8f00-3a5d8f6b2c11"}},
        {"run_ids": []},
        {"dry_run": "yes"},
        {"limit": 0},
        {"limit": 1001},
        {"limit": "5"},
        {"limit": 5.5},
        {"limit": True},
        {"filter": {"status": "asleep"}},
        {"filter": {"since": 5}},
        {"reason": "x" * 501},
    ),
    ids=str,
)
def test_a_body_names_no_ids_and_nothing_unknown(web: Web, body: dict[str, Any]) -> None:
    reply = web.user("otto").post("/api/v1/runs/bulk/cancel", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "body_refused")


# --- who may


POSTS = (
    ("/cancel", {}),
    ("/steps/ask/cancel", {}),
    ("/retry", None),
    ("/steps/ask/rerun", {}),
    ("/signals/payment", {}),
)


@pytest.mark.parametrize(("path", "body"), POSTS, ids=[path for path, _ in POSTS])
def test_a_foreign_run_is_changed_by_nobody(web: Web, path: str, body: Any) -> None:
    run_id = begin(web, make_question())
    before = web.client.run(run_id)
    refusals = len(web.audited("permission.refused"))
    base = f"/api/v1/runs/{run_id}{path}"
    assert web.nobody.post(base, body).status_code == 401
    for name in ("vera", "aurel", "paula"):
        reply = web.user(name).post(base, body)
        assert (reply.status_code, reply.json()["code"]) == (403, "not_allowed"), name
    assert web.token("otto", "runs:read", "runs:start").post(base, body).status_code == 403
    if refusals < 90:
        assert len(web.audited("permission.refused")) == refusals + 4
    absent_id = str(uuid4())
    unseen = web.user("fremd").post(base, body)
    absent = web.user("fremd").post(f"/api/v1/runs/{absent_id}{path}", body)
    assert (unseen.status_code, absent.status_code) == (404, 404)
    assert unseen.json()["detail"].replace(run_id, absent_id) == absent.json()["detail"]
    assert web.client.run(run_id) == before
    web.client.cancel(run_id)


@pytest.mark.parametrize("path", ("/api/v1/runs/bulk/cancel", "/api/v1/runs/bulk/retry"))
def test_many_are_changed_only_with_the_permission(web: Web, path: str) -> None:
    for name in ("vera", "aurel", "paula"):
        assert web.user(name).post(path, {}).status_code == 403
    assert web.nobody.post(path, {}).status_code == 401


@pytest.mark.parametrize(
    "spoil",
    (
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x" * 43},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ),
    ids=str,
)
def test_another_sites_page_changes_nothing(web: Web, spoil: dict[str, str]) -> None:
    run_id = begin(web, make_question())
    reply = web.user("otto").post(f"/api/v1/runs/{run_id}/cancel", {}, headers=spoil)
    assert reply.status_code == 403
    assert status(web, run_id) == "waiting"
    web.client.cancel(run_id)
