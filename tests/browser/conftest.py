"""A web with the example pipelines, and people who look at it through a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.people import Guests, open_house
from tests.web.webs import Web


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One process with SQLite, the web, and what executes runs; the examples are imported."""
    with open_house(f"sqlite:///{tmp_path_factory.mktemp('browser') / 'runs.db'}") as web:
        yield web


@pytest.fixture
def guests(web: Web, browser: Browser) -> Iterator[Guests]:
    """People with a browser each; that nothing odd happened in it is looked at in the end."""
    guests = Guests(web, browser)
    yield guests
    guests.close()
