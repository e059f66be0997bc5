"""Plays a script while a run goes on: every action at its time, every timer exactly.

Decides when the real verbs are called from outside and when the run is looked at again; never
what they lead to. Called by rehearsals.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

from iaflow.client import Client
from iaflow.data.records import NO_INDEX, PauseRecord, StepTask
from iaflow.data.status import END_OF_RUN, END_OF_STEP, PauseStatus, RunStatus, StepStatus
from iaflow.errors import AnswerRefused, Conflict, NotAllowed, NotFound
from iaflow.pipeline.engine import Engine, Settled, Started
from iaflow.pipeline.executors.local import POLL_SECONDS, LocalExecutor, Observation
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.services import ServiceRegistry
from iaflow.rehearsal.outcome import Happening, Refusal
from iaflow.rehearsal.scripts import Action, Answer, CancelRun, CancelStep, Signal
from iaflow.rehearsal.virtual_time import VirtualClock, VirtualLoop

__all__ = ["Player", "RehearsalClock", "RehearsalExecutor"]

PATIENCE_SECONDS = 86_400.0
LONGEST_REST_SECONDS = 86_400.0
MANY = 100_000
"""Questions of a run at once: as many as a foreach has items."""


class RehearsalClock(VirtualClock):
    """
    A virtual clock on which a drive that rests is woken when there is something to do.

    Else it would look at the run twice a second of virtual time, and a week of waiting would
    cost a minute. Until it is woken it looks less and less often, down to once a day.
    """

    def __init__(self, loop: VirtualLoop, start_at: datetime) -> None:
        super().__init__(loop, start_at)
        self._rest_seconds = POLL_SECONDS
        self._resting = 0
        self._awake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` or longer, or until somebody wakes."""
        if seconds < POLL_SECONDS:
            await super().sleep(seconds)
            return
        self._rest_seconds = min(self._rest_seconds * 2, LONGEST_REST_SECONDS)
        self._resting += 1
        try:
            async with asyncio.timeout(max(seconds, self._rest_seconds)):
                await self._awake.wait()
        except TimeoutError:
            pass
        finally:
            self._resting -= 1

    def wake(self) -> bool:
        """Wake all who sleep; tell whether anybody did."""
        self._rest_seconds = POLL_SECONDS
        self._awake.set()
        self._awake.clear()
        return self._resting > 0


class RehearsalExecutor(LocalExecutor):
    """
    The embedded executor, driven from several sides at once.

    An answer makes steps ready while the run is being driven; another drive takes them up at
    once. All drives share the places for steps at work, and no step waits for one twice.
    """

    def __init__(
        self,
        engine: Engine,
        loader: StepLoader,
        services: ServiceRegistry,
        *,
        max_parallel: int,
    ) -> None:
        super().__init__(engine, loader, services, max_parallel=max_parallel, observe=self._pass_on)
        self._places = asyncio.Semaphore(max_parallel)
        self._in_line: set[tuple[str, str, int]] = set()
        self.observers: list[Player] = []

    async def execute(self, task: StepTask) -> Settled | None:
        """Execute one step when there is a place for it; None if another drive has it."""
        key = (task.run_id, task.step_id, task.index)
        if key in self._in_line:
            return None
        self._in_line.add(key)
        try:
            await self._places.acquire()
        finally:
            self._in_line.discard(key)
        try:
            return await super().execute(task)
        finally:
            self._places.release()

    def stop_what_was_cancelled(self) -> None:
        """Stop the attempts whose claim is gone, at once instead of at the next heartbeat."""
        self._heartbeat.beat()

    def _pass_on(self, observation: Observation) -> None:
        for player in self.observers:
            player.note(observation)


class Player:
    """
    Plays one run with its script; afterwards `refused`, `history` and `seen` tell how it went.

    `seen` holds each question and event of the run and those below it, as it was when it opened.

    Args:
        client: the verbs from outside; without an executor of its own.
        executor: does the work.
        script: actions; those of the same time are done in the order given.
        history: where what happens is written.
    """

    def __init__(
        self,
        client: Client,
        executor: RehearsalExecutor,
        script: Sequence[Action],
        history: list[Happening],
    ) -> None:
        self.refused: list[Refusal] = []
        self.history = history
        self.seen: dict[str, PauseRecord] = {}
        self._client = client
        self._executor = executor
        self._engine = executor.engine
        executor.observers.append(self)
        timed = [action for action in script if action.at is not None]
        self._timed = sorted(timed, key=lambda action: action.at or 0.0)
        # Those that come when they are waited for, each with the pauses it was given to.
        self._eager: list[tuple[Answer | Signal, set[str]]] = [
            (action, set())
            for action in script
            if isinstance(action, Answer | Signal) and action.at is None
        ]
        self._run_id = ""
        self._told = 0
        self._moved_seconds = 0.0
        self._began = self._engine.clock.now()
        self._deadline: datetime | None = None
        self._drives: set[asyncio.Task[RunStatus]] = set()
        self._changed = asyncio.Event()
        self._alarm: datetime | None = None
        self._rung: datetime | None = None
        # The pauses of each step, the latest last: one that has closed can still be answered.
        self._pauses: dict[str, str] = {}

    async def play(self, started: Started, *, until: float | None) -> None:
        """
        Drive the run and do what the script says, until nothing more can happen.

        Args:
            until: seconds after the start at which to stop all the same; None: once nothing
                has happened for a day, nothing is due, and a step works without an end.
        """
        self._run_id = started.run_id
        self._find_start()
        self._drive(started.tasks)
        self._look_out()
        try:
            while True:
                await self._answer_eagerly()
                due = self._find_due()
                if due is None and not self._drives:
                    return
                limit = until if until is not None else self._find_limit(due)
                if due is not None and self._elapsed() >= due and due <= limit:
                    await self._act()
                elif self._elapsed() >= limit:
                    return
                else:
                    await self._wait(min(limit, limit if due is None else due) - self._elapsed())
        finally:
            for drive in self._drives:
                drive.cancel()
            await asyncio.gather(*self._drives, return_exceptions=True)
            self._write_changes()
            for action, given in self._eager:
                if not given:
                    self._refuse(action, self._tell_unwanted(action), changed=False)

    def note(self, observation: Observation) -> None:
        """Write down what the executor saw, and what it led to."""
        self._write_changes()
        if observation.run_id == self._run_id:
            if not self.history and observation.kind == "started":
                # Where time is real, what it took to begin would make the script early.
                self._began = self._engine.clock.now()
            index = None if observation.index < 0 else observation.index
            message = observation.message or ""
            if observation.kind in ("started", "retrying", "progress"):
                self._write(observation.kind, observation.step_id, message, index=index)
        self._write_changes()
        self._moved_seconds = self._elapsed()
        self._changed.set()

    # -- time

    def _find_start(self) -> None:
        run = self._client.run(self._run_id)
        self._began = run.created_at
        timeout = self._client.graph_of(self._run_id).definition.run_timeout
        if timeout is not None:
            self._deadline = run.created_at + timedelta(seconds=timeout)

    def _elapsed(self) -> float:
        return (self._engine.clock.now() - self._began).total_seconds()

    def _find_limit(self, due: float | None) -> float:
        if due is not None:
            return math.inf
        return self._moved_seconds + PATIENCE_SECONDS

    def _find_due(self) -> float | None:
        """Return when the next action or timer is due, in seconds since the start."""
        times = [self._timed[0].at] if self._timed else []
        if self._alarm is not None:
            times.append((self._alarm - self._began).total_seconds())
        known = [time for time in times if time is not None]
        return min(known) if known else None

    def _look_out(self) -> None:
        """Find the next instant at which time alone moves the run: each rings once."""
        self._alarm = None
        status = self._engine.reads.run_status(self._run_id)
        if status is None or status in END_OF_RUN:
            return
        runs = self._family()
        open_pauses = self._find_open()
        instants = [
            self._deadline,
            *(self._engine.claims.next_due(run_id) for run_id in runs),
            *(self._engine.pauses.next_notice(run_id) for run_id in runs),
            *(pause.expires_at for pause in open_pauses),
            *(due for _, _, due in self._find_awaited(open_pauses)),
        ]
        coming = [
            instant
            for instant in instants
            if instant is not None and (self._rung is None or instant > self._rung)
        ]
        self._alarm = min(coming, default=None)

    def _family(self) -> list[str]:
        """Return this run and those below it."""
        return [self._run_id, *self._engine.waits.family(self._run_id)[1:]]

    def _find_open(self) -> list[PauseRecord]:
        """Return what is waited for, and remember whom to answer: also when it has closed."""
        found = [
            *self._engine.pauses.list_open(run_id=self._run_id, limit=MANY),
            *self._engine.pauses.list_open_events(self._run_id, limit=MANY),
        ]
        for pause in found:
            self.seen.setdefault(pause.pause_id, pause)
            if pause.event is None:
                self._pauses[pause.step_id] = pause.pause_id
        return found

    async def _wait(self, seconds: float) -> None:
        change = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait(
                [change, *self._drives],
                timeout=max(0.0, seconds),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            change.cancel()
        ended = {drive for drive in self._drives if drive.done()}
        self._drives -= ended
        for drive in ended:
            drive.result()
        if ended or self._changed.is_set():
            self._changed.clear()
            self._look_out()

    # -- acting

    def _drive(self, tasks: Sequence[StepTask]) -> None:
        clock = self._engine.clock
        if isinstance(clock, RehearsalClock) and clock.wake():
            return
        drive = asyncio.ensure_future(self._executor.drive(self._run_id, tasks))
        self._drives.add(drive)

    async def _act(self) -> None:
        """Do what is due now: timers before people, whose answer then comes too late."""
        now = self._engine.clock.now()
        self._moved_seconds = self._elapsed()
        if self._alarm is not None and self._alarm <= now:
            self._rung = self._alarm
            self._drive(())
        elif self._timed:
            await self._perform(self._timed.pop(0))
        self._look_out()

    async def _perform(self, action: Action) -> None:
        match action:
            case Answer():
                await self._tell_run(action)
            case Signal():
                await self._tell_run(action)
            case CancelStep():
                self._write("cancel", action.step)
                self._go_on(self._client.cancel(self._run_id, step_id=action.step))
            case CancelRun():
                self._write("cancel", None)
                self._go_on(self._client.cancel(self._run_id))

    async def _answer_eagerly(self) -> None:
        """Give what was only waiting to be waited for, and is due."""
        while self._eager:
            now = self._engine.clock.now()
            awaited = self._find_awaited(self._find_open())
            due = next((one for one in awaited if one[2] <= now), None)
            if due is None:
                return
            action, pause, _ = due
            self._note_given(action, pause)
            await self._tell_run(action, pause)
            self._look_out()

    def _find_awaited(
        self, pauses: Sequence[PauseRecord]
    ) -> list[tuple[Answer | Signal, PauseRecord, datetime]]:
        """Return which action belongs to which open pause, and when it is due."""
        return [
            (action, pause, pause.created_at + timedelta(seconds=action.after))
            for action, given in self._eager
            for pause in pauses
            if _belongs(action, pause) and pause.pause_id not in given
        ]

    def _note_given(self, action: Answer | Signal, pause: PauseRecord) -> None:
        for entry in self._eager:
            if entry[0] is action and pause.pause_id not in entry[1]:
                if action.always:
                    entry[1].add(pause.pause_id)
                else:
                    self._eager.remove(entry)
                return

    async def _tell_run(self, action: Answer | Signal, pause: PauseRecord | None = None) -> None:
        self._find_open()
        before = self._client.run(self._run_id).seq
        try:
            pauses = self._give(action, pause)
        except (AnswerRefused, Conflict, NotAllowed, NotFound) as error:
            changed = self._client.run(self._run_id).seq != before
            self._refuse(action, str(error), changed=changed)
            return
        if isinstance(action, Answer):
            self._write("answered", action.step, f"by {action.by}")
        else:
            self._write("signal", None, action.name)
        for given in pauses:
            if given.status is PauseStatus.ANSWERED:
                # At once, so that what comes next in the script finds what this has led to.
                resume = partial(self._engine.resume, given.pause_id)
                self._go_on(await self._executor.conclude(resume))

    def _give(self, action: Answer | Signal, pause: PauseRecord | None) -> Iterable[PauseRecord]:
        if isinstance(action, Signal):
            run_id = self._run_id if pause is None else pause.run_id
            return self._client.signal(run_id, action.name, action.data, sent_by=action.by)
        pause_id = self._pauses.get(action.step) if pause is None else pause.pause_id
        if pause_id is None:
            raise Conflict(f"step {action.step!r} does not wait for an answer yet")
        answer = self._client.answer(
            pause_id, action.data, answered_by=action.by, roles=action.roles
        )
        return (answer,)

    def _tell_unwanted(self, action: Answer | Signal) -> str:
        is_answer = isinstance(action, Answer)
        who = f"step {action.step!r}" if isinstance(action, Answer) else "no step"
        if any(_belongs(action, pause) for pause in self.seen.values()):
            return f"{who if is_answer else 'its step'} waited no longer when it came"
        return f"{who} {'never' if is_answer else 'ever'} waited for it"

    def _refuse(self, action: Answer | Signal, reason: str, *, changed: bool) -> None:
        self.refused.append(Refusal(action, reason, changed))
        step = action.step if isinstance(action, Answer) else None
        self._write("refused", step, reason)

    def _go_on(self, settled: Settled) -> None:
        self._executor.stop_what_was_cancelled()
        self._write_changes()
        status = self._engine.reads.run_status(self._run_id)
        if status in END_OF_RUN:
            self._executor.stop(self._run_id)
        else:
            self._drive(settled.tasks)

    def _write(
        self, kind: str, step_id: str | None, message: str = "", *, index: int | None = None
    ) -> None:
        self.history.append(Happening(self._elapsed(), kind, step_id, index, message))

    def _write_changes(self) -> None:
        """Write down what the run's own events tell since the last look."""
        for event in self._engine.reads.events(self._run_id, self._told):
            self._told = event.seq
            seconds = (event.at - self._began).total_seconds()
            for step_id, status, *item in event.changes.get("steps", ()):
                index = item[0] if item else None
                if status in _TOLD:
                    fault = self._find_fault(step_id, index) if status == StepStatus.FAILED else ""
                    self.history.append(Happening(seconds, status, step_id, index, fault))
            if event.changes.get("run") in END_OF_RUN:
                self.history.append(Happening(seconds, event.changes["run"], None))

    def _find_fault(self, step_id: str, index: int | None) -> str:
        place = NO_INDEX if index is None else index
        for row in self._engine.reads.steps(self._run_id):
            if (row.step_id, row.index) == (step_id, place) and row.error:
                return f"{row.error.get('code')}: {row.error.get('message')}"
        return ""


def _belongs(action: Answer | Signal, pause: PauseRecord) -> bool:
    if isinstance(action, Signal):
        return pause.event == action.name
    return pause.event is None and pause.step_id == action.step


_TOLD = frozenset({StepStatus.WAITING, *END_OF_STEP})
"""Statuses that are worth a line; that a step is ready or running is told by its start."""
