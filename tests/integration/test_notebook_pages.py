"""The notebook pipeline on two saved pages of a real encyclopaedia, of two skins and years.

What the parser finds is compared with counts that do not come from it: plain searches in the
text of the page.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iaflow.pipeline.strict_json import MAX_STRING
from pipelines.knowledge_processing.article import parse_article, split_chunks, trim_page
from pipelines.knowledge_processing.notebook import build_notebook

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = CHECKOUT.parent / "shared" / "cases" / "pages"
MOST_BYTES_OF_AN_OUTPUT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Expected:
    """What a person sees on the page."""

    title: str
    tables: tuple[str, ...]
    last_reference: str
    sentence: str
    row: tuple[str, ...]


EXPECTED = {
    "wikipedia.html": Expected(
        title="Mozilla",
        tables=("Mozilla",),
        last_reference="72",
        sentence="On March 24, 2014, Mozilla promoted Brendan Eich to the role of CEO.",
        row=("Divisions", "Mozilla Corporation; Mozilla Foundation"),
    ),
    "wikipedia-2.html": Expected(
        title="New Zealand",
        tables=(
            "New Zealand Aotearoa (Māori)",
            "Administrative divisions of the Realm of New Zealand",
            (
                "Average daily maximum and minimum temperatures for the six largest cities of New "
                "Zealand[164]"
            ),
            (
                "Largest urban areas in New Zealand Statistics New Zealand June 2018 estimate "
                "(NZSAC92 boundaries)[254]"
            ),
        ),
        last_reference="368",
        sentence="New Zealand was one of the last major landmasses settled by humans.",
        row=("Dunedin", "19/11", "66/53", "10/3", "50/37"),
    ),
}


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def page(name: str) -> str:
    path = PAGES / name
    if not path.is_file():
        pytest.fail(
            f"there is no {path}: the saved pages lie in shared/cases/pages beside the checkout"
        )
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def article(page: str) -> dict[str, Any]:
    return parse_article(page)


def test_the_title_is_that_of_the_article(article: dict[str, Any], name: str) -> None:
    assert article["title"] == EXPECTED[name].title


def test_every_heading_begins_a_section(article: dict[str, Any], page: str) -> None:
    headlines = re.findall(r'<h([2-6])>\s*<span class="mw-headline"[^>]*>(.*?)</span>', page, re.S)
    wanted = [
        (int(level), " ".join(re.sub("<.*?>", "", text).split())) for level, text in headlines
    ]
    found = [(section["level"], section["heading"]) for section in article["sections"]]
    assert found[0] == (1, article["title"])
    assert found[1:] == wanted
    assert len(wanted) == page.count('class="mw-headline"')


def test_every_reference_is_read(article: dict[str, Any], name: str, page: str) -> None:
    wanted = re.findall(r'<li id="(cite_note[^"]*)"', page)
    assert [reference["id"] for reference in article["references"]] == wanted
    assert article["references"][-1]["number"] == EXPECTED[name].last_reference
    assert all(reference["text"] for reference in article["references"])
    assert not any(reference["text"].startswith("^") for reference in article["references"])


def test_every_citation_in_the_text_has_its_reference(article: dict[str, Any], page: str) -> None:
    cited = set(re.findall(r'<a href="#(cite_note[^"]*)"', page))
    assert cited == {reference["id"] for reference in article["references"]}


def test_tables_are_those_of_the_article_and_not_of_its_chrome(
    article: dict[str, Any], name: str
) -> None:
    assert tuple(table["caption"] for table in article["tables"]) == EXPECTED[name].tables
    rows = [tuple(row) for table in article["tables"] for row in table["rows"]]
    assert EXPECTED[name].row in rows
    for table in article["tables"]:
        assert len({len(row) for row in (*table["header_rows"], *table["rows"])}) == 1


def test_the_text_is_there_and_the_chrome_is_not(article: dict[str, Any], name: str) -> None:
    text = "\n".join(p for section in article["sections"] for p in section["paragraphs"])
    assert EXPECTED[name].sentence in text
    for chrome in ("Jump to", "[edit]", "Navigation menu", "Retrieved from", "Main article", "{"):
        assert chrome not in text


def test_nearly_all_paragraphs_of_the_page_are_kept(article: dict[str, Any], page: str) -> None:
    """Every longer plain paragraph is found again, but for the marks that ask for an update."""
    content = page[page.index('id="mw-content-text"') :]
    content = re.sub(r"<table.*?</table>|<!--.*?-->", " ", content, flags=re.S)
    wanted = [
        " ".join(re.sub(r"<[^>]*>", "", paragraph).replace("[update]", "").split())
        for paragraph in re.findall(r"<p>((?:(?!</?(?:p|div|style|span)\b).)*)</p>", content, re.S)
    ]
    wanted = [text for text in wanted if len(text) > 80 and "&" not in text]
    assert len(wanted) >= 20
    found = [p for section in article["sections"] for p in section["paragraphs"]]
    assert [text for text in wanted if text not in found] == []


def test_links_are_those_that_a_search_finds(article: dict[str, Any], page: str) -> None:
    targets = set(re.findall(r'<a [^>]*?href="([^"#][^"]*)"', page.replace("&amp;", "&")))
    assert {link["target"] for link in article["links"]} <= targets
    assert {link["kind"] for link in article["links"]} == {"internal", "external"}
    pairs = [(link["text"], link["target"]) for link in article["links"]]
    assert len(set(pairs)) == len(pairs) > 100


def test_outputs_of_both_steps_are_within_the_limits(article: dict[str, Any], page: str) -> None:
    title, html = trim_page(page)
    chunks = split_chunks(html, 250_000)
    assert all(len(chunk.encode()) <= MAX_STRING for chunk in chunks)
    assert len(html.encode()) < len(page.encode()) * 0.3
    scraped = {"scraped_content": chunks, "article_title": title}
    for output in (scraped, {"structured_content": article}):
        assert len(json.dumps(output).encode()) < MOST_BYTES_OF_AN_OUTPUT
    assert parse_article("".join(chunks)) == article


def test_the_notebook_has_a_heading_for_each_section(article: dict[str, Any]) -> None:
    sources = [cell["source"] for cell in build_notebook(article)["cells"]]
    headings = [source for source in sources if re.match(r"#{2,6} ", source)]
    assert len(headings) == len(article["sections"]) - 1 + 1  # and the sources at the end
    rules = [line for source in sources for line in source.split("\n") if set(line) == set("| -")]
    assert len(rules) == len(article["tables"])
