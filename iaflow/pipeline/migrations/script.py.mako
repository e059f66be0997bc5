"""${message}

Decides one step of the schema; never reads or writes rows that a running iaflow uses.
Loaded by Alembic.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from iaflow.database.migrator import migrated_schema
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Expand: add what the new release needs; the older one must go on working."""
    schema = migrated_schema(op.get_context())
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo `upgrade`."""
    schema = migrated_schema(op.get_context())
    ${downgrades if downgrades else "pass"}
