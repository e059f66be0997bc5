"""How a statement that others wrote is read before it is sent.

Decides what is one statement, what its parameters are and how values travel; never sends
anything. Called by the database manager only.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from iaflow.database.statements import SQLITE

__all__ = ["ForeignStatement", "read_statement"]


@dataclass(frozen=True, slots=True)
class ForeignStatement:
    """One checked statement: what SQLAlchemy runs, and its values ready to be sent."""

    clause: sa.TextClause
    values: dict[str, Any]


def read_statement(dialect: str, sql: str, params: Mapping[str, Any] | None) -> ForeignStatement:
    """
    Check one statement and its parameters.

    Colons inside literals, quoted names, comments and casts (``::``) are no parameters.

    Raises:
        ValueError: several statements, none, one that begins or ends a transaction, or
            parameters that do not match; the message says which.
    """
    if not isinstance(sql, str):
        raise ValueError(f"SQL is text, not {type(sql).__name__}; values travel as parameters")  # noqa: TRY004
    given = {} if params is None else params
    if not isinstance(given, Mapping):
        raise ValueError("parameters are a mapping of names to values, as {'name': value}")  # noqa: TRY004
    clause, names, lists = _read_text(dialect, sql)
    if names != given.keys():
        raise ValueError(_mismatch(names, given))
    return ForeignStatement(
        clause, {name: _spell(dialect, name, given[name], name in lists) for name in names}
    )


def _mismatch(names: frozenset[str], given: Mapping[str, Any]) -> str:
    faults = []
    if missing := sorted(names - given.keys()):
        faults.append(f"no value is given for {', '.join(':' + name for name in missing)}")
    if extra := sorted(str(name) for name in given.keys() - names):
        faults.append(f"the statement has no {', '.join(':' + name for name in extra)}")
    return "the parameters do not match the statement: " + "; ".join(faults)


# --- the text

# What is not code: literals, quoted names, comments. Postgres adds dollar quotes and E'…' with
# backslashes; SQLite adds names in backticks and brackets.
_SHARED = r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?(?:\*/|\Z)"""
_NOT_CODE = {
    True: re.compile(rf"(?P<skip>{_SHARED} | `[^`]*` | \[[^\]]*\])", re.DOTALL | re.VERBOSE),
    False: re.compile(
        rf"""(?P<skip>(?<!\w)[eE]'(?:[^'\\]|\\.|'')*' | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
        | {_SHARED})""",
        re.DOTALL | re.VERBOSE,
    ),
}
_LIST = re.compile(r"\bin\s*:(\w+)", re.IGNORECASE)
_TRANSACTION_WORDS = frozenset("abort begin commit end release rollback savepoint start".split())


@lru_cache(maxsize=512)
def _read_text(dialect: str, sql: str) -> tuple[sa.TextClause, frozenset[str], frozenset[str]]:
    """Return the statement with its parameters' names, and those that take lists."""
    code, spelled, at = [], [], 0
    for found in _NOT_CODE[dialect == SQLITE].finditer(sql):
        between = sql[at : found.start()]
        if found["skip"].startswith("/*") and "/*" in found["skip"][2:]:
            # Postgres nests comments and SQLite does not: where this one ends is anyone's guess.
            raise ValueError("there is a comment inside a comment: take the inner one out")
        code += [between, " "]
        # SQLAlchemy looks for parameters everywhere: elsewhere than in code, colons are escaped.
        spelled += [between, found["skip"].replace(":", "\\:")]
        at = found.end()
    code.append(sql[at:])
    spelled.append(sql[at:])
    _refuse_what_is_not_one("".join(code))
    clause = sa.text("".join(spelled).rstrip().rstrip(";"))
    names = frozenset(clause.compile().params)
    lists = frozenset(_LIST.findall("".join(code))) & names
    listed: list[sa.BindParameter[Any]] = [
        sa.bindparam(name, expanding=True) for name in sorted(lists)
    ]
    return clause.bindparams(*listed), names, lists


def _refuse_what_is_not_one(code: str) -> None:
    statements = [part for part in code.split(";") if part.strip()]
    if not statements:
        raise ValueError("there is no statement to run")
    if len(statements) > 1:
        raise ValueError(
            f"{len(statements)} statements were given: run them one by one, "
            "in `async with db.transaction()` if they belong together"
        )
    first = statements[0].split()[0].lower()
    if first in _TRANSACTION_WORDS:
        raise ValueError(
            f"{first.upper()} is not for statements: use `async with db.transaction()`"
        )


# --- the values


def _spell(dialect: str, name: str, value: Any, takes_list: bool) -> Any:
    if takes_list:
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            raise ValueError(f"IN :{name} takes a list of values, not {type(value).__name__}")
        return [_spell_one(dialect, one) for one in value]
    return _spell_one(dialect, value)


def _spell_one(dialect: str, value: Any) -> Any:
    match value:
        case enum.Enum():
            return _spell_one(dialect, value.value)
        case dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        case UUID():
            return str(value)
        case datetime() if dialect == SQLITE:
            instant = value if value.tzinfo is None else value.astimezone(UTC)
            return instant.isoformat(timespec="microseconds")
        case date() | time() if dialect == SQLITE:
            return value.isoformat()
        case Decimal() if dialect == SQLITE:
            return str(value)
        case _:
            return value
