"""Requests as a server hands them to an application: every header as it is written.

Decides nothing of what comes back. Used by the tests of this folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

HOST = "flows.example.org"

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; of a websocket the status is the code that it was closed with, or 101."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Echo:
    """An application that says who it was told asks; and remembers every scope."""

    def __init__(self) -> None:
        self.scopes: list[MutableMapping[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "headers": []})
            return
        user = scope["user"]
        body = json.dumps({"user": user and user.name}).encode()
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"mine")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def ask(
    app: Any,
    method: str = "GET",
    path: str = "/runs",
    headers: Iterable[Header] = (),
    *,
    host: str = HOST,
    **scope: Any,
) -> Reply:
    """Send one request, or with `method="WS"` ask for a websocket."""
    is_websocket = method == "WS"
    raw = [("host", host), *headers]
    asked = {
        "type": "websocket" if is_websocket else "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "wss" if is_websocket else "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in raw],
        "client": ("192.0.2.10", 40_000),
        "server": (host, 443),
        "state": {},
    }
    if not is_websocket:
        asked["method"] = method
    return asyncio.run(_ask(app, asked | scope))


async def _ask(app: Any, scope: dict[str, Any]) -> Reply:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    first = sent[0]
    if first["type"] == "websocket.accept":
        return Reply(101, (), b"")
    if first["type"] == "websocket.close":
        return Reply(first["code"], (), b"")
    headers = tuple((name.decode(), value.decode()) for name, value in first["headers"])
    return Reply(first["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]))
