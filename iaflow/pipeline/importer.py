"""Definitions from files into the database: which files are read, and what is new in them.

Decides what counts as a definition's file and reports on each; never whether a definition
is legal, and never removes a version. Called by applications at their start and by the CLI.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from iaflow.clock import Clock, SystemClock
from iaflow.concurrency import run_blocking
from iaflow.database import DatabaseManager, migrator
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.statements import SQLITE
from iaflow.errors import DefinitionRefused, NotFound, Problem
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.definition import Definition
from iaflow.pipeline.strict_json import MAX_BYTES

__all__ = [
    "CODES",
    "ImportReport",
    "ImportedFile",
    "PipelineImportService",
    "RefusedFile",
]

CODES: Final = MappingProxyType(
    {
        "file_outside": "a file is a link that leads out of the folder",
        "file_unreadable": "a file cannot be read, or is none",
        "slug_taken": "several files of one folder have the same slug",
    }
)
"""The codes of what is wrong with a file, beside those of what is wrong in it."""


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """
    A file whose definition is in the database now.

    Attributes:
        file: its path, as found.
        slug: the pipeline that the definition is of.
        content_hash: the version's identity.
        is_new: True if the slug runs this version only since now.
    """

    file: str
    slug: str
    content_hash: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that changed nothing, with every finding."""

    file: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of each file of a folder, by the order of their names."""

    imported: tuple[ImportedFile, ...]
    unchanged: tuple[ImportedFile, ...]
    refused: tuple[RefusedFile, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values, as ``iaflow import --json`` prints it."""
        kept = {"imported": self.imported, "unchanged": self.unchanged}
        return {
            **{
                name: [
                    {"file": one.file, "slug": one.slug, "content_hash": one.content_hash}
                    for one in files
                ]
                for name, files in kept.items()
            },
            "refused": [
                {"file": one.file, "problems": [problem.as_json() for problem in one.problems]}
                for one in self.refused
            ],
        }


class PipelineImportService:
    """
    Brings the ``*.json`` of one folder into the table of pipelines, and finds them there.

    A definition whose text means the same as before writes nothing. A changed one becomes
    a new version; the older ones stay, for the runs that began with them. On SQLite the
    tables are made if need be; on Postgres the operator runs ``iaflow db upgrade``.

    Args:
        db_provider: the application's database.
        pipelines_dir: the folder; its subfolders, hidden files and ``*.expected.json`` are
            not read.
        clock: what tells when a version came; the machine's by default.
        queues: the names of the queues that steps may name; None: not judged.
        max_bytes: the longest file, in bytes.
    """

    def __init__(
        self,
        db_provider: DatabaseManager | Database,
        pipelines_dir: str | Path = "pipelines",
        *,
        clock: Clock | None = None,
        queues: Collection[str] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._database = (
            db_provider.database if isinstance(db_provider, DatabaseManager) else db_provider
        )
        self._folder = Path(pipelines_dir)
        self._clock = clock or SystemClock()
        self._queues = queues
        self._max_bytes = max_bytes
        self._ready_store: PipelineStore | None = None

    async def import_all_pipelines(self) -> ImportReport:
        """
        Import every definition of the folder; a bad one does not keep the others out.

        Raises:
            NotFound: there is no such folder.
            SchemaOutdated: the database's tables are not those of this iaflow.
            NotReachable: the database does not answer.
        """
        return await run_blocking(self._import_all)

    async def import_file(self, path: str | Path) -> ImportedFile:
        """
        Import one definition, from a file anywhere.

        Raises:
            DefinitionRefused: with every finding, also those about the file itself.
            SchemaOutdated, NotReachable: as `import_all_pipelines`.
        """
        return await run_blocking(self._import_file, Path(path))

    async def get_pipeline_by_slug(self, slug: str) -> dict[str, Any]:
        """
        Return a pipeline with its current version.

        Returns:
            ``id`` and ``slug`` (the same), ``name``, ``version`` (as the document says),
            ``number`` (of the version, from 1), ``content_hash``, ``description``,
            ``pipeline_config`` (the parsed JSON), ``created_at`` and ``updated_at``
            (instants in UTC).

        Raises:
            NotFound: there is none; the message names the nearest slug.
            SchemaOutdated, NotReachable: as `import_all_pipelines`.
        """
        return await run_blocking(self._find, slug)

    # -- the same, in a thread

    def _import_all(self) -> ImportReport:
        found: list[tuple[Path, Definition]] = []
        refused: list[RefusedFile] = []
        for path in _list_files(self._folder):
            try:
                found.append((path, self._read(path)))
            except DefinitionRefused as error:
                refused.append(RefusedFile(str(path), error.problems))
        collisions = _find_collisions(found)
        refused += collisions
        barred = {one.file for one in collisions}
        kept = [self._publish(path, one) for path, one in found if str(path) not in barred]
        return ImportReport(
            imported=tuple(one for one in kept if one.is_new),
            unchanged=tuple(one for one in kept if not one.is_new),
            refused=tuple(sorted(refused, key=lambda one: one.file)),
        )

    def _import_file(self, path: Path) -> ImportedFile:
        return self._publish(path, self._read(path))

    def _read(self, path: Path) -> Definition:
        text = _read_file(path, self._max_bytes)
        graph = compile_definition(
            text, source=str(path), queues=self._queues, max_bytes=self._max_bytes
        )
        return graph.definition

    def _publish(self, path: Path, definition: Definition) -> ImportedFile:
        is_new = self._store().publish(
            content_hash=definition.content_hash,
            slug=definition.slug,
            version=definition.version,
            name=definition.name,
            description=definition.description,
            document=definition.text,
            now=self._clock.now(),
        )
        return ImportedFile(str(path), definition.slug, definition.content_hash, is_new)

    def _find(self, slug: str) -> dict[str, Any]:
        found = self._store().find(slug)
        if found is None:
            raise NotFound(self._explain_absence(slug))
        return {
            "id": found.slug,
            "slug": found.slug,
            "name": found.name,
            "version": found.version,
            "number": found.number,
            "content_hash": found.content_hash,
            "description": found.description,
            "pipeline_config": json.loads(found.document),
            "created_at": found.created_at,
            "updated_at": found.updated_at,
        }

    def _explain_absence(self, slug: str) -> str:
        slugs = [pipeline.slug for pipeline in self._store().list_pipelines()]
        if not slugs:
            return f"there is no pipeline {slug!r}: none has been imported yet"
        near = difflib.get_close_matches(slug, slugs, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(near)}" if near else f"none of the {len(slugs)} is near"
        return f"there is no pipeline {slug!r}: {hint}"

    def _store(self) -> PipelineStore:
        if self._ready_store is None:
            if self._database.dialect == SQLITE:
                migrator.upgrade(self._database)
            else:
                migrator.require_current(self._database)
            self._ready_store = PipelineStore(self._database)
        return self._ready_store


# --- files


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a folder that should hold definitions, by name."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise NotFound(f"the folder {folder} cannot be read: {error.strerror}") from error
    return [path for path in paths if _is_for_definitions(path.name)]


def _is_for_definitions(name: str) -> bool:
    is_hidden, is_expectation = name.startswith("."), name.endswith(".expected.json")
    return name.endswith(".json") and not is_hidden and not is_expectation


def _read_file(path: Path, max_bytes: int) -> bytes:
    """
    Return the bytes of a file that lies, at the end of all links, below its own folder.

    Raises:
        DefinitionRefused: it does not, is no plain file, or is longer than `max_bytes`.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(path.parent.resolve()):
            raise _refuse(path, "file_outside", "this is a link that leads out of the folder")
        # Neither a link put there since, nor a pipe that would never end.
        opened = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            about = os.fstat(opened)
            if not stat.S_ISREG(about.st_mode):
                raise _refuse(path, "file_unreadable", "this is no plain file")
            if about.st_size > max_bytes:
                message = f"the file has {about.st_size:,} bytes; the limit is {max_bytes:,}"
                raise _refuse(path, "json_too_large", message)
            # It may have grown in the meantime; one byte more lets the reader refuse it.
            return file.read(max_bytes + 1)
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise _refuse(path, "file_unreadable", message) from error
    except RuntimeError as error:
        # Python 3.11 and 3.12 say so of links that go in a circle.
        raise _refuse(path, "file_unreadable", "the link leads to itself") from error


def _refuse(path: Path, code: str, message: str) -> DefinitionRefused:
    return DefinitionRefused((Problem(code, "", message),), str(path))


def _find_collisions(found: Iterable[tuple[Path, Definition]]) -> list[RefusedFile]:
    """Refuse every file whose slug another one has too: none of them is clearly the right one."""
    pairs = [(path, definition.slug) for path, definition in found]
    often = Counter(slug for _, slug in pairs)
    return [
        RefusedFile(
            str(path),
            (
                Problem(
                    "slug_taken",
                    "/slug",
                    f"the slug {slug!r} is also that of "
                    + ", ".join(
                        other.name for other, its in pairs if its == slug and other != path
                    ),
                    "give each file a `slug` of its own; versions of one pipeline replace "
                    "each other in one file",
                ),
            ),
        )
        for path, slug in pairs
        if often[slug] > 1
    ]
