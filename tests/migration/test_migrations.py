"""The scripts arrive at the tables, from anywhere, by anyone, on both dialects.

Decides whether a database can be trusted after `upgrade`; starts a real Postgres.
"""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.statements import SQLITE
from iaflow.database.tables import build_tables
from iaflow.errors import NotReachable, SchemaOutdated

PLACES = ("memory", "file", "postgres")


@pytest.fixture(params=PLACES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    match request.param:
        case "memory":
            database = Database("sqlite://")
        case "file":
            database = Database(f"sqlite:///{tmp_path}/empty.db")
        case _:
            database = Database(request.getfixturevalue("empty_postgres_url"))
    yield database
    database.close()


@pytest.fixture
def scripted(empty: Database) -> Database:
    """A database that was migrated by the scripts, also where there is a shorter way."""
    migrator._upgrade_by_scripts(empty)
    return empty


def write(database: Database, text: str) -> None:
    with database.alone(), database.engine.connect() as connection:
        connection.execute(sa.text(text))
        connection.commit()


def version_table(database: Database) -> str:
    return "iaflow_alembic_version" if database.dialect == SQLITE else "iaflow.alembic_version"


def set_revision(database: Database, revision: str) -> None:
    write(database, f"UPDATE {version_table(database)} SET version_num = '{revision}'")


def describe(database: Database, schema: str | None = "iaflow") -> list[tuple[Any, ...]]:
    """Everything the server knows about our tables, in words that two schemas share."""
    with database.alone(), database.engine.connect() as connection:
        if database.dialect == SQLITE:
            rows = connection.exec_driver_sql(
                "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic_version%' "
                "AND sql IS NOT NULL ORDER BY 1, 2"
            ).all()
            return [(kind, name, " ".join(text.split())) for kind, name, text in rows]
        found = connection.execute(sa.text(POSTGRES_CATALOGUE), {"schema": schema}).all()
        return [tuple(str(cell).replace(f"{schema}.", "") for cell in row) for row in found]


POSTGRES_CATALOGUE = """
SELECT 'column', c.relname, a.attname,
       concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                 pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'r'
  AND c.relname <> 'alembic_version'
UNION ALL
SELECT 'constraint', t.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
WHERE k.connamespace = CAST(:schema AS regnamespace) AND t.relname <> 'alembic_version'
UNION ALL
SELECT 'index', tablename, indexname, indexdef
FROM pg_indexes WHERE schemaname = :schema AND tablename <> 'alembic_version'
UNION ALL
SELECT 'options', relname, '', CAST(reloptions AS text)
FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind = 'r'
  AND relname <> 'alembic_version'
ORDER BY 1, 2, 3, 4
"""


# --- where the scripts arrive


def test_the_head_is_that_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(migrator.alembic_config(None, None))
    assert scripts.get_heads() == [migrator.HEAD_REVISION]


def test_revisions_are_numbered_in_their_order() -> None:
    scripts = ScriptDirectory.from_config(migrator.alembic_config(None, None))
    revisions = [script.revision for script in reversed(list(scripts.walk_revisions()))]
    assert revisions == sorted(revisions)
    assert all(re.fullmatch(r"iaflow_\d{4}", revision) for revision in revisions)


def test_alembic_finds_nothing_to_add(scripted: Database) -> None:
    with scripted.alone(), scripted.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": scripted.schema is not None,
                "include_name": lambda name, kind, _: kind != "schema" or name == scripted.schema,
                "version_table": migrator._version_table(scripted.schema),
                "version_table_schema": scripted.schema,
            },
        )
        assert compare_metadata(context, scripted.tables.metadata) == []


def test_the_scripts_arrive_at_exactly_the_tables(scripted: Database) -> None:
    schema = None
    if scripted.schema is not None:
        schema = "direct"
        write(scripted, "CREATE SCHEMA direct")
        direct = scripted
    else:
        direct = Database("sqlite://")
    with direct.alone(), direct.engine.connect() as connection:
        build_tables(schema).metadata.create_all(connection)
        connection.commit()
    assert describe(scripted) == describe(direct, schema)
    if direct is not scripted:
        direct.close()


def test_the_short_way_arrives_where_the_scripts_do(tmp_path: Path) -> None:
    short, long = (Database(f"sqlite:///{tmp_path}/{name}.db") for name in ("short", "long"))
    migrator.upgrade(short)
    migrator._upgrade_by_scripts(long)
    assert describe(short) == describe(long)
    assert read_version_table(tmp_path / "short.db") == read_version_table(tmp_path / "long.db")
    short.close()
    long.close()


def read_version_table(path: Path) -> tuple[str, list[tuple[str]]]:
    connection = sqlite3.connect(path)
    text = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'iaflow_alembic_version'"
    ).fetchone()[0]
    rows = connection.execute("SELECT version_num FROM iaflow_alembic_version").fetchall()
    connection.close()
    return "".join(text.split()), rows


# --- upgrade


def test_upgrade_makes_a_database_current_and_a_second_one_changes_nothing(empty: Database) -> None:
    assert not migrator.check(empty).is_current
    migrator.upgrade(empty)
    made = describe(empty)
    migrator.upgrade(empty)
    assert describe(empty) == made
    state = migrator.check(empty)
    assert state == migrator.SchemaState(
        current=migrator.HEAD_REVISION,
        head=migrator.HEAD_REVISION,
        is_current=True,
        is_usable=True,
        message=state.message,
    )
    migrator.require_current(empty)


def test_upgrade_takes_a_url_and_a_schema(empty_postgres_url: str) -> None:
    migrator.upgrade(empty_postgres_url, schema="flows-2")
    migrator.require_current(empty_postgres_url, schema="flows-2")
    # Two schemas of one database have nothing to do with each other.
    assert migrator.check(empty_postgres_url).current is None


def test_what_was_removed_can_be_made_again(empty: Database) -> None:
    migrator.upgrade(empty)
    made = describe(empty)
    migrator.downgrade(empty)
    assert describe(empty) == []
    assert migrator.check(empty).current is None
    migrator.upgrade(empty)
    assert describe(empty) == made


def test_rows_outlive_a_second_upgrade(empty: Database) -> None:
    migrator.upgrade(empty)
    place = "iaflow.key_holds" if empty.schema else "key_holds"
    write(empty, f"ALTER TABLE {place} RENAME COLUMN step_id TO step_id_2")
    migrator.upgrade(empty)
    assert any("step_id_2" in str(row) for row in describe(empty))


UPGRADE_WHEN_TOLD = """
import sys
from iaflow.database import migrator
print("ready", flush=True)
sys.stdin.readline()
migrator.upgrade(sys.argv[1])
migrator.require_current(sys.argv[1])
"""


@pytest.mark.parametrize("place", ("file", "postgres"))
def test_four_processes_may_upgrade_at_once(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = (
        f"sqlite:///{tmp_path}/shared.db"
        if place == "file"
        else request.getfixturevalue("empty_postgres_url")
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE_WHEN_TOLD, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    migrator.require_current(url)


def test_a_failed_upgrade_leaves_nothing_behind(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", fail)
        with pytest.raises(RuntimeError, match="disk"):
            migrator._upgrade_by_scripts(empty)
    if empty.schema is not None:
        with empty.engine.connect() as connection:
            schemas = sa.inspect(connection).get_schema_names()
        assert "iaflow" not in schemas
    migrator.upgrade(empty)
    migrator.require_current(empty)


def test_an_application_keeps_its_own_tables_beside_ours(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/shared.db")
    write(database, "CREATE TABLE customers (name TEXT)")
    write(database, "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    write(database, "INSERT INTO alembic_version VALUES ('4f2a')")
    migrator.upgrade(database)
    migrator.require_current(database)
    database.close()


def test_tables_of_others_are_not_taken_for_ours(empty: Database) -> None:
    place = ""
    if empty.schema is not None:
        write(empty, "CREATE SCHEMA iaflow")
        place = "iaflow."
    write(empty, f"CREATE TABLE {place}runs (name TEXT)")
    with pytest.raises(SchemaOutdated, match="did not make: runs"):
        migrator.upgrade(empty)


def test_a_role_that_may_not_make_schemas_uses_the_one_it_was_given(
    empty_postgres_url: str, request: pytest.FixtureRequest
) -> None:
    owner = Database(empty_postgres_url)
    role = "iaflow_test_" + str(owner.url.database)[-20:]
    write(owner, f'CREATE ROLE "{role}" LOGIN')
    request.addfinalizer(owner.close)
    request.addfinalizer(lambda: write(owner, f'DROP ROLE "{role}"'))
    request.addfinalizer(lambda: write(owner, f'DROP OWNED BY "{role}"'))
    write(owner, f'CREATE SCHEMA iaflow AUTHORIZATION "{role}"')
    with owner.engine.connect() as connection:
        connection.exec_driver_sql(f'SET ROLE "{role}"')
        migrator.make_schema(connection, "iaflow")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            migrator.make_schema(connection, "another")


# --- what is refused


def test_an_empty_database_is_told_what_to_run(empty: Database) -> None:
    with pytest.raises(SchemaOutdated, match="run `iaflow db upgrade`"):
        migrator.require_current(empty)


def test_an_older_schema_is_told_what_to_run(empty: Database) -> None:
    migrator.upgrade(empty)
    set_revision(empty, "iaflow_0000")
    with pytest.raises(SchemaOutdated, match=r"iaflow_0000, older than .* run `iaflow db upgrade`"):
        migrator.require_current(empty)


def test_a_newer_schema_asks_for_a_newer_iaflow(empty: Database) -> None:
    """The tables of a later release that took something away do not serve this one."""
    migrator.upgrade(empty)
    set_revision(empty, "iaflow_9999")
    info = "schema_info" if empty.dialect == SQLITE else "iaflow.schema_info"
    write(empty, f"UPDATE {info} SET oldest_revision = 'iaflow_9000'")
    with pytest.raises(SchemaOutdated, match=r"iaflow_9999, newer than .* install the iaflow"):
        migrator.require_current(empty)
    with pytest.raises(SchemaOutdated, match="newer than"):
        migrator.upgrade(empty)


def test_a_newer_schema_that_only_added_serves_this_release_too(empty: Database) -> None:
    """While an upgrade rolls out, the workers of the release before go on."""
    migrator.upgrade(empty)
    set_revision(empty, "iaflow_9999")
    migrator.require_current(empty)
    migrator.upgrade(empty)
    state = migrator.check(empty)
    assert (state.is_current, state.is_usable) == (False, True)
    assert "it only adds, so this iaflow works on it" in state.message


def test_a_server_that_is_not_there_is_said_without_its_password() -> None:
    with pytest.raises(NotReachable) as caught:
        migrator.check("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


# --- a host's own Alembic

HOST_ENV = """
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""

HOST_SCRIPT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "4f2a", None

def upgrade():
    op.create_table("customers", sa.Column("name", sa.Text))

def downgrade():
    op.drop_table("customers")
"""


def upgrade_by_host(database: Database, folder: Path, target: str = "heads") -> None:
    scripts = folder / "host"
    (scripts / "versions").mkdir(parents=True, exist_ok=True)
    (scripts / "env.py").write_text(HOST_ENV)
    (scripts / "versions" / "4f2a.py").write_text(HOST_SCRIPT)
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "space")
    config.set_main_option(
        "version_locations", f"{scripts}/versions iaflow:pipeline/migrations/versions"
    )
    with database.alone(), database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def test_a_host_s_alembic_can_run_our_scripts(empty: Database, tmp_path: Path) -> None:
    upgrade_by_host(empty, tmp_path)
    state = migrator.check(empty)
    assert (state.is_current, state.is_kept_by_host) == (True, True)
    migrator.require_current(empty)
    migrator.upgrade(empty)
    assert migrator.check(empty).is_kept_by_host


def test_who_keeps_the_tables_is_told_to_go_on(
    empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade_by_host(empty, tmp_path, "iaflow@head")
    monkeypatch.setattr(migrator, "HEAD_REVISION", "iaflow_9999")
    with pytest.raises(SchemaOutdated, match="alembic upgrade iaflow@head"):
        migrator.upgrade(empty)


def test_our_scripts_are_not_run_by_alembic_alone() -> None:
    with pytest.raises(SystemExit, match="iaflow db upgrade"):
        command.upgrade(migrator.alembic_config(None, None), "head")


# --- what it costs

WITHOUT_ALEMBIC = """
import sys
from iaflow.database import DatabaseManager, migrator
for url in sys.argv[1:]:
    migrator.upgrade(url)
    migrator.check(url)
DatabaseManager("sqlite://").migrate_now()
assert not any(name.split(".")[0] in ("alembic", "mako") for name in sys.modules)
"""


def test_an_embedded_run_never_loads_alembic(tmp_path: Path, postgres_url: str) -> None:
    urls = ["sqlite://", f"sqlite:///{tmp_path}/new.db", postgres_url]
    subprocess.run([sys.executable, "-c", WITHOUT_ALEMBIC, *urls], check=True)
