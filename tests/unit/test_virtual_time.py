"""Time that jumps: to the next timer and no further, and never past what really happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from iaflow.rehearsal import virtual_time
from iaflow.rehearsal.virtual_time import DEFAULT_START, VirtualClock, VirtualLoop

YEAR = 365 * 86_400.0


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_year_costs_nothing() -> None:
    async def main() -> float:
        await asyncio.sleep(YEAR)
        return now()

    began = time.monotonic()
    assert run(main()) == pytest.approx(YEAR)
    assert time.monotonic() - began < 5


def test_timers_fire_in_their_order_and_at_their_time() -> None:
    async def main() -> list[tuple[str, float]]:
        fired: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, now()))

        await asyncio.gather(wait("c", 10 * YEAR), wait("a", 0.25), wait("b", 3))
        return fired

    assert run(main()) == [("a", 0.25), ("b", 3.0), ("c", 10 * YEAR)]


def test_a_timeout_is_virtual_too() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return now()

    assert run(main()) == 60.0


def test_time_stands_still_while_a_thread_works() -> None:
    async def main() -> tuple[float, bool]:
        timer = asyncio.ensure_future(asyncio.sleep(1))
        await asyncio.to_thread(time.sleep, 0.05)
        return now(), timer.done()

    assert run(main()) == (0.0, False)


def test_time_flows_beside_a_thread_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may wait for what only a timer brings about."""
    monkeypatch.setattr(virtual_time, "PATIENCE_SECONDS", 0.05)

    async def main() -> float:
        loop = asyncio.get_running_loop()

        def wait_for_the_loop() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result(timeout=20)

        await asyncio.to_thread(wait_for_the_loop)
        return now()

    assert 0.1 <= run(main()) < 20


def test_what_can_never_happen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "PATIENCE_SECONDS", 0.05)

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stands still for ever"):
        run(main())


def test_a_socket_is_waited_for_really() -> None:
    async def main() -> tuple[bytes, float]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            word = await reader.readline()
            await asyncio.to_thread(time.sleep, 0.05)
            writer.write(word.upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"word\n")
            async with asyncio.timeout(30):
                said = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return said, now()

    said, passed = run(main())
    assert said == b"WORD\n"
    assert passed < 30


def test_the_clock_follows_the_loop() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)

    async def main() -> tuple[datetime, datetime, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.sleep(7)
        clock, other = VirtualClock(loop, start), VirtualClock(loop)
        await clock.sleep(90)
        return clock.now(), other.now(), clock.timestamp()

    instant, other, stamp = run(main())
    assert instant == start + timedelta(seconds=90)
    assert other == DEFAULT_START + timedelta(seconds=90)
    assert stamp == instant.timestamp()


def test_a_clock_wants_a_time_zone() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        with pytest.raises(ValueError, match="time zone"):
            VirtualClock(loop, datetime(2026, 3, 1))  # noqa: DTZ001  what is refused

    run(main())
