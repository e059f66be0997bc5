"""Schedules, workers and queues as pages."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest

from iaflow.web.pages import workers
from tests.web.flows import make_line
from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, text_of, texts_of
from tests.web.people import People, approval


@pytest.fixture(scope="module")
def slug(people: People) -> str:
    return people.keep(approval("scheduled-v1"))


# --- schedules


def test_schedules_are_for_those_who_may_read_them(people: People, slug: str) -> None:
    schedules = people.web.client.schedules
    name = people.name("nightly")
    schedules.put(name, slug, {"amount": 5.0}, cron="30 2 * * *", zone="Europe/Berlin")
    for path in ("/schedules", f"/schedules/{name}"):
        for role in ("viewer", "operator", "author", "admin"):
            page = page_of(people.person(role).get(path))
            assert name in text_of(page)
            assert "30 2 * * * in Europe/Berlin" in text_of(page)
            may_write = role in ("operator", "admin")
            assert bool(page.xpath('//form[@id="schedule-form"]')) == may_write
            assert bool(page.xpath("//button[@data-fire]")) == may_write
        page_of(people.person("approver").get(path), 403)
        assert people.nobody().get(path).status_code == 303
    far = people.person("operator", pipelines=("foreign-*",))
    unseen, absent = (far.get(f"/schedules/{one}") for one in (name, "no-such-schedule"))
    assert text_of(page_of(unseen, 404), "//h1") == text_of(page_of(absent, 404), "//h1")
    assert name not in text_of(page_of(far.get("/schedules")))


def test_a_schedule_tells_what_is_next_and_what_was(people: People, slug: str) -> None:
    schedules = people.web.client.schedules
    name = people.name("quarterly")
    schedules.put(name, slug, {}, every=timedelta(minutes=15))
    run_id = schedules.fire(name).run_id
    viewer = people.person("viewer")
    page = page_of(viewer.get(f"/schedules/{name}"))
    assert "every 15 minutes" in text_of(page)
    wanted = [one.isoformat(timespec="milliseconds") for one in schedules.next(name, 10)]
    shown = page.xpath("//section[h2 = 'Next']//time/@datetime")
    assert [one.replace("Z", "+00:00") for one in shown] == wanted
    assert page.xpath(f'//a[@href="/runs/{run_id}"]')
    assert page_of(viewer.get("/schedules")).xpath(f'//tr//a[@href="/runs/{run_id}"]')
    schedules.pause(name)
    assert "pass and start nothing" in text_of(page_of(viewer.get(f"/schedules/{name}")))


def test_the_form_of_a_schedule_begins_with_what_it_is(people: People, slug: str) -> None:
    schedules = people.web.client.schedules
    name = people.name("known")
    schedules.put(name, slug, {"amount": 5.0}, every=timedelta(hours=3), instant_as="at")
    page = page_of(people.person("operator").get(f"/schedules/{name}"))
    [form] = page.xpath('//form[@id="schedule-form"]')
    assert form.get("data-name") == name
    assert form.xpath('.//*[@data-field="interval_seconds"]/@value') == ["10800"]
    assert form.xpath('.//input[@name="kind"][@checked]/@value') == ["interval"]
    assert form.xpath('.//*[@data-field="instant_as"]/@value') == ["at"]
    assert '"amount": 5.0' in form.xpath('.//*[@data-field="input"]')[0].text
    assert form.xpath(f'.//option[. = "{slug}"][@selected]')


def test_no_schedules_is_said_with_what_makes_one(people: People) -> None:
    page = page_of(people.person("operator", pipelines=("nothing-at-all",)).get("/schedules"))
    assert "Nothing starts by itself" in text_of(page)
    assert "iaflow schedules" in text_of(page)


def test_texts_of_others_are_texts(people: People, slug: str) -> None:
    schedules = people.web.client.schedules
    admin = people.person("admin")
    for at, payload in enumerate(PAYLOADS):
        name = f"payload-{at}"
        schedules.put(name, slug, {"amount": payload}, cron="0 0 1 1 *", created_by=payload)
        page = page_of(admin.get(f"/schedules/{name}"))
        shown = page.xpath('//*[@data-field="input"]')[0].text
        assert json.loads(shown) == {"amount": payload}
        seen = page_of(people.person("viewer").get(f"/schedules/{name}"))
        wanted = payload.strip()
        assert any(wanted in text for text in texts_of(seen)), payload
        schedules.delete(name)


# --- workers


def test_workers_are_for_operators(people: People) -> None:
    for role in ("operator", "admin"):
        page = page_of(people.person(role).get("/workers"))
        assert "iaflow" in text_of(page, "//table")
        assert page.xpath('//a[@href="http://flower.example:5555/"]')
    for role in ("viewer", "author", "approver"):
        page_of(people.person(role).get("/workers"), 403)
    assert people.nobody().get("/workers").status_code == 303


def test_a_queue_that_nobody_reads_is_told_with_what_to_do(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LATE_SECONDS", 0.05)
    slug = people.keep(make_line("house"))
    people.web.carrier.is_idle = True
    try:
        run_id = people.web.client.start(slug, {"n": 1}).run_id
        time.sleep(0.1)
        told = text_of(page_of(people.person("operator").get("/workers")))
        assert "Nobody takes up the steps of iaflow" in told
        assert "iaflow worker" in told
    finally:
        people.web.carrier.is_idle = False
    people.web.wait_for(run_id)
    told = text_of(page_of(people.person("operator").get("/workers")))
    assert "Nobody takes up" not in told
