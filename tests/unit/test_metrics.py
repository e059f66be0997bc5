"""What is counted, where it is kept over forks and deaths, how it is written for Prometheus."""

from __future__ import annotations

import gc
import os
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from iaflow import metrics
from iaflow.data import records


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    metrics.begin_counting(tmp_path)
    yield tmp_path
    metrics.end_counting()
    # The library keeps the files of a process open to its end.
    for one in gc.get_objects():
        if isinstance(one, MmapedDict):
            one.close()


def read(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f",{name}={word}" for name, word in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def count_everything() -> None:
    metrics.count_claim()
    metrics.observe_queue_wait(0.2)
    metrics.observe_attempt(records.Succeeded({}, "{}"), 0.3)
    metrics.observe_attempt(None, 0.3)
    metrics.count_rescue()
    metrics.count_republished(3)
    metrics.count_released(is_stopped=True)
    metrics.count_released(is_stopped=False)
    metrics.count_publish_failure(2)
    metrics.observe_sweep(0.01)
    metrics.count_run_end("failed")
    metrics.count_answer()


COUNTED = {
    "iaflow_claims_total": 1,
    "iaflow_attempts_total,outcome=succeeded": 1,
    "iaflow_attempts_total,outcome=lost": 1,
    "iaflow_attempts_total,outcome=paused": 0,
    "iaflow_attempt_seconds_count": 2,
    "iaflow_attempt_seconds_sum": 0.6,
    "iaflow_attempt_seconds_bucket,le=0.25": 0,
    "iaflow_attempt_seconds_bucket,le=0.5": 2,
    "iaflow_queue_wait_seconds_count": 1,
    "iaflow_rescues_total": 1,
    "iaflow_republished_total": 3,
    "iaflow_released_total,reason=stopped": 1,
    "iaflow_released_total,reason=obstacle": 1,
    "iaflow_publish_failures_total": 2,
    "iaflow_sweep_seconds_count": 1,
    "iaflow_runs_ended_total,status=failed": 1,
    "iaflow_runs_ended_total,status=succeeded": 0,
    "iaflow_answers_total": 1,
}


def in_a_child(times: int = 1) -> int:
    """Count in a forked process, as a child of a worker does; return its id, which is gone."""
    pid = os.fork()
    if pid == 0:
        for _ in range(times):
            count_everything()
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_every_outcome_has_its_word() -> None:
    """The words are those of the closed set of outcomes, so that labels stay few."""
    kinds = {kind.__name__.lower() for kind in records.Outcome.__args__}
    assert {*kinds, "lost"} == set(metrics.OUTCOMES)


def test_nothing_is_counted_before_it_begins() -> None:
    """And it costs next to nothing: an embedded run pays for no metrics."""
    count_everything()
    assert timeit.timeit(metrics.count_claim, number=10_000) / 10_000 < 5e-6


def test_what_is_counted_is_shown(folder: Path) -> None:
    count_everything()
    shown = read(metrics.render_counts(folder))
    assert {name: shown.get(name) for name in COUNTED} == pytest.approx(COUNTED)


def test_processes_are_added_up(folder: Path) -> None:
    count_everything()
    in_a_child()
    in_a_child(2)
    shown = read(metrics.render_counts(folder))
    wanted = {name: 4 * value for name, value in COUNTED.items()}
    assert {name: shown.get(name) for name in wanted} == pytest.approx(wanted)


def test_the_files_of_the_dead_become_one_and_keep_what_they_counted(folder: Path) -> None:
    count_everything()
    for _ in range(5):
        in_a_child()
        before = read(metrics.render_counts(folder))
        assert metrics.fold_ended_processes(folder) == 2
        assert read(metrics.render_counts(folder)) == pytest.approx(before)
    assert read(metrics.render_counts(folder))["iaflow_claims_total"] == 6
    # A pair for this process, a pair for all the others.
    assert len(list(folder.glob("*.db"))) == 4
    assert metrics.fold_ended_processes(folder) == 0


def test_counting_ends(folder: Path) -> None:
    metrics.end_counting()
    count_everything()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_figures_are_written() -> None:
    gauges = [
        metrics.Gauge("a_steps", "Steps.", {'x"y\n': 2.0, "z": 0.5}, "queue"),
        metrics.Gauge("b_steps", "More.", {"": 7.0}),
    ]
    text = metrics.render_gauges(gauges)
    assert "# TYPE a_steps gauge" in text
    assert read(text) == {'a_steps,queue=x"y\n': 2.0, "a_steps,queue=z": 0.5, "b_steps": 7.0}
