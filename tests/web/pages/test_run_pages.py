"""The pages of a run and of its steps: what each role sees of each state, and nothing more.

Every page is read as a browser reads it. What a test starts is of the pipeline `house` (or
`own-…`), which `fremd` does not see.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from lxml.html import HtmlElement

from iaflow.data.status import RunStatus
from tests.integration.houses import document
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
from tests.web.pages.payloads import PAYLOADS
from tests.web.pages.reading import page_of, text_of, texts_of
from tests.web.webs import Visitor, Web

VIEWS = ("graph", "timeline", "events", "data", "definition")
SECRET = "xylophone-4711"


def begin(web: Web, definition: dict[str, Any], *statuses: RunStatus, **given: Any) -> str:
    run_id = web.user("otto").start(web.publish(definition), given)
    web.wait_for(run_id, *statuses)
    return run_id


def see(visitor: Visitor, path: str, status: int = 200) -> HtmlElement:
    return page_of(visitor.ask("GET", path), status)


def deeds(page: HtmlElement) -> dict[str, str]:
    """Return what can be done on a page: the words of its buttons, and the places they ask."""
    dialogs = {one.get("id"): one for one in page.xpath("//dialog[.//form[@data-path]]")}
    found = {}
    for button in page.xpath("//button[@data-opens]"):
        form = dialogs[button.get("data-opens")].find(".//form")
        found[button.text_content().strip(" …")] = form.get("data-path")
    return found


def steps_drawn(page: HtmlElement) -> dict[str, HtmlElement]:
    return {one.get("data-step"): one for one in page.xpath("//*[@data-step]")}


# --- who sees it


def test_who_has_not_signed_in_is_sent_to_do_so(web: Web) -> None:
    run_id = begin(web, make_line())
    reply = web.nobody.ask("GET", f"/runs/{run_id}?view=events")
    assert reply.status_code == 303
    wanted = quote(f"/runs/{run_id}?view=events", safe="/")
    assert reply.headers["location"] == f"/sign-in?next={wanted}"


def test_each_role_sees_what_it_may(web: Web) -> None:
    run_id = begin(web, make_question("own-asking"), RunStatus.WAITING)
    for name in ("adele", "otto", "aurel", "vera", "clara"):
        page = see(web.user(name), f"/runs/{run_id}")
        assert set(steps_drawn(page)) == {"ask", "after"}
        may_cancel = name in ("adele", "otto", "clara")
        assert ("Cancel the run" in deeds(page)) is may_cancel
        answers = page.xpath("//a[contains(@href, '/inbox/')]")
        assert bool(answers) is (name in ("adele", "clara"))
    told = text_of(see(web.user("paula"), f"/runs/{run_id}", 403))
    assert "runs:read" in told


def test_what_is_out_of_sight_looks_like_what_is_not_there(web: Web) -> None:
    run_id = begin(web, make_line())
    absent = "019ab3f2-7c1e-7d5a-8f00-3a5d8f6b2c11"
    for place in ("", "/steps/first"):
        unseen = text_of(see(web.user("fremd"), f"/runs/{run_id}{place}", 404))
        nowhere = text_of(see(web.user("fremd"), f"/runs/{absent}{place}", 404))
        no_id = text_of(see(web.user("fremd"), f"/runs/nouse{place}", 404))
        assert {one.rpartition("Request")[0] for one in (unseen, nowhere, no_id)} == {
            unseen.rpartition("Request")[0]
        }
        assert run_id not in unseen


@pytest.mark.parametrize(
    ("path", "status"),
    (
        ("?view=nothing", 422),
        ("?view=events&cursor=bm90aGluZw", 422),
        ("/steps/nowhere", 404),
        ("/steps/first?index=3", 404),
        ("/steps/first?index=-1", 422),
        ("/steps/first?status=odd", 422),
    ),
)
def test_an_address_that_does_not_fit_is_told_as_a_page(web: Web, path: str, status: int) -> None:
    run_id = begin(web, make_line())
    see(web.user("otto"), f"/runs/{run_id}{path}", status)


# --- data that needs a permission


def test_without_the_permission_no_data_is_on_any_page(web: Web) -> None:
    definition = document(
        {
            "first": {"inputs": {"x": "{{ parameters.x }}"}},
            "bad": {"inputs": {"x": "{{ first.x }}"}, "class": "Hangs"},
            "never": {},
        },
        [("first", "bad", {"condition": f"result.x == '{SECRET}'"}), ("bad", "never")],
        name="own-secret",
        parameters={"x": ""},
    )
    run_id = web.user("otto").start(web.publish(definition), {"x": SECRET})
    wait_until(
        lambda: any(one.step_id == "bad" for one in web.client.steps(run_id)), 20, "it hangs"
    )
    web.client.cancel(run_id, reason=f"because of {SECRET}")
    reader = web.token("vera", "runs:read")
    places = [f"/runs/{run_id}?view={view}" for view in VIEWS]
    places += [f"/runs/{run_id}/steps/{step}" for step in ("first", "bad", "never")]
    seen = 0
    for place in places:
        hidden = see(reader, place)
        # The definition has it too, and so has the drawing: these need their own permission.
        assert SECRET not in " ".join(texts_of(hidden)), place
        seen += SECRET in " ".join(texts_of(see(web.user("vera"), place)))
    assert seen >= 6
    told = text_of(see(reader, f"/runs/{run_id}/steps/bad"))
    assert "payloads:read" in told
    assert "because of" not in told
    assert "payloads:read" in text_of(see(reader, f"/runs/{run_id}?view=data"))
    assert "pipelines:read" in text_of(see(reader, f"/runs/{run_id}?view=definition"))
    assert not steps_drawn(see(reader, f"/runs/{run_id}"))
    assert not see(reader, f"/runs/{run_id}/steps/first").xpath("//textarea")


# --- states


def test_a_run_that_ended_well(web: Web) -> None:
    run_id = begin(web, make_line(), n=11)
    page = see(web.user("otto"), f"/runs/{run_id}")
    assert page.xpath("//*[@data-run]/@data-ended") == [""]
    assert deeds(page) == {}
    drawn = steps_drawn(page)
    assert {step: one.get("class").split()[-1] for step, one in drawn.items()} == {
        "first": "succeeded",
        "big": "succeeded",
        "small": "skipped",
    }
    edges = page.xpath("//*[@data-transition]")
    assert ["taken" in one.get("class") for one in edges].count(True) == 1
    assert page.xpath("//*[contains(@class, 'label') and contains(@class, 'refused')]")
    assert not page.xpath("//style")
    assert drawn["big"].tag == "a"
    assert drawn["big"].get("href") == f"/runs/{run_id}/steps/big"
    told = text_of(page)
    assert "otto" in told
    assert "version 1" in told
    assert page.xpath("//a[@href='http://flower.example:5555/']")
    assert "11" in text_of(see(web.user("otto"), f"/runs/{run_id}?view=data"))


def test_why_a_step_did_not_run_and_how_its_condition_was_judged(web: Web) -> None:
    run_id = begin(web, make_line(), n=11)
    page = see(web.user("vera"), f"/runs/{run_id}/steps/small")
    why = text_of(page, "//section[@aria-labelledby='why-title']")
    assert why.startswith("Why it did not run small was skipped")
    assert "refused first → small" in why
    (judged,) = page.xpath("//*[@class='judged']/li")
    assert " ".join(judged.text_content().split()) == "result.n11 ≤ 10 false"
    assert page.xpath(f"//a[@data-opens-step and @href='/runs/{run_id}/steps/first']")
    way_out = see(web.user("vera"), f"/runs/{run_id}/steps/first")
    verdicts = [one.text for one in way_out.xpath("//*[contains(@class, 'judged-as')]")]
    assert sorted(verdicts) == ["false", "true"]


def test_a_failed_run_names_its_step_and_can_be_tried_again(web: Web) -> None:
    run_id = begin(web, make_failing(), RunStatus.FAILED)
    page = see(web.user("otto"), f"/runs/{run_id}")
    assert "Failed at bad" in text_of(page)
    assert "OSError" in text_of(page)
    assert deeds(page) == {"Retry": f"/api/v1/runs/{run_id}/retry"}
    assert deeds(see(web.user("vera"), f"/runs/{run_id}")) == {}
    step = see(web.user("otto"), f"/runs/{run_id}/steps/bad")
    assert deeds(step) == {"Rerun from here": f"/api/v1/runs/{run_id}/steps/bad/rerun"}
    trace = text_of(step, "//*[contains(@class, 'trace')]")
    assert "OSError: attempt 1" in trace
    assert step.xpath("//a[starts-with(@href, 'http://flower.example:5555/task/')]")
    again = web.user("otto").post(deeds(step)["Rerun from here"], {"inputs": {"fail": 0}})
    assert again.status_code == 201
    repeated = again.json()["run_id"]
    page = see(web.user("otto"), f"/runs/{repeated}")
    assert page.xpath(f"//a[@href='/runs/{run_id}']")


def test_a_run_at_work_can_be_cancelled_and_so_can_its_step(web: Web) -> None:
    run_id = web.user("otto").start(web.publish(make_hanging()))

    def is_hanging() -> bool:
        return any(
            (one.step_id, one.status) == ("hangs", "running") for one in web.client.steps(run_id)
        )

    wait_until(is_hanging, 20, "a step hangs")
    page = see(web.user("otto"), f"/runs/{run_id}")
    assert not page.xpath("//*[@data-ended]")
    assert "running" in steps_drawn(page)["hangs"].get("class")
    assert list(deeds(page)) == ["Cancel the run"]
    step = see(web.user("otto"), f"/runs/{run_id}/steps/hangs")
    assert list(deeds(step)) == ["Cancel the step"]
    assert "Nothing yet." in text_of(step)
    reply = web.user("otto").post(deeds(step)["Cancel the step"], {"reason": "no more"})
    assert reply.status_code == 200
    web.wait_for(run_id)
    step = see(web.user("otto"), f"/runs/{run_id}/steps/hangs")
    assert "no more (otto asked for it)" in text_of(step)
    assert list(deeds(step)) == ["Rerun from here"]
    assert "cancelled" in text_of(step, "//table[@class='moves']")


def test_a_signal_is_sent_from_the_step_that_waits_for_it(web: Web) -> None:
    run_id = begin(web, make_event(), RunStatus.WAITING)
    assert "payment" in text_of(see(web.user("vera"), f"/runs/{run_id}"))
    assert deeds(see(web.user("vera"), f"/runs/{run_id}/steps/paid")) == {}
    found = deeds(see(web.user("otto"), f"/runs/{run_id}/steps/paid"))
    assert found["Send “payment”"] == f"/api/v1/runs/{run_id}/signals/payment"
    reply = web.user("otto").post(found["Send “payment”"], {"payload": {"paid": True}})
    assert reply.status_code == 200
    web.wait_for(run_id, RunStatus.SUCCEEDED)


def test_runs_above_and_below_are_linked(web: Web) -> None:
    web.publish(make_line("own-below"))
    above = begin(web, make_parent("own-above", "own-below"), RunStatus.SUCCEEDED)
    (child,) = web.client.children(above)
    page = see(web.user("otto"), f"/runs/{above}")
    (way_down,) = page.xpath("//*[@data-below]")
    assert way_down.get("href") == f"/runs/{child.run_id}"
    assert page.xpath(f"//table//a[@href='/runs/{child.run_id}']")
    step = see(web.user("otto"), f"/runs/{above}/steps/below")
    assert step.xpath(f"//a[@href='/runs/{child.run_id}']")
    below = see(web.user("otto"), f"/runs/{child.run_id}")
    assert below.xpath(f"//a[@href='/runs/{above}']")
    assert below.xpath(f"//a[@href='/runs/{above}/steps/below']")


def test_items_show_the_failed_ones_first_and_page_by_page(web: Web) -> None:
    items = [{"fail": 99} if k in (0, 40) else {"n": k} for k in range(60)]
    run_id = begin(web, make_items(), items=items)
    otto = web.user("otto")
    page = see(otto, f"/runs/{run_id}")
    assert "60/60, 2 failed" in steps_drawn(page)["each"].get("aria-label")
    step = see(otto, f"/runs/{run_id}/steps/each")

    def listed(page: HtmlElement) -> list[str]:
        return [one.text_content().strip() for one in page.xpath("//td[@data-label='Item']")]

    assert listed(step) == ["0", "40"]
    found: list[str] = []
    path = f"/runs/{run_id}/steps/each?every=true"
    while path:
        page = see(otto, path)
        found += listed(page)
        path = next(iter(page.xpath("//a[@rel='next']/@href")), "")
    assert found == [str(k) for k in range(60)]
    item = see(otto, f"/runs/{run_id}/steps/each?index=40")
    assert "item 40" in text_of(item, "//h1")
    assert "OSError" in text_of(item)


def test_the_timeline_has_a_bar_for_what_began(web: Web) -> None:
    run_id = begin(web, make_line(), n=11)
    page = see(web.user("otto"), f"/runs/{run_id}?view=timeline")
    rows = page.xpath("//table[@class='timeline']/tbody/tr")
    bars = [len(row.xpath(".//rect")) for row in rows]
    assert bars == [1, 1, 0]
    for bar in page.xpath("//table[@class='timeline']//rect"):
        assert 0 <= int(bar.get("x")) <= 994
        assert int(bar.get("x")) + int(bar.get("width")) <= 1000


def test_events_are_told_in_order_and_page_by_page(web: Web) -> None:
    ids = [f"s{k}" for k in range(130)]
    definition = document({step: {} for step in ids}, list(pairwise(ids)), name="own-long")
    run_id = begin(web, definition, RunStatus.SUCCEEDED)
    numbers: list[int] = []
    path = f"/runs/{run_id}?view=events"
    while path:
        page = see(web.user("otto"), path)
        numbers += [int(one.text) for one in page.xpath("//td[@data-label='Number']")]
        following = next(iter(page.xpath("//a[@rel='next']/@href")), "")
        path = f"/runs/{run_id}{following}" if following else ""
    assert numbers == list(range(1, web.client.run(run_id).seq + 1))


def test_two_thousand_steps_are_drawn_in_seconds(web: Web) -> None:
    ids = [f"s{k}" for k in range(2000)]
    edges: list[Any] = [(ids[max(0, k - 20)], ids[k]) for k in range(1, 2000)]
    slug = web.publish(document({step: {} for step in ids}, edges, name="own-large"))
    web.carrier.is_idle = True
    try:
        run_id = web.user("otto").start(slug)
        begun = time.perf_counter()
        reply = web.user("otto").get(f"/runs/{run_id}")
        took = time.perf_counter() - begun
        assert len(steps_drawn(page_of(reply))) == 2000
        assert len(reply.content) < 4_000_000
        assert took < 10
        rows = see(web.user("otto"), f"/runs/{run_id}?view=timeline")
        assert len(rows.xpath("//table[@class='timeline']/tbody/tr")) == 2000
    finally:
        web.client.cancel(run_id)
        web.carrier.is_idle = False


# --- texts of others


def make_hostile() -> dict[str, Any]:
    steps: dict[str, Any] = {"start": {"inputs": {"all": "{{ parameters.all }}"}}}
    edges: list[Any] = []
    for k, text in enumerate(PAYLOADS):
        steps[f"w{k}"] = {
            "name": text,
            "description": text,
            "inputs": {"text": f"{{{{ parameters.t{k} }}}}"},
        }
        steps[f"h{k}"] = {"name": f"{text} hangs", "class": "Hangs"}
        asked = {"source": "result.text", "operator": "eq", "value_source": f"parameters.t{k}"}
        edges.append(("start", f"w{k}"))
        condition = {"type": "expression", "config": asked}
        edges.append((f"w{k}", f"h{k}", {"condition": condition, "name": text}))
    parameters = {f"t{k}": "" for k in range(len(PAYLOADS))}
    return document(
        steps,
        edges,
        name="own-hostile",
        description=PAYLOADS[0],
        parameters={"all": {}, **parameters},
    )


def test_texts_of_others_stay_texts(web: Web) -> None:
    """Names, descriptions, parameters, inputs, outputs, conditions, errors: sixty of each."""
    slug = web.publish(make_hostile())
    given = {f"t{k}": text for k, text in enumerate(PAYLOADS)}
    given["all"] = {text: text for text in PAYLOADS}  # type: ignore[assignment]
    run_id = web.client.start(slug, given, started_by=PAYLOADS[15]).run_id

    def all_hang() -> bool:
        found = [one for one in web.client.steps(run_id) if one.step_id.startswith("h")]
        return len(found) == len(PAYLOADS)

    wait_until(all_hang, 60, "all are at work")
    for k, text in enumerate(PAYLOADS):
        web.client.cancel(run_id, step_id=f"h{k}", reason=text, by="otto")
    web.wait_for(run_id)
    otto = web.user("otto")
    for view in VIEWS:
        whole = "\n".join(texts_of(see(otto, f"/runs/{run_id}?view={view}")))
        assert PAYLOADS[15] in whole
        if view in ("data", "definition"):
            assert [text for text in PAYLOADS if text not in whole] == []
        if view == "timeline":
            # They are the names of steps.
            assert [text for text in PAYLOADS if text not in whole] == []
    for k, text in enumerate(PAYLOADS):
        page = see(otto, f"/runs/{run_id}/steps/w{k}")
        told = "\n".join(texts_of(page))
        # Its name, description, input and output.
        assert told.count(text) >= 3, (k, text)
        page = see(otto, f"/runs/{run_id}/steps/h{k}")
        error = page.xpath("//*[@class='error-text']")[0].text
        assert error == f"{text} (otto asked for it)"
