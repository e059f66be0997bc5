"""Statements: written in SQLAlchemy Core, compiled once, spelled for either dialect.

Decides how a statement becomes text and parameters; never when it is sent. Used by every
store, and by the connections that send them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement

__all__ = [
    "POSTGRES",
    "SQLITE",
    "WANTED",
    "Statement",
    "among",
    "among_ids",
    "dump_json",
    "is_now",
    "is_seen",
    "json_row",
    "literal_word",
    "look_up_each",
    "read_instant",
]

_CHANGES: Final = re.compile(
    r"\b(INSERT INTO|UPDATE|DELETE FROM|FOR NO KEY UPDATE|pg_\w*advisory\w*|set_config)\b"
)
"""What a SELECT may hold that is more than reading, in the spelling of SQLAlchemy."""

SQLITE: Final = "sqlite"
POSTGRES: Final = "postgresql"


class _JsonStrings(ColumnElement[str]):
    """The strings of a JSON array in a parameter, as a subquery."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, parameter: str, *, are_ids: bool = False) -> None:
        self.parameter: sa.BindParameter[str] = sa.bindparam(parameter, type_=postgresql.JSON())
        self.as_ids = "::uuid" if are_ids else ""


@compiles(_JsonStrings, SQLITE)
def _json_strings_sqlite(element: _JsonStrings, compiler: SQLCompiler, **kw: Any) -> str:
    bind = compiler.process(element.parameter, **kw)
    return f"(SELECT value FROM json_each({bind}))"  # noqa: S608  a placeholder of ours


@compiles(_JsonStrings, POSTGRES)
def _json_strings_postgres(element: _JsonStrings, compiler: SQLCompiler, **kw: Any) -> str:
    bind = compiler.process(element.parameter, **kw)
    return f"(SELECT json_array_elements_text({bind}){element.as_ids})"


def among(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Return ``column IN`` the strings of a JSON array, which travels as one parameter."""
    listed: ColumnElement[bool] = column.op("IN", is_comparison=True)(_JsonStrings(parameter))
    return listed


def among_ids(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Return what `among` does, for a column of ids."""
    strings = _JsonStrings(parameter, are_ids=True)
    listed: ColumnElement[bool] = column.op("IN", is_comparison=True)(strings)
    return listed


class _Seen(ColumnElement[bool]):
    """A slug is like one of the patterns of a JSON array in a parameter."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: ColumnElement[Any], parameter: str) -> None:
        self.column = column
        self.parameter: sa.BindParameter[str] = sa.bindparam(parameter, type_=postgresql.JSON())


@compiles(_Seen, SQLITE)
def _seen_sqlite(element: _Seen, compiler: SQLCompiler, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    bind = compiler.process(element.parameter, **kw)
    likes = f"json_each({bind}) AS likes WHERE {column} LIKE likes.value ESCAPE '\\'"
    return f"EXISTS (SELECT 1 FROM {likes})"  # noqa: S608  compiled parts of ours


@compiles(_Seen, POSTGRES)
def _seen_postgres(element: _Seen, compiler: SQLCompiler, **kw: Any) -> str:
    column = compiler.process(element.column, **kw)
    bind = compiler.process(element.parameter, **kw)
    # An array, made once and not for each row; `\\` escapes by default.
    return f"{column} LIKE ANY (ARRAY(SELECT json_array_elements_text({bind})))"


def is_seen(column: ColumnElement[str], parameter: str) -> ColumnElement[bool]:
    """
    Return whether a slug is in a sight, whose `Sight.as_likes` travels as one parameter.

    For narrowed sights alone: who sees everything is asked by another statement, without it, so
    that the plan of either is right when it is prepared.
    """
    return _Seen(column, parameter)


class json_row(sa.sql.functions.FunctionElement[str]):  # noqa: N801  reads as a function
    """Its columns as one JSON array."""

    inherit_cache = True
    type = sa.Text()


@compiles(json_row, SQLITE)
def _json_row_sqlite(element: json_row, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_array({compiler.process(element.clauses, **kw)})"


@compiles(json_row, POSTGRES)
def _json_row_postgres(element: json_row, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_build_array({compiler.process(element.clauses, **kw)})"


WANTED: ColumnElement[str] = sa.literal_column("wanted.value", sa.Text())
"""In the look-up of `look_up_each`: the string that it is at."""


class _LookUps(ColumnElement[str]):
    inherit_cache = False
    type = sa.Text()

    def __init__(self, parameter: str, look_up: sa.ScalarSelect[str]) -> None:
        self.parameter: sa.BindParameter[str] = sa.bindparam(parameter, type_=postgresql.JSON())
        self.look_up = look_up


@compiles(_LookUps, SQLITE)
def _look_ups_sqlite(element: _LookUps, compiler: SQLCompiler, **kw: Any) -> str:
    look_up = compiler.process(element.look_up, **kw)
    strings = compiler.process(element.parameter, **kw)
    # Compiled parts and placeholders of ours; values travel as parameters.
    return (
        f"(SELECT json_group_array(json_array(wanted.value, json({look_up})))"  # noqa: S608
        f" FROM json_each({strings}) AS wanted)"
    )


@compiles(_LookUps, POSTGRES)
def _look_ups_postgres(element: _LookUps, compiler: SQLCompiler, **kw: Any) -> str:
    look_up = compiler.process(element.look_up, **kw)
    strings = compiler.process(element.parameter, **kw)
    # Compiled parts and placeholders of ours; values travel as parameters.
    return (
        f"(SELECT json_agg(json_build_array(wanted.value, {look_up}))::text"  # noqa: S608
        f" FROM json_array_elements_text({strings}) AS wanted(value))"
    )


def look_up_each(parameter: str, look_up: sa.ScalarSelect[str]) -> ColumnElement[str]:
    """
    Return ``[[string, its json_row or null], …]`` for the strings of a JSON array.

    One look-up by the whole key per string: a join, planned while the tables are small and
    prepared for ever, reads all rows of the run instead, so that each step of a long run
    costs more than the one before.

    Args:
        look_up: selects one `json_row` where the key is `WANTED`.
    """
    return _LookUps(parameter, look_up)


def is_now(column: ColumnElement[Any], word: str) -> ColumnElement[bool]:
    """
    Return ``column = word`` for a row that is found by its key, in a form no index matches.

    Written plainly, the planner prefers the partial index whose predicate it is while few
    rows are in it, keeps that plan, and then a claim reads all ready steps of all runs.
    """
    known = sa.func.coalesce(column, sa.literal_column("''", sa.Text()))
    return known == literal_word(word)


def literal_word(word: str) -> ColumnElement[str]:
    """
    Return a constant of ours (a status) as a literal, not as a parameter.

    A prepared statement can then still use the partial indexes, whose predicate names it.
    """
    if not word.replace("_", "").isalnum():
        raise ValueError(f"{word!r} is no constant of iaflow")
    return sa.literal_column(f"'{word}'", sa.Text())


def read_instant(value: Any) -> datetime | None:
    """Return a stored instant as an aware datetime in UTC; None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    instant: datetime = value.astimezone(UTC)
    return instant


class Statement:
    """
    A statement written in SQLAlchemy Core and compiled once per dialect.

    The compiled text runs on the DBAPI cursor: SQLAlchemy's own execute costs ten times the
    statement in memory. Parameters are given by name; those with a value in the statement
    need not be given.
    """

    def __init__(self, name: str, core: sa.sql.expression.ClauseElement) -> None:
        self.name = name
        self._core = core
        self._compiled: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {}

    @property
    def is_read(self) -> bool:
        """Tell whether it changes nothing, so that it may be sent again when no reply came."""
        return isinstance(self._core, sa.Select) and not _CHANGES.search(self.text(POSTGRES))

    def text(self, dialect: str) -> str:
        """Return the SQL for `dialect`, with ``?`` or ``$1`` for its parameters."""
        return self._compile(dialect)[0]

    def values(self, dialect: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the parameters in the order of the text."""
        return tuple(given.get(name, default) for name, default in self._compile(dialect)[1])

    def _compile(self, dialect: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
        done = self._compiled.get(dialect)
        if done is None:
            spoken: sa.Dialect = (
                sqlite.dialect(paramstyle="qmark")
                if dialect == SQLITE
                else postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
            )
            compiled = self._core.compile(dialect=spoken)
            assert isinstance(compiled, SQLCompiler)
            order = compiled.positiontup or []
            done = (str(compiled), tuple((name, compiled.params[name]) for name in order))
            self._compiled[dialect] = done
        return done


def dump_json(value: Any) -> str:
    """Return `value` as compact JSON text, as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
