"""The benchmark scripts work: tiny sizes, real servers and workers, every contender.

Judges no time: on a machine that runs tests there is nothing to be learned from one.
"""

import json
import subprocess
import sys

import pytest

from benchmarks.lists import QUERIES
from tests.servers.worker import ROOT

TINY = ["--rounds", "1", "--chain", "5", "--short-chain", "3", "--runs", "2", "--width", "4"]


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *TINY, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.mark.slow
def test_every_contender_runs_every_workload() -> None:
    done = run_benchmarks("--json", "W1", "W2", "W3", "W4")

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    *compared, per_step = lines
    assert {(one["workload"], one["reference"]) for one in compared} == {
        ("W1", "celery-self"),
        ("W1", "celery-canvas"),
        ("W2", "celery-self"),
        ("W2", "celery-canvas"),
        ("W3", "celery-canvas"),
        ("W4-sqlite-full", "bare-sqlite"),
        ("W4-sqlite-full", "bare-sqlite-claims"),
        ("W4-memory", "bare-sqlite"),
        ("W4-memory", "bare-sqlite-claims"),
    }
    for one in compared:
        assert one["ratio"] > 0
        assert one["iaflow"] > 0
        assert one["peer"] > 0
        assert one["n"] == 1
        assert one["events"] is False
    assert per_step["statements"] > 0
    assert per_step["commits"] >= 2, "a claim and a settle are a commit each"


@pytest.mark.slow
def test_scaling_and_history_are_measured() -> None:
    done = run_benchmarks(
        *("--json", "--history", "4000", "--processes", "2"), "scaling", "history"
    )

    assert done.returncode == 0, done.stderr
    compared = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(one["workload"], one["reference"], one["bar"]) for one in compared} == {
        ("scaling-children", "one-process", 7.0),
        ("scaling-mains", "one-process", 7.0),
        ("history-runs", "no-history", 1.1),
        ("history-run", "no-history", 1.1),
    }
    assert all(one["iaflow"] > 0 and one["peer"] > 0 for one in compared)


@pytest.mark.slow
def test_a_web_process_is_measured_under_load() -> None:
    load = ("--streams", "12", "--requests", "12", "--seconds", "3")
    done = run_benchmarks("--json", *load, "web")

    assert done.returncode == 0, done.stderr
    (compared,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (compared["workload"], compared["reference"]) == ("web", "goal")
    told = [line for line in done.stderr.splitlines() if line.startswith("web: {")][-1]
    served = json.loads(told.removeprefix("web: "))
    assert served["requests"] == 36
    assert served["refused"] == {}
    assert set(served["p99_ms_by_kind"]) >= {"start", "run", "steps", "events", "list", "inbox"}
    assert served["events"] > 0


@pytest.mark.slow
def test_every_list_is_measured() -> None:
    done = run_benchmarks("--json", "--history", "2000", "lists")

    assert done.returncode == 0, done.stderr
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["query"] for one in listed} == set(QUERIES)
    assert all(one["milliseconds"] > 0 and one["bar"] == 50.0 for one in listed)


def test_an_unknown_workload_is_refused() -> None:
    done = run_benchmarks("W99")

    assert done.returncode == 2
    assert "W99" in done.stderr
