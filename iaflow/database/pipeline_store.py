"""How definitions are kept: immutable versions, and which one a pipeline runs now.

Decides when a version is new; never whether a definition is legal. Called by the importer,
the runner and the client.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.records import PipelineRecord, VersionRecord
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, is_seen, read_instant

__all__ = ["MOST_VERSIONS", "PipelineStore"]

MOST_VERSIONS: Final = 2**31 - 1
"""No version has a greater number: it would not fit the column."""


class PipelineStore:
    """Definitions by content hash, and pipelines by slug."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def read_document(self, content_hash: str) -> str | None:
        """Return the JSON text of a version, or None if there is none of that hash."""
        rows = self._database.fetch(self._sql.document, content_hash=content_hash)
        return rows[0][0] if rows else None

    def save_version(
        self, *, content_hash: str, slug: str, version: str, name: str, document: str, now: datetime
    ) -> bool:
        """
        Keep a definition under its hash; True if it was not there yet.

        A version that is known writes nothing. Two processes that save the same one at
        once leave one row.
        """
        with self._database.transaction() as tx:
            return self._save(tx, content_hash, slug, version, name, document, now)

    def publish(
        self,
        *,
        content_hash: str,
        slug: str,
        version: str,
        name: str,
        description: str,
        document: str,
        now: datetime,
    ) -> bool:
        """
        Make a definition the one that its slug runs from now on; True if anything changed.

        Runs that began with an older version keep it.
        """
        current = self.find(slug)
        if current is not None and current.content_hash == content_hash:
            return False
        with self._database.transaction() as tx:
            self._save(tx, content_hash, slug, version, name, document, now)
            tx.queue(
                self._sql.put_pipeline,
                slug=slug,
                name=name,
                description=description,
                content_hash=content_hash,
                created_at=now,
                updated_at=now,
            )
        return True

    def find(self, slug: str, sight: Sight = EVERYTHING) -> PipelineRecord | None:
        """Return a pipeline with its current version; None: there is none of that slug in sight."""
        rows = self._fetch(self._sql.find, sight, slug=slug)
        return _pipeline(rows[0]) if rows else None

    def list_pipelines(self, sight: Sight = EVERYTHING) -> list[PipelineRecord]:
        """Return all pipelines in sight, by slug."""
        return [_pipeline(row) for row in self._fetch(self._sql.listed, sight)]

    def set_paused(self, slug: str, *, is_paused: bool, now: datetime) -> bool:
        """Let a pipeline rest, or go on; one that is there already stays. True: it was changed."""
        return bool(
            self._database.fetch(
                self._sql.set_paused, slug=slug, is_paused=is_paused, updated_at=now
            )
        )

    def list_versions(
        self,
        slug: str,
        sight: Sight = EVERYTHING,
        *,
        before: int = MOST_VERSIONS,
        limit: int = 1000,
    ) -> list[VersionRecord]:
        """Return the versions of a slug in sight below a number, the newest first."""
        rows = self._fetch(self._sql.versions, sight, slug=slug, before=before, limit=limit)
        return [_version(row) for row in rows]

    def find_version(
        self, slug: str, number: int, sight: Sight = EVERYTHING
    ) -> VersionRecord | None:
        """Return one version of a slug; None: there is none of that number in sight."""
        rows = self._fetch(self._sql.version, sight, slug=slug, number=number)
        return _version(rows[0]) if rows else None

    def find_label(self, content_hash: str) -> tuple[int, str] | None:
        """Return a version's number and what it calls itself; None: there is none of that hash."""
        rows = self._database.fetch(self._sql.label, content_hash=content_hash)
        return (rows[0][0], rows[0][1]) if rows else None

    def _fetch(
        self, statement: tuple[Statement, Statement], sight: Sight, **given: Any
    ) -> list[Row]:
        """Ask by the statement for all, or by the one for a narrowed sight."""
        likes = sight.as_likes()
        if likes is None:
            return self._database.fetch(statement[0], **given)
        return self._database.fetch(statement[1], likes=likes, **given)

    def _save(
        self,
        tx: Connection,
        content_hash: str,
        slug: str,
        version: str,
        name: str,
        document: str,
        now: datetime,
    ) -> bool:
        if self._sql.take_turn is not None:
            tx.queue(self._sql.take_turn, slug=slug)
        return bool(
            tx.fetch(
                self._sql.insert_version,
                content_hash=content_hash,
                slug=slug,
                version=version,
                name=name,
                document=document,
                created_at=now,
            )
        )


def _version(row: Row) -> VersionRecord:
    return VersionRecord(row[0], row[1], row[2], row[3], row[4], row[5], _instant(row[6]))


def _pipeline(row: Row) -> PipelineRecord:
    slug, name, description, version, number, content_hash, document, created, updated, rests = row
    return PipelineRecord(
        slug,
        name,
        description,
        version,
        number,
        content_hash,
        document,
        _instant(created),
        _instant(updated),
        bool(rests),
    )


def _instant(value: object) -> datetime:
    instant = read_instant(value)
    assert instant is not None
    return instant


class _Statements:
    """The statements on definitions, for one database's tables."""

    def __init__(self, database: Database) -> None:
        pipelines, versions = database.tables.pipelines, database.tables.versions
        bind = sa.bindparam
        text = sa.Text()
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        self.document = Statement(
            "iaflow_document",
            sa.select(sa.cast(versions.c.document, text)).where(
                versions.c.content_hash == bind("content_hash")
            ),
        )
        # The next number is counted in the inserting statement, so those who save versions of
        # one slug at once take turns; on SQLite every writer does.
        self.take_turn: Statement | None = None
        if database.dialect == POSTGRES:
            turn = sa.func.hashtextextended(bind("slug", type_=text), sa.literal_column("0"))
            self.take_turn = Statement(
                "iaflow_version_turn", sa.select(sa.func.pg_advisory_xact_lock(turn))
            )
        older = versions.alias("older")
        number = (
            sa.select(sa.func.coalesce(sa.func.max(older.c.number), 0) + 1)
            .where(older.c.slug == bind("slug"))
            .scalar_subquery()
        )
        given = ("content_hash", "slug", "version", "name", "created_at")
        self.insert_version = Statement(
            "iaflow_insert_version",
            insert(versions)
            .values(
                {name: bind(name) for name in given}
                | {"number": number, "document": bind("document")}
            )
            .on_conflict_do_nothing(index_elements=["content_hash"])
            .returning(versions.c.number),
        )
        put = insert(pipelines).values(
            {
                name: bind(name)
                for name in (
                    "slug",
                    "name",
                    "description",
                    "content_hash",
                    "created_at",
                    "updated_at",
                )
            }
        )
        changed = ("name", "description", "content_hash", "updated_at")
        self.put_pipeline = Statement(
            "iaflow_put_pipeline",
            put.on_conflict_do_update(
                index_elements=["slug"],
                set_={name: getattr(put.excluded, name) for name in changed},
            ),
        )
        listed = (
            sa.select(
                pipelines.c.slug,
                pipelines.c.name,
                pipelines.c.description,
                versions.c.version,
                versions.c.number,
                pipelines.c.content_hash,
                sa.cast(versions.c.document, text),
                pipelines.c.created_at,
                pipelines.c.updated_at,
                pipelines.c.is_paused,
            )
            .select_from(
                pipelines.join(versions, versions.c.content_hash == pipelines.c.content_hash)
            )
            .order_by(pipelines.c.slug)
        )
        this = pipelines.c.slug == bind("slug")
        self.find = _with_sight("iaflow_find", listed.where(this), pipelines.c.slug)
        self.listed = _with_sight("iaflow_pipelines", listed, pipelines.c.slug)
        self.set_paused = Statement(
            "iaflow_set_pipeline_paused",
            sa.update(pipelines)
            .where(this, pipelines.c.is_paused != bind("is_paused"))
            .values(is_paused=bind("is_paused"), updated_at=bind("updated_at"))
            .returning(pipelines.c.slug),
        )
        of_slug = sa.select(
            versions.c.content_hash,
            versions.c.slug,
            versions.c.number,
            versions.c.version,
            versions.c.name,
            sa.cast(versions.c.document, text),
            versions.c.created_at,
        ).where(versions.c.slug == bind("slug"))
        newest = (
            of_slug.where(versions.c.number < bind("before"))
            .order_by(versions.c.number.desc())
            .limit(bind("limit"))
        )
        self.label = Statement(
            "iaflow_version_label",
            sa.select(versions.c.number, versions.c.version).where(
                versions.c.content_hash == bind("content_hash")
            ),
        )
        self.versions = _with_sight("iaflow_versions", newest, versions.c.slug)
        self.version = _with_sight(
            "iaflow_version", of_slug.where(versions.c.number == bind("number")), versions.c.slug
        )


def _with_sight(
    name: str, every: sa.Select[Any], slug: sa.ColumnElement[str]
) -> tuple[Statement, Statement]:
    """Return a statement for who sees everything, and one for a narrowed sight."""
    return Statement(name, every), Statement(f"{name}_seen", every.where(is_seen(slug, "likes")))
