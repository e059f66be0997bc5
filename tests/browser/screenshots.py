"""Pictures of every page, light, dark and on a phone, for people who change one: `./dev screenshots`.

Decides names and sizes of the pictures; never what is on a page. A program of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.fixtures import CANDIDATES, PACKAGE, open_browser
from tests.browser.people import Guests, open_house
from tests.browser.places import SCHEMES, list_places
from tests.servers.installing import NotInstalled, find_or_install

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures and print the path of each; return 0, or 2 without a browser."""
    parser = argparse.ArgumentParser(prog="./dev screenshots", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--only", action="append", metavar="PAGE", help="such as run, or inbox")
    asked = parser.parse_args(argv)
    try:
        chromium = find_or_install(PACKAGE, CANDIDATES)
    except NotInstalled as error:
        print(f"no browser: {error}", file=sys.stderr)
        return 2
    asked.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as kept,
        open_house(f"sqlite:///{kept}/runs.db") as web,
        sync_playwright() as playwright,
    ):
        browser = open_browser(playwright, chromium)
        guests = Guests(web, browser)
        places = list_places(web)
        for scheme, options in SCHEMES.items():
            guest = guests.come("adele", **options)
            for name, path in places.items():
                if asked.only and name not in asked.only:
                    continue
                page = guest.open(path)
                picture = asked.folder / f"{name.replace(' ', '-')}.{scheme}.png"
                page.screenshot(path=picture, full_page=True)
                page.close()
                print(picture)
        guests.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
