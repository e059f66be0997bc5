"""Definitions in files: their bytes, plain or gzipped, and the graph that they compile to.

Decides how much of a file is read and what an unreadable one is called; never what a document
means. Called by `run`, `graph`, `validate`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iaflow.errors import IaflowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iaflow.pipeline.graph import Graph
    from iaflow.settings import Settings

__all__ = ["Unreadable", "read_definition", "read_text"]


class Unreadable(IaflowError):
    """A file that was named cannot be read, or not be written."""


def read_text(path: Path, *, max_bytes: int) -> bytes:
    """
    Return the bytes of a file, unpacked if its name ends in `.gz`; at most one over the limit.

    Why the one more: the check then says that the text is too long, and no small file that
    unpacks to gigabytes is ever unpacked to its end.

    Raises:
        Unreadable: there is no such file, it may not be read, or it is no gzip.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                return packed.read(max_bytes + 1)
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error, ValueError) as error:
        raise Unreadable(f"cannot read {path}: {error}") from None


def read_definition(
    path: Path, settings: Settings, *, folders: Sequence[Path] | None = None
) -> Graph:
    """
    Return the compiled definition in a file.

    Args:
        folders: the run's, whose step modules are compared with it; None: nothing is imported.

    Raises:
        Unreadable: the file cannot be read.
        DefinitionRefused: with every finding.
    """
    from iaflow.pipeline.check import compile_definition

    text = read_text(path, max_bytes=settings.max_definition_bytes)
    given: dict[str, Any] = {
        "source": str(path),
        "queues": settings.queues,
        "max_bytes": settings.max_definition_bytes,
    }
    if folders is not None:
        from iaflow.pipeline.loader import StepLoader

        given["shape_of"] = StepLoader(settings.step_modules, folders).shape_of
    return compile_definition(text, **given)
