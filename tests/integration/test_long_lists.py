"""Lists and pages read the right index, and no more than they show, beside 10^6 runs that ended.

Statements are prepared while the tables are nearly empty, and their plans are kept. Our connections
forbid sequential scans, so that their absence proves nothing: counted is what each part of a plan
has read. Times are told by ``python -m benchmarks lists``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.lists import PAGE, QUERIES, QUESTIONS, SLUGS, Archive
from iaflow.database.statements import Statement
from tests.servers import ServerRoom

PAST = 1_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Plan:
    """What a query did: the indexes it used, the rows it looked at, and the most it sorted."""

    indexes: set[str]
    tables_read_whole: set[str]
    rows: int
    pages: int
    most_sorted: int
    milliseconds: float


@pytest.fixture(scope="module")
def archive(server_room: ServerRoom) -> Iterator[Archive]:
    url = server_room.create_database()
    archive = Archive(url)
    archive.fill(PAST)
    yield archive
    archive.close()
    server_room.postgres.drop_database(url)


def explain(archive: Archive, statement: Statement, params: dict[str, Any]) -> Plan:
    connection: Any = archive.database._connection()
    cursor = connection._raw.cursor()
    cursor.execute("SET plan_cache_mode TO force_generic_plan")
    spelled = connection._spell(statement, params)
    cursor.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + spelled)
    [[found]] = cursor.fetchall()
    [explained] = json.loads(found) if isinstance(found, str) else found
    indexes: set[str] = set()
    whole: set[str] = set()
    rows = pages = most_sorted = 0
    waiting = [explained["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", ())
        loops = node["Actual Loops"]
        if "Relation Name" in node or "Index Name" in node:
            # Entries of an index that were passed over are counted nowhere, but their pages are.
            pages += node["Shared Hit Blocks"] + node["Shared Read Blocks"]
            removed = node.get("Rows Removed by Filter", 0)
            removed += node.get("Rows Removed by Index Recheck", 0)
            rows += round((node["Actual Rows"] + removed) * loops)
        if "Index Name" in node:
            indexes.add(node["Index Name"])
        elif "Relation Name" in node and node["Node Type"] != "Bitmap Heap Scan":
            whole.add(node["Relation Name"])
        if node["Node Type"] in ("Sort", "Incremental Sort"):
            below = next(one for one in node["Plans"] if one["Parent Relationship"] == "Outer")
            most_sorted = max(most_sorted, round(below["Actual Rows"] * below["Actual Loops"]))
    return Plan(indexes, whole, rows, pages, most_sorted, explained["Execution Time"])


def ask(archive: Archive, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    asked: list[tuple[Statement, dict[str, Any]]] = []
    fetch = archive.database.fetch

    def record(statement: Statement, *, durable: bool = True, **params: Any) -> list[Any]:
        asked.append((statement, params))
        return fetch(statement, durable=durable, **params)

    with monkeypatch.context() as patch:
        patch.setattr(archive.database, "fetch", record)
        QUERIES[name](archive)
    assert asked, "it asks the database"
    return [explain(archive, statement, params) for statement, params in asked]


INDEXES = {
    "runs": {"runs_pkey"},
    "runs, a page in the middle": {"runs_pkey"},
    "runs of a day": {"runs_pkey"},
    "runs of a status": {"runs_by_status"},
    "runs of a pipeline": {"runs_by_slug"},
    "runs of a rare pipeline": {"runs_by_slug"},
    "runs of a pipeline on a day": {"runs_by_slug"},
    "runs of a pipeline in a status": {"runs_by_slug_status"},
    "runs of a starter": {"runs_by_starter"},
    "runs of a rare starter": {"runs_by_starter"},
    "runs of a starter in a status": {"runs_by_starter"},
    "runs of a starter and a pipeline": {"runs_by_starter"},
    "runs of all three": {"runs_by_starter"},
    "runs at the top": {"runs_top"},
    "runs at the top in a status": {"runs_top"},
    "runs at the top of a pipeline": {"runs_top"},
    "runs of a parent": {"runs_by_parent"},
    "runs in sight": {"runs_by_slug", "pipeline_versions_slug_number"},
    "runs in a wide sight": {"runs_by_slug", "pipeline_versions_slug_number"},
    "runs in no sight": {"runs_by_slug", "pipeline_versions_slug_number"},
    "runs in sight in a status": {"runs_by_slug_status", "pipeline_versions_slug_number"},
    "runs in sight at the top": {"runs_top", "pipeline_versions_slug_number"},
    "runs in sight of a starter": {"runs_by_starter"},
    "runs in sight of a pipeline": {"runs_by_slug"},
    "runs in sight of a parent": {"runs_by_parent"},
    "a run": {"runs_pkey", "run_payloads_pkey"},
    "a run in sight": {"runs_pkey", "run_payloads_pkey"},
    "its steps": {"steps_pkey", "step_payloads_pkey"},
    "a step": {"steps_pkey", "step_payloads_pkey"},
    "its items": {"steps_pkey", "step_payloads_pkey"},
    "its failed items": {"steps_pkey"},
    "its decisions": {"decisions_pkey"},
    "its events": {"events_pkey"},
    "its children": {"runs_by_parent"},
    "its questions": {"pauses_of_run"},
    "its notices": set(),
    "how far runs are": {"runs_pkey"},
    "the inbox": {"pauses_open"},
    "the inbox of a user": {"pauses_open"},
    "the inbox of a role": {"pauses_open"},
    "the inbox of nobody": {"pauses_open"},
    "the inbox in sight": {"pauses_open"},
    "the inbox of an administrator": {"pauses_open"},
    "the inbox's mark": {"pauses_open"},
}

# These read the newest page of every slug or status, here with a visit to the table for each row.
MOST_PAGES = {
    "runs of a starter": 2_200,
    "runs at the top": 3_000,
    "runs in a wide sight": 2_700,
}
MOST_ROWS = {
    # each slug, in each status, has its newest page looked at
    "runs of a starter": 2 * SLUGS * PAGE,
    "runs at the top": 2 * SLUGS * PAGE,
    "runs at the top in a status": 2 * SLUGS * PAGE,
    "runs in a wide sight": 2 * SLUGS * PAGE,
    "runs in sight": 10 * PAGE,
    "runs in sight in a status": 10 * PAGE,
    "runs in sight at the top": 10 * PAGE,
    "runs in sight of a starter": 10 * PAGE,
    # a foreach of the run has 5,000
    "its failed items": 5_100,
    "its events": 1_100,
    # all of them are looked at for the few that are found
    **{name: QUESTIONS + PAGE for name in QUERIES if "inbox" in name or name == "its questions"},
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_reads_the_right_index(
    archive: Archive, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = ask(archive, name, monkeypatch)
    used = set[str]().union(*(plan.indexes for plan in plans))
    rows = sum(plan.rows for plan in plans)
    pages = sum(plan.pages for plan in plans)
    spent = sum(plan.milliseconds for plan in plans)
    print(f"{name:34} {rows:6} rows {pages:5} pages {spent:6.2f} ms  {sorted(used)}")
    assert INDEXES[name] <= used
    assert not set[str]().union(*(plan.tables_read_whole for plan in plans))
    assert rows <= MOST_ROWS.get(name, 10 * PAGE)
    # Of some 60,000 that there are.
    assert pages <= MOST_PAGES.get(name, 1_500)
    assert max(plan.most_sorted for plan in plans) <= MOST_ROWS.get(name, PAGE)
