"""The inbox and the page of a question: for whom they are, what they show, and in which state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from tests.servers import wait_until
from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, text_of, texts_of
from tests.web.people import People

ABSENT = "01990000-0000-7000-8000-000000000000"

EVERY_FIELD: list[dict[str, Any]] = [
    {"name": "t", "type": "text", "required": True, "min_length": 2, "max_length": 9,
     "pattern": "[A-Z]+", "placeholder": "ABC", "help": "Capitals"},
    {"name": "free", "type": "text", "pattern": "(?i)[[:alpha:]]+"},
    {"name": "ta", "type": "textarea", "default": "\nfirst & <second>"},
    {"name": "n", "type": "number", "minimum": 0.5, "maximum": 10, "default": 2.0},
    {"name": "i", "type": "integer", "default": 9007199254740993},
    {"name": "b", "type": "boolean", "default": False},
    {"name": "c", "type": "checkbox", "default": True, "required": True},
    {"name": "r", "type": "radio", "options": ["a", {"value": 1, "label": "One"}, {"value": True, "label": "Yes"}]},
    {"name": "s", "type": "select", "options": ["x", "y"], "default": "y", "required": False},
    {"name": "m", "type": "multiselect", "options": ["p", "q", {"value": 3, "label": "3"}], "default": ["q", 3]},
    {"name": "d", "type": "date", "minimum": "2026-01-01", "default": "2026-02-03"},
    {"name": "dt", "type": "datetime", "maximum": "2026-12-31T00:00:00Z",
     "default": "2026-03-04T05:06:07.5+01:00"},
    {"name": "e", "type": "email"},
    {"name": "u", "type": "url"},
    {"name": "j", "type": "json", "default": {"a": [1.0, None]}},
]  # fmt: skip


def path_of(pause: PauseRecord) -> str:
    return f"/inbox/{pause.pause_id}"


def form_of(people: People, fields: list[dict[str, Any]], **more: Any) -> Any:
    pause = people.ask(ui_schema={"title": "All", "fields": fields}, **more)
    return page_of(people.person("approver").get(path_of(pause)))


def control(page: Any, name: str) -> Any:
    [found] = page.xpath(f'//form[@id="answer-form"]//*[@data-field="{name}"]')
    return found


# --- who sees what


def test_the_inbox_is_for_those_who_may_answer(people: People) -> None:
    assert page_of(people.person("approver").get("/inbox")) is not None
    assert page_of(people.person("admin").get("/inbox")) is not None
    for role in ("viewer", "operator", "author"):
        told = text_of(page_of(people.person(role).get("/inbox"), 403))
        assert "pauses:answer" in told
    for path in ("/inbox", f"/inbox/{ABSENT}"):
        away = people.nobody().get(path)
        assert (away.status_code, away.headers["location"]) == (303, f"/sign-in?next={path}")


def test_a_question_is_there_for_those_who_are_asked_or_assign(people: People) -> None:
    name = people.account("approver")
    pause = people.ask(assignees={"users": [name]})
    asked = page_of(people.as_user(name).get(path_of(pause)))
    assert asked.xpath('//form[@id="answer-form"]')
    assert not asked.xpath('//form[@id="reassign-form"]')
    assert f"{name} (you)" in text_of(asked)
    assigner = page_of(people.person("operator").get(path_of(pause)))
    assert not assigner.xpath('//form[@id="answer-form"]')
    assert assigner.xpath('//form[@id="reassign-form"]')
    assert not assigner.xpath('//form[@id="link-form"]')
    maker = page_of(people.person("admin").get(path_of(pause)))
    assert maker.xpath('//form[@id="link-form"]')
    assert "You are not asked here" in text_of(assigner)
    assert "for those who are asked" not in text_of(assigner)  # an operator reads payloads
    other, absent = (
        people.person("approver").get(path) for path in (path_of(pause), f"/inbox/{ABSENT}")
    )
    assert text_of(page_of(other, 404), "//h1") == text_of(page_of(absent, 404), "//h1")
    far = people.person("operator", pipelines=("foreign-*",))
    page_of(far.get(path_of(pause)), 404)
    page_of(people.person("viewer").get(path_of(pause)), 403)


def test_an_approver_sees_no_way_to_what_is_not_theirs(people: People) -> None:
    pause = people.ask()
    page = page_of(people.person("approver").get(path_of(pause)))
    assert not page.xpath(f'//a[contains(@href, "/runs/{pause.run_id}")]')
    both = page_of(people.person("approver", "viewer").get(path_of(pause)))
    assert both.xpath(f'//a[contains(@href, "/runs/{pause.run_id}")]')


def test_the_starter_is_told_that_somebody_else_must_answer(people: People) -> None:
    name = people.account("approver")
    pause = people.ask(started_by=name, exclude_starter=True)
    page = page_of(people.as_user(name).get(path_of(pause)))
    assert "Somebody else must answer" in text_of(page)
    assert not page.xpath('//form[@id="answer-form"]')
    other = page_of(people.person("approver").get(path_of(pause)))
    assert other.xpath('//form[@id="answer-form"]')
    assert "Not whoever" in text_of(other) or "not whoever" in text_of(other)


# --- the list


def test_the_urgent_ones_stand_first_and_the_rest_by_age(people: People) -> None:
    role = people.name("clerk")
    name = people.account("approver", role)
    assignees = {"roles": [role]}
    old = people.ask(assignees=assignees)
    late = people.ask(assignees=assignees, expires_in=7 * 86_400)
    soon = people.ask(assignees=assignees, expires_in=5_000)
    sooner = people.ask(assignees={"users": [name]}, expires_in=600)
    page = page_of(people.as_user(name).get("/inbox"))
    mine = {one.pause_id for one in (old, late, soon, sooner)}
    listed = [one for one in page.xpath("//@data-pause") if one in mine]
    assert listed == [one.pause_id for one in (sooner, soon, old, late)]
    assert page.xpath("count(//li[contains(@class, 'is-soon')])") >= 2
    assert "asks you by name" in text_of(page, f'//li[@data-pause="{sooner.pause_id}"]')


def test_an_empty_inbox_says_what_would_be_there(people: People) -> None:
    nowhere = people.person("approver", pipelines=("nothing-at-all",))
    page = page_of(nowhere.get("/inbox"))
    assert "Nothing waits for you" in text_of(page)
    assert "human_input" in text_of(page)


# --- the form


def test_every_type_has_its_control(people: People) -> None:
    page = form_of(people, EVERY_FIELD)
    kinds = {one.get("data-field"): one.get("data-kind") for one in page.xpath("//*[@data-kind]")}
    assert kinds == {one["name"]: one["type"] for one in EVERY_FIELD}
    types = {name: control(page, name).get("type") for name in ("t", "n", "i", "d", "dt", "e", "u")}
    assert types == {
        "t": "text", "n": "number", "i": "number", "d": "date", "dt": "datetime-local",
        "e": "email", "u": "url",
    }  # fmt: skip
    for one in page.xpath("//*[@data-kind]"):
        # Whatever describes it is there.
        for id_ in one.get("aria-describedby").split():
            assert page.xpath(f'//*[@id="{id_}"]'), id_
        if one.tag != "fieldset":
            is_inside = one.xpath("ancestor::label")
            assert is_inside or page.xpath(f'//label[@for="{one.get("id")}"]')


def test_the_rules_of_a_field_are_the_browsers_as_far_as_it_knows_them(people: People) -> None:
    page = form_of(people, EVERY_FIELD)
    text = control(page, "t")
    assert {name: text.get(name) for name in ("minlength", "maxlength", "pattern")} == {
        "minlength": "2",
        "maxlength": "9",
        "pattern": "[A-Z]+",
    }
    assert text.get("required") is not None
    assert text.get("placeholder") == "ABC"
    assert control(page, "free").get("pattern") is None  # it means something else to a browser
    number = control(page, "n")
    assert [number.get(name) for name in ("min", "max", "step")] == ["0.5", "10", "any"]
    assert control(page, "i").get("step") == "1"
    assert control(page, "d").get("min") == "2026-01-01"
    assert control(page, "dt").get("data-max") == "2026-12-31T00:00:00Z"
    assert control(page, "dt").get("max") is None
    assert control(page, "r").get("data-required") is not None
    assert control(page, "m").get("data-required") is None


def test_defaults_stand_in_the_form_to_the_last_digit(people: People) -> None:
    page = form_of(people, EVERY_FIELD)
    # Of an area a browser drops the first line end.
    assert control(page, "ta").text == "\n\nfirst & <second>"
    assert control(page, "n").get("value") == "2.0"
    assert control(page, "i").get("value") == "9007199254740993"
    assert control(page, "b").xpath(".//input[@checked]/@value") == ["false"]
    assert control(page, "c").get("checked") is not None
    assert control(page, "r").xpath(".//input/@value") == ['"a"', "1", "true"]
    assert control(page, "r").xpath(".//input[@checked]") == []
    assert control(page, "s").xpath(".//option[@selected]/@value") == ['"y"']
    assert control(page, "m").xpath(".//input[@checked]/@value") == ['"q"', "3"]
    assert control(page, "d").get("value") == "2026-02-03"
    assert control(page, "dt").get("data-instant") == "2026-03-04T05:06:07.5+01:00"
    assert "1.0" in control(page, "j").text


def test_who_need_not_choose_may_take_the_choice_back(people: People) -> None:
    fields = [
        {"name": "r", "type": "radio", "options": ["a"], "required": False},
        {"name": "b", "type": "boolean"},
        {"name": "must", "type": "boolean", "required": True},
    ]
    page = form_of(people, fields)
    for name in ("r", "b"):
        assert control(page, name).xpath(".//input[@checked]/@value") == ["null"]
    assert control(page, "must").xpath(".//input/@value") == ["true", "false"]


def test_a_form_without_fields_asks_only_to_go_on(people: People) -> None:
    page = form_of(people, [])
    assert "Go on" in text_of(page, '//form[@id="answer-form"]')


# --- states


def test_what_was_answered_is_shown_to_those_who_may_read_it(people: People) -> None:
    name = people.account("approver")
    pause = people.ask()
    answer = {"decision": "approve", "comment": "it <fits>"}
    people.web.client.answer(pause.pause_id, answer, answered_by=name, is_admin=True)
    page = page_of(people.as_user(name).get(path_of(pause)))
    assert not page.xpath('//form[@id="answer-form"]')
    assert f"Answered by {name}" in text_of(page)
    assert "it <fits>" in text_of(page)
    other = text_of(page_of(people.person("approver").get(path_of(pause))))
    assert "it <fits>" not in other
    assert "for those who may read the data of runs" in other


def test_one_that_was_withdrawn_says_so(people: People) -> None:
    pause = people.ask()
    people.web.client.cancel(pause.run_id)
    page = page_of(people.person("approver").get(path_of(pause)))
    assert "Withdrawn" in text_of(page)
    assert not page.xpath('//form[@id="answer-form"]')


def test_one_whose_time_is_over_says_so(people: People) -> None:
    pause = people.ask(expires_in=1)

    def is_over() -> bool:
        return people.web.client.pause(pause.pause_id).status is PauseStatus.EXPIRED

    wait_until(is_over, 20, "the question expires")
    page = page_of(people.person("approver").get(path_of(pause)))
    assert "Its time is over" in text_of(page)
    assert not page.xpath('//form[@id="answer-form"]')


def test_a_quorum_is_counted_and_who_has_answered_is_not_asked_twice(people: People) -> None:
    one, two = people.account("approver"), people.account("approver")
    pause = people.ask(quorum=2)
    assert "0 of 2" in text_of(page_of(people.as_user(one).get(path_of(pause))), "//aside")
    answer = {"decision": "approve"}
    people.web.client.answer(pause.pause_id, answer, answered_by=one, is_admin=True)
    page = page_of(people.as_user(one).get(path_of(pause)))
    assert "1 of 2" in text_of(page, "//aside")
    assert "You have answered" in text_of(page)
    assert not page.xpath('//form[@id="answer-form"]')
    assert page_of(people.as_user(two).get(path_of(pause))).xpath('//form[@id="answer-form"]')


def test_when_it_ends_is_said_in_words_and_exactly(people: People) -> None:
    pause = people.ask(expires_in=7_300)
    assert pause.expires_at is not None
    page = page_of(people.person("approver").get(path_of(pause)))
    [shown] = page.xpath("//aside//dt[. = 'Ends']/following-sibling::dd[1]//time/@datetime")
    assert abs(datetime.fromisoformat(shown) - pause.expires_at) < timedelta(seconds=1)
    assert "in 2 h" in text_of(page, "//aside")
    assert pause.expires_at > datetime.now(UTC)


def test_links_are_listed_for_who_makes_them(people: People) -> None:
    pause = people.ask()
    operator = people.person("operator")
    body = {"person": "ann@example.org", "action": {}}
    made = people.person("admin").post(f"/api/v1/pauses/{pause.pause_id}/links", body)
    assert made.status_code == 201, made.text
    page = page_of(operator.get(path_of(pause)))
    assert not page.xpath('//form[@id="link-form"]')
    assert "ann@example.org" in text_of(page, "//aside")
    assert made.json()["url"].rpartition("/")[2] not in " ".join(texts_of(page))
    other = page_of(people.person("approver").get(path_of(pause)))
    assert "ann@example.org" not in text_of(other)


# --- texts of others


@pytest.mark.parametrize("group", range(4))
def test_texts_of_others_are_texts(people: People, group: int) -> None:
    for payload in PAYLOADS[group * 15 : group * 15 + 15]:
        fields = [
            {"name": "r", "type": "radio", "label": payload, "help": payload,
             "options": [{"value": payload, "label": payload}], "default": payload},
            {"name": "m", "type": "multiselect", "options": [payload], "default": [payload]},
            {"name": "s", "type": "select", "options": [payload], "default": payload},
            {"name": "t", "type": "text", "placeholder": payload, "default": payload},
            {"name": "ta", "type": "textarea", "default": payload},
            {"name": "j", "type": "json", "default": {payload: payload}},
        ]  # fmt: skip
        pause = people.ask(
            ui_schema={"title": payload, "description": payload, "fields": fields},
            show={"x": [payload], "y": {payload: payload}} if "{" not in payload else {},
            assignees={"users": [payload], "roles": ["approver"]},
        )
        asker = people.person("admin")
        plain = page_of(people.person("approver").get(path_of(pause)))
        for page in (page_of(asker.get(path_of(pause))), plain):
            _require_kept(page, payload, at_least=8)
        _require_kept(page_of(asker.get("/inbox")), payload, at_least=1)
        answer = {"r": payload, "m": [payload], "s": payload, "t": payload, "ta": payload, "j": 1}
        people.web.client.answer(pause.pause_id, answer, answered_by=payload, is_admin=True)
        _require_kept(page_of(asker.get(path_of(pause))), payload, at_least=5)


def _require_kept(page: Any, payload: str, *, at_least: int) -> None:
    """Fail unless a payload is among the texts of a page, as it is, so many times."""
    wanted = _lines(payload)
    found = sum(1 for text in texts_of(page) if wanted in _lines(text))
    assert found >= at_least, (payload, found)


def _lines(text: str) -> str:
    # HTML makes one line end of all.
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def test_the_audit_is_untouched_by_looking(people: People) -> None:
    pause = people.ask()
    people.person("admin").get(path_of(pause))
    assert people.is_open(pause)
    assert people.web.sessions.audit.list(target=pause.pause_id) == []
