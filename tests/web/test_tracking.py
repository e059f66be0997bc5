"""The watcher, and streams to readers that are slow or gone: without a server or a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any

import pytest

from iaflow.web import tracking
from iaflow.web.event_stream import EventStream, write_event
from iaflow.web.problems import Refused
from iaflow.web.tracking import INBOX, Tracker

TICK = 0.01
PATIENCE = 5.0


class Marks:
    """What a client would tell the watcher."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}
        self.inbox = 0
        self.asked: list[frozenset[str]] = []
        self.inbox_asked = 0
        self.is_away = False

    def watch(self, run_ids: Collection[str]) -> dict[str, Any]:
        self.asked.append(frozenset(run_ids))
        if self.is_away:
            raise OSError("the database is gone")
        return {one: self.at[one] for one in run_ids if one in self.at}

    def inbox_mark(self) -> int:
        self.inbox_asked += 1
        return self.inbox


@pytest.fixture
def marks() -> Marks:
    return Marks()


async def come_true(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not predicate():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(TICK / 4)


def test_one_statement_per_tick_serves_all_runs_and_one_the_inbox(marks: Marks) -> None:
    async def play() -> None:
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a"), tracker.follow("a"), tracker.follow("b"), tracker.follow(INBOX):
            await come_true(lambda: marks.inbox_asked >= 5)
        assert set(marks.asked) == {frozenset("ab")}
        assert abs(len(marks.asked) - marks.inbox_asked) <= 1
        assert tracker._watching is not None
        await asyncio.wait_for(tracker._watching, PATIENCE)
        count = len(marks.asked)
        await asyncio.sleep(TICK * 5)
        assert len(marks.asked) == count, "nobody listens, so nobody asks"
        with tracker.follow("c"):
            await come_true(lambda: frozenset("c") in marks.asked)
        tracker.close()

    asyncio.run(play())


def test_only_followers_of_what_changed_are_woken(marks: Marks) -> None:
    async def play() -> None:
        marks.at = {"a": 1, "b": 1}
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a") as a, tracker.follow("b") as b, tracker.follow("b") as also:
            for one in (a, b, also):
                # Once at first: what is known is known from then on.
                assert await one.wait(PATIENCE)
                one.rearm()
            assert not await a.wait(TICK * 5)
            marks.at["b"] = 2
            assert await b.wait(PATIENCE)
            assert await also.wait(PATIENCE)
            assert not await a.wait(TICK * 5)
            a.rearm()
            marks.at.pop("a")
            assert await a.wait(PATIENCE), "a run that is gone is a change too"
        tracker.close()

    asyncio.run(play())


def test_a_change_between_rearming_and_waiting_is_not_lost(marks: Marks) -> None:
    async def play() -> None:
        marks.at = {"a": 1}
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a") as follower:
            assert await follower.wait(PATIENCE)
            follower.rearm()
            marks.at["a"] = 2
            await come_true(lambda: tracker._marks.get("a") == 2)
            assert await follower.wait(0.0)
        tracker.close()

    asyncio.run(play())


def test_equal_questions_are_asked_once_per_tick(marks: Marks) -> None:
    async def play() -> None:
        tracker = Tracker(marks, tick_seconds=60)
        asked: list[int] = []

        def read() -> int:
            asked.append(len(asked))
            return len(asked)

        with tracker.follow("a") as follower:
            assert await follower.wait(PATIENCE) is True
            answers = await asyncio.gather(*(tracker.ask("question", read) for _ in range(50)))
            assert (set(answers), len(asked)) == ({1}, 1)
            assert await tracker.ask("other question", read) == 2
            # A tick later it may be another answer.
            await tracker._look()
            assert await tracker.ask("question", read) == 3
        tracker.close()

    asyncio.run(play())


def test_an_answer_is_never_from_before_the_change_that_woke(marks: Marks) -> None:
    """Whatever was asked before a look is forgotten before anybody is woken by it."""

    async def play() -> None:
        marks.at = {"a": 0}
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a") as follower:
            for value in range(1, 30):
                follower.rearm()
                await tracker.ask("a", lambda: marks.at["a"])
                marks.at["a"] = value
                while await tracker.ask("a", lambda: marks.at["a"]) != value:
                    assert await follower.wait(PATIENCE), value
                    follower.rearm()
        tracker.close()

    asyncio.run(play())


def test_who_comes_back_to_a_watcher_that_slept_gets_no_old_answer(marks: Marks) -> None:
    async def play() -> None:
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a"):
            await tracker.ask("question", lambda: "old")
        assert tracker._watching is not None
        await asyncio.wait_for(tracker._watching, PATIENCE)
        with tracker.follow("a"):
            assert await tracker.ask("question", lambda: "new") == "new"
        tracker.close()

    asyncio.run(play())


def test_who_goes_away_takes_no_answer_from_others(marks: Marks) -> None:
    async def play() -> None:
        tracker = Tracker(marks, tick_seconds=60)
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read() -> str:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(PATIENCE)
            return "answer"

        with tracker.follow("a"):
            first, second = (asyncio.create_task(tracker.ask("q", read)) for _ in range(2))
            await asyncio.sleep(TICK)
            first.cancel()
            gate.set()
            assert await second == "answer"
        tracker.close()

    asyncio.run(play())


def test_a_database_that_is_away_does_not_end_the_watching(
    marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "AWAY_SECONDS", TICK)

    async def play() -> None:
        marks.at, marks.is_away = {"a": 1}, True
        tracker = Tracker(marks, tick_seconds=TICK)
        with tracker.follow("a") as follower:
            await come_true(lambda: len(marks.asked) >= 3)
            assert not await follower.wait(0.0)
            marks.is_away = False
            assert await follower.wait(PATIENCE)
        tracker.close()

    asyncio.run(play())


def test_seats_are_counted_and_given_back(marks: Marks) -> None:
    tracker = Tracker(marks, per_user=2, in_all=3)
    leave = tracker.take_seat("ann")
    tracker.take_seat("ann")
    with pytest.raises(Refused, match="ann has 2"):
        tracker.take_seat("ann")
    tracker.take_seat("ben")
    with pytest.raises(Refused, match="3 streams"):
        tracker.take_seat("cid")
    leave()
    assert tracker.open_streams == 2
    tracker.take_seat("cid")


# --- to readers


async def tell(parts: int, ended: list[str], size: int = 10) -> AsyncGenerator[bytes, None]:
    try:
        for _ in range(parts):
            yield b"x" * size
            await asyncio.sleep(0)
    finally:
        ended.append("source")


async def nothing_comes() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_stream_is_sent_to_its_end() -> None:
    async def play() -> None:
        ended: list[str] = []
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        stream = EventStream(tell(3, ended), on_end=lambda: ended.append("seat"))
        await stream({"type": "http"}, nothing_comes, send)
        head, retry, *parts, last = sent
        assert head["type"] == "http.response.start"
        headers = dict(head["headers"])
        assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
        assert headers[b"cache-control"] == b"no-store"
        assert b"content-length" not in headers
        assert retry["body"] == b"retry: 2000\n\n"
        assert [part["body"] for part in parts] == [b"x" * 10] * 3
        assert last == {"type": "http.response.body", "body": b"", "more_body": False}
        assert ended == ["source", "seat"]

    asyncio.run(play())


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """Its server waits with it: no more than one part is ever held for it."""

    async def play() -> None:
        ended: list[str] = []
        made = 0

        async def tell_much() -> AsyncGenerator[bytes, None]:
            nonlocal made
            try:
                while True:
                    made += 1
                    yield b"x"
            finally:
                ended.append("source")

        taken = 0

        async def send(message: Any) -> None:
            nonlocal taken
            taken += 1
            if taken > 5:
                await asyncio.Event().wait()

        stream = EventStream(tell_much(), on_end=lambda: ended.append("seat"), slow_seconds=0.05)
        async with asyncio.timeout(PATIENCE):
            await stream({"type": "http"}, nothing_comes, send)
        assert ended == ["source", "seat"]
        assert made <= taken

    asyncio.run(play())


def test_a_reader_that_has_gone_ends_the_stream() -> None:
    async def play() -> None:
        ended: list[str] = []
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def wait_long() -> AsyncGenerator[bytes, None]:
            try:
                yield b"x"
                gone.set()
                await asyncio.Event().wait()
            finally:
                ended.append("source")

        async def send(message: Any) -> None:
            pass

        stream = EventStream(wait_long(), on_end=lambda: ended.append("seat"))
        async with asyncio.timeout(PATIENCE):
            await stream({"type": "http"}, receive, send)
        assert ended == ["source", "seat"]

    asyncio.run(play())


def test_what_breaks_in_the_source_is_not_hidden() -> None:
    async def play() -> None:
        ended: list[str] = []

        async def breaks() -> AsyncGenerator[bytes, None]:
            yield b"x"
            raise ValueError("a bug")

        async def send(message: Any) -> None:
            pass

        stream = EventStream(breaks(), on_end=lambda: ended.append("seat"))
        with pytest.raises(ValueError, match="a bug"):
            await stream({"type": "http"}, nothing_comes, send)
        assert ended == ["seat"]

    asyncio.run(play())


def test_no_text_breaks_out_of_its_event() -> None:
    """Lines are what ends fields: there is none in the data, whatever a title has."""
    text = write_event("inbox", {"title": "a\n\nevent: end\ndata: {}\r\r\u2028x"}, id="a1").decode()
    assert text.startswith("id: a1\nevent: inbox\ndata: ")
    assert text.endswith("\n\n")
    assert len(text.splitlines()) == text.count("\n") == 4
