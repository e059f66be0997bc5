"""What the notebook pipeline reads out of a page, on pages of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.knowledge_processing.article import (
    NoArticle,
    parse_article,
    split_chunks,
    trim_page,
)
from pipelines.knowledge_processing.notebook import (
    build_notebook,
    name_notebook,
    write_notebook,
)

PAGE = Path(__file__).parents[2] / "pipelines" / "pages" / "Tide_mill_of_Saltmere.html"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def article(page: str) -> dict[str, Any]:
    return parse_article(page)


def read(body: str) -> dict[str, Any]:
    return parse_article(f"<h1>T</h1><div id='mw-content-text'>{body}</div>")


def paragraphs(body: str) -> list[str]:
    found: list[str] = read(body)["sections"][0]["paragraphs"]
    return found


def table(rows: str) -> dict[str, Any]:
    found: dict[str, Any] = read(f"<p>x</p><table>{rows}</table>")["tables"][0]
    return found


# --- the page of the demo


def test_sections_come_in_order_with_their_levels(article: dict[str, Any]) -> None:
    assert [(s["level"], s["heading"]) for s in article["sections"]] == [
        (1, "Tide mill of Saltmere"),
        (2, "History"),
        (3, "Decline"),
        (3, "Restoration"),
        (2, "Works"),
        (2, "Visiting"),
        (2, "See also"),
        (2, "Notes"),
        (2, "References"),
        (2, "External links"),
    ]


def test_lists_keep_their_depth(article: dict[str, Any]) -> None:
    assert article["sections"][3]["paragraphs"] == [
        "Three things had to be made anew:",
        "- the dam, with stones from the old one;",
        "- the gates:",
        "  - two for the flood, of oak;",
        "  - one for the wheel, of steel;",
        "- the wheel itself, after a drawing of 1811.[3]",
    ]
    assert article["sections"][5]["paragraphs"] == [
        "- Summer",
        "  - every day, from two hours after high water",
        "- Winter",
        "  - on Sundays, if the road is open",
    ]


def test_tables_are_grids_with_their_spans_filled(article: dict[str, Any]) -> None:
    assert article["tables"] == [
        {
            "caption": "Tide mill of Saltmere",
            "section": 0,
            "header_rows": [],
            "rows": [
                ["Location", "Saltmere; Isle of Wend"],
                ["Built", "1742"],
                ["Pond", "3.2 ha"],
                ["Products", "Flour; Bone meal; Electricity"],
            ],
        },
        {
            "caption": "Head of water and hours of work",
            "section": 4,
            "header_rows": [
                ["Tide", "Head (m)", "Head (m)", "Hours a day"],
                ["Tide", "Least", "Most", "Hours a day"],
            ],
            "rows": [
                ["Spring", "2.1", "3.4", "10"],
                ["Mean", "1.6", "2.3", "10"],
                ["Neap", "1.2 to 1.5", "1.2 to 1.5", "8"],
            ],
        },
    ]


def test_links_are_told_apart_and_chrome_has_none(article: dict[str, Any]) -> None:
    assert [(link["target"], link["kind"]) for link in article["links"]] == [
        ("/wiki/Windmill_of_Saltmere", "internal"),
        ("/wiki/Saltmere", "internal"),
        ("/wiki/Watermill", "internal"),
        ("/wiki/History_of_Wend", "internal"),
        ("https://mill.example/meter", "external"),
        ("/wiki/Tidal_power", "internal"),
        ("/wiki/List_of_tide_mills", "internal"),
        ("https://mill.example/", "external"),
    ]


def test_references_have_the_numbers_of_the_text(article: dict[str, Any]) -> None:
    assert [(r["number"], r["id"], len(r["links"])) for r in article["references"]] == [
        ("note 1", "cite_note-3", 0),
        ("1", "cite_note-ledger-1", 0),
        ("2", "cite_note-2", 2),
        ("3", "cite_note-4", 1),
    ]
    assert article["references"][2] == {
        "number": "2",
        "id": "cite_note-2",
        "text": '"The storm and the mill". Wend Courier. Retrieved 3 May 2020.',
        "links": [
            {
                "text": '"The storm and the mill"',
                "target": "https://archive.example/saltmere?year=1957&page=2",
            },
            {"text": "Wend Courier", "target": "/wiki/Wend_Courier"},
        ],
    }


def test_a_trimmed_page_reads_the_same(page: str, article: dict[str, Any]) -> None:
    title, trimmed = trim_page(page)
    assert title == "Tide mill of Saltmere"
    assert len(trimmed) < len(page) * 0.6
    assert parse_article(trimmed) == article
    assert trim_page(trimmed) == (title, trimmed)


# --- one thing each


def test_words_are_neither_torn_nor_grown_together() -> None:
    assert paragraphs("<p>re<b>move</b>d\n  here<br>there</p>") == ["removed here there"]
    assert paragraphs("<div>a <i>b</i></div><section><div><p>c</p></div></section>") == ["a b", "c"]


def test_what_nobody_sees_is_not_read() -> None:
    body = (
        "<p>seen<span style='DISPLAY : none'>hidden</span><!-- comment --><script>x()</script></p>"
    )
    assert paragraphs(body) == ["seen"]


def test_headings_of_the_old_skin_lose_their_edit_links() -> None:
    body = (
        "<p>x</p><h2><span class='mw-headline' id='A'>A b</span>"
        "<span class='mw-editsection'>[<a href='/edit'>edit</a>]</span></h2><p>y</p>"
    )
    assert read(body)["sections"][1] == {"level": 2, "heading": "A b", "paragraphs": ["y"]}


@pytest.mark.parametrize(
    ("rows", "grid"),
    (
        ("<tr><td rowspan=0>a<td>b<tr><td>c<tr><td>d", [["a", "b"], ["a", "c"], ["a", "d"]]),
        ("<tr><td colspan=3>a<tr><td>b<td>c<td>d", [["a", "", ""], ["b", "c", "d"]]),
        ("<tr><td>a<td>b<tr><td>c", [["a", "b"], ["c", ""]]),
        ("<tr><td rowspan=2 colspan=2>a<td>b<tr><td>c", [["a", "a", "b"], ["a", "a", "c"]]),
        ("<tr><td>a<td>b<tr><td colspan=9>c", [["a", "b"], ["c", ""]]),
        ("<tr><td rowspan=x colspan=-2>a<td>b", [["a", "b"]]),
        ("<tr><td>a<td><table><tr><td>b<td>c</table>", [["a", "b; c"]]),
        ("<tr><td rowspan=9999>a<td>b", [["a", "b"]]),
    ),
)
def test_spans(rows: str, grid: list[list[str]]) -> None:
    assert table(rows)["rows"] == grid


def test_a_table_cannot_claim_any_number_of_columns() -> None:
    rows = "".join("<tr><td colspan=9999 rowspan=9999>x<td>y</tr>" for _ in range(50))
    assert max(map(len, table(rows)["rows"])) <= 100


def test_a_title_over_the_whole_width_is_the_caption() -> None:
    found = table("<tr><th colspan=2>Cities</th></tr><tr><th>Name<th>Size<tr><td>A<td>1")
    assert found["caption"] == "Cities"
    assert found["header_rows"] == [["Name", "Size"]]
    assert found["rows"] == [["A", "1"]]


def test_an_empty_table_is_none() -> None:
    assert read("<p>x</p><table></table><table><tr><td> </table>")["tables"] == []


@pytest.mark.parametrize(
    "href", ("#here", "javascript:alert(1)", "/wiki/File:X.png", "data:text/html,x", " ")
)
def test_what_leads_nowhere_is_no_link(href: str) -> None:
    assert read(f"<p>a <a href='{href}'>b</a></p>")["links"] == []


def test_the_same_link_counts_once() -> None:
    links = read("<p><a href='/wiki/A'>a</a> <a href='/wiki/A'>a</a> <a href='/wiki/A'>b</a></p>")
    assert [link["text"] for link in links["links"]] == ["a", "b"]


@pytest.mark.parametrize("html", ("", "   ", "<html></html>", "<body><script>x</script></body>"))
def test_a_page_without_text_is_no_article(html: str) -> None:
    with pytest.raises(NoArticle):
        parse_article(html)


@given(st.text(alphabet="<>/=\"' \nabphtrdlis123&;!-\x1e\x00", max_size=120))
def test_no_page_breaks_the_parser(noise: str) -> None:
    try:
        found = parse_article(f"<p>x</p>{noise}")
    except NoArticle:
        return
    json.dumps(found)
    build_notebook(found)


@given(st.text(), st.integers(4, 40))
def test_chunks_join_to_the_text_and_fit(text: str, most: int) -> None:
    encodable = text.encode("utf-8", "ignore").decode()
    chunks = split_chunks(encodable, most)
    assert "".join(chunks) == encodable
    assert all(len(chunk.encode()) <= most for chunk in chunks)


# --- the notebook


def test_the_notebook_has_the_form_of_nbformat(article: dict[str, Any]) -> None:
    notebook = build_notebook(article)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"}
        assert cell["cell_type"] == "markdown"
        assert cell["source"].strip()


def test_the_notebook_shows_title_sections_tables_and_references(article: dict[str, Any]) -> None:
    sources = [cell["source"] for cell in build_notebook(article)["cells"]]
    assert sources[0] == (
        "# Tide mill of Saltmere\n\n*10 sections, 2 tables, 8 links, 4 references*"
    )
    assert "### Restoration" in sources
    assert (
        "**Head of water and hours of work**\n\n"
        "| Tide | Head (m) | Head (m) | Hours a day |\n"
        "| --- | --- | --- | --- |\n"
        "| **Tide** | **Least** | **Most** | **Hours a day** |\n"
        "| Spring | 2.1 | 3.4 | 10 |\n"
    ) in "\n".join(sources)
    assert sources[-1].startswith("## Sources\n\n- [note 1] Over it, not under it")
    assert "<https://archive.example/saltmere?year=1957&page=2>" in sources[-1]


def test_a_page_cannot_put_marks_into_the_notebook() -> None:
    text = "&lt;img src=x&gt; *a* `b` [c](http://d) | # e $x$"
    source = build_notebook(read(f"<p>{text}</p>"))["cells"][1]["source"]
    assert source == r"&lt;img src=x&gt; \*a\* \`b\` [c\](http://d) \| # e \$x\$"


def test_writing_twice_leaves_one_file(article: dict[str, Any], tmp_path: Path) -> None:
    notebook = build_notebook(article)
    path = tmp_path / "notebooks" / name_notebook(article["title"], "0198-run")
    assert path.name == "tide-mill-of-saltmere-0198-run.ipynb"
    write_notebook(notebook, path)
    before = path.read_bytes()
    write_notebook(notebook, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert json.loads(before) == notebook


@pytest.mark.parametrize("title", ("../../etc/passwd", "", "a/b\\c:d", "x" * 500))
def test_a_title_cannot_lead_out_of_the_folder(title: str) -> None:
    name = name_notebook(title, "run/../1")
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert len(name) < 120
