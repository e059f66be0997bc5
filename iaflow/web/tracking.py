"""What changes, seen once for all who listen: one watcher per process wakes the event streams.

Decides how often the database is asked what has changed, who is woken by it, and how many may
listen; never what a stream tells. Held by the app, used by the streams.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from iaflow.telemetry import get_logger
from iaflow.web.problems import Refused

__all__ = ["INBOX", "Follower", "Marks", "Tracker"]

_log = get_logger(__name__)

T = TypeVar("T")

INBOX: Final = "inbox"
"""What the streams of questions follow; all others follow a run, by its id."""

TICK_SECONDS: Final = 0.5
"""How late a stream may learn of a change."""

AWAY_SECONDS: Final = 5.0
"""The pause between two looks while the database is gone."""

STREAMS_PER_USER: Final = 20
STREAMS: Final = 500

HEARTBEAT_SECONDS: Final = 15.0
"""A stream that has nothing to tell says so."""

RECHECK_SECONDS: Final = 30.0
"""How long a stream may go on after the right to listen has ended."""

READERS: Final = 4
"""Threads, with a connection each, that read for the streams of a process."""


class Marks(Protocol):
    """What the watcher asks: the client, and no more of it."""

    def watch(self, run_ids: Collection[str]) -> dict[str, Any]:
        """Return how far each of these runs is."""
        ...

    def inbox_mark(self) -> Any:
        """Return something that is another with every change of any question."""
        ...


@dataclass(slots=True, eq=False)
class Follower:
    """
    Somebody who wants to know that something may have changed.

    Attributes:
        subject: a run's id, or `INBOX`.
    """

    subject: str
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Let `wait` return, now or when it is next called."""
        self._woken.set()

    def rearm(self) -> None:
        """Forget changes so far; call it before reading, so that none in between is lost."""
        self._woken.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change since `rearm`, so many seconds at most; tell whether there was one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        return self._woken.is_set()


class Tracker:
    """
    The watcher of one process and its followers; everything but `__init__` belongs to one loop.

    It asks two statements per tick, however many listen, and none where nobody does: it begins
    with the first follower and ends with the last, since a mounted app has no life of its own.

    Args:
        marks: the client.
        tick_seconds: between two looks.
        per_user, in_all: how many streams may be open.
        heartbeat_seconds, recheck_seconds: for the streams: how long one is silent, and goes on
            without a look at the credentials.

    Attributes:
        is_closing: the process stops, and all streams with it.
    """

    def __init__(
        self,
        marks: Marks,
        *,
        tick_seconds: float = TICK_SECONDS,
        per_user: int = STREAMS_PER_USER,
        in_all: int = STREAMS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._client = marks
        self._tick = tick_seconds
        self._per_user = per_user
        self._in_all = in_all
        self.heartbeat_seconds = heartbeat_seconds
        self.recheck_seconds = recheck_seconds
        self._seats: Counter[str] = Counter()
        self._followers: dict[str, set[Follower]] = {}
        self._marks: dict[str, Any] = {}
        self._answers: dict[Hashable, asyncio.Future[Any]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._readers: ThreadPoolExecutor | None = None
        self.is_closing = False

    # -- who may listen

    def take_seat(self, user: str) -> Callable[[], None]:
        """
        Count one more stream of a user; return what is called once when it has ended.

        Raises:
            Refused: `too_many_streams`.
        """
        if self._seats.total() >= self._in_all:
            raise Refused("too_many_streams", f"{self._in_all} streams are open here: try later")
        if self._seats[user] >= self._per_user:
            told = (
                f"{user} has {self._per_user} streams open, which is as many as may be: close one"
            )
            raise Refused("too_many_streams", told)
        self._seats[user] += 1

        def leave() -> None:
            self._seats[user] -= 1
            if self._seats[user] <= 0:
                del self._seats[user]

        return leave

    @property
    def open_streams(self) -> int:
        """How many streams are open in this process."""
        return self._seats.total()

    # -- what changed

    @contextmanager
    def follow(self, subject: str) -> Iterator[Follower]:
        """Follow a run, or the questions, as long as the `with` lasts."""
        follower = Follower(subject)
        self._followers.setdefault(subject, set()).add(follower)
        if self.is_closing:
            follower.wake()
        elif self._watching is None or self._watching.done():
            # Since nobody looked, nobody knows how old these are.
            self._answers.clear()
            self._watching = asyncio.create_task(self._watch(), name="iaflow-tracker")
        try:
            yield follower
        finally:
            listening = self._followers.get(subject, set())
            listening.discard(follower)
            if not listening:
                self._followers.pop(subject, None)
                self._marks.pop(subject, None)

    async def ask(self, question: Hashable, read: Callable[[], T]) -> T:
        """
        Return what `read` gives, in a thread; equal questions of one tick are asked once.

        What is answered is of this tick or later: whoever was woken by a change sees it.
        """
        known = self._answers.get(question)
        if known is None:
            loop = asyncio.get_running_loop()
            known = loop.run_in_executor(self._pool(), read)
            self._answers[question] = known
        # Who goes away must not take the answer from the others.
        answer: T = await asyncio.shield(known)
        return answer

    async def read(self, function: Callable[[], T]) -> T:
        """Return what `function` gives, in a thread of the streams."""
        return await asyncio.get_running_loop().run_in_executor(self._pool(), function)

    def stop(self) -> None:
        """Wake all streams to their end; the process is about to stop. From the loop's thread."""
        self.is_closing = True
        for listening in self._followers.values():
            for follower in listening:
                follower.wake()

    def close(self) -> None:
        """Let the readers go; from any thread, once the loop has ended."""
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)
            self._readers = None

    # -- the watcher

    async def _watch(self) -> None:
        while self._followers and not self.is_closing:
            pause = self._tick
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  whatever it was, the next look may see
                _log.warning("web.tracking.away", error=type(error).__name__)
                pause = AWAY_SECONDS
            await asyncio.sleep(pause)
        self._answers.clear()

    async def _look(self) -> None:
        runs = [subject for subject in self._followers if subject != INBOX]
        has_inbox = INBOX in self._followers

        def look() -> dict[str, Any]:
            found: dict[str, Any] = dict(self._client.watch(runs)) if runs else {}
            if has_inbox:
                found[INBOX] = self._client.inbox_mark()
            return found

        found = await asyncio.get_running_loop().run_in_executor(self._pool(), look)
        # Before anybody is woken: what was read until now may be from before the change.
        self._answers.clear()
        for subject in (*runs, *([INBOX] if has_inbox else [])):
            mark = found.get(subject)
            if subject in self._followers and self._marks.get(subject, _UNSEEN) != mark:
                self._marks[subject] = mark
                for follower in self._followers[subject]:
                    follower.wake()

    def _pool(self) -> ThreadPoolExecutor:
        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="iaflow-streams")
        return self._readers


_UNSEEN: Final = object()
