"""The only rooms that speak SQL: connections, tables, stores, migrations.

Decides how facts are kept; never what follows from them. Called by pipeline, auth and
the composition root.
"""

from iaflow.database.manager import DatabaseManager

__all__ = ["DatabaseManager"]
