"""Which definition a sub-pipeline's slug stands for: a file beside, or an imported pipeline.

Decides the order of the two; never starts anything. Called by attempts of `pipeline` steps.
"""

from __future__ import annotations

from pathlib import Path

from iaflow.database.pipeline_store import PipelineStore
from iaflow.pipeline.check import check, compile_definition
from iaflow.pipeline.graph import Graph

__all__ = ["find_beside", "find_pipeline"]


def find_pipeline(slug: str, folder: str | None, store: PipelineStore) -> Graph | None:
    """
    Return the definition that a slug stands for now, or None if there is none.

    Args:
        folder: where the parent run's own file is; None if it has none.
        store: the imported pipelines.

    Raises:
        DefinitionRefused: there is one, but it is faulty.
    """
    if folder is not None:
        beside = find_beside(slug, Path(folder))
        if beside is not None:
            return beside
    found = store.find(slug)
    return None if found is None else compile_definition(found.document)


def find_beside(slug: str, folder: Path) -> Graph | None:
    """Return the sound definition of that slug among the ``*.json`` of a folder."""
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".expected.json"):
            continue
        try:
            text = path.read_bytes()
        except OSError:
            continue
        graph = check(text, source=str(path)).graph
        if graph is not None and graph.definition.slug == slug:
            return graph
    return None
