"""The view of a run: one line for each step that ended, on a terminal also what works now.

Decides nothing; draws on captured streams. Run by pytest.
"""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from iaflow.cli.watching import Seen, Watch, step_line
from iaflow.data.records import NO_INDEX, ItemCounts, StepRecord
from iaflow.data.status import StepStatus
from iaflow.pipeline.executors.local import Observation

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def saw(kind: str, step_id: str, status: str, **more: object) -> Observation:
    return Observation(kind, "run", step_id, NO_INDEX, 1, status, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "text"),
    (
        (Seen("a", NO_INDEX, "succeeded", 1, 0.5), "✓ succeeded  a        0.50 s"),
        (Seen("ab", 3, "failed", 2, 61, "X: bad."), "✗ failed     ab[3]  1 min 01 s  attempt 2  X: bad"),
        (Seen("abc", NO_INDEX, "retrying", 1, 0.1, "X"), "↻ retrying   abc      0.10 s  attempt 1  X"),
        (Seen("a", NO_INDEX, "waiting", 1), "‖ waiting    a"),
        (Seen("a", NO_INDEX, "skipped", 1, 0, "x" * 200), f"» skipped    a        0.00 s  {'x' * 99}…"),
    ),
)  # fmt: skip
def test_the_line_that_stays(seen: Seen, text: str) -> None:
    assert step_line(seen, 3).plain == text


def test_without_a_terminal_each_end_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(["a", "b"]) as watch:
        watch.observe(saw("started", "a", "running"))
        watch.observe(saw("progress", "a", "running", fraction=0.5))
        watch.observe(saw("ended", "a", "succeeded", seconds=1.0))
        watch.observe(saw("waiting", "b", "waiting", seconds=0.0))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [row.split()[:3] for row in captured.err.splitlines()] == [
        ["✓", "succeeded", "a"],
        ["‖", "waiting", "b"],
    ]


def test_a_quiet_view_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(["a"], quiet=True) as watch:
        watch.observe(saw("ended", "a", "succeeded"))
    assert capsys.readouterr() == ("", "")


def test_rows_of_a_run_elsewhere_are_shown_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    def row(status: StepStatus, attempt: int) -> StepRecord:
        end = NOW + timedelta(seconds=2) if status is StepStatus.SUCCEEDED else None
        return StepRecord(
            "run", "a", NO_INDEX, status, None, attempt, 0, "w", False, None, NOW, end
        )

    with Watch(["a"]) as watch:
        for _ in range(3):
            watch.observe_records([row(StepStatus.RUNNING, 1)])
            watch.observe_records([row(StepStatus.RETRYING, 1)])
        for _ in range(3):
            watch.observe_records([row(StepStatus.SUCCEEDED, 2)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].split() == ["✓", "succeeded", "a", "2.00", "s", "attempt", "2"]
    assert sum("succeeded" in line for line in lines) == 1


def test_on_a_terminal_working_steps_show_their_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    console = Console(file=sys.stderr, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("iaflow.cli.watching.errors", lambda: console)
    with Watch([f"s{k}" for k in range(20)]) as watch:
        for k in range(20):
            watch.observe(saw("started", f"s{k}", "running"))
        watch.observe(saw("progress", "s0", "running", fraction=0.25, message="a\x1b[2Jb"))
        with console.capture() as drawn:
            console.print(watch._draw())
    text = drawn.get()
    assert "s0 " in text
    assert " 25%" in text
    assert "\x1b[2J" not in text
    assert "… and 8 more" in text
    assert "0 steps ended" in text
    assert "\x1b[?25h" in capsys.readouterr().err, "the cursor is shown again"


def test_items_are_counted_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def item(index: int, status: str) -> Observation:
        return Observation("ended", "run", "each", index, 1, status, 0.1, "X: wet")

    with Watch(["each"], run_id="run") as watch:
        watch.observe(saw("fanned", "each", "running", items=30))
        for k in range(30):
            watch.observe(item(k, "failed" if k % 2 else "succeeded"))
        # What a run below does is its own affair, unless it fails or waits.
        watch.observe(Observation("ended", "below", "deep", NO_INDEX, 1, "succeeded"))
        watch.observe(Observation("ended", "below", "broken", NO_INDEX, 1, "failed"))
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[2] for line in lines] == [f"each[{k}]" for k in range(1, 21, 2)] + [
        "each",
        "broken",
    ]
    assert lines[-2][:2] == ["!", "ended"]
    assert " ".join(lines[-2]).endswith("30 items: 15 succeeded, 15 failed")


def test_a_foreach_elsewhere_is_one_line_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    def row(status: StepStatus, done: int) -> StepRecord:
        counts = ItemCounts(total=30, started=30, ended=done, succeeded=done)
        return StepRecord(
            "run", "each", NO_INDEX, status, None, 1, 0, "w", False, None, NOW, NOW, items=counts
        )

    with Watch(["each"]) as watch:
        for done in range(30):
            watch.observe_records([row(StepStatus.RUNNING, done)])
        watch.observe_records([row(StepStatus.SUCCEEDED, 30)])
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("30 items: 30 succeeded")
