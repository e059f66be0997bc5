"""Runs over HTTP: started, listed, and looked at from every side.

What a test starts is of the pipeline `house` (or `own-…`), which `fremd` does not see.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from iaflow.auth.audit import Caller
from iaflow.data.status import RunStatus
from tests.servers import wait_until
from tests.web.flows import (
    make_event,
    make_failing,
    make_hanging,
    make_items,
    make_line,
    make_parent,
    make_question,
)
from tests.web.webs import Visitor, Web

RUN_FIELDS = {
    "run_id",
    "slug",
    "status",
    "seq",
    "started_by",
    "created_at",
    "started_at",
    "finished_at",
    "waiting",
    "parent",
    "rerun_of",
    "error",
}


def finish(web: Web, visitor: Visitor, definition: dict[str, Any], **given: Any) -> str:
    """Start a run and wait until it rests."""
    run_id = visitor.start(web.publish(definition), given)
    web.wait_for(run_id)
    return run_id


def without_id(problem: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in problem.items() if key != "request_id"}


# --- starting


def test_a_start_makes_a_run_in_the_callers_name(web: Web) -> None:
    slug = web.publish(make_line())
    reply = web.user("otto").post(f"/api/v1/pipelines/{slug}/runs", {"input": {"n": 11}})
    run_id = reply.json()["run_id"]
    assert reply.status_code == 201
    assert set(reply.json()) == {"run_id", "slug", "status"}
    assert reply.headers["location"] == f"/api/v1/runs/{run_id}"
    web.wait_for(run_id)
    run = web.user("otto").read(reply.headers["location"])
    assert (run["status"], run["started_by"], run["parameters"]) == ("succeeded", "otto", {"n": 11})
    (kept,) = [one for one in web.audited("run.start") if one.target == run_id]
    assert (kept.actor, kept.detail) == ("otto", {"slug": slug})
    assert kept.request_id == reply.headers["x-request-id"]


def test_a_start_needs_its_permission_and_a_pipeline_in_sight(web: Web) -> None:
    slug = web.publish(make_line())
    before = len(web.client.runs(limit=200))
    path = f"/api/v1/pipelines/{slug}/runs"
    assert web.user("vera").post(path, {}).status_code == 403
    assert web.nobody.post(path, {}).status_code == 401
    assert web.token("otto", "runs:read").post(path, {}).status_code == 403
    unseen = web.user("fremd").post(path, {})
    absent = web.user("fremd").post("/api/v1/pipelines/nouse/runs", {})
    assert (unseen.status_code, absent.status_code) == (404, 404)
    assert unseen.json()["detail"].replace(slug, "nouse") == absent.json()["detail"]
    assert len(web.client.runs(limit=200)) == before
    assert [one.actor for one in web.audited("permission.refused")][:1] == ["otto"]


def test_an_input_that_does_not_fit_makes_no_run(web: Web) -> None:
    definition = make_line("own-typed")
    definition["input_schema"] = {"type": "object", "properties": {"n": {"type": "integer"}}}
    path = f"/api/v1/pipelines/{web.publish(definition)}/runs"
    reply = web.user("otto").post(path, {"input": {"n": "many"}})
    problem = reply.json()
    assert reply.status_code == 422
    assert problem["code"] == "input_refused"
    assert problem["problems"][0]["pointer"].endswith("/n")
    assert web.client.runs(slug="own-typed") == []


@pytest.mark.parametrize(
    "body",
    (
        {"input": [1]},
        {"input": "x"},
        {"inputs": {}},
        {"input": {}, "run_id": "0"},
        [],
        None,
    ),
    ids=str,
)
def test_a_body_of_another_shape_is_refused(web: Web, body: Any) -> None:
    slug = web.publish(make_line())
    reply = web.user("otto").post(f"/api/v1/pipelines/{slug}/runs", body)
    assert reply.status_code in (415, 422)
    assert reply.json()["code"] in ("body_refused", "body_not_json")


def test_a_paused_pipeline_is_not_started(web: Web) -> None:
    slug = web.publish(make_line("own-resting"))
    web.client.pause_pipeline(slug)
    reply = web.user("otto").post(f"/api/v1/pipelines/{slug}/runs", {})
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


# --- idempotency


def test_the_same_request_with_a_key_starts_once(web: Web) -> None:
    path = f"/api/v1/pipelines/{web.publish(make_line())}/runs"
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    first, second = (
        web.user("otto").post(path, {"input": {"n": 3}}, headers=key) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["run_id"] == second.json()["run_id"]
    assert first.headers["location"] == second.headers["location"]
    run_id = first.json()["run_id"]
    assert len([one for one in web.audited("run.start") if one.target == run_id]) == 1


def test_a_key_with_another_body_or_pipeline_is_a_conflict(web: Web) -> None:
    house, own = web.publish(make_line()), web.publish(make_line("own-line"))
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    otto = web.user("otto")
    assert (
        otto.post(f"/api/v1/pipelines/{house}/runs", {"input": {"n": 3}}, headers=key).status_code
        == 201
    )
    for slug, given in ((house, {"n": 4}), (own, {"n": 3})):
        reply = otto.post(f"/api/v1/pipelines/{slug}/runs", {"input": given}, headers=key)
        assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
        assert repr(key["Idempotency-Key"]) in reply.json()["detail"]


def test_a_key_is_its_users_own(web: Web) -> None:
    """Another's neither meets it nor learns from a conflict that it was used."""
    path = f"/api/v1/pipelines/{web.publish(make_line())}/runs"
    key = {"Idempotency-Key": f"order-{uuid4()}"}
    mine = web.user("otto").post(path, {"input": {"n": 3}}, headers=key)
    theirs = web.user("adele").post(path, {"input": {"n": 4}}, headers=key)
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["run_id"] != theirs.json()["run_id"]


@pytest.mark.parametrize("key", ("", "with space", "x" * 201, "ü"))
def test_a_key_of_another_form_is_refused(web: Web, key: str) -> None:
    path = f"/api/v1/pipelines/{web.publish(make_line())}/runs"
    headers = {**web.user("otto").headers, "Idempotency-Key": key.encode()}
    reply = web.http.post(path, json={}, headers=headers)  # type: ignore[arg-type]
    assert (reply.status_code, reply.json()["code"]) == (422, "parameters_refused")


# --- listing


def test_runs_are_listed_in_pages_the_newest_first(web: Web) -> None:
    slug = web.publish(make_line("own-paged"))
    otto = web.user("otto")
    started = [otto.start(slug, {"n": n}) for n in range(7)]
    listed = otto.read_pages("/api/v1/runs", slug=slug, limit=3)
    assert [run["run_id"] for run in listed] == started[::-1]
    assert all(set(run) == RUN_FIELDS for run in listed)
    whole = otto.read("/api/v1/runs", slug=slug, limit=7)
    assert len(whole["items"]) == 7
    assert whole["next"] is None


def test_filters_find_what_they_say(web: Web) -> None:
    otto, adele = web.user("otto"), web.user("adele")
    asked = otto.start(web.publish(make_question("own-filtered")))
    web.wait_for(asked)
    done = finish(web, adele, make_line("own-filtered"))
    parent = finish(web, adele, make_parent("own-above", "own-filtered"))
    (below,) = adele.read(f"/api/v1/runs/{parent}/children")["items"]

    def find(**filters: Any) -> list[str]:
        return [run["run_id"] for run in otto.read_pages("/api/v1/runs", limit=2, **filters)]

    slug = "own-filtered"
    assert find(slug=slug) == [below["run_id"], done, asked]
    assert find(slug=slug, status="waiting") == [asked]
    assert find(slug=slug, started_by="adele") == [below["run_id"], done]
    assert find(slug=slug, started_by="adele", parent="none") == [done]
    assert find(slug=slug, started_by="nobody") == []
    assert find(slug=slug, parent="none") == [done, asked]
    assert find(parent=parent) == [below["run_id"]]
    assert find(parent=str(uuid4())) == []
    assert find(parent="no id") == []
    # An id begins with the milliseconds of its making, which is what is compared.
    at = datetime.fromtimestamp(int(done[:8] + done[9:13], 16) / 1000, UTC).isoformat()
    assert find(slug=slug, since=at) == [below["run_id"], done]
    assert find(slug=slug, until=at) == [asked]
    assert find(slug=slug, since=at, until=at) == []


@pytest.mark.parametrize(
    "query",
    (
        {"limit": 0},
        {"limit": 201},
        {"limit": "many"},
        {"status": "asleep"},
        {"since": "yesterday"},
        {"since": "2030-01-01T00:00:00"},
        {"since": "1751500000"},
        {"slug": "x" * 201},
    ),
    ids=str,
)
def test_parameters_that_mean_nothing_are_refused(web: Web, query: dict[str, Any]) -> None:
    reply = web.user("otto").get("/api/v1/runs", **query)
    assert (reply.status_code, reply.json()["code"]) == (422, "parameters_refused")
    assert reply.json()["problems"][0]["pointer"] == f"/query/{next(iter(query))}"


@pytest.mark.parametrize("cursor", ("x", "cnVuczo", "aXRlbXM6Mw", "cnVuczpo*", "bm9uZQ=="))
def test_a_cursor_of_another_list_is_refused(web: Web, cursor: str) -> None:
    for path in (
        "/api/v1/runs",
        f"/api/v1/runs/{finish(web, web.user('otto'), make_line())}/events",
    ):
        reply = web.user("otto").get(path, cursor=cursor)
        assert reply.status_code == 422
        assert reply.json()["code"] in ("cursor_invalid", "parameters_refused")


def test_lists_have_only_what_is_in_sight(web: Web) -> None:
    mine = finish(web, web.user("otto"), make_line())
    theirs = finish(web, web.user("otto"), make_line("foreign-line"))
    seen = {run["run_id"] for run in web.user("fremd").read_pages("/api/v1/runs", limit=200)}
    assert theirs in seen
    assert mine not in seen
    assert web.user("fremd").read("/api/v1/runs", slug="house")["items"] == []


# --- one run


def test_a_run_is_shown_with_all_that_is_kept_of_it(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_line(), n=12)
    run = web.user("vera").read(f"/api/v1/runs/{run_id}")
    assert set(run) == RUN_FIELDS | {"version", "counters", "parameters", "outputs", "waits_for"}
    assert (run["status"], run["slug"], run["error"]) == ("succeeded", "house", None)
    assert run["outputs"] == {"n": 12}
    assert run["counters"] == {"live": 0, "waiting": 0, "failed_handled": 0, "failed_unhandled": 0}
    assert run["version"]["content_hash"] == web.client.run(run_id).content_hash
    number = run["version"]["number"]
    kept = web.client.version("house", number)
    assert kept.content_hash == run["version"]["content_hash"]
    assert run["finished_at"] >= run["started_at"] >= run["created_at"]
    assert run["seq"] == len(web.client.events(run_id))


def test_a_failed_run_says_what_it_failed_by(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_failing())
    run = web.user("otto").read(f"/api/v1/runs/{run_id}")
    assert run["error"] == {"step_id": "bad", "code": "OSError", "message": "attempt 1"}
    assert run["outputs"] is None
    step = web.user("otto").read(f"/api/v1/runs/{run_id}/steps/bad")
    assert step["error"] == {"code": "OSError", "message": "attempt 1"}
    assert "attempt 1" in step["trace"]


def test_a_waiting_run_names_the_questions_that_the_caller_is_asked(web: Web) -> None:
    run_id = finish(
        web, web.user("otto"), make_question(assignees={"users": ["paula"], "roles": ["clerk"]})
    )
    path = f"/api/v1/runs/{run_id}"
    (pause,) = web.client.inbox(run_id)
    # Who may see runs and is asked; who may see runs, and is not; who may not answer at all.
    for name, ids in (("clara", [pause.pause_id]), ("otto", []), ("adele", [pause.pause_id])):
        found = web.user(name).read(path)["waits_for"]
        assert [one["pause_id"] for one in found["pauses"]] == ids, name
        assert found["events"] == []
    assert web.user("paula").get(path).status_code == 403


def test_a_run_that_waits_for_a_signal_says_which(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_event())
    found = web.user("otto").read(f"/api/v1/runs/{run_id}")["waits_for"]
    assert found == {"pauses": [], "events": [{"step_id": "paid", "name": "payment"}]}


def test_children_stand_below_their_parent_as_far_as_they_are_seen(web: Web) -> None:
    web.publish(make_line("foreign-below"))
    parent = finish(web, web.user("otto"), make_parent("own-above", "foreign-below"))
    (below,) = web.user("otto").read(f"/api/v1/runs/{parent}/children")["items"]
    assert below["parent"] == {"run_id": parent, "step_id": "below", "index": None}
    assert web.user("clara").read(f"/api/v1/runs/{parent}/children")["items"] == []
    assert web.user("clara").get(f"/api/v1/runs/{below['run_id']}").status_code == 404


# --- its inside


def test_steps_come_in_the_order_of_the_definition(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_question())
    path = f"/api/v1/runs/{run_id}/steps"
    steps = web.user("otto").read_pages(path, limit=1)
    assert [(step["step_id"], step["status"]) for step in steps] == [
        ("ask", "waiting"),
        ("after", "pending"),
    ]
    assert steps[0]["waits_for"] == "people"
    assert steps == web.user("otto").read(path)["items"]
    after = web.user("otto").read(f"{path}/after")
    assert (after["status"], after["attempts"], after["inputs"]) == ("pending", 0, None)


def test_a_step_has_its_data_and_a_link_to_flower(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_line(), n=12)
    step = web.user("otto").read(f"/api/v1/runs/{run_id}/steps/first")
    assert (step["inputs"], step["output"]) == ({"n": 12}, {"n": 12})
    assert (step["attempts"], step["end"], step["run_id"]) == (1, "success", run_id)
    assert step["flower"].startswith("http://flower.example:5555/task/")
    skipped = web.user("otto").read(f"/api/v1/runs/{run_id}/steps/small")
    assert (skipped["status"], skipped["flower"]) == ("skipped", None)


def test_items_are_counted_listed_and_looked_at(web: Web) -> None:
    items = [{"n": n} for n in range(5)] + [{"fail": 9}]
    run_id = finish(web, web.user("otto"), make_items(), items=items)
    path = f"/api/v1/runs/{run_id}/steps/each"
    step = web.user("otto").read(path)
    assert step["items"] == {
        "total": 6,
        "started": 6,
        "ended": 6,
        "succeeded": 5,
        "failed": 1,
        "waiting": 0,
    }
    listed = web.user("otto").read_pages(f"{path}/items", limit=4)
    assert [item["index"] for item in listed] == list(range(6))
    assert "inputs" not in listed[0]
    (failed,) = web.user("otto").read_pages(f"{path}/items", status="failed")
    assert failed["index"] == 5
    item = web.user("otto").read(path, index=2)
    assert (item["index"], item["output"]) == (2, {"n": 2})
    assert web.user("otto").get(path, index=6).status_code == 404
    assert web.user("otto").get(path, index=-1).status_code == 422


def test_events_are_read_from_any_number_on(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_line(), n=12)
    path = f"/api/v1/runs/{run_id}/events"
    whole = web.user("otto").read(path)["items"]
    assert [event["seq"] for event in whole] == list(range(1, len(whole) + 1))
    assert whole[-1]["run"] == "succeeded"
    assert web.user("otto").read_pages(path, limit=1) == whole
    assert web.user("otto").read(path, after=2)["items"] == whole[2:]
    assert web.user("otto").read(path, after=2**53 - 1)["items"] == []
    moved = [(one["step_id"], one["status"]) for event in whole for one in event["steps"]]
    assert ("big", "succeeded") in moved
    assert ("small", "skipped") in moved


def test_decisions_have_their_reasons(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_line(), n=12)
    path = f"/api/v1/runs/{run_id}/decisions"
    whole = web.user("otto").read(path)["items"]
    assert {(one["from"], one["to"], one["taken"]) for one in whole} == {
        ("first", "big", True),
        ("first", "small", False),
    }
    assert all(one["reason"]["kind"] == "compare" for one in whole)
    assert all(one["reason"]["left"]["value"] == 12 for one in whole)
    assert web.user("otto").read_pages(path, limit=1) == whole
    (into,) = web.user("otto").read(path, step_id="small")["items"]
    assert into["taken"] is False


def test_why_tells_what_the_command_line_tells(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    from iaflow.cli.reading import _describe_decision, _describe_explanation
    from iaflow.explaining import Ledger, explain

    run_id = finish(web, web.user("otto"), make_line(), n=12)
    found = web.user("otto").read(f"/api/v1/runs/{run_id}/steps/small/why")
    client = web.client
    run, decisions = client.run(run_id), client.decisions(run_id)
    steps = client.steps(run_id)
    explanation = explain(Ledger.of(client.graph_of(run_id), run, steps, decisions), "small")
    assert found["explanation"] == _describe_explanation(explanation)
    (told,) = found["decisions"]
    (kept,) = [_describe_decision(one) for one in decisions if one.target == "small"]
    del told["seq"], told["decided_at"], kept["decided_at"]
    assert told == kept
    assert found["sentence"] == explanation.sentence
    assert (found["run_id"], found["step_id"], found["status"]) == (run_id, "small", "skipped")


def test_a_held_step_names_its_holder_only_to_who_sees_it(web: Web) -> None:
    """Whoever holds a key may be a run of somebody else's."""
    holder_flow = make_hanging("foreign-holder")
    holder_flow["steps"][1]["concurrency_key"] = "till"
    waiting_flow = make_line("own-held")
    waiting_flow["steps"][0]["concurrency_key"] = "till"
    holder = web.user("otto").start(web.publish(holder_flow))
    wait_until(lambda: web.client.holder_of("till"), 20, "the key is held")
    held = web.user("otto").start(web.publish(waiting_flow))
    path = f"/api/v1/runs/{held}/steps/first"
    assert web.user("clara").read(path)["is_held"] is True
    assert holder in web.user("otto").read(f"{path}/why")["sentence"]
    told = web.user("clara").read(f"{path}/why")["sentence"]
    assert "till" in told
    assert holder not in told
    web.client.cancel(holder)
    web.wait_for(held)


# --- data


def test_without_payloads_read_no_data_is_told(web: Web) -> None:
    """A canary in the input goes everywhere that data goes."""
    canary = f"canary-{uuid4()}"
    definition = make_failing("own-secretive", seconds=0)
    definition["flow"]["transitions"][0]["condition"] = f"result.word == '{canary}'"
    definition["steps"].append({"id": "never", "module": "tests.integration.houses"})
    definition["steps"][-1]["step_class"] = "Work"
    definition["flow"]["transitions"].append(
        {"from": "good", "to": "never", "condition": "result.word == 'other'"}
    )
    definition["parameters"] = {"word": ""}
    definition["steps"][0]["inputs"] = {"word": "{{ parameters.word }}"}
    definition["steps"][1]["concurrency_key"] = "{{ parameters.word }}"
    run_id = finish(web, web.user("otto"), definition, word=canary)
    base = f"/api/v1/runs/{run_id}"
    paths = [
        "",
        "/steps",
        "/steps/good",
        "/steps/bad",
        "/steps/bad/why",
        "/steps/never/why",
        "/decisions",
        "/events",
        "/children",
    ]
    program, person = web.token("otto", "runs:read"), web.user("otto")
    texts = {path: program.get(base + path).text for path in paths}
    assert not [path for path, text in texts.items() if canary in text or "attempt 1" in text]
    assert {path for path in paths if canary in person.get(base + path).text} >= {
        "",
        "/steps",
        "/steps/good",
        "/steps/bad/why",
        "/steps/never/why",
        "/decisions",
    }
    run = json.loads(texts[""])
    assert (run["parameters"], run["outputs"]) == (None, None)
    assert run["error"] == {"step_id": "bad", "code": "OSError", "message": None}
    why = json.loads(texts["/steps/never/why"])
    assert (why["sentence"], why["explanation"]["transitions"][0]["words"]) == (None, None)
    assert why["explanation"]["transitions"][0]["verdict"] == "refused"
    listed = program.get("/api/v1/runs", slug="own-secretive").text
    assert "attempt 1" not in listed
    assert "attempt 1" in person.get("/api/v1/runs", slug="own-secretive").text


# --- what is not there


GETS = ("", "/steps", "/steps/first", "/steps/first/items", "/steps/first/why")
GETS += ("/events", "/decisions", "/children", "/stream")


@pytest.mark.parametrize("path", GETS)
def test_a_foreign_run_is_as_one_that_is_not_there(web: Web, path: str) -> None:
    foreign = finish(web, web.user("otto"), make_line())
    unseen = web.user("fremd").get(f"/api/v1/runs/{foreign}{path}")
    absent_id = str(uuid4())
    absent = web.user("fremd").get(f"/api/v1/runs/{absent_id}{path}")
    assert (unseen.status_code, absent.status_code) == (404, 404)
    assert (
        unseen.text.replace(foreign, absent_id).replace(
            unseen.json()["request_id"], absent.json()["request_id"]
        )
        == absent.text
    )
    told = {
        key: value for key, value in unseen.headers.items() if key not in ("date", "x-request-id")
    }
    assert told == {
        key: value for key, value in absent.headers.items() if key not in ("date", "x-request-id")
    }
    nonsense = web.user("fremd").get(f"/api/v1/runs/nonsense{path}")
    assert nonsense.status_code == 404
    assert without_id(nonsense.json()) == {
        **without_id(absent.json()),
        "detail": "there is no run nonsense",
    }


@pytest.mark.parametrize("path", GETS)
def test_runs_need_their_permission(web: Web, path: str) -> None:
    run_id = finish(web, web.user("otto"), make_line())
    base = f"/api/v1/runs/{run_id}{path}"
    assert web.nobody.get(base).status_code == 401
    assert web.user("paula").get(base).status_code == 403
    assert web.token("otto", "runs:start", "runs:control").get(base).status_code == 403


def test_a_step_that_the_definition_has_not_is_not_there(web: Web) -> None:
    run_id = finish(web, web.user("otto"), make_line())
    for path in ("/steps/other", "/steps/other/why", "/steps/other/items"):
        reply = web.user("otto").get(f"/api/v1/runs/{run_id}{path}")
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_what_a_user_loses_is_gone_with_the_next_request(web: Web) -> None:
    """Roles and sight are looked up with every request."""
    web.sessions.accounts.create(
        "leaver", roles=("viewer",), password="plum-cradle-oxide-74", caller=Caller("test")
    )
    run_id = finish(web, web.user("otto"), make_line())
    program = web.token("leaver", "runs:read")
    assert program.get(f"/api/v1/runs/{run_id}").status_code == 200
    user = web.sessions.accounts.get_by_name("leaver")
    web.sessions.accounts.set(user.user_id, pipelines=("foreign-*",), caller=Caller("test"))
    assert program.get(f"/api/v1/runs/{run_id}").status_code == 404
    assert web.client.run(run_id).status is RunStatus.SUCCEEDED
