"""People at a browser: they sign in by the page, and what their browser complains of is kept.

Decides what counts as odd: a dialog, an error of a script, something that the policy had to stop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

from tests.web.webs import PASSWORD, Web

__all__ = ["PIPELINES", "Guest", "Guests", "find_barriers", "open_house", "wait_until_ready"]

PIPELINES = Path(__file__).parents[2] / "pipelines"

PATIENCE_MS = 15_000
SERIOUS = ("serious", "critical")


@dataclass
class Guest:
    """Somebody with a browser of their own."""

    web: Web
    name: str
    context: BrowserContext
    odd: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Open a page in a tab of its own."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.odd.append(f"{page.url}: {error}"))
        page.on("dialog", lambda dialog: self._note_dialog(page, dialog))
        page.goto(self.web.url + path)
        wait_until_ready(page)
        return page

    def sign_in(self) -> Page:
        page = self.open(
            "/sign-in?next=/pipelines" if self.name != "paula" else "/sign-in?next=/inbox"
        )
        page.get_by_label("Name").fill(self.name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/sign-in" not in url)
        return page

    def _note_console(self, message: ConsoleMessage) -> None:
        # A refused request is told on the console too, and is what a test is about.
        if (
            message.type == "error"
            and "the server responded with a status of 4" not in message.text
        ):
            self.odd.append(f"{message.location.get('url')}: {message.text}")

    def _note_dialog(self, page: Page, dialog: Dialog) -> None:
        self.odd.append(f"{page.url}: dialog {dialog.message!r}")
        dialog.dismiss()


class Guests:
    """All who look at a web in a test."""

    def __init__(self, web: Web, browser: Browser) -> None:
        self._web = web
        self._browser = browser
        self._guests: list[Guest] = []

    def come(self, name: str, **options: Any) -> Guest:
        """Return somebody who has signed in; `options` are those of a context of Playwright."""
        context = self._browser.new_context(timezone_id="Europe/Berlin", locale="en-GB", **options)
        guest = Guest(self._web, name, context)
        self._guests.append(guest)
        guest.sign_in().close()
        return guest

    def close(self) -> None:
        for guest in self._guests:
            guest.context.close()
        odd = [told for guest in self._guests for told in guest.odd]
        assert odd == []


@contextmanager
def open_house(database_url: str, *, broker_url: str | None = None) -> Iterator[Web]:
    """Open a web on a database, with the example pipelines and, without workers, what executes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PIPELINES))
        modules = ("tests.integration.houses", "invoice_steps", "steps")
        with Web(database_url, broker_url=broker_url, step_modules=modules) as web:
            for name in ("invoice_approval", "hello_world"):
                web.publish(json.loads((PIPELINES / f"{name}.json").read_text()))
            yield web


def wait_until_ready(page: Page) -> None:
    """Wait until the page's scripts listen: what is typed or clicked before goes nowhere."""
    page.wait_for_function("document.documentElement.dataset.ready !== undefined")


def find_barriers(page: Page) -> list[str]:
    """Return what axe finds serious on a page, as text."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}: {node.get('failureSummary', '')[:300]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
