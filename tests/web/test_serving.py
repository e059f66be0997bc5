"""The server and what is around the app: readers that stop reading, and a host that mounts it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from iaflow.web import server
from tests.servers import wait_until
from tests.web.flows import make_line
from tests.web.webs import PATIENCE, Web


@contextmanager
def serving(app: ASGIApp) -> Iterator[int]:
    """Serve an app; give its port."""
    served = server.make_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    wait_until(lambda: served.started, PATIENCE, "the server listens")
    try:
        yield served.servers[0].sockets[0].getsockname()[1]
    finally:
        served.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_reader_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SLOW_SECONDS", 0.3)
    sent, ended = [0], threading.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})

        async def pour_on() -> None:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                sent[0] += 1
                await asyncio.sleep(0)

        pouring = asyncio.ensure_future(pour_on())
        while (await receive())["type"] != "http.disconnect":
            pass
        pouring.cancel()
        ended.set()

    with serving(pour) as port, socket.create_connection(("127.0.0.1", port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ended.wait(PATIENCE)
        # The kernel holds some megabytes; what the process would hold is bounded by it.
        assert sent[0] * 65536 < 64 * 2**20


def test_a_reader_that_takes_its_time_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SLOW_SECONDS", 0.5)
    size = 32 * 2**20

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(size // 65536):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    with serving(pour) as port, httpx2.stream("GET", f"http://127.0.0.1:{port}/") as reply:
        taken = 0
        for number, part in enumerate(reply.iter_bytes(2**20)):
            taken += len(part)
            if number % 8 == 0:
                # Shorter than the patience, and together longer.
                threading.Event().wait(0.2)
        assert taken == size


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Web]:
    """The web below a path of a host's app, which has routes of its own."""
    web = Web(f"sqlite:///{tmp_path / 'runs.db'}")
    host = FastAPI()

    @host.get("/own")
    def own() -> dict[str, Any]:
        return {"is": "the host's"}

    host.mount("/flows", web.app)
    web.served = host
    with web:
        yield web


def test_a_host_may_mount_the_app_below_a_path(mounted: Web) -> None:
    """Its lifespan is the host's then: what the web needs, begins with the first who asks."""
    mounted.publish(make_line())
    otto = mounted.user("otto")
    assert mounted.nobody.read("/own") == {"is": "the host's"}
    assert mounted.nobody.get("/flows/api/v1/runs").status_code == 401
    reply = otto.post("/flows/api/v1/pipelines/house/runs", {"input": {"n": 12}})
    assert reply.status_code == 201
    place = reply.headers["location"]
    assert place.startswith("/flows/api/v1/runs/")
    assert otto.read(place)["run_id"] == reply.json()["run_id"]
    with otto.listen(f"{place}/stream") as told:
        kinds = [one.kind for one in told if one.kind]
    assert (kinds[0], kinds[-1]) == ("run", "end")
