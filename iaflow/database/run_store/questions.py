r"""What people are asked: the questions that somebody sees, page by page.

Decides how "who is asked" is said in SQL, so that what is not seen is not there; never whether
an answer fits. Called by the engine's verbs on people and by the client.
"""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement

from iaflow.data.accounts import Asked
from iaflow.data.records import PauseRecord
from iaflow.data.status import PauseStatus
from iaflow.database.connections import Row
from iaflow.database.dialects import Database
from iaflow.database.run_store.waits import select_of_family
from iaflow.database.statements import (
    POSTGRES,
    SQLITE,
    Statement,
    dump_json,
    is_seen,
    literal_word,
    read_instant,
)

__all__ = ["QuestionStore", "list_pause_columns", "read_pause"]


class QuestionStore:
    """The questions of all runs, as people see them; each method is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def find(self, pause_id: str, asked: Asked) -> PauseRecord | None:
        """Return a question, open or not; None: there is none of that id that is asked of them."""
        statement = self._sql.choose("find", asked)
        rows = self._database.fetch(statement, pause_id=pause_id, **_spell(asked))
        return read_pause(rows[0]) if rows else None

    def list_open(
        self,
        *,
        run_id: str | None = None,
        asked: Asked | None = None,
        after: str | None = None,
        limit: int = 200,
    ) -> list[PauseRecord]:
        """
        Return open questions, the oldest first.

        Args:
            run_id: only those of this run and of the runs below it.
            asked: only those that are seen by who asks.
            after: the id of a question, open or not; only later ones, which makes a next page.
        """
        shape = "page" if run_id is None else "of_run"
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        if after is not None:
            shape, given["after"] = f"{shape}_after", after
        statement = self._sql.choose(shape, asked)
        rows = self._database.fetch(statement, limit=limit, **given, **_spell(asked))
        return [read_pause(row) for row in rows]

    def read_mark(self) -> str:
        """
        Return a fingerprint of all open questions.

        It is another one as soon as a question opens, closes, asks others or has one answer more.
        """
        return ".".join(str(part) for part in self._database.fetch(self._sql.mark)[0])


def list_pause_columns(pauses: sa.FromClause) -> list[ColumnElement[Any]]:
    """Return the columns of a pause, in the order that `read_pause` reads."""
    text = sa.Text()
    return [
        pauses.c.pause_id,
        pauses.c.run_id,
        pauses.c.step_id,
        pauses.c.item_index,
        pauses.c.slug,
        pauses.c.status,
        sa.cast(pauses.c.ui_schema, text),
        sa.cast(pauses.c.shown, text),
        pauses.c.digest,
        sa.cast(pauses.c.answer, text),
        pauses.c.answered_by,
        pauses.c.answered_at,
        pauses.c.expires_at,
        pauses.c.created_at,
        sa.cast(pauses.c.assignees, text),
        pauses.c.quorum,
        pauses.c.exclude_starter,
        pauses.c.event,
    ]


def read_pause(row: Row) -> PauseRecord:
    """Return a pause from the columns of `list_pause_columns`."""
    created_at = read_instant(row[13])
    assert created_at is not None
    return PauseRecord(
        pause_id=str(row[0]),
        run_id=str(row[1]),
        step_id=row[2],
        index=row[3],
        slug=row[4],
        status=PauseStatus(row[5]),
        ui_schema=json.loads(row[6]),
        shown=json.loads(row[7]),
        digest=row[8],
        answer=json.loads(row[9]) if row[9] is not None else None,
        answered_by=row[10],
        answered_at=read_instant(row[11]),
        expires_at=read_instant(row[12]),
        created_at=created_at,
        assignees=json.loads(row[14]),
        quorum=row[15],
        exclude_starter=bool(row[16]),
        event=row[17],
    )


def _spell(asked: Asked | None) -> dict[str, Any]:
    if asked is None:
        return {}
    # As they stand in the stored JSON, somewhere in it.
    words = (dump_json(word) for word in dict.fromkeys((asked.name, *asked.roles)))
    return {
        "name": asked.name,
        "roles": dump_json(list(asked.roles)),
        "mentions": json.dumps([f"%{_escape(word)}%" for word in words]),
        "likes": asked.sight.as_likes(),
    }


def _escape(text: str) -> str:
    for sign in ("\\", "%", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text


class _Members(ColumnElement[bool]):
    """A list in a JSON object has one of the strings."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(
        self, holder: ColumnElement[Any], key: str, wanted: ColumnElement[Any], *, are_many: bool
    ) -> None:
        self.holder = holder
        self.key = key
        self.wanted = wanted
        self.are_many = are_many


@compiles(_Members, SQLITE)
def _members_sqlite(element: _Members, compiler: SQLCompiler, **kw: Any) -> str:
    holder = compiler.process(element.holder, **kw)
    wanted = compiler.process(element.wanted, **kw)
    wanted = f"(SELECT value FROM json_each({wanted}))" if element.are_many else f"({wanted})"  # noqa: S608
    # Keys and placeholders of ours; values travel as parameters.
    members = f"SELECT 1 FROM json_each({holder}, '$.{element.key}') AS member"  # noqa: S608
    return f"EXISTS ({members} WHERE member.value IN {wanted})"


@compiles(_Members, POSTGRES)
def _members_postgres(element: _Members, compiler: SQLCompiler, **kw: Any) -> str:
    holder = compiler.process(element.holder, **kw)
    wanted = compiler.process(element.wanted, **kw)
    if element.are_many:
        wanted = f"ARRAY(SELECT json_array_elements_text({wanted}))"
    else:
        wanted = f"ARRAY[{wanted}]"
    # Keys and placeholders of ours; values travel as parameters.
    members = (
        f"SELECT 1 FROM json_array_elements_text({holder} -> '{element.key}') AS member(value)"  # noqa: S608
    )
    return f"EXISTS ({members} WHERE member.value = ANY ({wanted}))"


_SOMEBODY: Final = '%["%'
"""Stored compactly, only a list that has a string in it has these signs: inside of strings the
second one is escaped."""


class _Statements:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._pauses = pauses = database.tables.pauses
        self._made: dict[str, Statement] = {}
        is_open = pauses.c.status == literal_word(PauseStatus.OPEN)
        if database.dialect == POSTGRES:
            sum_of_ids: ColumnElement[Any] = sa.func.sum(
                sa.func.uuid_hash_extended(pauses.c.pause_id, sa.literal_column("0"))
            )
        else:
            sum_of_ids = sa.func.sum(sa.literal_column(f"{pauses.name}.rowid"))
        self.mark = Statement(
            "iaflow_inbox_mark",
            sa.select(
                sa.func.count(),
                sum_of_ids,
                sa.func.max(sa.cast(pauses.c.pause_id, sa.Text())),
                sa.func.sum(pauses.c.revision),
            )
            .select_from(pauses)
            .where(is_open, pauses.c.event.is_(None)),
        )

    def choose(self, shape: str, asked: Asked | None) -> Statement:
        """Return a statement for who asks, made once each."""
        kind = "all"
        if asked is not None:
            sees_all = asked.sight.patterns is None
            if not (asked.is_admin and sees_all):
                kind = "admin" if asked.is_admin else "person"
                kind += "" if sees_all else "_narrowed"
        name = f"iaflow_questions_{shape}_{kind}"
        if name not in self._made:
            self._made[name] = Statement(name, self._make(shape, kind))
        return self._made[name]

    def _make(self, shape: str, kind: str) -> sa.Select[Any]:
        pauses = self._pauses
        bind = sa.bindparam
        seen = sa.select(*list_pause_columns(pauses)).where(pauses.c.event.is_(None))
        if kind != "all":
            is_admin, is_narrowed = kind.startswith("admin"), kind.endswith("_narrowed")
            seen = seen.where(self._is_asked(is_admin=is_admin, is_narrowed=is_narrowed))
        if shape == "find":
            return seen.where(pauses.c.pause_id == bind("pause_id"))
        listed = seen.where(pauses.c.status == literal_word(PauseStatus.OPEN))
        if shape.endswith("_after"):
            last = pauses.alias("last")
            place = (
                sa.select(last.c.created_at)
                .where(last.c.pause_id == bind("after"))
                .scalar_subquery()
            )
            this = sa.tuple_(pauses.c.created_at, pauses.c.pause_id)
            listed = listed.where(this > sa.tuple_(place, bind("after")))
        if shape.startswith("of_run"):
            return select_of_family(self._database, listed, pauses.c.run_id, limit="limit")
        return listed.order_by(pauses.c.created_at, pauses.c.pause_id).limit(bind("limit"))

    def _is_asked(self, *, is_admin: bool, is_narrowed: bool) -> ColumnElement[bool]:
        """Return `Asked.is_asked` in SQL; what is cheap to see is looked at first."""
        pauses = self._pauses
        bind = sa.bindparam
        text = sa.cast(pauses.c.assignees, sa.Text())
        roles: sa.BindParameter[str] = bind("roles", type_=postgresql.JSON())
        names = _Members(pauses.c.assignees, "users", bind("name", type_=sa.Text()), are_many=False)
        named = sa.and_(
            # Its lists are read only where one of the words is somewhere in them.
            is_seen(text, "mentions"),
            sa.or_(names, _Members(pauses.c.assignees, "roles", roles, are_many=True)),
        )
        others = [is_seen(pauses.c.slug, "likes")] if is_narrowed else []
        if not is_admin:
            others.append(text.not_like(sa.literal_column(f"'{_SOMEBODY}'")))
        return sa.or_(named, sa.and_(*others))
