"""Bodies are read under limits: size, time, form; what is no strict JSON goes no further.

Decides how much of a request is read, and that it is JSON; never what it must hold (the models
do). The class of every route that takes a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from iaflow.pipeline.strict_json import JsonRefused, read_json
from iaflow.web.problems import Refused

__all__ = [
    "BODY_BYTES",
    "DEFINITION",
    "INPUT_BYTES",
    "LimitedRoute",
    "read_limited",
    "require_type",
    "takes",
]

BODY_BYTES: Final = 64 * 1024
"""The longest body of a request: answers, accounts, schedules."""

INPUT_BYTES: Final = 256 * 1024
"""The longest body of a start, a rerun or a signal."""

DEFINITION: Final = -1
"""As long as a definition may be, which a setting says."""

BODY_DEPTH: Final = 64
BODY_SECONDS: Final = 15.0
"""A body that has not arrived by then is given up."""

F = TypeVar("F", bound=Callable[..., Any])


def takes(most_bytes: int) -> Callable[[F], F]:
    """Let a route's body be as long as that; without it `BODY_BYTES`."""

    def mark(function: F) -> F:
        function.__dict__["most_bytes"] = most_bytes
        return function

    return mark


class LimitedRoute(APIRoute):
    """A route whose body is read here, before anybody parses it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        most = getattr(self.endpoint, "most_bytes", BODY_BYTES)
        has_body = self.body_field is not None

        async def read_then_handle(request: Request) -> Response:
            if has_body:
                limit = most
                if most == DEFINITION:
                    limit = request.app.state.parts.settings.max_definition_bytes + BODY_BYTES
                body = await _read_body(request, limit)
                request = Request(request.scope, _replay(body))
            return await handle(request)

        return read_then_handle


async def _read_body(request: Request, most: int) -> bytes:
    require_type(request, "application/json", "send JSON in UTF-8")
    body = await read_limited(request, most)
    try:
        read_json(body, max_bytes=most, max_depth=BODY_DEPTH)
    except JsonRefused as error:
        raise Refused("body_refused", str(error), error.problems) from None
    return body


def require_type(request: Request, kind: str, told: str) -> None:
    """
    Refuse a body that says to be something else than UTF-8 text of this kind, as it is.

    Raises:
        Refused: 415; also where it says two things, of which others might believe the second.
    """
    codings = request.headers.getlist("content-encoding")
    if any(coding.strip().lower() != "identity" for coding in codings):
        raise Refused("body_not_json", "send the body as it is, without Content-Encoding")
    kinds = request.headers.getlist("content-type")
    given, _, rest = kinds[0].partition(";") if len(kinds) == 1 else ("", "", "")
    charset = rest.strip().lower().replace('"', "")
    if given.strip().lower() != kind or charset not in ("", "charset=utf-8"):
        raise Refused("body_not_json", f"{told}, with Content-Type: {kind}")


async def read_limited(request: Request, most: int) -> bytes:
    """
    Return a body that is no longer than `most` bytes, and comes in time.

    Raises:
        Refused: it is longer, or too slow.
    """
    declared = request.headers.get("content-length") or "0"
    # Twenty digits and more are no length of anything that is read here.
    if not declared.isdecimal() or len(declared) > 19 or int(declared) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _collect(request, most)
    except TimeoutError:
        raise Refused(
            "body_too_slow",
            f"it had not arrived after {BODY_SECONDS:.0f} s; nothing was done",
            # What comes of it now would stand where the next request begins.
            headers={"Connection": "close"},
        ) from None


async def _collect(request: Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused("body_too_large", f"this operation takes at most {most:,} bytes")


def _replay(body: bytes) -> Callable[[], Coroutine[Any, Any, Message]]:
    """Return a `receive` that gives a body that has been read, once."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
