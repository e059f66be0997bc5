"""What Alembic runs around our scripts, on the connection that the migrator hands it.

Decides in which schema the version table lives and what autogenerate compares; never opens
a connection, takes a lock or commits: `iaflow.database.migrator` does. Loaded by Alembic.
"""

from __future__ import annotations

from alembic import context

from iaflow.database.tables import build_tables

attributes = context.config.attributes
if attributes.get("connection") is None:
    raise SystemExit(
        "these scripts are run by `iaflow db upgrade`; a host's own Alembic reads them by "
        "version_locations and does not use this file"
    )

context.configure(
    connection=attributes["connection"],
    target_metadata=build_tables(attributes["iaflow_schema"]).metadata,
    version_table=attributes["iaflow_version_table"],
    version_table_schema=attributes["iaflow_schema"],
    include_schemas=attributes["iaflow_schema"] is not None,
    # SQLite too can undo DDL; the caller's transaction holds all of it.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
