"""What every verb of the engine stands on: stores, compiled definitions, one way to commit.

Decides how a verb's transaction becomes a `Settled`, and what a committed change leads to in
other runs; never what a verb does. Extended by the rooms of the engine's verbs.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import uuid_utils

from iaflow.clock import Clock
from iaflow.data.records import StepTask
from iaflow.data.status import NoticeKind, RunStatus
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.run_store import (
    ClaimStore,
    HoldStore,
    ListingStore,
    NoticeStore,
    PauseStore,
    PruneStore,
    ReadStore,
    WaitStore,
)
from iaflow.database.run_store.reads import RunHeader
from iaflow.database.run_store.reopens import ReopenStore
from iaflow.database.run_store.settles import NewRun
from iaflow.database.schedule_store import ScheduleStore
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.loader import Library
from iaflow.pipeline.settler import CodeWanted, Settled, Settler
from iaflow.pipeline.strict_json import dump_json

__all__ = ["Core", "add_seconds", "is_storable", "is_uuid", "refuse_paused"]

HEADERS_KEPT = 512
"""Run headers kept in memory: they never change, and a chain asks for one at every step."""


_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Core(ABC):
    """
    The parts that all verbs share.

    Args:
        database: where runs live.
        clock: the time that all processes of the database agree on.
        library: compiled definitions by content hash.
        draw: returns a uniform number in [0, 1), for the jitter of retries.
        lease_seconds: how long a claim lives without a heartbeat.
        told: ends of runs that people are told of.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        library: Library,
        *,
        draw: Callable[[], float],
        lease_seconds: float = 30.0,
        told: Collection[NoticeKind] = (),
    ) -> None:
        self.database = database
        self.clock = clock
        self.library = library
        self.lease = timedelta(seconds=lease_seconds)
        self.pipelines = PipelineStore(database)
        self.claims = ClaimStore(database)
        self.holds = HoldStore(database)
        self.pauses = PauseStore(database)
        self.reads = ReadStore(database)
        self.listings = ListingStore(database)
        self.waits = WaitStore(database)
        self.notices = NoticeStore(database)
        self.schedules = ScheduleStore(database)
        self.prunes = PruneStore(database)
        self.told = frozenset(told)
        self._settler = Settler(database, self.told)
        self._settles = self._settler.store
        self._reopens = ReopenStore(database)
        self._draw = draw
        self._headers: OrderedDict[str, RunHeader] = OrderedDict()

    # -- definitions

    def keep_version(self, graph: Graph) -> None:
        """Keep a definition under its content hash, so that its runs can be taken up anywhere."""
        self.library.keep(graph)
        definition = graph.definition
        if self.pipelines.read_document(definition.content_hash) is None:
            self.pipelines.save_version(
                content_hash=definition.content_hash,
                slug=definition.slug,
                version=definition.version,
                name=definition.name,
                document=definition.text,
                now=self.clock.now(),
            )

    def graph_of(self, run_id: str) -> Graph | None:
        """Return the compiled definition that a run is pinned to, or None if there is no run."""
        header = self.find_header(run_id)
        return None if header is None else self.library.graph(header.content_hash)

    def find_header(self, run_id: str) -> RunHeader | None:
        """Return what never changes in a run, or None if there is none."""
        header = self._headers.get(run_id)
        if header is None:
            header = self.reads.header(run_id) if is_uuid(run_id) else None
            if header is None:
                return None
            if header.began_at is not None:
                self._headers[run_id] = header
                if len(self._headers) > HEADERS_KEPT:
                    self._headers.popitem(last=False)
        return header

    def pinned(self, run_id: str) -> tuple[RunHeader, Graph]:
        """Return a run's header and its compiled definition; raises NotFound."""
        header = self.find_header(run_id)
        if header is None:
            raise NotFound(f"there is no run {run_id}")
        return header, self.library.graph(header.content_hash)

    # -- runs

    def begin(
        self, tx: Connection, graph: Graph, new: NewRun, parameters: Mapping[str, Any]
    ) -> Settled:
        """Write a run: it begins, or waits for its turn behind `max_concurrent_runs`."""
        limit = graph.definition.max_concurrent_runs
        is_full = limit is not None and self.waits.count_running(tx, new.slug) >= limit
        if is_full:
            # Its time begins with its turn.
            new = replace(new, started_at=None, deadline_at=None)
        return self._settler.begin(tx, graph, new, parameters)

    def make_run(
        self,
        graph: Graph,
        parameters: Mapping[str, Any],
        *,
        started_by: str | None,
        source_folder: str | None,
        key: str | None = None,
        body_hash: str | None = None,
        parent: tuple[str, str, int, int | None] | None = None,
        depth: int = 0,
    ) -> NewRun:
        """Return the row of a run that would begin now."""
        definition = graph.definition
        now = self.clock.now()
        return NewRun(
            run_id=str(uuid_utils.uuid7()),
            slug=definition.slug,
            content_hash=definition.content_hash,
            parameters=dump_json(parameters),
            created_at=now,
            idempotency_key=key,
            body_hash=body_hash,
            started_by=started_by,
            source_folder=source_folder,
            deadline_at=add_seconds(now, definition.run_timeout),
            started_at=now,
            parent=parent,
            depth=depth,
        )

    # -- what code found

    def read_judged(self, run_id: str, step_id: str) -> dict[str, Any]:
        """Return what routing services answered about a step's end, by what was asked."""
        return self._settles.read_judged(run_id, step_id)

    def keep_judged(self, run_id: str, step_id: str, judged: Mapping[str, Any]) -> None:
        """Keep that before anything follows from it: nobody is asked twice."""
        self._settles.keep_judged(run_id, step_id, judged)

    # -- committing

    def perform(self, run_id: str, work: Callable[[Connection], Settled]) -> Settled:
        """
        Do a verb's work in one transaction, then what it leads to elsewhere.

        A change that code must judge first is undone; the result says what to judge.
        """
        try:
            settled = self.database.perform(work)
        except CodeWanted as wanted:
            return Settled(run_id, RunStatus.RUNNING, questions=wanted.questions)
        return self.follow_up(settled)

    @abstractmethod
    def follow_up(self, settled: Settled) -> Settled:
        """Add what a committed change leads to in other runs: `families` knows."""

    def grant(self, keys: tuple[str, ...], *, but: StepTask | None = None) -> list[StepTask]:
        """Give free keys to who waits for them, others than `but` first; return who may start."""
        now = self.clock.now()
        granted = (self.holds.grant(key, now=now, but=but) for key in dict.fromkeys(keys))
        return [task for task in granted if task is not None]

    def name_tasks(self, tasks: Iterable[StepTask]) -> tuple[StepTask, ...]:
        """Return `tasks` with the slug of their run, for the names that Flower shows."""
        return tuple(
            replace(task, slug=header.slug) if (header := self.find_header(task.run_id)) else task
            for task in tasks
        )


def is_uuid(text: str) -> bool:
    """
    Tell whether a text can be an id of ours, spelled as we do: Postgres would refuse any other.

    Python's own reading is wider than the server's: it takes digits of all scripts, and URNs.
    """
    return _UUID.fullmatch(text) is not None


def is_storable(text: str) -> bool:
    """Tell whether a word can be one that is kept: Postgres has no NUL, and neither has halves."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_paused(slug: str) -> Conflict:
    """Return why a paused pipeline is not started."""
    return Conflict(
        f"pipeline {slug!r} is paused, and nothing starts it meanwhile: `iaflow pipelines resume "
        f"{slug}` lets it go on"
    )


def add_seconds(instant: datetime, seconds: float | None) -> datetime | None:
    """Return the instant so many seconds later; None for no seconds."""
    return None if seconds is None else instant + timedelta(seconds=seconds)
