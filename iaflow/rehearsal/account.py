"""What happened in a simulated run, and in the runs below it: a story with times.

Decides which rows of a played run are told and in which words; never plays anything. Called by
simulations; shown by the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from iaflow.data.filters import EVERY_RUN
from iaflow.data.records import (
    NO_INDEX,
    DecisionRecord,
    EventRecord,
    PauseRecord,
    RunRecord,
    StepRecord,
)
from iaflow.data.status import END_OF_RUN, END_OF_STEP, PauseStatus, RunStatus, StepStatus
from iaflow.explaining import describe_reason
from iaflow.phrasing import as_clause, format_seconds
from iaflow.pipeline.definition import StepType
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.graph import Graph
from iaflow.rehearsal.scripts import Answer
from iaflow.rehearsal.staging import Staged

__all__ = ["Asked", "Moment", "Routed", "Simulation", "Timer", "give_account"]

MANY: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Routed:
    """A transition that was decided: why, on one line."""

    source: str
    target: str
    taken: bool
    words: str


@dataclass(frozen=True, slots=True)
class Moment:
    """
    Something that happened to a step, or to a run.

    Attributes:
        seconds: since the start.
        step: the step's id; behind ``child/`` for one in a child run; "" for the run itself, and
            ``child/`` for a child run.
        index: the item of a foreach; None for a step itself.
        count: of how many items in a row this is told at once; 1 for all else.
        status: what it became.
        words: what there is to say of it; may be empty.
        routed: what was decided on the transitions out of it.
    """

    seconds: float
    step: str
    index: int | None
    count: int
    status: str
    words: str
    routed: tuple[Routed, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """
    A question that people would be shown, or a signal that would be waited for.

    Attributes:
        step: as in `Moment`.
        signal: the name of the signal; None for a question.
        expires: seconds since the start; None: never.
        status: what became of it.
    """

    seconds: float
    step: str
    signal: str | None
    ui_schema: Mapping[str, Any]
    shown: Any
    assignees: Mapping[str, Any]
    quorum: int
    expires: float | None
    status: str


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that only time brings: `kind` is timer, expiry, retry or run_timeout."""

    kind: str
    step: str
    set_seconds: float
    due_seconds: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """
    How a simulated run went.

    Attributes:
        status, outputs, error: as of a run.
        elapsed_seconds: virtual seconds to the end, or to the last change.
        moments: the path, in order.
        asked: the forms and signals, in the order in which they came up.
        timers: in the order in which they were set.
        steps: the status of each step of the definition.
        assumed: the outputs of steps for which none was given.
        unused: answers and signals that did not count, and why.
        stopped: why the simulation could go no further; None if it could.
    """

    name: str
    began_at: datetime
    status: RunStatus
    outputs: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    elapsed_seconds: float
    moments: tuple[Moment, ...]
    asked: tuple[Asked, ...]
    timers: tuple[Timer, ...]
    steps: Mapping[str, str]
    assumed: Mapping[str, Mapping[str, Any]]
    unused: tuple[str, ...]
    stopped: str | None

    @property
    def waiting(self) -> tuple[Asked, ...]:
        """The questions and signals that are still waited for at the end."""
        return tuple(one for one in self.asked if one.status == PauseStatus.OPEN)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        described: dict[str, Any] = {
            "status": str(self.status),
            "outputs": self.outputs,
            "elapsed_seconds": self.elapsed_seconds,
            "path": [_describe_moment(one) for one in self.moments],
            "forms": [_describe_asked(one) for one in self.asked if one.signal is None],
            "events": [_describe_asked(one) for one in self.asked if one.signal is not None],
            "timers": [
                {
                    "kind": one.kind,
                    "step_id": one.step or None,
                    "set_at": one.set_seconds,
                    "due_at": one.due_seconds,
                }
                for one in self.timers
            ],
            "waiting": [one.step for one in self.waiting],
            "steps": dict(self.steps),
            "assumed": {step: dict(output) for step, output in self.assumed.items()},
            "unused": list(self.unused),
        }
        if self.error is not None:
            described["error"] = dict(self.error)
        if self.stopped is not None:
            described["stopped"] = self.stopped
        return described


def give_account(staged: Staged, *, assumed: Mapping[str, Mapping[str, Any]]) -> Simulation:
    """Return what happened; called while the run's database is open."""
    run = staged.engine.reads.run(staged.run_id)
    assert run is not None, "it was started"
    every = staged.engine.listings.runs(EVERY_RUN, limit=MANY)
    runs = sorted(every, key=lambda one: one.run_id)
    names = _name_runs(runs)
    told = [_Run(staged, one, names[one.run_id]) for one in runs]
    moments = _merge(told)
    ended = run.finished_at
    error = None
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        error = {
            "step_id": run.error_step_id,
            "code": run.error_code or str(run.status),
            "message": run.error_message or "",
        }
    own = next(one for one in told if one.run.run_id == run.run_id)
    last = max((moment.seconds for moment in moments), default=0.0)
    return Simulation(
        name=staged.graph.definition.name,
        began_at=run.created_at,
        status=run.status,
        outputs=run.outputs if run.status is RunStatus.SUCCEEDED else None,
        error=error,
        elapsed_seconds=last if ended is None else (ended - run.created_at).total_seconds(),
        moments=tuple(_fold(moments)),
        asked=tuple(_list_asked(staged, run.created_at, names)),
        timers=tuple(sorted((t for o in told for t in o.timers()), key=lambda t: t.set_seconds)),
        steps={step_id: own.status_of(step_id) for step_id in staged.graph.nodes},
        assumed=dict(assumed),
        unused=tuple(dict.fromkeys(_list_unused(staged))),
        stopped=None if staged.stopped is None else str(staged.stopped),
    )


# --- one run of the family


class _Run:
    """One run's rows, and what they tell."""

    def __init__(self, staged: Staged, run: RunRecord, prefix: str) -> None:
        engine: Engine = staged.engine
        graph = engine.graph_of(run.run_id)
        assert graph is not None, "its version is kept"
        self.run = run
        self.graph: Graph = graph
        self._prefix = prefix
        self._parent = prefix.removesuffix("/").removesuffix(f"[{run.parent_index}]")
        self._start = engine.reads.run(staged.run_id).created_at  # type: ignore[union-attr]
        self._rows = {(r.step_id, r.index): r for r in engine.reads.steps(run.run_id)}
        self._events: list[EventRecord] = engine.reads.events(run.run_id, limit=MANY)
        self._decisions: dict[int, DecisionRecord] = {
            one.transition: one for one in engine.reads.decisions(run.run_id)
        }
        self._pauses = {
            (pause.step_id, pause.index): pause
            for pause in staged.player.seen.values()
            if pause.run_id == run.run_id
        }

    def is_parent(self, moment: Moment) -> bool:
        """Tell whether something happened to the step that this run is made for."""
        item = self.run.parent_index
        index = None if item is None or item == NO_INDEX else item
        return (moment.step, moment.index) == (self._parent, index) and moment.status != ""

    def status_of(self, step_id: str) -> str:
        row = self._rows.get((step_id, NO_INDEX))
        return str(row.status if row is not None else StepStatus.PENDING)

    def moments(self) -> Iterable[Moment]:
        """Yield what happened, in order."""
        waits: set[tuple[str, int]] = set()
        for event in self._events:
            at = self._since(event.at)
            routed: dict[str, list[Routed]] = {}
            for transition, taken in event.changes.get("transitions", ()):
                edge, decision = self.graph.edges[transition], self._decisions[transition]
                words = describe_reason(decision.reason, edge.source)
                one = Routed(edge.source, edge.target, taken, words)
                routed.setdefault(edge.source, []).append(one)
            # Items before their step, whose end they may have been.
            changed = sorted(event.changes.get("steps", ()), key=lambda one: len(one) < 3)
            for step_id, status, *item in changed:
                index = item[0] if item else NO_INDEX
                is_wait = status == StepStatus.WAITING
                # A step whose child begins to wait for people is told to wait once more.
                is_again = is_wait and (step_id, index) in waits
                waits = waits | {(step_id, index)} if is_wait else waits - {(step_id, index)}
                if status not in _TOLD or is_again:
                    continue
                row = self._rows.get((step_id, index))
                yield Moment(
                    at,
                    f"{self._prefix}{step_id}",
                    index if item else None,
                    1,
                    status,
                    "" if row is None else self._tell(row, status, event),
                    tuple(routed.pop(step_id, ())) if not item else (),
                )
            # What is decided of a step that had ended before, or at the end of the run.
            for source, rest in routed.items():
                yield Moment(at, f"{self._prefix}{source}", None, 1, "", "", tuple(rest))
            if event.changes.get("run") in END_OF_RUN:
                status = event.changes["run"]
                yield Moment(at, self._prefix, None, 1, status, self._tell_end())

    def timers(self) -> Iterable[Timer]:
        """Yield what only time brings."""
        timeout = self.graph.definition.run_timeout
        if timeout is not None:
            began = self._since(self.run.started_at or self.run.created_at)
            yield Timer("run_timeout", self._prefix, began, began + timeout)
        for pause in self._pauses.values():
            if pause.expires_at is not None:
                step = f"{self._prefix}{pause.step_id}"
                set_at, due = self._since(pause.created_at), self._since(pause.expires_at)
                yield Timer("expiry", step, set_at, due)
        for event in self._events:
            for step_id, status, *item in event.changes.get("steps", ()):
                index = item[0] if item else NO_INDEX
                type_ = self.graph.nodes[step_id].step.type
                step = f"{self._prefix}{step_id}" + (f"[{index}]" if item else "")
                kind = None
                if status == StepStatus.RETRYING:
                    kind = "retry"
                elif status == StepStatus.WAITING and type_ is StepType.WAIT:
                    kind = "timer"
                due_at = None if kind is None else self._find_next(step_id, index, event)
                if kind is not None and due_at is not None:
                    yield Timer(kind, step, self._since(event.at), self._since(due_at))

    def _since(self, instant: datetime) -> float:
        return (instant - self._start).total_seconds()

    def _find_next(self, step_id: str, index: int, after: EventRecord) -> datetime | None:
        """Return when a step that rests went on, or when it is due."""
        for event in self._events:
            if event.seq > after.seq:
                for name, _, *item in event.changes.get("steps", ()):
                    if (name, item[0] if item else NO_INDEX) == (step_id, index):
                        return event.at
        row = self._rows.get((step_id, index))
        return None if row is None else row.due_at

    def _tell(self, row: StepRecord, status: str, event: EventRecord) -> str:
        match status:
            case StepStatus.WAITING:
                return self._tell_wait(row, event)
            case StepStatus.RETRYING:
                due = self._find_next(row.step_id, row.index, event)
                again = "" if due is None else f"; again {_after((due - event.at).total_seconds())}"
                return _fault(row) + again
            case StepStatus.FAILED:
                return _fault(row) + ("; handled" if row.handled else "")
            case StepStatus.SKIPPED | StepStatus.CANCELLED:
                return as_clause(str((row.error or {}).get("message", "")))
            case StepStatus.SUCCEEDED if (row.step_id, row.index) in self._pauses:
                by = (row.output or {}).get("_answered_by")
                return "" if by is None else f"answered by {by}"
            case _:
                return ""

    def _tell_end(self) -> str:
        """Return what failed the run: a step and its code, or what stands in the run itself."""
        run = self.run
        if run.error_code is None:
            return ""
        if run.error_step_id is not None:
            return f"by step {run.error_step_id}: {run.error_code}"
        return f"{run.error_code}: {as_clause(run.error_message or '')}"

    def _tell_wait(self, row: StepRecord, event: EventRecord) -> str:
        step = self.graph.nodes[row.step_id].step
        pause = self._pauses.get((row.step_id, row.index))
        until = ""
        if pause is not None and pause.expires_at is not None:
            seconds = (pause.expires_at - pause.created_at).total_seconds()
            until = f", expires {_after(seconds)}"
        match step.type:
            case StepType.EVENT:
                return f"for the signal {step.config.get('name')}{until}"
            case StepType.PIPELINE:
                return f"for a run of {step.pipeline}"
            case StepType.WAIT:
                due = self._find_next(row.step_id, row.index, event)
                return (
                    "" if due is None else f"for {format_seconds((due - event.at).total_seconds())}"
                )
            case _:
                return f"for {_name_people(pause)}{until}"


_TOLD: Final = frozenset({StepStatus.WAITING, StepStatus.RETRYING, *END_OF_STEP})


def _after(seconds: float) -> str:
    return f"after {format_seconds(seconds)}"


def _fault(row: StepRecord) -> str:
    error = row.error or {}
    if not error:
        return ""
    return f"{error.get('code')}: {as_clause(str(error.get('message', '')))}"


def _name_people(pause: PauseRecord | None) -> str:
    if pause is None:
        return "a person"
    users = [str(one) for one in pause.assignees.get("users") or ()]
    roles = [f"role {one}" for one in pause.assignees.get("roles") or ()]
    who = [*users, *roles]
    if pause.quorum > 1:
        return f"{pause.quorum} of {', '.join(who)}" if who else f"{pause.quorum} people"
    return " or ".join(who) or "a person"


# --- the family


def _name_runs(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return what stands before the steps of each run: "" for the first, else ``step[3]/``."""
    names: dict[str, str] = {}
    for run in runs:
        if run.parent_run_id is None:
            names[run.run_id] = ""
            continue
        index = run.parent_index
        item = "" if index is None or index == NO_INDEX else f"[{index}]"
        names[run.run_id] = f"{names.get(run.parent_run_id, '')}{run.parent_step_id}{item}/"
    return names


def _list_asked(staged: Staged, start: datetime, names: Mapping[str, str]) -> Iterable[Asked]:
    for pause in sorted(
        staged.player.seen.values(), key=lambda one: (one.created_at, one.run_id, one.pause_id)
    ):
        now = staged.engine.pauses.read(pause.pause_id)
        yield Asked(
            seconds=(pause.created_at - start).total_seconds(),
            step=f"{names[pause.run_id]}{pause.step_id}",
            signal=pause.event,
            ui_schema=pause.ui_schema,
            shown=pause.shown,
            assignees=pause.assignees,
            quorum=pause.quorum,
            expires=None
            if pause.expires_at is None
            else (pause.expires_at - start).total_seconds(),
            status=str(now.status if now is not None else pause.status),
        )


def _list_unused(staged: Staged) -> Iterable[str]:
    """Yield why answers and signals did not count; of a quorum one vote too many is no news."""
    answered = {one.step_id for one in staged.player.history if one.kind == "answered"}
    for refusal in staged.player.refused:
        action = refusal.action
        if isinstance(action, Answer):
            if action.step not in answered:
                yield f"answer to {action.step}: {refusal.reason}"
        else:
            yield f"signal {action.name}: {refusal.reason}"


def _merge(told: Sequence[_Run]) -> list[Moment]:
    """Put what happened in all runs in one order: a child's story stands within its step's."""
    first, *others = told
    merged = list(first.moments())
    for child in others:
        begin = next((k for k, one in enumerate(merged) if child.is_parent(one)), len(merged) - 1)
        end = len(merged)
        if merged[begin].status == StepStatus.WAITING:
            later = range(begin + 1, end)
            end = next((k for k in later if child.is_parent(merged[k])), end)
        place = begin + 1
        for moment in child.moments():
            while place < end and merged[place].seconds <= moment.seconds:
                place += 1
            merged.insert(place, moment)
            place, end = place + 1, end + 1
    return merged


def _fold(moments: Iterable[Moment]) -> Iterable[Moment]:
    """Tell items of a step that became the same at the same time as one."""
    folded: list[Moment] = []
    places: dict[tuple[Any, ...], int] = {}
    for moment in moments:
        if moment.index is None:
            folded.append(moment)
            # What happened in an item's own run parts what happened to the items.
            places = {k: p for k, p in places.items() if not moment.step.startswith(f"{k[1]}[")}
            continue
        key = (moment.seconds, moment.step, moment.status, moment.words)
        place = places.setdefault(key, len(folded))
        if place == len(folded):
            folded.append(moment)
        else:
            folded[place] = replace(folded[place], count=folded[place].count + 1)
    return folded


# --- for programs


def _describe_moment(moment: Moment) -> dict[str, Any]:
    return {
        "at": moment.seconds,
        "step_id": moment.step or None,
        "index": moment.index,
        "items": moment.count if moment.index is not None else None,
        "status": moment.status or None,
        "words": moment.words,
        "transitions": [
            {"from": one.source, "to": one.target, "taken": one.taken, "words": one.words}
            for one in moment.routed
        ],
    }


def _describe_asked(asked: Asked) -> dict[str, Any]:
    described: dict[str, Any] = {"at": asked.seconds, "step_id": asked.step, "status": asked.status}
    if asked.signal is not None:
        described["name"] = asked.signal
    else:
        described |= {
            "ui_schema": dict(asked.ui_schema),
            "shown": asked.shown,
            "assignees": dict(asked.assignees),
            "quorum": asked.quorum,
        }
    return {**described, "expires_at": asked.expires}
