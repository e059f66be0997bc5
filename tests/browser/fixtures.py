"""The pytest plugin with a browser: Debian's Chromium, found or installed, driven by Playwright.

Decides whether there is one; where there is none, its tests are left out and the report's header
says so. Loaded by `tests/conftest.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.installing import (
    NotInstalled,
    describe_lack,
    find_or_install,
    find_program,
)

PACKAGE = "chromium"
CANDIDATES = ("chromium", "/usr/bin/chromium", "chromium-browser", "google-chrome")


def pytest_report_header() -> str:
    return f"chromium: {describe_chromium()}"


def describe_chromium() -> str:
    """Say which browser the tests use, or why they are left out."""
    found = find_program(CANDIDATES)
    if found is not None:
        return str(found)
    lack = describe_lack(PACKAGE)
    return f"none, so tests/browser is LEFT OUT: {lack}" if lack else "installed when needed"


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser's program."""
    try:
        return find_or_install(PACKAGE, CANDIDATES)
    except NotInstalled as error:
        pytest.skip(f"no browser: {error}")


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[object]:
    """A browser for the tests of a file; each visitor has a context of their own.

    No longer: one that nobody looks through still takes a fifth of a processor from others.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = open_browser(playwright, chromium)
        yield opened
        opened.close()


def open_browser(playwright: Any, chromium: Path) -> Any:
    """Return a browser; as root it has no sandbox, and sees pages of this very process alone."""
    return playwright.chromium.launch(
        executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
    )
