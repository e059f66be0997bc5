"""``python -m benchmarks [--json] [--rounds N] [--events] [W1 W2 W3 W4 scaling history lists web]``.

Decides what is printed; never what is measured. Called from a shell and by the smoke test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from benchmarks.lists import MOST_MILLISECONDS, measure_lists
from benchmarks.serving import Load
from benchmarks.workloads import (
    Comparison,
    Sizes,
    measure_embedded,
    measure_history,
    measure_on_workers,
    measure_scaling,
    measure_serving,
)
from tests.servers import ServerRoom

__all__ = ["main"]

ON_WORKERS = ("W1", "W2", "W3")
ALL = (*ON_WORKERS, "W4", "scaling", "history", "lists", "web")
PACKAGES = ("celery", "kombu", "redis", "psycopg2-binary", "SQLAlchemy")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0; 1 if a bar was missed and `--check` asked for them."""
    asked = read_arguments(argv)
    load = Load(asked.seconds, asked.streams, asked.requests)
    sizes = Sizes(
        asked.chain,
        asked.short_chain,
        asked.runs,
        asked.width,
        asked.history,
        asked.processes,
        load,
    )
    room = ServerRoom()
    try:
        compared, counted = measure(room, asked, sizes)
        listed: dict[str, float] = {}
        if "lists" in asked.workloads:
            listed = measure_lists(room, runs=asked.history, rounds=asked.rounds)
    finally:
        room.close()
    if asked.json:
        for one in compared:
            print(json.dumps(describe(one)))
        if counted:
            print(json.dumps({"workload": "per-step", **counted}))
        for name, spent in listed.items():
            figures = {"milliseconds": round(spent, 2), "bar": MOST_MILLISECONDS}
            print(json.dumps({"workload": "lists", "query": name, **figures}))
    else:
        if compared or counted:
            print_table(compared, counted)
        for name, spent in listed.items():
            print(f"{name:36} {spent:8.2f} ms")
    is_slow = any(spent > MOST_MILLISECONDS for spent in listed.values())
    return int(asked.check and (is_slow or any(one.passes is False for one in compared)))


def measure(
    room: ServerRoom, asked: argparse.Namespace, sizes: Sizes
) -> tuple[list[Comparison], dict[str, float]]:
    """Measure all that was asked for."""
    compared: list[Comparison] = []
    counted: dict[str, float] = {}
    on_workers = [name for name in asked.workloads if name in ON_WORKERS]
    for events in (False, True) if asked.events else (False,):
        if on_workers:
            more, counted = measure_on_workers(
                room,
                on_workers,
                sizes=sizes,
                rounds=asked.rounds,
                events=events,
                worker_args=("--pool", asked.pool),
            )
            compared += more
    if "W4" in asked.workloads:
        folder = room.make_directory("embedded")
        compared += measure_embedded(folder, sizes=sizes, rounds=asked.rounds)
    if "scaling" in asked.workloads:
        compared += measure_scaling(room, sizes=sizes, rounds=asked.rounds)
    if "history" in asked.workloads:
        compared += measure_history(room, sizes=sizes, rounds=asked.rounds)
    if "web" in asked.workloads:
        more, served = measure_serving(room, sizes=sizes, rounds=asked.rounds)
        compared += more
        for one in served:
            print(f"web: {json.dumps(one.describe())}", file=sys.stderr, flush=True)
    return compared, counted


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(ALL)}")
    parser.add_argument("--json", action="store_true", help="one JSON line per comparison")
    parser.add_argument("--rounds", type=int, default=7, help="quiet rounds wanted (default 7)")
    parser.add_argument("--events", action="store_true", help="measure with task events on too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--pool", default="prefork", choices=("prefork", "threads"))
    for name, size in (
        ("chain", 100),
        ("short-chain", 10),
        ("runs", 200),
        ("width", 500),
        ("history", 1_000_000),
        ("streams", 200),
        ("requests", 50),
        ("seconds", 30),
        ("processes", 8),
    ):
        parser.add_argument(f"--{name}", type=int, default=size, help=f"size (default {size})")
    asked = parser.parse_args(argv)
    asked.workloads = asked.workloads or ["W1", "W2"]
    unknown = sorted(set(asked.workloads) - set(ALL))
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; there are {', '.join(ALL)}")
    return asked


def describe(one: Comparison) -> dict[str, Any]:
    """Return a comparison as an object of JSON."""
    return {
        "workload": one.workload.name,
        "reference": one.reference,
        "ratio": round(one.ratio, 3),
        "iaflow": round(one.iaflow, 4),
        "peer": round(one.peer, 4),
        "unit": one.workload.unit,
        "more_is_better": one.workload.more_is_better,
        "bar": one.bar,
        "next_bar": one.next_bar,
        "passes": one.passes,
        "cpu_ratio": None if one.cpu_ratio is None else round(one.cpu_ratio, 2),
        "events": one.events,
        "n": one.n,
        "rounds_measured": one.rounds_measured,
        "foreign": None if one.foreign is None else round(one.foreign, 3),
        "load1": round(os.getloadavg()[0], 2),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
    }


def print_table(compared: Sequence[Comparison], counted: dict[str, float]) -> None:
    """Print the comparisons for people."""
    head = (
        "workload",
        "reference",
        "iaflow",
        "peer",
        "unit",
        "ratio",
        "bar",
        "",
        "cpu",
        "n",
        "foreign",
    )
    rows = [head, *(make_row(one) for one in compared)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    if counted:
        print("iaflow sends per step:", ", ".join(f"{v:.2f} {k}" for k, v in counted.items()))


def make_row(one: Comparison) -> tuple[str, ...]:
    sign = ">=" if one.workload.more_is_better else "<="
    verdict = {True: "met", False: "MISSED", None: ""}[one.passes]
    return (
        one.workload.name + (" events" if one.events else ""),
        one.reference,
        f"{one.iaflow:.3f}",
        f"{one.peer:.3f}",
        one.workload.unit,
        f"{one.ratio:.2f}",
        "" if one.bar is None else f"{sign} {one.bar:g}",
        verdict,
        "" if one.cpu_ratio is None else f"{one.cpu_ratio:.2f}",
        f"{one.n}/{one.rounds_measured}",
        "" if one.foreign is None else f"{one.foreign:.0%}",
    )
