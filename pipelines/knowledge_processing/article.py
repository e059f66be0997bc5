"""Reads an encyclopaedia's article out of the page around it.

Decides what of a MediaWiki page is content and what is chrome; never fetches and never writes.
Called by the scraper step (`trim_page`, `split_chunks`) and the processor step (`parse_article`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement, PreformattedString, Tag

__all__ = ["NoArticle", "parse_article", "split_chunks", "trim_page"]

# What a page shows around and between the content. A `div.navbox` leads to other articles; a
# `table.navbox` that stands in the text by itself is a table like others.
_CHROME = ", ".join(
    [
        "script, style, noscript, template, link, meta, img, audio, video, svg, math annotation",
        ".mw-editsection, .mw-jump-link, [id^=jump-to], .mw-empty-elt, .mw-cite-backlink, .mw-indicators",
        "#toc, .toc, [class^=toclimit], [role=navigation], .navbar, div.navbox, .navbox-styles",
        ".sidebar, .noprint, .metadata, .ambox, .mbox-small, .sistersitebox, .portal, .magnify",
        ".shortdescription, .printfooter, #catlinks, #siteSub, #contentSub, #coordinates",
        ".geo-nondefault, .geo-multi-punct, .thumb, figure, .gallery, .authority-control",
    ]
)
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
# Attributes and classes that `parse_article` reads; all others are weight.
_KEPT_ATTRIBUTES = ("href", "rowspan", "colspan")
_KEPT_CLASSES = frozenset({"hatnote", "reference", "reference-text", "references"})
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_LISTS = ("ul", "ol", "dl")
_ITEMS = ("li", "dd", "dt")
_BLOCKS = (
    *_HEADINGS,
    *_LISTS,
    *_ITEMS,
    *("p", "div", "table", "caption", "tr", "td", "th", "blockquote", "pre", "section"),
    *("article", "main", "header", "footer", "aside", "center", "hr"),
)
# Marks the end of a block in the text while a page is read; no page contains it after `_load`.
_BREAK = "\x1e"
# A page may claim any span; a table of more columns than this is no table to read.
_MOST_COLUMNS = 100


class NoArticle(ValueError):
    """A page has no content that could be an article."""


def trim_page(html: str) -> tuple[str, str]:
    """
    Return an article's title and its content as HTML, without all that is not content.

    Scripts, styles, navigation, pictures and attributes make up most of a page. What is left is
    a page again, and `parse_article` finds in it exactly what it finds in the whole.

    Raises:
        NoArticle: there is no text in the page.
    """
    title, content = _load(html)
    for tag in content.find_all(True):
        classes = [name for name in tag.get("class") or [] if name in _KEPT_CLASSES]
        kept: dict[str, Any] = {k: tag[k] for k in _KEPT_ATTRIBUTES if tag.get(k)}
        if str(tag.get("id", "")).startswith("cite_note"):
            kept["id"] = tag["id"]
        if classes:
            kept["class"] = classes
        tag.attrs = kept
    # A span that says nothing any more only wraps its text.
    for tag in content.find_all(["span", "font", "small", "abbr", "cite"]):
        if not tag.attrs:
            tag.unwrap()
    body = re.sub(r"\s+", " ", content.decode_contents())
    return (
        title,
        f'<h1 id="firstHeading">{_escape(title)}</h1><div id="mw-content-text">{body}</div>',
    )


def split_chunks(text: str, most_bytes: int) -> list[str]:
    """Return `text` in pieces of at most `most_bytes` bytes of UTF-8 each, to be joined again."""
    chunks, rest = [], text.encode()
    while len(rest) > most_bytes:
        end = most_bytes
        # Not inside a character.
        while rest[end] & 0xC0 == 0x80:
            end -= 1
        chunks.append(rest[:end].decode())
        rest = rest[end:]
    return [*chunks, rest.decode()]


def parse_article(html: str) -> dict[str, Any]:
    """
    Return the structure of an article.

    Args:
        html: a MediaWiki page, whole or trimmed, of the old or the present skin.

    Returns:
        title: the article's title.
        sections: in order, each `{"level", "heading", "paragraphs"}`; the first one is the
            introduction, of level 1, with the title as its heading. List items are paragraphs
            that begin with `- `, two spaces deeper for each level of the list.
        tables: in order, each `{"caption", "section", "header_rows", "rows"}`; `section` is the
            index in `sections`, rows are lists of cell texts of one length. A cell that spans
            rows or columns stands in each of them; one over the whole width only once.
        links: each `{"text", "target", "kind"}`, once, outside the references; `kind` is
            `internal` or `external`.
        references: in order, each `{"number", "id", "text", "links"}`; `number` is the label
            that the text shows, such as `12` or `n 3`.

    Raises:
        NoArticle: there is no text in the page.
    """
    title, content = _load(html)
    numbers = _reference_numbers(content)
    references = [
        _read_reference(item, position, numbers)
        for notes in content.find_all("ol", class_="references")
        for position, item in enumerate(notes.find_all("li", recursive=False), start=1)
    ]
    links = _read_links(content)
    _mark_breaks(content)
    for reference, item in zip(references, _reference_items(content), strict=True):
        reference["text"] = _text(item.find(class_="reference-text") or item)
    sections: list[dict[str, Any]] = [{"level": 1, "heading": title, "paragraphs": []}]
    tables: list[dict[str, Any]] = []
    for kind, value in _walk(content):
        match kind:
            case "heading":
                sections.append(value)
            case "paragraph":
                sections[-1]["paragraphs"].append(value)
            case _:
                tables.append({**value, "section": len(sections) - 1})
    return {
        "title": title,
        "sections": sections,
        "tables": tables,
        "links": links,
        "references": references,
    }


def _load(html: str) -> tuple[str, Tag]:
    """Return the title and the element that holds the content, chrome removed."""
    soup = BeautifulSoup(html.replace(_BREAK, " "), "lxml")
    heading = soup.select_one("#firstHeading") or soup.find("h1") or soup.title
    title = _text(heading) if heading else ""
    title = re.sub(r"\s+[-\u2013\u2014]\s+Wikipedia$", "", title)
    content = soup.select_one("#mw-content-text, #bodyContent, article, main") or soup.body
    if content is None:
        raise NoArticle("the page is empty")
    for comment in content.find_all(string=lambda text: isinstance(text, PreformattedString)):
        comment.extract()
    for tag in content.select(_CHROME):
        tag.decompose()
    for tag in content.find_all(style=_HIDDEN):
        tag.decompose()
    if heading is not None and content in heading.parents:
        heading.decompose()
    if not content.get_text(strip=True):
        raise NoArticle("the page has no text")
    return title, content


# --- sections and paragraphs


def _walk(node: Tag) -> Iterator[tuple[str, Any]]:
    """Yield headings, paragraphs and tables in the order of the text."""
    for child in node.children:
        if not isinstance(child, Tag) or "hatnote" in _classes(child):
            continue
        if child.name in _HEADINGS:
            section = {"level": int(child.name[1]), "heading": _heading(child), "paragraphs": []}
            yield "heading", section
        elif child.name == "table":
            if table := _read_table(child):
                yield "table", table
        elif child.name in _LISTS:
            if "references" not in _classes(child):
                for item in _list_items(child, ""):
                    yield "paragraph", item
        elif child.name in ("p", "pre") or child.find(_BLOCKS) is None:
            if text := _text(child):
                yield "paragraph", text
        else:
            yield from _walk(child)


def _heading(tag: Tag) -> str:
    for mark in tag.find_all("sup", class_="reference"):
        mark.decompose()
    return _text(tag)


def _list_items(node: Tag, indent: str) -> Iterator[str]:
    term = ""
    for item in node.find_all(_ITEMS, recursive=False):
        nested = [child.extract() for child in item.find_all(_LISTS, recursive=False)]
        if text := _text(item):
            # What a term means stands below it.
            yield f"{indent}{term if item.name == 'dd' else ''}- {text}"
        if item.name == "dt":
            term = "  "
        for child in nested:
            yield from _list_items(child, indent + "  ")


def _classes(tag: Tag) -> list[str]:
    return list(tag.get("class") or [])


def _mark_breaks(content: Tag) -> None:
    """Put a mark where a block or a line ends, so that words of two cells do not grow together."""
    for tag in content.find_all("br"):
        tag.replace_with(NavigableString(_BREAK))
    for tag in content.find_all(_BLOCKS):
        tag.insert_before(NavigableString(_BREAK))
        tag.insert_after(NavigableString(_BREAK))


def _text(node: PageElement, between: str = " ") -> str:
    """Return the text of an element on one line; its blocks are joined by `between`."""
    blocks = (" ".join(block.split()) for block in node.get_text().split(_BREAK))
    return between.join(filter(None, blocks))


# --- tables


def _read_table(table: Tag) -> dict[str, Any] | None:
    rows = [
        list(row.find_all(["td", "th"], recursive=False))
        for row in table.find_all("tr")
        if row.find_parent("table") is table
    ]
    grid = _spread_spans(rows)
    kinds = [all(cell.name == "th" for cell in row) for row in rows]
    named = table.find("caption", recursive=False)
    caption = _text(named) if named else ""
    if not caption and rows and len(rows[0]) == 1 and kinds[0] and len(rows) > 1:
        # A title over the whole width.
        caption = _text(rows[0][0])
        grid, kinds = grid[1:], kinds[1:]
    headers = 0
    while headers < len(kinds) and kinds[headers] and any(grid[headers]):
        headers += 1
    body = [row for row in grid[headers:] if any(row)]
    if not (body or headers):
        return None
    return {"caption": caption, "section": 0, "header_rows": grid[:headers], "rows": body}


def _spread_spans(rows: list[list[Tag]]) -> list[list[str]]:
    """Return the rows as texts of one length, each spanned place filled."""
    grid: list[dict[int, str]] = [{} for _ in rows]
    width, whole = 0, set()
    for line, row in enumerate(rows):
        column, line_is_empty = 0, not grid[line]
        for cell in row:
            while column in grid[line]:
                column += 1
            if column >= _MOST_COLUMNS:
                break
            text = _text(cell, "; ")
            across = max(1, min(_span(cell, "colspan"), _MOST_COLUMNS - column))
            down = _span(cell, "rowspan") or len(rows)
            for below in grid[line : line + down]:
                for place in range(column, column + across):
                    below.setdefault(place, text)
            column += across
        if len(row) == 1 and line_is_empty:
            # A cell over the whole width stands once, and claims no columns.
            whole.add(line)
        else:
            width = max(width, column)
    width = width or min(1, len(rows))
    return [
        [line.get(column, "") if column == 0 or k not in whole else "" for column in range(width)]
        for k, line in enumerate(grid)
    ]


def _span(cell: Tag, name: str) -> int:
    digits = re.match(r"\s*(\d{1,4})", str(cell.get(name, "1")))
    return int(digits[1]) if digits else 1


# --- links and references


def _read_links(content: Tag) -> list[dict[str, str]]:
    links = {}
    for anchor in content.find_all("a", href=True):
        if anchor.find_parent("ol", class_="references") is None and (link := _link(anchor)):
            links[link["text"], link["target"]] = link
    return list(links.values())


def _link(anchor: Tag) -> dict[str, str] | None:
    """Return a link that leads somewhere; none for marks within the page and for pictures."""
    target, text = str(anchor["href"]).strip(), _text(anchor)
    if not text or not target or target.startswith("#") or re.match(r"(/wiki|\.)/File:", target):
        return None
    scheme = re.match(r"([a-z][a-z0-9+.-]*):", target, re.IGNORECASE)
    if scheme and scheme[1].lower() not in ("http", "https", "mailto"):
        return None
    external = bool(scheme) or target.startswith("//")
    return {"text": text, "target": target, "kind": "external" if external else "internal"}


def _reference_items(content: Tag) -> Iterator[Tag]:
    for notes in content.find_all("ol", class_="references"):
        yield from notes.find_all("li", recursive=False)


def _reference_numbers(content: Tag) -> dict[str, str]:
    """Return what the text calls each reference: the label of the first mark that leads to it."""
    numbers: dict[str, str] = {}
    for mark in content.select("sup.reference a[href]"):
        fragment = str(mark["href"]).rpartition("#")[2]
        numbers.setdefault(fragment, _text(mark).strip("[] "))
    return numbers


def _read_reference(item: Tag, position: int, numbers: dict[str, str]) -> dict[str, Any]:
    name = str(item.get("id", ""))
    found = [link for anchor in item.find_all("a", href=True) if (link := _link(anchor))]
    return {
        "number": numbers.get(name) or str(position),
        "id": name,
        "text": "",
        "links": [{"text": link["text"], "target": link["target"]} for link in found],
    }


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
