"""The step that fetches an article.

Decides which answers of the site are worth another attempt; never parses. The pipeline
`ai_notebook_creation_pipeline.json` names it.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx2

from iaflow.errors import Fail, Retry
from iaflow.pipeline import Step
from knowledge_processing.article import NoArticle, split_chunks, trim_page

__all__ = ["PageUnavailable", "WikipediaScraperStep"]

_BASE_URL = "https://en.wikipedia.org/wiki/"
_HEADERS = {
    # Sites ask robots to say who they are; an application puts its own contact here.
    "User-Agent": "iaflow-notebook-example/1.0",
    "Accept": "text/html",
}
# An output may be 1 MiB in all and a string in it 256 KiB.
_MOST_BYTES_OF_A_STRING = 250_000
_MOST_BYTES = 900_000


class PageUnavailable(Exception):
    """The site did not answer, or is busy; another attempt may succeed."""

    code = "page_unavailable"


class WikipediaScraperStep(Step):
    """
    Fetches the article about a topic.

    Input: `topic`, the article's name. Services: `http`, an HTTP client with an awaitable `get`;
    `wikipedia_url`, the address that article names are put after (default: the English edition).

    Output: `article_title`, and `scraped_content`: the article's HTML without scripts, styles and
    navigation; a string, or a list of strings to be joined if it is too long for one.

    Errors: `page_unavailable` (another attempt may help), `page_not_found`, `page_refused`,
    `no_article`, `article_too_large`.
    """

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        page = await self._fetch(str(data["topic"]))
        try:
            # A large page takes a second to parse; others work on this loop too.
            title, html = await asyncio.to_thread(trim_page, page)
        except NoArticle as error:
            raise Fail(str(error), code="no_article") from error
        size = len(html.encode())
        if size > _MOST_BYTES:
            raise Fail(
                f"the article has {size} bytes without its chrome; {_MOST_BYTES} fit an output",
                code="article_too_large",
            )
        chunks = split_chunks(html, _MOST_BYTES_OF_A_STRING)
        return {
            "scraped_content": chunks[0] if len(chunks) == 1 else chunks,
            "article_title": title,
        }

    async def _fetch(self, topic: str) -> str:
        base = self.get_service("wikipedia_url", default=_BASE_URL)
        url = base + quote(topic.strip().replace(" ", "_"), safe="")
        try:
            response = await self.get_http().get(url, headers=_HEADERS, follow_redirects=True)
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            raise PageUnavailable(f"{url} does not answer: {reason}") from error
        status = response.status_code
        if status == 404:
            raise Fail(f"there is no article at {url}", code="page_not_found")
        if status == 429 or status >= 500:
            wait = response.headers.get("Retry-After", "")
            if wait.isdecimal():
                raise Retry(float(wait), f"{url} asks to come back in {wait} s ({status})")
            raise PageUnavailable(f"{url} answered {status}")
        try:
            response.raise_for_status()
        except httpx2.HTTPStatusError as error:
            raise Fail(f"{url} answered {status}", code="page_refused") from error
        return str(response.text)
