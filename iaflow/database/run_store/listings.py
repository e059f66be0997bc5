"""Pages of runs, and of the items of a step, as people look through them.

Decides which index serves which set of filters, so that a page costs the same however long the
past is; never what may be asked for. Called by the client.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.filters import RunFilter
from iaflow.data.records import NO_INDEX, RunRecord, StepRecord
from iaflow.data.status import RunStatus, StepStatus
from iaflow.database.dialects import Database
from iaflow.database.run_store.reads import (
    list_run_columns,
    read_run,
    read_step,
    select_steps,
)
from iaflow.database.statements import (
    POSTGRES,
    WANTED,
    Statement,
    dump_json,
    is_seen,
    json_row,
    look_up_each,
)

__all__ = ["ListingStore"]

_EARLIEST_ID: Final = "00000000-0000-0000-0000-000000000000"
_LATEST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class ListingStore:
    """Pages of what is kept of runs; each is one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def run(self, run_id: str, sight: Sight) -> RunRecord | None:
        """Return a run, or None if there is none of that id, or it is out of sight."""
        likes = sight.as_likes()
        rows = self._database.fetch(self._sql.seen_run, run_id=run_id, likes=likes)
        return read_run(rows[0]) if rows else None

    def runs(
        self,
        wanted: RunFilter,
        sight: Sight = EVERYTHING,
        *,
        before: str | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """
        Return runs, the newest first.

        Args:
            before: a run id; only older runs are returned, which makes a next page.
        """
        likes = sight.as_likes()
        given: dict[str, Any] = {
            "limit": limit,
            "likes": likes,
            "before": before or _LATEST_ID,
            "least": _EARLIEST_ID,
        }
        if wanted.slug is not None:
            given["slug"] = wanted.slug
        if wanted.status is not None:
            given["status"] = wanted.status.value
        if wanted.started_by is not None:
            given["started_by"] = wanted.started_by
        if wanted.parent_run_id is not None:
            given["parent_run_id"] = wanted.parent_run_id
        if wanted.since is not None:
            given["least"] = _id_at(wanted.since)
        if wanted.until is not None:
            given["before"] = min(given["before"], _id_at(wanted.until))
        statement = self._sql.runs(wanted, is_narrowed=likes is not None)
        return [read_run(row) for row in self._database.fetch(statement, **given)]

    def watch(self, run_ids: Collection[str]) -> dict[str, tuple[int, RunStatus]]:
        """Return how far each of these runs is: its number of changes, and its status."""
        wanted = dump_json(list(dict.fromkeys(run_ids)))
        rows = self._database.fetch(self._sql.watch, wanted=wanted)
        found = rows[0][0] or "[]"
        pairs = json.loads(found) if isinstance(found, str) else found
        return {run_id: (at[0], RunStatus(at[1])) for run_id, at in pairs if at is not None}

    def step(self, run_id: str, step_id: str, index: int = NO_INDEX) -> StepRecord | None:
        """Return a step of a run, or an item of it, with its payloads; None without a row."""
        rows = self._database.fetch(
            self._sql.step, run_id=run_id, step_id=step_id, item_index=index
        )
        return read_step(rows[0]) if rows else None

    def items(
        self,
        run_id: str,
        step_id: str,
        *,
        after: int = NO_INDEX,
        limit: int = 50,
        status: StepStatus | None = None,
    ) -> list[StepRecord]:
        """Return the items of a step behind number `after`, without inputs and outputs."""
        given: dict[str, Any] = {} if status is None else {"status": status.value}
        rows = self._database.fetch(
            self._sql.items[status is not None],
            run_id=run_id,
            step_id=step_id,
            after=after,
            limit=limit,
            **given,
        )
        return [read_step(row) for row in rows]


def _id_at(instant: datetime) -> str:
    """Return the least id that could be made at an instant: ids begin with their milliseconds."""
    milliseconds = int(instant.timestamp() * 1000)
    if milliseconds <= 0:
        return _EARLIEST_ID
    digits = f"{min(milliseconds, 2**48 - 1):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


_Part = sa.Subquery | sa.Values


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        bind = sa.bindparam
        self._database = database
        self._runs = runs = t.runs
        self._payloads = payloads = t.run_payloads
        self._versions = t.versions
        self._made: dict[tuple[object, ...], Statement] = {}
        self._with_payload = runs.join(payloads, payloads.c.run_id == runs.c.run_id)
        self.seen_run = Statement(
            "iaflow_seen_run",
            sa.select(*list_run_columns(runs, payloads))
            .select_from(self._with_payload)
            .where(runs.c.run_id == bind("run_id"), is_seen(runs.c.slug, "likes")),
        )
        is_wanted = runs.c.run_id == (
            sa.cast(WANTED, runs.c.run_id.type) if database.dialect == POSTGRES else WANTED
        )
        state = sa.select(json_row(runs.c.seq, runs.c.status)).where(is_wanted).scalar_subquery()
        self.watch = Statement("iaflow_watch", sa.select(look_up_each("wanted", state)))
        of_step = sa.and_(
            t.steps.c.run_id == bind("run_id"),
            t.steps.c.step_id == bind("step_id"),
            # Of a run that is being removed nothing is read, rather than what is left of it.
            sa.exists().where(payloads.c.run_id == bind("run_id")),
        )
        self.step = Statement(
            "iaflow_step",
            select_steps(database, payloads=True).where(
                of_step, t.steps.c.item_index == bind("item_index")
            ),
        )
        items = (
            select_steps(database, payloads=False)
            .where(of_step, t.steps.c.item_index > bind("after"))
            .order_by(t.steps.c.item_index)
            .limit(bind("limit"))
        )
        self.items = {
            False: Statement("iaflow_items", items),
            True: Statement(
                "iaflow_items_in_status", items.where(t.steps.c.status == bind("status"))
            ),
        }

    def runs(self, wanted: RunFilter, *, is_narrowed: bool) -> Statement:
        """Return the listing for a set of filters, made once each."""
        has = {
            "slug": wanted.slug is not None,
            "status": wanted.status is not None,
            "started_by": wanted.started_by is not None,
            "parent_run_id": wanted.parent_run_id is not None,
            "times": wanted.since is not None,
            "top": wanted.is_top_level,
            "narrowed": is_narrowed,
        }
        flags = tuple(has.values())
        if flags not in self._made:
            name = "iaflow_runs_" + "".join("01"[flag] for flag in flags)
            self._made[flags] = Statement(name, self._list_runs(has))
        return self._made[flags]

    def _list_runs(self, has: dict[str, bool]) -> sa.Select[Any]:
        """
        Return a page of runs.

        On Postgres these are served by these indexes, however rare what is asked for is; the
        rest of the filters is looked at in the rows:

        - of a parent: `runs_by_parent`;
        - of a starter: `runs_by_starter`, for each slug that the starter has runs of and that is
          seen, and for each status;
        - at the top: `runs_top`, for each slug that is seen, and for each status;
        - of a slug: `runs_by_slug`, or `runs_by_slug_status`;
        - of a narrowed sight: the same, for each slug that is seen;
        - in a status: `runs_by_status`; and without any of these the key itself.

        What is merged from several parts has the newest of each, and no more than the page.
        """
        if self._database.dialect != POSTGRES:
            return self._list_plainly(has)
        runs = self._runs
        parts, keys = self._choose(has)
        one = runs.alias("one")
        others = {name: flag and name not in keys for name, flag in has.items()}
        others["times"] = False
        if any(part.name == "slugs" for part in parts):
            others["narrowed"] = False
        newest = (
            sa.select(one.c.run_id)
            .where(*self._bound(one, keys), *self._conditions(one, others))
            .order_by(*(one.c[name].desc() for name in (*list(keys)[-1:], "run_id")))
            .limit(sa.bindparam("limit"))
        )
        if "parent_run_id" in keys:
            # The index has no others.
            newest = newest.where(one.c.parent_run_id.is_not(None))
        if not parts:
            page = newest.subquery("page")
        else:
            each = newest.lateral("each")
            whole: sa.FromClause = parts[0]
            for part in (*parts[1:], each):
                whole = whole.join(part, sa.true())
            page = (
                sa.select(each.c.run_id)
                .select_from(whole)
                .order_by(each.c.run_id.desc())
                .limit(sa.bindparam("limit"))
                .subquery("page")
            )
        # Looked up one by one: a join of a page, planned while tables are small, reads them all.
        kept = list_run_columns(runs, self._payloads)
        row = (
            sa.select(*(column.label(f"c{n}") for n, column in enumerate(kept)))
            .select_from(self._with_payload)
            .where(runs.c.run_id == page.c.run_id)
            .limit(1)
            .lateral("row")
        )
        listed = sa.select(*row.c).select_from(page.join(row, sa.true()))
        if has["times"]:
            # What is too old stands at the end of a page, and is taken off: asked for above, it
            # would be looked for to the end of the index.
            listed = listed.where(page.c.run_id >= self._id("least"))
        return listed.order_by(page.c.run_id.desc())

    def _bound(
        self, runs: sa.FromClause, keys: dict[str, ColumnElement[Any]]
    ) -> list[ColumnElement[bool]]:
        """
        Return the conditions on the columns of an index that end in the id.

        The last of them and the id are compared as a row, and a page is in the order of both: by
        equality alone any index in the order of the ids would do, and one is chosen at times that
        has to be read to its end.
        """
        if not keys:
            return [runs.c.run_id < self._id("before")]
        *first, last = keys
        row = sa.tuple_(runs.c[last], runs.c.run_id)
        return [
            *(runs.c[name] == keys[name] for name in first),
            runs.c[last] >= keys[last],
            row < sa.tuple_(keys[last], self._id("before")),
        ]

    def _choose(self, has: dict[str, bool]) -> tuple[list[_Part], dict[str, ColumnElement[Any]]]:
        """Return what a page is merged from, and what the columns of the index must be."""
        bind = sa.bindparam
        keys: dict[str, ColumnElement[Any]] = {}
        if has["parent_run_id"]:
            return [], {"parent_run_id": self._id("parent_run_id")}
        parts: list[_Part] = []
        if has["started_by"]:
            keys["started_by"] = bind("started_by", type_=sa.Text())
        has_each = has["started_by"] or has["top"]
        if has["slug"]:
            keys["slug"] = bind("slug", type_=sa.Text())
        elif has_each or has["narrowed"]:
            slugs = self._list_slugs(has)
            parts.append(slugs)
            keys["slug"] = slugs.c.slug
        if has["status"]:
            keys["status"] = bind("status", type_=sa.Text())
        elif has_each:
            listed = [(status.value,) for status in RunStatus]
            statuses = sa.values(sa.column("status", sa.Text()), name="statuses").data(listed)
            parts.append(statuses)
            keys["status"] = statuses.c.status
        return parts, keys

    def _list_plainly(self, has: dict[str, bool]) -> sa.Select[Any]:
        runs = self._runs
        return (
            sa.select(*list_run_columns(runs, self._payloads))
            .select_from(self._with_payload)
            .where(runs.c.run_id < sa.bindparam("before"), *self._conditions(runs, has))
            .order_by(runs.c.run_id.desc())
            .limit(sa.bindparam("limit"))
        )

    def _conditions(self, runs: sa.FromClause, has: dict[str, bool]) -> list[ColumnElement[bool]]:
        bind = sa.bindparam
        names = ("slug", "status", "started_by", "parent_run_id")
        conditions = [runs.c[name] == bind(name) for name in names if has[name]]
        if has["times"]:
            conditions.append(runs.c.run_id >= self._id("least"))
        if has["top"]:
            conditions.append(runs.c.parent_run_id.is_(None))
        if has["narrowed"]:
            conditions.append(is_seen(runs.c.slug, "likes"))
        return conditions

    def _id(self, name: str) -> sa.BindParameter[str]:
        return sa.bindparam(name, type_=self._runs.c.run_id.type)

    def _list_slugs(self, has: dict[str, bool]) -> sa.Subquery:
        """
        Return the slugs that there are versions of, or that a starter has runs of, and are seen.

        Each is found from the one before by one look into the index, however many rows it has.
        """
        nothing = sa.select(sa.literal_column("''", sa.Text()).label("slug"))
        found = nothing.cte("found", recursive=True)
        if has["started_by"]:
            table: sa.FromClause = self._runs.alias("known")
            starter = sa.bindparam("started_by", type_=sa.Text())
            key = (table.c.started_by, table.c.slug)
            following = (
                sa.select(table.c.slug)
                .where(sa.tuple_(*key) > sa.tuple_(starter, found.c.slug), key[0] <= starter)
                .order_by(*key)
            )
        else:
            table = self._versions.alias("known")
            following = (
                sa.select(table.c.slug)
                .where(table.c.slug > found.c.slug)
                .order_by(table.c.slug, table.c.number)
            )
        found = found.union_all(
            sa.select(following.limit(1).scalar_subquery()).where(found.c.slug.is_not(None))
        )
        seen = [is_seen(found.c.slug, "likes")] if has["narrowed"] else []
        return (
            sa.select(found.c.slug)
            .where(found.c.slug != sa.literal_column("''", sa.Text()), *seen)
            .subquery("slugs")
        )
