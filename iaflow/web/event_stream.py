"""Server-sent events as a reply: how they are written, kept open, and given up.

Decides the form of an event, and that neither a slow reader nor one that has gone holds anything;
never what is told. Used by the routes of streams.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from iaflow.telemetry import get_logger

__all__ = ["HEARTBEAT", "MEDIA_TYPE", "EventStream", "write_event"]

_log = get_logger(__name__)

MEDIA_TYPE: Final = "text/event-stream"

HEARTBEAT: Final = b": still here\n\n"
"""A comment, which clients skip: it keeps proxies from closing what is only quiet."""

SLOW_SECONDS: Final = 15.0
"""Who takes no part of a stream for so long is given up; what it missed it can ask for again."""

RETRY_MILLISECONDS: Final = 2_000
"""How long a client waits before it comes again."""


def write_event(kind: str, data: Any, *, id: str | int | None = None) -> bytes:
    """
    Return one event as it travels.

    Args:
        data: becomes JSON in ASCII, which has no end of a line in it, whoever reads it.
        id: what a client that comes again shows as `Last-Event-ID`.
    """
    named = f"id: {id}\n" if id is not None else ""
    text = json.dumps(data, separators=(",", ":"))
    return f"{named}event: {kind}\ndata: {text}\n\n".encode()


class EventStream(Response):
    """
    A reply that goes on until its source ends, its reader goes, or reads too slowly.

    Args:
        source: what is sent, part by part; it is closed at the end, whatever that was.
        on_end: called once, after that.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        *,
        on_end: Callable[[], None],
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        super().__init__(None, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._on_end = on_end
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_wait_until_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            try:
                _, ended = await asyncio.gather(leaving, sending, return_exceptions=True)
                await self._source.aclose()
            finally:
                self._on_end()
        if isinstance(ended, Exception):
            raise ended

    async def _send_all(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        try:
            await self._send_part(send, f"retry: {RETRY_MILLISECONDS}\n\n".encode())
            async for part in self._source:
                await self._send_part(send, part)
        except _TooSlow:
            _log.info("web.stream.slow", seconds=self._slow_seconds)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_part(self, send: Send, part: bytes) -> None:
        # A server waits here while the reader's buffers are full: nothing is heaped up for it.
        try:
            async with asyncio.timeout(self._slow_seconds):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            raise _TooSlow from None


class _TooSlow(Exception):
    """The reader took nothing for too long."""


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
