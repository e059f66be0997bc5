"""A web with the example pipelines, and people who look at it through a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.people import Guests
from tests.web.webs import Web

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One process with SQLite, the web, and what executes runs; the examples are imported."""
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PIPELINES))
        modules = ("tests.integration.houses", "invoice_steps", "steps")
        with Web(f"sqlite:///{folder / 'runs.db'}", step_modules=modules) as web:
            for name in ("invoice_approval", "hello_world"):
                web.publish(json.loads((PIPELINES / f"{name}.json").read_text()))
            yield web


@pytest.fixture
def guests(web: Web, browser: Browser) -> Iterator[Guests]:
    """People with a browser each; that nothing odd happened in it is looked at in the end."""
    guests = Guests(web, browser)
    yield guests
    guests.close()
