"""Which definition a sub-pipeline's slug stands for: a file beside, or an imported pipeline.

Decides the order of the two; never starts anything. Called by attempts of `pipeline` steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from iaflow.database.pipeline_store import PipelineStore
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.definition import parse_definition
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.strict_json import MAX_BYTES_CEILING

__all__ = ["find_beside", "find_pipeline"]


def find_pipeline(slug: str, folders: Iterable[Path], store: PipelineStore) -> Graph | None:
    """
    Return the definition that a slug stands for now, or None if there is none.

    Args:
        folders: whose files this process may run; none on a worker.
        store: the imported pipelines.

    Raises:
        DefinitionRefused: there is one, but it is faulty.
    """
    for folder in folders:
        beside = find_beside(slug, folder)
        if beside is not None:
            return beside
    found = store.find(slug)
    return None if found is None else compile_definition(found.document)


def find_beside(slug: str, folder: Path) -> Graph | None:
    """
    Return the definition of that slug among the ``*.json`` of a folder.

    Raises:
        DefinitionRefused: there is one, but it is faulty.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".expected.json"):
            continue
        try:
            text = path.read_bytes()
        except OSError:
            continue
        found, _, _ = parse_definition(text, max_bytes=MAX_BYTES_CEILING)
        if found is not None and found.slug == slug:
            return compile_definition(text, source=str(path), max_bytes=MAX_BYTES_CEILING)
    return None
