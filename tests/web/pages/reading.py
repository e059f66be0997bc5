"""Pages as a browser reads them: parsed, and looked through for what must not be there."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
from lxml import html
from lxml.html import HtmlElement

__all__ = ["require_safe", "page_of", "text_of", "texts_of"]

_ADDRESSES = ("href", "src", "action", "formaction", "data", "poster", "srcset", "xlink:href")


def page_of(reply: httpx2.Response, status: int = 200) -> HtmlElement:
    """Return a reply's page, after a look that it is one and that nothing in it is a danger."""
    assert reply.status_code == status, (reply.status_code, reply.text[:2000])
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert reply.headers["cache-control"] == "no-store"
    assert reply.text.startswith("<!DOCTYPE html>")
    page = html.document_fromstring(reply.text)
    require_safe(page)
    return page


def require_safe(page: HtmlElement) -> None:
    """Fail if a page has a script or style of its own, a handler, or an address of another host."""
    for element in page.iter():
        if not isinstance(element.tag, str):
            continue
        assert element.tag not in ("iframe", "object", "embed", "base", "style"), element.tag
        if element.tag == "script":
            assert element.get("src", "").split("/static/")[1:], html.tostring(element)
            assert not (element.text or "").strip()
        for name, value in element.attrib.items():
            assert not name.startswith("on"), (name, value)
            assert name not in ("style", "srcdoc"), (name, value)
            if name in _ADDRESSES:
                parts = urlsplit(value)
                assert parts.scheme in ("", "http", "https"), value
                if element.tag != "a":
                    assert not parts.netloc, value
        if element.tag == "meta":
            assert element.get("http-equiv") is None


def texts_of(page: HtmlElement) -> Iterator[str]:
    """Yield all that a page shows or keeps as text: its text nodes and its attributes' values."""
    for element in page.iter():
        if isinstance(element.tag, str):
            yield from element.attrib.values()
            yield element.text or ""
        yield element.tail or ""


def text_of(page: HtmlElement, path: str = "//main") -> str:
    """Return what parts of a page say, by an XPath, with single spaces."""
    return " ".join(" ".join(one.text_content().split()) for one in page.xpath(path))
