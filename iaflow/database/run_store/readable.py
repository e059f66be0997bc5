"""Which outputs references may read, said once for every statement that reads them.

Decides the predicate alone (LANGUAGE sections 3, 5 and 7); never reads. Used by claims and
settles.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from iaflow.data.status import StepEnd, StepStatus
from iaflow.database.statements import literal_word

__all__ = ["is_readable"]


def is_readable(steps: sa.FromClause) -> ColumnElement[bool]:
    """Return the predicate on step rows: it succeeded, or a person rejected it."""
    return sa.or_(
        steps.c.status == literal_word(StepStatus.SUCCEEDED),
        steps.c.end == literal_word(StepEnd.REJECTED),
    )
