"""Figures of all runs together: how much is ready, running, waiting, lost.

Decides what is counted, and that an index counts it; never how a figure is shown. Read at each
scrape by a worker's metrics server, and by `iaflow metrics`.
"""

from __future__ import annotations

import sqlalchemy as sa

from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus, StepStatus
from iaflow.database.dialects import Database
from iaflow.database.statements import Statement, literal_word, read_instant
from iaflow.metrics import Gauge

__all__ = ["GaugeStore"]


class GaugeStore:
    """
    The figures of one database.

    Args:
        database: is read without locks; what it costs grows with what is unfinished alone.
        queues: all that are known, so that an empty one is told of too; the first is that of
            steps which name none.
    """

    def __init__(self, database: Database, queues: tuple[str, ...]) -> None:
        self._database = database
        self._queues = queues
        self._sql = _Statements(database)

    def read(self) -> list[Gauge]:
        """Return every figure as it is now; five short reads, not one instant."""
        now = self._database.read_clock()
        ready = dict.fromkeys(self._queues, 0.0)
        oldest = dict.fromkeys(self._queues, 0.0)
        held = 0
        for queue, count, held_back, since in self._database.fetch(self._sql.ready):
            name = queue or self._queues[0]
            ready[name] = ready.get(name, 0) + count - held_back
            held += held_back
            first = read_instant(since)
            age = 0.0 if first is None else (now - first).total_seconds()
            oldest[name] = max(oldest.get(name, 0.0), age)
        running, lost = self._database.fetch(self._sql.running, now=now)[0]
        [retrying] = self._database.fetch(self._sql.retrying)[0]
        [pauses] = self._database.fetch(self._sql.open_pauses)[0]
        runs = dict.fromkeys([str(status) for status in _UNFINISHED], 0.0)
        runs |= {row[0]: row[1] for row in self._database.fetch(self._sql.runs)}
        return [
            Gauge("iaflow_ready_steps", "Steps that wait for a worker.", ready, "queue"),
            Gauge(
                "iaflow_oldest_ready_seconds",
                "How long the first of them has waited.",
                oldest,
                "queue",
            ),
            Gauge("iaflow_held_steps", "Steps held back by a key, a rate or workers.", {"": held}),
            Gauge("iaflow_running_steps", "Steps that workers are at.", {"": running}),
            Gauge(
                "iaflow_retrying_steps", "Steps that wait for their next attempt.", {"": retrying}
            ),
            Gauge("iaflow_runs", "Runs that have not ended.", runs, "status"),
            Gauge("iaflow_open_pauses", "Questions and events nobody has answered.", {"": pauses}),
            Gauge(
                "iaflow_lost_leases",
                "Steps whose worker has not been heard of for longer than the lease.",
                {"": lost},
            ),
        ]


_UNFINISHED = [status for status in RunStatus if status not in END_OF_RUN]


class _Statements:
    def __init__(self, database: Database) -> None:
        steps, runs, pauses = database.tables.steps, database.tables.runs, database.tables.pauses
        count = sa.func.count()
        published = steps.c.published_at
        self.ready = Statement(
            "iaflow_gauge_ready",
            sa.select(
                steps.c.queue, count, count - sa.func.count(published), sa.func.min(published)
            )
            .where(steps.c.status == literal_word(StepStatus.READY))
            .group_by(steps.c.queue),
        )
        lost = sa.case((steps.c.lease_until < sa.bindparam("now"), sa.literal_column("1")))
        self.running = Statement(
            "iaflow_gauge_running",
            sa.select(count, sa.func.count(lost)).where(
                steps.c.status == literal_word(StepStatus.RUNNING)
            ),
        )
        # One that is retrying has an instant; those that wait for people, by the thousand,
        # have none: this keeps them out of what is read.
        self.retrying = Statement(
            "iaflow_gauge_retrying",
            sa.select(count).where(
                steps.c.status == literal_word(StepStatus.RETRYING), steps.c.due_at.is_not(None)
            ),
        )
        self.open_pauses = Statement(
            "iaflow_gauge_pauses",
            sa.select(count)
            .select_from(pauses)
            .where(pauses.c.status == literal_word(PauseStatus.OPEN)),
        )
        self.runs = Statement(
            "iaflow_gauge_runs",
            sa.select(runs.c.status, count)
            .where(runs.c.status.in_([literal_word(status) for status in _UNFINISHED]))
            .group_by(runs.c.status),
        )
