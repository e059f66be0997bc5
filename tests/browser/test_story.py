"""The whole story in a browser: a run is started, waits for a person, is answered, and explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.people import PIPELINES, Guests, open_house, wait_until_ready
from tests.servers import ServerRoom, WorkerProcess
from tests.web.webs import Web


@pytest.fixture(scope="module", params=("sqlite", "postgres", "celery"))
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The web of the story: in one process on each database, and beside a Celery worker."""
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("story")
        with open_house(f"sqlite:///{folder / 'runs.db'}") as web:
            yield web
        return
    room: ServerRoom = request.getfixturevalue("server_room")
    url = room.create_database(request.getfixturevalue("postgres_template"))
    if request.param == "postgres":
        with open_house(url) as web:
            yield web
    else:
        broker_url = room.take_redis_database()
        room.redis.flush(broker_url)
        worker = WorkerProcess(
            database_url=url,
            redis_url=broker_url,
            log_directory=tmp_path_factory.mktemp("worker"),
            guardian=room.guardian,
            modules=("invoice_steps", "steps"),
            pythonpath=(PIPELINES,),
        )
        with open_house(url, broker_url=broker_url) as web:
            yield web
        worker.kill()
        room.redis.flush(broker_url)
    room.postgres.drop_database(url)


def test_an_invoice_is_started_answered_and_explained(web: Web, guests: Guests) -> None:
    otto, paula = guests.come("otto"), guests.come("paula")
    inbox = paula.open("/inbox")
    expect(inbox.get_by_text("Nothing waits for you")).to_be_visible()

    # Otto starts it by its form; the server refuses nothing, the lines add up.
    page = otto.open("/pipelines")
    page.get_by_role("link", name="Start Invoice Approval").click()
    page.wait_for_url("**/pipelines/*")
    wait_until_ready(page)
    form = page.locator("#start-form")
    form.get_by_label("auto_approve_limit").fill("100")
    form.get_by_role("button", name="Start").click()
    page.wait_for_url("**/runs/*")
    run_id = page.url.rpartition("/")[2]

    # The graph moves by itself.
    expect(page.locator('.waiting[data-step="manager_approval"]')).to_be_visible()
    expect(page.locator('.succeeded[data-step="validate"]')).to_be_visible()

    # Paula's inbox has it without a reload; a wrong answer is told at its field.
    inbox.get_by_role("link", name="Approve this invoice?").click()
    inbox.wait_for_url("**/inbox/*")
    wait_until_ready(inbox)
    expect(inbox.get_by_text("Paper & Pens Ltd")).to_be_visible()
    inbox.get_by_label("Notes").fill("Fits the order")
    inbox.get_by_role("button", name="Send the answer").click()
    decision = inbox.get_by_role("group", name="Decision")
    expect(inbox.locator('[data-field-box="decision"] .fault')).to_have_text("an answer is needed")
    expect(decision).to_have_attribute("aria-invalid", "true")
    expect(inbox.get_by_label("Approve", exact=True)).to_be_focused()
    assert web.client.inbox(run_id)

    inbox.get_by_label("Approve", exact=True).check()
    expect(inbox.locator('[data-field-box="decision"] .fault')).to_be_empty()
    inbox.get_by_role("button", name="Send the answer").click()
    expect(inbox.get_by_text("Your answer was recorded. The run goes on.")).to_be_visible()
    expect(inbox.get_by_text("Answered by paula")).to_be_visible()

    # Otto sees it end, and why the other branch did not run.
    expect(page.locator('.succeeded[data-step="archive"]')).to_be_visible()
    expect(page.locator("[data-live=status]").get_by_text("succeeded")).to_be_visible()
    expect(page.locator('.skipped[data-step="inform_vendor"]')).to_be_visible()
    why = otto.open(f"/runs/{run_id}/steps/inform_vendor")
    expect(why.locator("main")).to_contain_text("skipped")
    expect(why.locator("main")).to_contain_text("Reject")


def test_a_start_that_is_refused_is_told_at_its_field(web: Web, guests: Guests) -> None:
    schema = {
        "required": ["who"],
        "properties": {
            "who": {"type": "string", "pattern": "^[a-z]+$|^$"},
            "count": {"type": "integer", "multipleOf": 5},
            "more": {"type": "object", "required": ["a"]},
        },
    }
    asking = {"ui_schema": {"title": "Ready?"}}
    slug = web.publish(
        {
            "name": "Judged",
            "slug": "judged-v1",
            "input_schema": schema,
            "steps": [{"id": "ask", "type": "human_input", "config": asking}],
            "flow": {"start_at": "ask"},
        }
    )
    page = guests.come("otto").open(f"/pipelines/{slug}")
    form = page.locator("#start-form")
    form.get_by_label("who").fill("Capital")
    form.get_by_label("count").fill("7")
    form.get_by_label("more").fill('{"b": 1.0}')
    form.get_by_role("button", name="Start").click()
    for name, words in (("who", "does not match"), ("count", "multiple"), ("more", "required")):
        expect(page.locator(f'[data-field-box="{name}"] .fault')).to_contain_text(words)
    expect(form.get_by_label("who")).to_be_focused()
    assert web.client.runs(slug=slug) == []
    form.get_by_label("who").fill("small")
    form.get_by_label("count").fill("10")
    form.get_by_label("more").fill('{"a": 1.0, "b": 9007199254740993}')
    form.get_by_text("Further parameters", exact=True).click()
    form.get_by_label("Further parameters, as a JSON object").fill('{"extra": [2.0, "}"], "x": 1}')
    form.get_by_role("button", name="Start").click()
    page.wait_for_url("**/runs/*")
    run = web.client.run(page.url.rpartition("/")[2])
    kept = dict(run.parameters)
    assert repr(kept) == repr(
        {
            "who": "small",
            "count": 10,
            "more": {"a": 1.0, "b": 9007199254740993},
            "extra": [2.0, "}"],
            "x": 1,
        }
    )
