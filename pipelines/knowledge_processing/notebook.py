"""Turns the structure of an article into a Jupyter notebook.

Decides cells and Markdown; never reads or writes a file but the one it is told to. Called by the
processor step.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["build_notebook", "name_notebook", "write_notebook"]


def build_notebook(article: dict[str, Any]) -> dict[str, Any]:
    """
    Return a notebook (nbformat 4.5) of Markdown cells: title, sections, tables, references.

    It is the same for the same article: no time and no chance goes into it.

    Args:
        article: what `parse_article` returns.
    """
    tables: dict[int, list[dict[str, Any]]] = {}
    for table in article["tables"]:
        tables.setdefault(table["section"], []).append(table)
    sources = [_introduce(article)]
    for place, section in enumerate(article["sections"]):
        if place:
            sources.append(f"{'#' * section['level']} {_plain(section['heading'])}")
        if section["paragraphs"]:
            sources.append(_write_paragraphs(section["paragraphs"]))
        sources += [_write_table(table) for table in tables.get(place, [])]
    if article["references"]:
        sources.append("\n".join(["## Sources", "", *_write_references(article["references"])]))
    return {
        "cells": [
            {"cell_type": "markdown", "id": f"cell-{k}", "metadata": {}, "source": source}
            for k, source in enumerate(sources)
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def name_notebook(title: str, run_id: str) -> str:
    """Return a file name that tells the article and is the same for each attempt of a run."""
    words = re.sub(r"[^\w]+", "-", title.lower()).strip("-")[:60] or "article"
    return f"{words}-{re.sub(r'[^0-9A-Za-z]+', '-', run_id)[-40:]}.ipynb"


def write_notebook(notebook: dict[str, Any], path: Path) -> None:
    """Write a notebook so that nobody ever sees half of it; a second time changes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".notebook-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _introduce(article: dict[str, Any]) -> str:
    counts = ", ".join(
        f"{len(article[part])} {part}" for part in ("sections", "tables", "links", "references")
    )
    return f"# {_plain(article['title'])}\n\n*{counts}*"


def _write_paragraphs(paragraphs: list[str]) -> str:
    lines: list[str] = []
    for paragraph in paragraphs:
        item = re.match(r" *- ", paragraph)
        # Items of one list stand together, all else is parted by an empty line.
        if lines and not (item and re.match(r" *- ", lines[-1])):
            lines.append("")
        mark = item[0] if item else ""
        lines.append(mark + _plain(paragraph[len(mark) :]))
    return "\n".join(lines)


def _write_table(table: dict[str, Any]) -> str:
    headers, rows = table["header_rows"], table["rows"]
    width = len((headers or rows)[0])
    # Markdown knows one line of headers; further ones become rows in bold.
    first, *further = headers or [[""] * width]
    lines = [f"**{_plain(table['caption'])}**", ""] if table["caption"] else []
    lines += [_write_row(first), "|" + " --- |" * width]
    lines += [_write_row(row, bold=True) for row in further]
    lines += [_write_row(row) for row in rows]
    return "\n".join(lines)


def _write_row(cells: list[str], *, bold: bool = False) -> str:
    texts = [f"**{_plain(cell)}**" if bold and cell else _plain(cell) for cell in cells]
    return "| " + " | ".join(texts) + " |"


def _write_references(references: list[dict[str, Any]]) -> Iterator[str]:
    for reference in references:
        targets = [
            f"<{link['target']}>" for link in reference["links"] if _is_address(link["target"])
        ]
        yield f"- [{_plain(reference['number'])}] {' '.join([_plain(reference['text']), *targets])}"


def _is_address(target: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>]+", target) is not None


def _plain(text: str) -> str:
    """Return text in which Markdown and HTML find no marks: a page's text is not our layout."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_|$~])", r"\\\1", text)
    # `[1]` may stand as it is; what would become a link may not.
    text = re.sub(r"\](?=[(:])", r"\]", text)
    return re.sub(r"^(#|-|\+|\d+[.)])(?=\s)", r"\\\1", text)
