"""The view of a run on its way: a line for each step that ended, and what works now.

Decides what a reader sees while steps work; never looks at a store and never waits. Told by
the executor (observations) or by who polls (records).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from iaflow.cli.terminal import as_clause, errors, format_seconds, line, status_text
from iaflow.data.records import NO_INDEX, ItemCounts, StepRecord
from iaflow.data.status import END_OF_STEP, StepStatus
from iaflow.explaining import describe_items

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    from iaflow.pipeline.executors.local import Observation

__all__ = ["Seen", "Watch", "open_watch", "step_line"]

FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
REFRESHES_PER_SECOND: Final = 12
BAR_CELLS: Final = 20
LONGEST_ID: Final = 40
LONGEST_MESSAGE: Final = 100
"""Letters of a message in a step's line; the end of the run, and `show`, say it in full."""
FAILURES_SHOWN: Final = 10
"""Failed items of a step that have a line each."""
ROWS_SHOWN: Final = 12
"""Working steps shown at once; beyond them only their number."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A step as the view knows it; `began` is on the console's own clock, in seconds."""

    step_id: str
    index: int
    status: str
    attempt: int
    seconds: float | None = None
    message: str | None = None
    fraction: float | None = None
    began: float = 0.0

    @property
    def label(self) -> str:
        """The step's id, with the item's index if it is one of a foreach."""
        return self.step_id if self.index == NO_INDEX else f"{self.step_id}[{self.index}]"


def step_line(seen: Seen, width: int) -> Text:
    """Return the line that stays for a step: sign, word, id, time, attempt, message."""
    parts: list[str | tuple[str, str] | Text] = [
        status_text(seen.status, width=9),
        f"  {seen.label:<{width}}",
    ]
    parts.append(f"  {format_seconds(seen.seconds):>10}" if seen.seconds is not None else " " * 12)
    if seen.attempt > 1 or seen.status == StepStatus.RETRYING:
        parts.append((f"  attempt {seen.attempt}", "yellow"))
    if seen.message:
        parts.append((f"  {_clip(as_clause(seen.message))}", "dim"))
    text = line(*parts)
    text.rstrip()
    return text


@dataclass(slots=True)
class _Tally:
    """How far the items of a foreach are, as an executor tells one by one."""

    total: int
    began: float
    ended: Counter[str] = field(default_factory=Counter)
    waiting: set[int] = field(default_factory=set)
    told: bool = False

    def __str__(self) -> str:
        parts = [f"{self.ended[word]:,} {word}" for word in _ENDS if self.ended[word]]
        parts += [f"{len(self.waiting):,} waiting"] if self.waiting else []
        return ": ".join(filter(None, [f"{self.total:,} items", ", ".join(parts)]))


class Watch:
    """
    Shows a run on stderr: lines that stay, and on a terminal below them what works now.

    The items of a foreach are one line that counts; of those that fail, some have their own. Of
    the runs below it, only what fails or waits has a line.

    Args:
        step_ids: the ids of the definition, for the width of their column.
        quiet: show nothing at all.
        run_id: the run that is looked at; None: whatever is told.
    """

    def __init__(
        self, step_ids: Iterable[str], *, quiet: bool = False, run_id: str | None = None
    ) -> None:
        ids = list(step_ids)
        self._width = min(max(map(len, ids), default=0), LONGEST_ID)
        self._quiet = quiet
        self._console = errors()
        self._run_id = run_id
        self._working: dict[tuple[str, str, int], Seen] = {}
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._failed_items: Counter[str] = Counter()
        self._told: dict[tuple[str, int], tuple[str, int]] = {}
        self._ended = 0
        self._began = self._console.get_time()
        self._live = None if quiet or not self._console.is_terminal else self._make_live()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._working.clear()
        for (_, step_id), tally in self._tallies.items():
            self._tell_items(step_id, tally)
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """How long the view has been open."""
        return self._console.get_time() - self._began

    def observe(self, happening: Observation) -> None:
        """Take in what an executor tells."""
        key = (happening.run_id, happening.step_id, happening.index)
        is_below = self._run_id is not None and happening.run_id != self._run_id
        seen = Seen(
            happening.step_id,
            happening.index,
            happening.status,
            happening.attempt,
            happening.seconds,
            happening.message,
            happening.fraction,
        )
        if happening.kind in ("started", "progress"):
            before = self._working.get(key)
            began = before.began if before else self._console.get_time()
            self._working[key] = replace(seen, began=began)
            return
        self._working.pop(key, None)
        tally = self._tallies.get(key[:2])
        if happening.kind == "fanned":
            self._tallies[key[:2]] = _Tally(happening.items or 0, self._console.get_time())
        elif happening.index != NO_INDEX and tally is not None:
            self._count(tally, seen)
        elif not is_below or happening.status in _WORTH_KNOWING:
            self._settle(seen)

    def _count(self, tally: _Tally, seen: Seen) -> None:
        """Count an item that ended; of those that failed, the first ones have a line each."""
        if seen.status == StepStatus.WAITING:
            tally.waiting.add(seen.index)
        if seen.status not in END_OF_STEP:
            return
        tally.waiting.discard(seen.index)
        tally.ended[seen.status] += 1
        if seen.status == StepStatus.FAILED:
            self._failed_items[seen.step_id] += 1
            if self._failed_items[seen.step_id] <= FAILURES_SHOWN:
                self._print(seen)
        if tally.ended.total() == tally.total:
            self._tell_items(seen.step_id, tally)

    def _tell_items(self, step_id: str, tally: _Tally) -> None:
        if tally.told:
            return
        tally.told = True
        over = tally.ended.total() == tally.total
        status = str(StepStatus.SUCCEEDED if over else StepStatus.RUNNING)
        if tally.waiting:
            status = str(StepStatus.WAITING)
        if tally.ended[StepStatus.FAILED]:
            # Whether so many may fail is the step's affair, which the end of the run tells.
            status = "ended"
        seconds = self._console.get_time() - tally.began
        self._print(Seen(step_id, NO_INDEX, status, 1, seconds, str(tally)))
        self._ended += over

    def observe_records(self, records: Iterable[StepRecord]) -> None:
        """Take in the rows of a run that works elsewhere; what was shown is not shown again."""
        for record in records:
            key = (record.run_id, record.step_id, record.index)
            attempt = record.attempt - record.worker_losses
            seen = Seen(record.step_id, record.index, str(record.status), attempt)
            if record.items is not None:
                seen = replace(seen, message=describe_items(record.items), attempt=1)
            state = (f"{record.status} {seen.message or ''}", attempt)
            if self._told.get(key[1:]) == state:
                continue
            self._told[key[1:]] = state
            if record.status is StepStatus.RUNNING:
                before = self._working.get(key)
                began = before.began if before else self._console.get_time()
                fraction = _fraction(record.items)
                self._working[key] = replace(seen, began=began, fraction=fraction)
                continue
            self._working.pop(key, None)
            if record.status in END_OF_STEP or record.status in _WORTH_A_LINE:
                message = "; ".join(filter(None, [_fault(record), seen.message])) or None
                self._settle(replace(seen, seconds=_seconds(record), message=message))

    def _settle(self, seen: Seen) -> None:
        self._ended += seen.status in END_OF_STEP
        self._print(seen)

    def _print(self, seen: Seen) -> None:
        if not self._quiet:
            self._console.print(step_line(seen, self._width), soft_wrap=True)

    # -- the moving part

    def _make_live(self) -> Live:
        from rich.live import Live

        return Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            # What steps print goes above the view, but only where it would disturb it.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def _draw(self) -> RenderableType:
        from rich.console import Group

        now = self._console.get_time()
        # A copy: observations come from another thread than the one that draws.
        working = [
            seen
            for key, seen in list(self._working.items())
            if seen.index == NO_INDEX or key[:2] not in self._tallies
        ]
        for (_, step_id), tally in list(self._tallies.items()):
            if not tally.told:
                fraction = tally.ended.total() / max(tally.total, 1)
                row = Seen(step_id, NO_INDEX, "running", 1, None, str(tally), fraction, tally.began)
                working.append(row)
        rows = [self._draw_working(seen, now) for seen in working[:ROWS_SHOWN]]
        if len(working) > ROWS_SHOWN:
            rows.append(line((f"  … and {len(working) - ROWS_SHOWN} more", "dim")))
        took = format_seconds(now - self._began)
        ended = f"{self._ended} step{'' if self._ended == 1 else 's'} ended"
        rows.append(line((f"  {ended} · {took}", "dim")))
        return Group(*rows)

    def _draw_working(self, seen: Seen, now: float) -> Text:
        frame = FRAMES[int(now * REFRESHES_PER_SECOND) % len(FRAMES)]
        parts: list[str | tuple[str, str] | Text] = [
            (f"{frame} {'running':<9}", "cyan"),
            f"  {seen.label:<{self._width}}",
            f"  {format_seconds(now - seen.began):>10}",
        ]
        if seen.attempt > 1:
            parts.append((f"  attempt {seen.attempt}", "yellow"))
        if seen.fraction is not None:
            full = round(seen.fraction * BAR_CELLS)
            parts += [
                "  ",
                ("━" * full, "cyan"),
                ("━" * (BAR_CELLS - full), "dim"),
                f" {seen.fraction:4.0%}",
            ]
        if seen.message:
            parts.append((f"  {as_clause(seen.message)}", "dim"))
        text = line(*parts)
        text.no_wrap = True
        text.overflow = "ellipsis"
        return text


_WORTH_A_LINE: Final = frozenset({StepStatus.WAITING, StepStatus.RETRYING})
_WORTH_KNOWING: Final = frozenset({StepStatus.WAITING, StepStatus.FAILED})
_ENDS: Final = tuple(str(status) for status in StepStatus if status in END_OF_STEP)


def open_watch(step_ids: Iterable[str], *, as_json: bool, run_id: str) -> Watch:
    """Return a view on stderr; with `--json` only a person at the terminal gets one."""
    return Watch(step_ids, quiet=as_json and not errors().is_terminal, run_id=run_id)


def _fraction(items: ItemCounts | None) -> float | None:
    return None if items is None else items.ended / max(items.total, 1)


def _clip(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…"


def _seconds(record: StepRecord) -> float | None:
    if record.started_at is None or record.finished_at is None:
        return None
    return (record.finished_at - record.started_at).total_seconds()


def _fault(record: StepRecord) -> str | None:
    if not record.error:
        return None
    return f"{record.error.get('code')}: {record.error.get('message', '')}"
