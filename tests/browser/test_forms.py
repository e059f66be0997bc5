"""Forms in a browser: every type of field with right and wrong answers, drafts, late answers."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from iaflow.data.status import PauseStatus, RunStatus
from tests.browser.people import Guests
from tests.web.people import approval
from tests.web.webs import Web

FIELDS: list[dict[str, Any]] = [
    {"name": "text", "type": "text", "required": True, "min_length": 2, "pattern": "[A-Z]+"},
    {"name": "area", "type": "textarea", "max_length": 30},
    {"name": "number", "type": "number", "minimum": 0.5, "maximum": 10},
    {"name": "whole", "type": "integer"},
    {"name": "yes", "type": "boolean", "required": True},
    {"name": "maybe", "type": "boolean"},
    {"name": "tick", "type": "checkbox", "required": True},
    {"name": "one", "type": "radio", "options": ["a", {"value": 1.5, "label": "One and a half"}]},
    {"name": "pick", "type": "select", "options": ["x", {"value": True, "label": "Truth"}]},
    {"name": "some", "type": "multiselect", "options": ["p", {"value": 3, "label": "Three"}]},
    {"name": "day", "type": "date", "minimum": "2026-01-01"},
    {"name": "moment", "type": "datetime", "minimum": "2026-01-01T00:00:00Z"},
    {"name": "kept", "type": "datetime", "default": "2026-03-04T05:06:07.25+01:00"},
    {"name": "mail", "type": "email"},
    {"name": "address", "type": "url"},
    {"name": "data", "type": "json"},
]


def ask(web: Web, slug: str, **config: Any) -> str:
    """Start a run that asks; return the id of its question."""
    web.publish(approval(slug, **config))
    run_id = web.client.start(slug).run_id
    web.wait_for(run_id, RunStatus.WAITING)
    [pause] = web.client.inbox(run_id)
    return pause.pause_id


def fault(page: Page, name: str) -> Any:
    return page.locator(f'[data-field-box="{name}"] .fault')


def test_wrong_answers_are_told_beside_each_field(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "wrong-v1", ui_schema={"title": "All", "fields": FIELDS})
    page = guests.come("paula").open(f"/inbox/{pause_id}")
    send = page.get_by_role("button", name="Send the answer")
    page.get_by_label("text").fill("abc")
    page.get_by_label("number").fill("11")
    page.get_by_label("whole").fill("1.5")
    page.get_by_label("day").fill("2025-12-31")
    page.get_by_label("moment").fill("2025-12-31T23:00:00")
    page.get_by_label("data").fill('{"a": ')
    send.click()
    # What a browser sees by itself, in its own words.
    for name in ("text", "number", "whole", "yes", "tick", "one", "pick", "day", "moment", "data"):
        expect(fault(page, name)).not_to_be_empty()
    for name in ("area", "maybe", "some", "kept", "mail", "address"):
        expect(fault(page, name)).to_be_empty()
    expect(page.get_by_label("text")).to_be_focused()
    # What only the server knows.
    fill_rightly(page)
    page.get_by_label("mail").fill("ann@localhost")
    page.get_by_label("address").fill("ftp://example.org")
    send.click()
    expect(fault(page, "mail")).to_contain_text("no e-mail address")
    expect(fault(page, "address")).to_contain_text("no http or https address")
    expect(page.get_by_label("mail")).to_be_focused()
    expect(page.get_by_label("mail")).to_have_attribute("aria-invalid", "true")
    assert web.client.pause(pause_id).status is PauseStatus.OPEN


def fill_rightly(page: Page) -> None:
    page.get_by_label("text").fill("ABC")
    page.get_by_label("area").fill("two\nlines")
    page.get_by_label("number").fill("2.50")
    page.get_by_label("whole").fill("-9007199254740993")
    page.get_by_role("group", name="yes").get_by_label("No", exact=True).check()
    page.get_by_label("tick").check()
    page.get_by_label("One and a half").check()
    page.get_by_label("pick").select_option(label="Truth")
    page.get_by_label("Three").check()
    page.get_by_label("day").fill("2026-02-03")
    page.get_by_label("moment").fill("2026-07-01T12:00:00")
    page.get_by_label("mail").fill("ann@example.org")
    page.get_by_label("address").fill("https://example.org/a?b=c")
    page.get_by_label("data").fill('{"a": [1.0, null, 12345678901234567890]}')


def test_right_answers_arrive_as_they_were_written(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "right-v1", ui_schema={"title": "All", "fields": FIELDS})
    page = guests.come("paula").open(f"/inbox/{pause_id}")
    fill_rightly(page)
    page.get_by_role("button", name="Send the answer").click()
    expect(page.get_by_text("Your answer was recorded")).to_be_visible()
    kept = web.client.pause(pause_id)
    assert kept.answered_by == "paula"
    assert repr(dict(kept.answer or {})) == repr(
        {
            "text": "ABC",
            "area": "two\nlines",
            "number": 2.5,
            "whole": -9007199254740993,
            "yes": False,
            "maybe": None,
            "tick": True,
            "one": 1.5,
            "pick": True,
            "some": [3],
            "day": "2026-02-03",
            "moment": "2026-07-01T10:00:00.000Z",
            "kept": "2026-03-04T05:06:07.25+01:00",
            "mail": "ann@example.org",
            "address": "https://example.org/a?b=c",
            "data": {"a": [1.0, None, 12345678901234567890]},
        }
    )


def test_a_draft_is_kept_until_the_answer(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "draft-v1")
    paula = guests.come("paula")
    page = paula.open(f"/inbox/{pause_id}")
    page.get_by_label("comment").fill("half a thou")
    page.get_by_label("reject").check()
    page.reload()
    expect(page.get_by_text("What you had begun to write is here again.")).to_be_visible()
    expect(page.get_by_label("comment")).to_have_value("half a thou")
    expect(page.get_by_label("reject")).to_be_checked()
    page.get_by_role("button", name="Begin anew").click()
    expect(page.get_by_label("comment")).to_have_value("")
    page.reload()
    expect(page.get_by_label("comment")).to_have_value("")
    page.get_by_label("comment").fill("whole")
    page.get_by_label("approve").check()
    page.get_by_role("button", name="Send the answer").click()
    expect(page.get_by_text("Answered by paula")).to_be_visible()
    drafts = "Object.keys(localStorage).filter((key) => key.startsWith('iaflow.draft'))"
    assert page.evaluate(drafts) == []


def test_an_answer_to_something_else_says_what_changed(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "stale-v1")
    page = guests.come("paula").open(f"/inbox/{pause_id}")
    # As if what is shown had been another when the page was made.
    digest = web.client.pause(pause_id).digest
    stale = digest[:20] + "0" * 20 + digest[40:]
    page.evaluate(
        "(stale) => { document.getElementById('question').dataset.digest = stale; }", stale
    )
    page.get_by_label("comment").fill("as I saw it")
    page.get_by_label("approve").check()
    page.get_by_role("button", name="Send the answer").click()
    expect(page.get_by_text("what is shown changed since then")).to_be_visible()
    assert web.client.pause(pause_id).status is PauseStatus.OPEN
    page.get_by_role("button", name="Show the question as it is now").click()
    expect(page.get_by_label("comment")).to_have_value("as I saw it")


def test_who_comes_late_is_told_at_once(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "late-v1")
    page = guests.come("paula").open(f"/inbox/{pause_id}")
    web.client.answer(pause_id, {"decision": "reject"}, answered_by="adele", is_admin=True)
    expect(page.get_by_text("Meanwhile this question was answered by adele")).to_be_visible()
    expect(page.get_by_role("button", name="Send the answer")).to_be_disabled()


def test_others_are_asked_and_given_links(web: Web, guests: Guests) -> None:
    pause_id = ask(web, "others-v1", assignees={"users": ["adele"]})
    page = guests.come("adele").open(f"/inbox/{pause_id}")
    page.get_by_text("Make a one-time link").click()
    page.get_by_label("Person").fill("ann@example.org")
    page.locator('[data-fixed="decision"]').select_option(label="reject")
    page.get_by_role("button", name="Make the link").click()
    expect(page.locator("#made-link-url")).to_contain_text("/l/")
    url = page.locator("#made-link-url").inner_text()
    expect(page.get_by_role("button", name="Take back the link of ann@example.org")).to_be_visible()
    page.get_by_text("Ask others instead").click()
    page.get_by_label("Users").fill("")
    page.get_by_role("button", name="Ask them").click()
    expect(page.locator("#reassign-form [data-problem]")).to_be_visible()
    page.get_by_label("Users").fill("paula, adele")
    page.get_by_role("button", name="Ask them").click()
    expect(page.get_by_text("They are asked now.")).to_be_visible()
    assert dict(web.client.pause(pause_id).assignees)["users"] == ["paula", "adele"]
    nobody = guests.come("paula").context.new_page()
    nobody.goto(url)
    nobody.get_by_role("button", name="decision: reject").click()
    expect(nobody.get_by_text("was recorded")).to_be_visible()
    assert web.client.pause(pause_id).answered_by == "ann@example.org"


def test_a_definition_is_checked_and_imported(web: Web, guests: Guests) -> None:
    page = guests.come("aurel").open("/pipelines")
    text = page.get_by_label("Or as text")
    text.fill('{"name": ')
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("this is no JSON")).to_be_visible()
    text.fill('{"name": "New", "slug": "new-v1", "steps": [], "flow": {"start_at": "nowhere"}}')
    page.get_by_role("button", name="Only check it").click()
    expect(page.locator("#findings")).to_contain_text("wrong with it")
    expect(page.locator("#findings code").first).to_have_text("/steps")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("#findings")).to_contain_text("Nothing was imported")
    text.fill(
        '{"name": "New", "slug": "new-v1", "parameters": {"exact": 1.0}, "steps": [{"id": "ask", '
        '"type": "human_input", "config": {"ui_schema": {"title": "?"}}}], '
        '"flow": {"start_at": "ask"}}'
    )
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_role("link", name="See New").click()
    expect(page.get_by_role("heading", name="New")).to_be_visible()
    assert '"exact":1.0' in web.client.pipeline("new-v1").document.replace(" ", "")


def test_a_schedule_is_made_corrected_and_stopped(web: Web, guests: Guests) -> None:
    web.publish(approval("timed-v1"))
    page = guests.come("otto").open("/schedules")
    form = page.locator("#schedule-form")
    expect(form.get_by_label("Zone")).to_have_value("Europe/Berlin")
    form.get_by_label("Name").fill("weekly")
    form.get_by_label("Pipeline").select_option("timed-v1")
    form.get_by_role("textbox", name="Cron expression").fill("61 * * * *")
    form.get_by_label("Zone").fill("Europe/Berlim")
    form.get_by_label("Input of each run").fill("[1")
    form.get_by_role("button", name="Make the schedule").click()
    expect(fault(page, "input")).to_contain_text("no JSON")
    form.get_by_label("Input of each run").fill('{"amount": 2.0}')
    form.get_by_role("button", name="Make the schedule").click()
    expect(fault(page, "cron")).not_to_be_empty()
    expect(fault(page, "zone")).to_contain_text("Europe/Berlin")
    form.get_by_role("textbox", name="Cron expression").fill("0 8 * * 1")
    form.get_by_label("Zone").fill("Europe/Berlin")
    form.get_by_role("button", name="Make the schedule").click()
    page.wait_for_url("**/schedules/weekly")
    kept = web.client.schedules.get("weekly")
    assert (kept.cron, kept.zone, repr(dict(kept.parameters))) == (
        *("0 8 * * 1", "Europe/Berlin"),
        "{'amount': 2.0}",
    )
    page.get_by_label("At an interval").check()
    page.get_by_label("Every").fill("90")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("every 90 minutes")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert web.client.schedules.get("weekly").is_paused
    page.get_by_role("button", name="Fire now").click()
    page.get_by_role("dialog").get_by_role("button", name="Fire now").click()
    page.wait_for_url("**/runs/*")
    page.goto(f"{web.url}/schedules/weekly")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    page.wait_for_url("**/schedules")
    assert web.client.schedules.all() == []
