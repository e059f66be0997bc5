"""One-time links (RELIABILITY T15): made, shown, used once, and of no use to anybody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest

from iaflow.data.records import PauseRecord
from iaflow.data.status import RunStatus
from tests.web.people import ROOT, Asker, People

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PEOPLE_ACCEPT = {"Accept": "text/html,application/xhtml+xml"}
YES = {"field.decision": "0"}
ABSENT = "01990000-0000-7000-8000-000000000000"


def make(
    people: People, pause: PauseRecord, action: Mapping[str, Any] | None = None, **more: Any
) -> str:
    """Return the path of a new link."""
    body = {"person": people.name("ann@example.org"), "action": dict(action or {}), **more}
    replied = people.person("admin").post(f"/api/v1/pauses/{pause.pause_id}/links", body)
    assert replied.status_code == 201, replied.text
    assert replied.json()["url"].startswith(people.web.url)
    return urlsplit(replied.json()["url"]).path


def hidden(page: str) -> dict[str, str]:
    """Return what the page's form sends by itself."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: unescape(value) for name, value in found}


def send(
    people: People, path: str, fields: Mapping[str, str], *, of: str | None = None, **more: str
) -> httpx2.Response:
    """Send what somebody filled in on the page of `of`, else of the path itself."""
    page = people.nobody().get(of or path).text
    body = urlencode({**hidden(page), **fields})
    return people.nobody()("POST", path, content=body, headers={**FORM, **more})


def code_of(replied: httpx2.Response) -> tuple[int, str]:
    return replied.status_code, replied.json()["code"]


def test_a_link_shows_and_then_decides_once(people: People) -> None:
    pause = people.ask(assignees={"users": ["the-boss"]})
    path = make(people, pause, {"decision": "approve"}, person="ann@example.org")
    page = people.nobody().get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Approve &lt;this&gt;?" in page.text
    assert "<dt>amount</dt><dd>1.0</dd>" in page.text
    assert "decision: approve</button>" in page.text
    assert "ann@example.org" in page.text
    assert 'name="field.decision"' not in page.text
    done = send(people, path, {"field.comment": "fits"})
    assert done.status_code == 200, done.text
    assert "was recorded" in done.text
    people.web.wait_for(pause.run_id, RunStatus.SUCCEEDED)
    kept = people.web.client.pause(pause.pause_id)
    assert kept.answered_by == "ann@example.org"
    assert dict(kept.answer or {}) == {"decision": "approve", "comment": "fits", "count": None}
    audited = people.web.sessions.audit.list(target=pause.pause_id)
    actions = [(one.action, one.actor, one.detail.get("channel")) for one in audited]
    assert actions[:2] == [
        ("pause.answer", "ann@example.org", "link"),
        ("link.use", "ann@example.org", None),
    ]
    for replied in (people.nobody().get(path), people.nobody().post(path)):
        assert replied.status_code in (410, 415)
    assert code_of(people.nobody().get(path)) == (410, "link_used")
    told = people.nobody().get(path, headers=PEOPLE_ACCEPT)
    assert (told.status_code, "used before" in told.text) == (410, True)
    assert told.headers["content-type"].startswith("text/html")


def test_looking_decides_nothing(people: People) -> None:
    pause = people.ask()
    path = make(people, pause, {"decision": "approve"})
    nobody = people.nobody()
    for _ in range(100):
        assert nobody.get(path).status_code == 200
        assert nobody("HEAD", path).status_code == 200
    for headers in (
        {"Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"X-Moz": "prefetch"},
        {"X-HTTP-Method-Override": "POST"},
    ):
        assert nobody.get(path, headers=headers).status_code == 200
    assert nobody.get(path, params={"_method": "POST", **YES}).status_code == 200
    for method in ("PUT", "PATCH", "DELETE"):
        assert nobody(method, path).status_code == 405
    assert people.is_open(pause)


def test_the_page_can_do_nothing_else(people: People) -> None:
    pause = people.ask()
    replied = people.nobody().get(make(people, pause))
    policy = replied.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "form-action 'self'" in policy
    assert replied.headers["referrer-policy"] == "no-referrer"
    assert replied.headers["cache-control"] == "no-store"
    assert "set-cookie" not in replied.headers
    for forbidden in ("<script", "<img", "<link", "http://", "https://", " on", "javascript:"):
        found = re.sub(r">[^<]*<", "><", replied.text.replace(_style_of(replied.text), ""))
        assert forbidden not in found, forbidden


def _style_of(page: str) -> str:
    found = re.search(r"<style>.*?</style>", page, re.DOTALL)
    assert found is not None
    return found[0]


def test_texts_of_others_are_texts(people: People) -> None:
    nasty = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    schema = {
        "title": nasty,
        "description": nasty,
        "fields": [
            {"name": "a", "type": "text", "label": nasty, "help": nasty, "placeholder": nasty},
            {"name": "b", "type": "select", "required": False, "options": [nasty]},
            {"name": "c", "type": "textarea", "default": f"</textarea>{nasty}"},
            {"name": "d", "type": "multiselect", "options": [{"value": 1, "label": nasty}]},
        ],
    }
    pause = people.ask(ui_schema=schema, show={nasty: nasty, "deep": [{"x": nasty}]})
    path = make(people, pause)
    for page in (people.nobody().get(path).text, send(people, path, {"field.b": nasty}).text):
        assert "<script" not in page
        assert "<img" not in page
        assert page.count("</textarea>") == 1
        assert nasty in unescape(page)


@pytest.mark.parametrize(
    ("schema", "filled", "kept"),
    (
        ({"type": "text"}, ["a\u00e4\U0001f600"], "a\u00e4\U0001f600"),
        ({"type": "textarea"}, ["one\r\ntwo"], "one\ntwo"),
        ({"type": "number"}, ["1.50"], 1.5),
        ({"type": "integer"}, ["7"], 7),
        ({"type": "integer"}, [""], None),
        ({"type": "boolean"}, ["false"], False),
        ({"type": "boolean"}, [""], None),
        ({"type": "checkbox"}, ["true"], True),
        ({"type": "checkbox"}, [], False),
        ({"type": "radio", "options": [{"value": 2, "label": "two"}, "x"]}, ["0"], 2),
        ({"type": "select", "options": ["a", "b"]}, ["1"], "b"),
        (
            {"type": "multiselect", "options": ["a", {"value": True, "label": "t"}]},
            ["0", "1"],
            None,
        ),
        ({"type": "date"}, ["2026-03-08"], "2026-03-08"),
        ({"type": "datetime"}, ["2026-03-08T07:00:00Z"], None),
        ({"type": "email"}, ["ann@example.org"], "ann@example.org"),
        ({"type": "url"}, ["https://example.org/a"], "https://example.org/a"),
        ({"type": "json"}, ['{"a": [1, 2.0]}'], {"a": [1, 2.0]}),
    ),
)
def test_every_kind_of_field_can_be_filled_in(
    people: People, schema: dict[str, Any], filled: list[str], kept: Any
) -> None:
    pause = people.ask(ui_schema={"fields": [{"name": "it", **schema}]})
    path = make(people, pause)
    page = people.nobody().get(path).text
    if schema["type"] not in ("checkbox",) or filled:
        assert 'name="field.it"' in page
    body = urlencode([*hidden(page).items(), *(("field.it", one) for one in filled)])
    replied = people.nobody()("POST", path, content=body, headers=FORM)
    assert replied.status_code == 200, replied.text
    answer = dict(people.web.client.pause(pause.pause_id).answer or {})["it"]
    match schema["type"]:
        case "multiselect":
            assert answer == ["a", True]
        case "datetime":
            assert answer.startswith("2026-03-08T07:00:00")
        case _:
            assert (answer, type(answer)) == (kept, type(kept))


def test_what_does_not_fit_is_shown_again_and_uses_nothing_up(people: People) -> None:
    pause = people.ask()
    path = make(people, pause)
    replied = send(people, path, {"field.count": "minus one", "field.comment": "kept <b>"})
    assert replied.status_code == 422
    assert "an answer is needed" in replied.text
    assert "kept &lt;b&gt;" in replied.text
    assert 'value="minus one"' in replied.text
    for wrong in ("7", "approve", "-1", "0x0"):
        assert send(people, path, {"field.decision": wrong}).status_code == 422
    assert people.is_open(pause)
    assert send(people, path, {**YES, "field.count": "3"}).status_code == 200


def test_the_form_cannot_say_otherwise_than_the_link(people: People) -> None:
    pause = people.ask()
    path = make(people, pause, {"decision": "approve"})
    done = send(people, path, {"field.decision": "1", "decision": "reject", "action": "{}"})
    assert done.status_code == 200
    answer = people.web.client.pause(pause.pause_id).answer
    assert (answer or {})["decision"] == "approve"


def test_only_the_form_of_its_own_page_decides(people: People) -> None:
    pause, other = people.ask(), people.ask()
    path, elsewhere = make(people, pause), make(people, other)
    nobody = people.nobody()
    token = hidden(nobody.get(path).text)["form_token"]
    for fields in (
        YES,
        {**YES, "form_token": ""},
        {**YES, "form_token": token[:-1]},
        {**YES, "form_token": hidden(nobody.get(elsewhere).text)["form_token"]},
    ):
        replied = nobody("POST", path, content=urlencode(fields), headers=FORM)
        assert code_of(replied) == (403, "csrf_refused")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert send(people, path, YES, **headers).status_code == 403
    good = urlencode({**YES, "form_token": token})
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", ""):
        replied = nobody("POST", path, content=good, headers={"Content-Type": kind})
        assert code_of(replied) == (415, "body_not_json")
    assert people.is_open(pause)
    # As browsers send it from a page that tells nobody where it is.
    done = send(people, path, YES, Origin="null", **{"Sec-Fetch-Site": "same-origin"})
    assert done.status_code == 200


def test_a_body_has_its_limits(people: People) -> None:
    path = make(people, people.ask())
    nobody = people.nobody()
    token = hidden(nobody.get(path).text)["form_token"]
    for body, status in (
        (urlencode({"form_token": token, "field.comment": "x" * 20_000}), 413),
        ("&".join("a=1" for _ in range(2_000)), 422),
        (b"form_token=\xff", 422),
        ("form_token=%ff", 422),
        ("", 403),
        ("&&&===", 403),
    ):
        replied = nobody("POST", path, content=body, headers=FORM)
        assert replied.status_code == status, body[:40]
    chunks = (b"a" * 1024 for _ in range(32))
    assert nobody("POST", path, content=chunks, headers=FORM).status_code == 413


def test_a_link_with_any_other_sign_is_none(people: People) -> None:
    pause = people.ask()
    path = make(people, pause, {"decision": "approve"})
    page = people.nobody().get(path).text
    body = urlencode(hidden(page))
    token = path.rpartition("/")[2]
    spoilt = [
        token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        for at in range(len(token))
    ]
    spoilt += [token[:-1], token + "A", token.swapcase(), "", "x", "%00", "a" * 500, token + "%0a"]
    told = set()
    for one in spoilt:
        for method in ("GET", "POST"):
            more = {"content": body, "headers": FORM} if method == "POST" else {}
            replied = people.nobody()(method, f"/l/{one}", **more)
            assert replied.status_code == 404, one
            told.add(replied.json()["detail"])
    assert len(told) <= 3
    assert people.is_open(pause)
    assert send(people, path, {}).status_code == 200


def test_a_link_is_for_its_question_alone(people: People) -> None:
    """The page of one link sent to another decides neither."""
    one, two = people.ask(), people.ask()
    path, other = make(people, one), make(people, two)
    assert code_of(send(people, other, YES, of=path)) == (403, "csrf_refused")
    assert people.is_open(one)
    assert people.is_open(two)


def test_of_many_who_use_it_at_once_one_does(people: People) -> None:
    pause = people.ask(quorum=30)
    path = make(people, pause)
    page = people.nobody().get(path).text
    body = urlencode({**hidden(page), **YES})

    def post(_: int) -> int:
        return people.nobody()("POST", path, content=body, headers=FORM).status_code

    with ThreadPoolExecutor(20) as pool:
        replies = [*pool.map(post, range(20))]
    assert sorted(replies) == [200] + [410] * 19
    assert people.web.client.answers_to(pause.pause_id) == 1


def test_a_link_ends_with_its_time_its_question_and_its_person(people: People) -> None:
    answered, account = people.ask(), people.account("approver")
    path = make(people, answered)
    replied = people.as_user(account).post(
        f"/api/v1/pauses/{answered.pause_id}/answer", {"answer": {"decision": "reject"}}
    )
    assert replied.status_code == 200
    assert code_of(people.nobody().get(path)) == (410, "link_used")
    told = people.nobody().get(path, headers=PEOPLE_ACCEPT)
    assert (told.status_code, "not open any more" in told.text) == (410, True)
    disabled = people.account("viewer")
    path = make(people, people.ask(), person=disabled)
    people.disable(disabled)
    assert code_of(people.nobody().get(path)) == (404, "not_found")


def test_a_link_that_is_over_is_none(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = people.ask()
    path = make(people, pause, {"decision": "approve"}, expires_in=60)
    body = urlencode(hidden(people.nobody().get(path).text))
    links = people.web.sessions.links
    clock = links._clock

    class Later:
        def now(self) -> Any:
            return clock.now() + timedelta(seconds=61)

    monkeypatch.setattr(links, "_clock", Later())
    assert code_of(people.nobody().get(path)) == (404, "not_found")
    replied = people.nobody()("POST", path, content=body, headers=FORM)
    assert code_of(replied) == (404, "not_found")
    assert people.is_open(pause)


def test_a_starter_who_may_not_answer_may_not_by_a_link_either(people: People) -> None:
    starter = people.account("operator")
    pause = people.ask(started_by=starter, exclude_starter=True)
    path = f"/api/v1/pauses/{pause.pause_id}/links"
    for asker, person in (
        (people.as_user(starter), "ann@example.org"),
        (people.person("admin"), starter.upper()),
    ):
        replied = asker.post(path, {"person": person})
        assert code_of(replied) == (403, "not_allowed")
    # However such a link came to be, it does not answer.
    _, token = people.web.sessions.links.create(pause.pause_id, starter, caller=ROOT)
    assert send(people, f"/l/{token}", YES).status_code == 403
    assert people.is_open(pause)


def test_links_are_listed_and_taken_back(people: People) -> None:
    pause, other, admin = people.ask(), people.ask(), people.person("admin")
    made = admin.post(f"/api/v1/pauses/{pause.pause_id}/links", {"person": "ann"}).json()
    [listed] = admin.read(f"/api/v1/pauses/{pause.pause_id}/links")["items"]
    url = made.pop("url")
    assert listed == made
    assert (listed["person"], listed["action"], listed["used_at"]) == ("ann", {}, None)
    absent = admin.delete(f"/api/v1/pauses/{pause.pause_id}/links/{ABSENT}")
    foreign = admin.delete(f"/api/v1/pauses/{other.pause_id}/links/{made['link_id']}")
    assert (absent.status_code, foreign.status_code) == (404, 404)
    deleted = admin.delete(f"/api/v1/pauses/{pause.pause_id}/links/{made['link_id']}")
    assert deleted.status_code == 204
    assert code_of(people.nobody().get(urlsplit(url).path)) == (404, "not_found")
    assert admin.read(f"/api/v1/pauses/{pause.pause_id}/links")["items"] == []


@pytest.mark.parametrize(
    "change",
    (
        {"person": ""},
        {"person": "a b"},
        {"person": "x" * 129},
        {"expires_in": 59},
        {"expires_in": 7 * 24 * 3600 + 1},
        {"expires_in": "60"},
        {"action": {"decision": "maybe"}},
        {"action": {"unknown": 1}},
        {"action": []},
        {"pause_id": ABSENT},
    ),
)
def test_a_link_that_is_refused(people: People, change: dict[str, Any]) -> None:
    pause, admin = people.ask(), people.person("admin")
    body = {"person": "ann", **change}
    replied = admin.post(f"/api/v1/pauses/{pause.pause_id}/links", body)
    assert replied.status_code == 422, replied.text
    assert replied.json()["problems"]


def test_only_who_may_makes_links_and_in_sight_alone(people: People) -> None:
    pause = people.ask()
    path = f"/api/v1/pauses/{pause.pause_id}/links"
    for role in ("viewer", "author", "approver"):
        someone = people.person(role)
        for replied in (
            someone.get(path),
            someone.post(path, {"person": "ann"}),
            someone.delete(f"{path}/{ABSENT}"),
        ):
            assert code_of(replied) == (403, "not_allowed")
    # Who makes a link can answer in its person's name: to ask others is not enough for that.
    operator = people.person("operator")
    assert code_of(operator.post(path, {"person": "ann"})) == (403, "not_allowed")
    assert operator.get(path).status_code == 200
    elsewhere: Asker = people.person("admin", pipelines=("x-*",))
    for replied in (
        elsewhere.get(path),
        elsewhere.post(path, {"person": "ann"}),
        elsewhere.delete(f"{path}/{ABSENT}"),
    ):
        assert code_of(replied) == (404, "not_found")
