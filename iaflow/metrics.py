"""Metrics: what worker processes count, and how figures are written for Prometheus.

Decides names, labels and buckets; never reads a database, listens or says where counts are
kept. Counted by workers, shown by their metrics server and by the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily

__all__ = [
    "OUTCOMES",
    "Gauge",
    "begin_counting",
    "count_answer",
    "count_claim",
    "count_publish_failure",
    "count_released",
    "count_republished",
    "count_rescue",
    "count_run_end",
    "end_counting",
    "fold_ended_processes",
    "observe_attempt",
    "observe_queue_wait",
    "observe_sweep",
    "render_counts",
    "render_gauges",
]

OUTCOMES: Final = (
    "succeeded",
    "failed",
    "skipped",
    "paused",
    "timed",
    "spawned",
    "fanned",
    "released",
    "lost",
)
"""How an attempt ends: the outcome's kind, or `lost` if its claim was taken from it."""

# Steps last from a millisecond to hours; a bucket costs one series, a lock and a write nothing.
ATTEMPT_BUCKETS: Final = (
    *(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    *(30, 60, 300, 900, 3600, 14_400),
)
WAIT_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
SWEEP_BUCKETS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)

_ENDED: Final = "ended"
"""Stands where a process id stands in the name of the file of those that have ended."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """
    A figure that is read, not counted.

    Attributes:
        label: the name of the one label; empty: the figure has none.
        values: the value for each value of the label; under "" if there is no label.
    """

    name: str
    help: str
    values: Mapping[str, float] = field(default_factory=dict)
    label: str = ""


# --- counting: each call costs microseconds in a worker that counts, else next to nothing


def count_claim() -> None:
    """Count a step that a worker took."""
    if _instruments is not None:
        _instruments.claims.inc()


def observe_queue_wait(seconds: float) -> None:
    """Note how long a step was ready, published and unclaimed."""
    if _instruments is not None:
        _instruments.queue_wait.observe(max(0.0, seconds))


def observe_attempt(outcome: object, seconds: float) -> None:
    """
    Count an attempt that ended, and note how long it took.

    Why no label for pipeline or step: definitions come with every version, and whoever may
    import makes new ones; with a histogram each would be some twenty series for ever.

    Args:
        outcome: what the attempt returned (`Succeeded`, …); None: its claim was lost.
    """
    if _instruments is not None:
        word = "lost" if outcome is None else type(outcome).__name__.lower()
        _instruments.attempts.labels(word if word in OUTCOMES else "failed").inc()
        _instruments.attempt_seconds.observe(max(0.0, seconds))


def count_rescue() -> None:
    """Count a step that was taken from a worker which was lost."""
    if _instruments is not None:
        _instruments.rescues.inc()


def count_republished(messages: int) -> None:
    """Count messages that were sent once more, because nobody had followed the first."""
    if _instruments is not None and messages:
        _instruments.republished.inc(messages)


def count_released(*, is_stopped: bool) -> None:
    """Count a step that was given back: its worker stops, or meets an obstacle of its own."""
    if _instruments is not None:
        _instruments.released.labels("stopped" if is_stopped else "obstacle").inc()


def count_publish_failure(messages: int = 1) -> None:
    """Count messages that the broker did not take; the sweep sends others."""
    if _instruments is not None:
        _instruments.publish_failures.inc(messages)


def observe_sweep(seconds: float) -> None:
    """Note how long a sweep took that this process did itself."""
    if _instruments is not None:
        _instruments.sweep_seconds.observe(max(0.0, seconds))


def count_run_end(status: str) -> None:
    """Count a run that a worker brought to its end: `succeeded`, `failed` or `cancelled`."""
    if _instruments is not None:
        _instruments.runs_ended.labels(status).inc()


def count_answer() -> None:
    """Count an answer, or a signal, that a worker let take effect."""
    if _instruments is not None:
        _instruments.answers.inc()


# --- where counts are kept


def begin_counting(folder: Path) -> None:
    """
    Count from now on, in this process and in those that it forks: each in a file in `folder`.

    Why files: the processes that work are children, and the one that answers Prometheus is
    their parent. What steps count with `prometheus_client` is kept there too.
    """
    global _instruments  # noqa: PLW0603  what a process counts is one thing, as its environment is
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    from prometheus_client import values

    # Somebody may have imported the library before, and it looks at the variable only then.
    values.ValueClass = values.MultiProcessValue()
    _instruments = _Instruments()


def end_counting() -> None:
    """Count no more; the files stay for whoever made their folder."""
    global _instruments  # noqa: PLW0603  see begin_counting
    _instruments = None
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    from prometheus_client import values

    values.ValueClass = values.MutexValue


def fold_ended_processes(folder: Path) -> int:
    """
    Add up the counts of processes that have ended in one file each kind; return how many files.

    Without it a worker whose children are replaced would keep their files for ever, and read
    more of them at every scrape. To be called by one thread of one process.
    """
    from prometheus_client.mmap_dict import MmapedDict
    from prometheus_client.multiprocess import mark_process_dead

    folded = 0
    for path in sorted(folder.glob("*_*.db")):
        kind, _, owner = path.stem.rpartition("_")
        if not owner.isdigit() or _is_running(int(owner)):
            continue
        if kind.startswith("gauge_live"):
            mark_process_dead(int(owner), str(folder))
        elif kind in ("counter", "histogram", "summary"):
            kept = MmapedDict(str(folder / f"{kind}_{_ENDED}.db"))
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                kept.write_value(key, kept.read_value(key)[0] + value, 0.0)
            kept.close()
            path.unlink()
        else:
            continue
        folded += 1
    return folded


# --- writing for Prometheus


def render_counts(folder: Path) -> str:
    """Return what all processes that count in `folder` have counted, as text for Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return generate_latest(registry).decode()


def render_gauges(gauges: Iterable[Gauge]) -> str:
    """Return figures as text for Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Figures(list(gauges)))
    return generate_latest(registry).decode()


class _Figures:
    def __init__(self, gauges: list[Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        for gauge in self._gauges:
            labels = [gauge.label] if gauge.label else []
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=labels)
            for word, value in gauge.values.items():
                family.add_metric([word] if gauge.label else [], value)
            yield family


class _Instruments:
    """All that is counted; made anew when a process begins to count."""

    def __init__(self) -> None:
        self.claims = _counter("iaflow_claims", "Steps that workers took.")
        self.attempts = _counter("iaflow_attempts", "Attempts that ended.", "outcome")
        self.attempt_seconds = _histogram(
            "iaflow_attempt_seconds", "Time from claim to outcome of an attempt.", ATTEMPT_BUCKETS
        )
        self.queue_wait = _histogram(
            "iaflow_queue_wait_seconds", "Time from ready to claimed of a step.", WAIT_BUCKETS
        )
        self.rescues = _counter("iaflow_rescues", "Steps taken from workers that were lost.")
        self.republished = _counter("iaflow_republished", "Messages that were sent once more.")
        self.released = _counter("iaflow_released", "Steps that workers gave back.", "reason")
        self.publish_failures = _counter(
            "iaflow_publish_failures", "Messages that the broker did not take."
        )
        self.sweep_seconds = _histogram(
            "iaflow_sweep_seconds", "Time that a sweep took.", SWEEP_BUCKETS
        )
        self.runs_ended = _counter(
            "iaflow_runs_ended", "Runs that workers brought to their end.", "status"
        )
        self.answers = _counter("iaflow_answers", "Answers and signals that took effect.")
        # A series that begins with its first event hides that event from rate().
        for word in OUTCOMES:
            self.attempts.labels(word)
        for reason in ("stopped", "obstacle"):
            self.released.labels(reason)
        for status in ("succeeded", "failed", "cancelled"):
            self.runs_ended.labels(status)


_instruments: _Instruments | None = None


def _counter(name: str, text: str, *labels: str) -> Counter:
    from prometheus_client import Counter

    # In no registry: what is shown is read from the files of all processes.
    return Counter(name, text, labels, registry=None)


def _histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
    from prometheus_client import Histogram

    return Histogram(name, text, buckets=buckets, registry=None)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
