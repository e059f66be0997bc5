"""What counts as one statement, as a parameter, and as a value.

Decides nothing about databases: texts go in, texts come out.
"""

import enum
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from iaflow.database.foreign_sql import read_statement
from iaflow.database.statements import POSTGRES, SQLITE

DIALECTS = (SQLITE, POSTGRES)


def spell(sql: str, dialect: str = POSTGRES) -> str:
    """The text that the database gets, its parameters as `<name>`."""
    clause = read_statement(dialect, sql, dict.fromkeys(names(sql, dialect))).clause
    compiled = clause.compile(dialect=sa.create_engine("sqlite://").dialect)
    return str(compiled).replace("?", "<>")


def names(sql: str, dialect: str = POSTGRES) -> list[str]:
    try:
        read_statement(dialect, sql, {})
    except ValueError as error:
        return [word.strip(",: ") for word in str(error).partition(" for ")[2].split()]
    return []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("sql", "expected"),
    (
        ("SELECT :a", ["a"]),
        ("SELECT :a + :b, :a", ["a", "b"]),
        ("SELECT ':a'", []),
        ("SELECT 'it''s :a', :b", ["b"]),
        ('SELECT ":a" FROM t WHERE x=:b', ["b"]),
        ("SELECT 1 -- :a\n + :b", ["b"]),
        ("SELECT /* :a */ :b", ["b"]),
        ("SELECT /* :a", []),
        ("SELECT x::text, :b", ["b"]),
        ("SELECT '12:30:00'", []),
        ("SELECT :größe", ["größe"]),
    ),
)
def test_parameters_are_found_in_code_alone(dialect: str, sql: str, expected: list[str]) -> None:
    assert names(sql, dialect) == expected


@pytest.mark.parametrize(
    ("dialect", "sql"),
    (
        (POSTGRES, "SELECT E'it\\':a; '"),
        (POSTGRES, "SELECT $$ :a; $$"),
        (POSTGRES, "SELECT $body$ :a; $$ $body$"),
        (SQLITE, "SELECT [a:b;c], `d:e;f`"),
    ),
)
def test_each_dialect_has_quotes_of_its_own(dialect: str, sql: str) -> None:
    assert names(sql, dialect) == []


def test_literals_reach_the_database_as_written() -> None:
    sql = r"""SELECT 'a:b \:c', ":d" /* :e */, x::text"""
    assert spell(sql) == sql


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql", ("SELECT 1;", "SELECT 1 ; -- done\n", "SELECT 1;;", "SELECT ';'", "/* ; */ SELECT 1")
)
def test_one_statement_may_end_in_a_semicolon(dialect: str, sql: str) -> None:
    read_statement(dialect, sql, None)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("sql", ("SELECT 1; SELECT 2", "SELECT 1; -- x\n DROP TABLE t", "a;b;c"))
def test_several_statements_are_refused(dialect: str, sql: str) -> None:
    with pytest.raises(ValueError, match="statements were given: run them one by one"):
        read_statement(dialect, sql, None)


@pytest.mark.parametrize("sql", ("", "  ", ";", "-- nothing", "/* nothing */;"))
def test_no_statement_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="no statement"):
        read_statement(SQLITE, sql, None)


def test_nested_comments_are_refused() -> None:
    with pytest.raises(ValueError, match="comment inside a comment"):
        read_statement(POSTGRES, "SELECT 1 /* /* */ ' */; DROP TABLE t --'", None)


@pytest.mark.parametrize("sql", ("COMMIT", "begin immediate", "ROLLBACK;", "/* x */ savepoint s"))
def test_transactions_are_not_made_by_statements(sql: str) -> None:
    with pytest.raises(ValueError, match=r"db\.transaction"):
        read_statement(POSTGRES, sql, None)


def test_a_mismatch_names_what_is_missing_and_what_is_left_over() -> None:
    with pytest.raises(ValueError, match="no value is given for :a, :b; the statement has no :c"):
        read_statement(SQLITE, "SELECT :a, :b", {"c": 1})


@pytest.mark.parametrize("params", ([1], (1,), "ab", 1))
def test_parameters_are_a_mapping(params: Any) -> None:
    with pytest.raises(ValueError, match="mapping of names to values"):
        read_statement(SQLITE, "SELECT :a", params)


def test_sql_is_text() -> None:
    with pytest.raises(ValueError, match="SQL is text, not TextClause"):
        read_statement(SQLITE, sa.text("SELECT 1"), None)  # type: ignore[arg-type]


# --- values


class Colour(enum.Enum):
    RED = "red"


NINE = datetime(2026, 3, 1, 9, 30, tzinfo=timezone(timedelta(hours=2)))
ID = uuid.UUID("01890000-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("value", "on_sqlite", "on_postgres"),
    (
        (None, None, None),
        (True, True, True),
        (2**40, 2**40, 2**40),
        ("x", "x", "x"),
        (b"x", b"x", b"x"),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}', '{"a": [1, "ü"]}'),
        ([1, 2], "[1, 2]", "[1, 2]"),
        (ID, str(ID), str(ID)),
        (Colour.RED, "red", "red"),
        (NINE, "2026-03-01T07:30:00.000000+00:00", NINE),
        (datetime(2026, 3, 1, 9), "2026-03-01T09:00:00.000000", datetime(2026, 3, 1, 9)),  # noqa: DTZ001
        (date(2026, 3, 1), "2026-03-01", date(2026, 3, 1)),
        (Decimal("1.10"), "1.10", Decimal("1.10")),
    ),
)
def test_values_travel_in_a_form_that_the_database_takes(
    value: Any, on_sqlite: Any, on_postgres: Any
) -> None:
    assert read_statement(SQLITE, "SELECT :v", {"v": value}).values == {"v": on_sqlite}
    assert read_statement(POSTGRES, "SELECT :v", {"v": value}).values == {"v": on_postgres}


def test_instants_on_sqlite_sort_as_they_follow_each_other() -> None:
    instants = [NINE, NINE.astimezone(UTC) + timedelta(microseconds=1)]
    spelled = [read_statement(SQLITE, "SELECT :v", {"v": one}).values["v"] for one in instants]
    assert spelled == sorted(spelled)


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        read_statement(SQLITE, "SELECT :v", {"v": [float("nan")]})


def test_in_takes_a_list_and_nothing_else() -> None:
    sql = "SELECT 1 FROM t WHERE a IN :a AND b in :b"
    statement = read_statement(SQLITE, sql, {"a": [1, 2], "b": {"x"}})
    assert statement.values == {"a": [1, 2], "b": ["x"]}
    with pytest.raises(ValueError, match="IN :a takes a list of values, not str"):
        read_statement(SQLITE, sql, {"a": "12", "b": []})


# --- whatever is in a literal


@given(text=st.text(alphabet="ab:;'\"-/*$\\ \n(", max_size=30), dialect=st.sampled_from(DIALECTS))
def test_no_literal_is_taken_for_code(text: str, dialect: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert names(f"SELECT {quoted}, :after", dialect) == ["after"]
    read_statement(dialect, f"SELECT {quoted};", None)
    with pytest.raises(ValueError, match="2 statements"):
        read_statement(dialect, f"SELECT {quoted}; DELETE FROM t", None)


@given(name=st.text(alphabet="ab:;'\"-/* \n", min_size=1, max_size=20))
def test_no_quoted_name_is_taken_for_code(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert names(f"SELECT {quoted}, :after") == ["after"]
