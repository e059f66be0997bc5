"""Every page in a browser: without barriers that axe knows, and deaf to what others wrote (T13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from iaflow.data.status import RunStatus
from tests.browser.people import Guest, Guests, find_barriers
from tests.browser.places import SCHEMES, list_places
from tests.web.pages.payloads import PAYLOADS
from tests.web.people import approval
from tests.web.webs import Web

TOGETHER = 6


@pytest.fixture(scope="module")
def places(web: Web) -> dict[str, str]:
    """Every page with something on it, by what it is."""
    return list_places(web)


@pytest.mark.slow
@pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES)
def test_no_page_has_a_barrier(
    guests: Guests, places: dict[str, str], options: dict[str, Any]
) -> None:
    adele = guests.come("adele", **options)
    found = {}
    for name, path in places.items():
        page = adele.open(path)
        for details in page.locator("main details").all():
            details.evaluate("(one) => { one.open = true; }")
        if barriers := find_barriers(page):
            found[name] = barriers
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        page.close()
    assert found == {}


def test_the_sign_in_has_no_barrier(guests: Guests, web: Web) -> None:
    adele = guests.come("adele")
    adele.context.clear_cookies()
    for path in ("/sign-in", "/setup"):
        assert find_barriers(adele.open(path)) == []


@pytest.mark.slow
def test_texts_of_others_do_nothing(web: Web, guests: Guests) -> None:
    adele = guests.come("adele")
    # The browser tells of what the policy had to stop; the first line must hold by itself.
    adele.context.add_init_script(
        "document.addEventListener('securitypolicyviolation', (event) =>"
        " console.error('policy', event.violatedDirective, event.blockedURI));"
    )
    for at in range(0, len(PAYLOADS), TOGETHER):
        payloads = PAYLOADS[at : at + TOGETHER]
        run_id, pause_id = plant(web, f"payload-{at}", payloads)
        question = f"/inbox/{pause_id}"
        for path in (question, f"/pipelines/payload-{at}?from=1&to=2"):
            look(adele, path, payloads)
        look(adele, f"/runs/{run_id}", payloads[:1])
        answer = {f"t{place}": payload for place, payload in enumerate(payloads)}
        web.client.answer(pause_id, answer, answered_by=payloads[0], is_admin=True)
        web.wait_for(run_id)
        look(adele, question, payloads)
        look(adele, f"/runs/{run_id}/steps/ask", payloads)
        assert adele.odd == [], payloads
    for path in ("/", "/inbox", "/pipelines", "/pipelines?q=payload", "/runs"):
        adele.open(path).close()
    assert adele.odd == []


def plant(web: Web, slug: str, payloads: Sequence[str]) -> tuple[str, str]:
    """Start a run that has payloads wherever a text may be; return its and its question's id."""
    fields: list[dict[str, Any]] = []
    for place, payload in enumerate(payloads):
        named = {"label": payload, "help": payload}
        fields += [
            {"name": f"t{place}", "type": "text", "placeholder": payload, **named},
            {"name": f"r{place}", "type": "radio", "options": [payload], "default": payload},
            {"name": f"s{place}", "type": "select", "options": [payload], "default": payload},
            {"name": f"a{place}", "type": "textarea", "default": payload, **named},
            {"name": f"j{place}", "type": "json", "default": {payload: [payload]}},
        ]
    every = "\n".join(payloads)
    definition = approval(slug, ui_schema={"title": every, "description": every, "fields": fields})
    definition |= {"name": every[:200], "description": every, "parameters": {"amount": [*payloads]}}
    web.publish({**definition, "description": "another"})
    web.publish(definition)
    run_id = web.client.start(slug, started_by=payloads[0]).run_id
    web.wait_for(run_id, RunStatus.WAITING)
    [pause] = web.client.inbox(run_id)
    return run_id, pause.pause_id


def look(guest: Guest, path: str, payloads: Sequence[str]) -> None:
    """Open a page, and fail unless the payloads stand on it as text."""
    page = guest.open(path)
    page.wait_for_timeout(100)
    for payload in payloads:
        assert holds(page, payload), (path, payload)
    page.close()


def holds(page: Page, payload: str) -> bool:
    # As one line of visible text, however a page breaks it; drawings leave out what garbles them.
    script = """(wanted) => {
      const flat = (text) => text.replace(/[\\s\\u200e-\\u202e\\u2066-\\u2069\\ufeff]+/g, "");
      const texts = [...document.querySelectorAll("input, textarea")].map((one) => one.value);
      return [document.body.textContent, ...texts].some((text) => flat(text).includes(flat(wanted)));
    }"""
    return bool(page.evaluate(script, payload))
