"""The step that makes a notebook of a fetched article.

Decides where the notebook goes; never fetches. The pipeline
`ai_notebook_creation_pipeline.json` names it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from iaflow.errors import Fail
from iaflow.pipeline import Step
from knowledge_processing.article import NoArticle, parse_article
from knowledge_processing.notebook import build_notebook, name_notebook, write_notebook

__all__ = ["StructuredWikipediaProcessorStep"]

# What an output may hold, less the room for what is around the structure.
_MOST_BYTES = 1_000_000


class StructuredWikipediaProcessorStep(Step):
    """
    Reads an article's structure and writes it as a notebook.

    Input: `scraped_html`, a string or a list of strings to be joined, and `title`. Service:
    `notebook_dir`, the folder of the notebooks (default: `notebooks` in the current folder).

    Output: `structured_content`: `title`, `sections`, `tables`, `links` and `references` as
    `parse_article` returns them, `counts` of these four, and `notebook`, the path of the file.
    An attempt that is made again writes the same file.

    Errors: `no_article`, `article_too_large`.
    """

    async def work(self, data: dict[str, Any]) -> dict[str, Any]:
        html = data["scraped_html"]
        try:
            article = await asyncio.to_thread(
                parse_article, html if isinstance(html, str) else "".join(html)
            )
        except NoArticle as error:
            raise Fail(str(error), code="no_article") from error
        article["title"] = data.get("title") or article["title"]
        size = len(json.dumps(article, ensure_ascii=False).encode())
        if size > _MOST_BYTES:
            raise Fail(
                f"the structure has {size} bytes; {_MOST_BYTES} fit an output",
                code="article_too_large",
            )
        self.context.progress(0.7, f"{len(article['sections'])} sections read")
        folder = Path(self.get_service("notebook_dir", default="notebooks"))
        path = folder / name_notebook(article["title"], self.context.run_id)
        await asyncio.to_thread(write_notebook, build_notebook(article), path)
        parts = ("sections", "tables", "links", "references")
        return {
            "structured_content": {
                **article,
                "counts": {part: len(article[part]) for part in parts},
                "notebook": str(path),
            }
        }
