"""One web process under load: open event streams, and requests that come whether it keeps up or not.

Decides who asks for what and when, and what of it is timed; never how turns are taken or counted.
Used by `workloads`. A request is timed from when it was due, not from when it could be sent.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.contenders import (
    Stage,
    iaflow_settings,
    make_document,
    make_step,
    migrate,
)
from benchmarks.meter import TICKS_PER_SECOND
from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.bootstrap import open_application
from iaflow.data.accounts import Permission
from iaflow.pipeline.check import compile_definition
from tests.servers import wait_until
from tests.servers.processes import spawn
from tests.servers.worker import ROOT

__all__ = ["Load", "Served", "Service"]

STREAMS_PER_USER = 10
LIVE_RUNS = 20
LIVE_STEPS = 400
READY_SECONDS = 60.0
PATIENCE_SECONDS = 30.0

SCOPES = tuple(Permission)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for, and for how long."""

    seconds: float = 30.0
    streams: int = 200
    requests_per_second: int = 50


@dataclass(slots=True)
class Served:
    """
    What came of a load.

    Attributes:
        times: of the requests, in ms, by kind.
        lags: of events, in ms: from their commit to whoever listens.
        cpu_share: of one core, that the web process used; None where there is no /proc.
    """

    times: dict[str, list[float]] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    cpu_share: float | None = None

    def percentile(self, part: float, kind: str | None = None) -> float:
        """Return how long the slowest requests took, but for a part of them; in ms."""
        chosen = [self.times[kind]] if kind is not None else self.times.values()
        return find_percentile(list(itertools.chain.from_iterable(chosen)), part)

    def describe(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "requests": sum(map(len, self.times.values())),
            "p50_ms": round(self.percentile(0.50), 1),
            "p99_ms": round(self.percentile(0.99), 1),
            "worst_ms": round(self.percentile(1.0), 1),
            "refused": dict(self.refused),
            "p99_ms_by_kind": {
                kind: round(self.percentile(0.99, kind), 1) for kind in sorted(self.times)
            },
            "events": len(self.lags),
            "lag_p50_ms": round(find_percentile(self.lags, 0.50), 1),
            "lag_p99_ms": round(find_percentile(self.lags, 0.99), 1),
            "cpu_share": None if self.cpu_share is None else round(self.cpu_share, 2),
        }


def find_percentile(figures: list[float], part: float) -> float:
    """Return the figure that a part of all does not exceed; 0 without any."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def read_ticks(pid: int) -> int | None:
    """Return the CPU time that a process has used, in ticks; None where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return None
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Service:
    """
    A web process and a worker, with people who watch and ask.

    Args:
        stage: its workers have threads: most steps of this load only wait.
    """

    def __init__(self, stage: Stage, load: Load) -> None:
        self._load = load
        broker = stage.take_broker()
        database_url = stage.postgres.create_database(prefix="benchmark")
        migrate(database_url)
        settings = iaflow_settings(database_url, broker)
        self._application = open_application(settings)
        for document in (live_document(LIVE_STEPS), asking_document()):
            self._application.client.publish(compile_definition(document).definition)
        self._tokens = self._make_people(database_url, load)
        self._worker = stage.start_worker(
            "iaflow", broker=broker, database_url=database_url, concurrency=LIVE_RUNS + 4
        )
        self._web, self.url = _start_web(stage, database_url, broker)
        client = self._application.client
        self._live = [client.start("live", {"n": 0}).run_id for _ in range(LIVE_RUNS)]

    def serve(self, *, seconds: float | None = None) -> Served:
        """
        Open all streams, then ask as often as the load says; return how long it took.

        Args:
            seconds: in the place of the load's, to warm up.
        """
        return asyncio.run(self._serve(self._load.seconds if seconds is None else seconds))

    def close(self) -> None:
        """Stop the web and the worker."""
        self._web.terminate()
        self._web.wait(PATIENCE_SECONDS)
        self._worker.terminate()
        self._application.close()

    def _make_people(self, database_url: str, load: Load) -> list[str]:
        key = secrets.token_urlsafe(48)
        os.environ["IAFLOW_SECRET_KEY"] = key
        cheap = Passwords(time_cost=1, memory_kib=8)
        sessions = SessionManager(database_url, secret_key=key, passwords=cheap)
        who, tokens = Caller("benchmark"), []
        for number in range(-(-load.streams // STREAMS_PER_USER)):
            name, password = f"person-{number}", secrets.token_urlsafe(16)
            sessions.accounts.create(name, roles=("admin",), password=password, caller=who)
            principal = sessions.sign_in(name, password).principal
            _, text = sessions.tokens.create(principal, "benchmark", SCOPES, 1, caller=who)
            tokens.append(text)
        sessions.close()
        return tokens

    async def _serve(self, seconds: float) -> Served:
        served = Served()
        opened = asyncio.Semaphore(0)
        listening = [
            asyncio.create_task(self._listen(place, opened, served))
            for place in range(self._load.streams)
        ]
        try:
            for _ in listening:
                await asyncio.wait_for(opened.acquire(), PATIENCE_SECONDS)
            ticks, began = read_ticks(self._web.pid), time.perf_counter()
            await self._ask_all(seconds, served)
            if ticks is not None:
                used = (read_ticks(self._web.pid) or ticks) - ticks
                passed = time.perf_counter() - began
                served.cpu_share = used / TICKS_PER_SECOND / passed
        finally:
            for one in listening:
                one.cancel()
            ended = await asyncio.gather(*listening, return_exceptions=True)
        for one in ended:
            if isinstance(one, Exception):
                raise one
        return served

    # -- streams

    async def _listen(self, place: int, opened: asyncio.Semaphore, served: Served) -> None:
        """Listen to a run, or every fourth to the inbox."""
        is_inbox = place % 4 == 3
        run_id = self._live[place % len(self._live)]
        path = "/api/v1/inbox/stream" if is_inbox else f"/api/v1/runs/{run_id}/stream"
        token = self._tokens[place // STREAMS_PER_USER]
        began_at = datetime.now(UTC)
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
            writer.write(head.encode())
            status = await reader.readline()
            if b" 200 " not in status:
                raise AssertionError(f"a stream was refused: {status!r}")
            opened.release()
            kind = b""
            while line := await reader.readline():
                if line.startswith(b"event: "):
                    kind = line[7:].strip()
                elif line.startswith(b"data: ") and kind == b"change":
                    at = datetime.fromisoformat(json.loads(line[6:])["at"])
                    # What is told of the past tells nothing of how quickly it is told.
                    if at > began_at:
                        served.lags.append((datetime.now(UTC) - at).total_seconds() * 1000)
            raise AssertionError("a stream ended")
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    # -- requests

    async def _ask_all(self, seconds: float, served: Served) -> None:
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
        async with httpx2.AsyncClient(
            base_url=self.url, timeout=PATIENCE_SECONDS, limits=limits
        ) as http:
            kinds = self._mix()
            tasks = []
            began = time.perf_counter()
            for number in range(int(seconds * self._load.requests_per_second)):
                due = began + number / self._load.requests_per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                kind, method, path, body = next(kinds)
                token = self._tokens[number % len(self._tokens)]
                ask = self._ask(http, kind, method, path, body, token, due, served)
                tasks.append(asyncio.create_task(ask))
            await asyncio.gather(*tasks)

    async def _ask(
        self,
        http: httpx2.AsyncClient,
        kind: str,
        method: str,
        path: str,
        body: Any,
        token: str,
        due: float,
        served: Served,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        reply = await http.request(method, path, json=body, headers=headers)
        served.times.setdefault(kind, []).append((time.perf_counter() - due) * 1000)
        if reply.status_code not in (200, 201):
            served.refused[f"{kind} {reply.status_code}"] += 1

    def _mix(self) -> Iterator[tuple[str, str, str, Any]]:
        """Yield what is asked for: one start a second, the rest in turn."""
        live = itertools.cycle(self._live)
        per_second = self._load.requests_per_second
        for number in itertools.count():
            base = f"/api/v1/runs/{next(live)}"
            if number % per_second == 0:
                yield "start", "POST", "/api/v1/pipelines/asking/runs", {"input": {"n": 1}}
                continue
            match number % 6:
                case 0:
                    yield "run", "GET", base, None
                case 1:
                    yield "steps", "GET", f"{base}/steps?limit=50", None
                case 2:
                    yield "events", "GET", f"{base}/events?limit=50", None
                case 3:
                    yield "decisions", "GET", f"{base}/decisions?limit=50", None
                case 4:
                    yield "list", "GET", "/api/v1/runs", None
                case _:
                    yield "inbox", "GET", "/api/v1/pauses", None


def _start_web(stage: Stage, database_url: str, broker: str) -> tuple[Any, str]:
    log = stage.room.make_directory("logs") / "web.log"
    settings = {"IAFLOW_DATABASE_URL": database_url, "IAFLOW_BROKER_URL": broker}
    argv = [sys.executable, "-m", "iaflow.web", "--port", "0"]
    process = spawn(argv, log=log, cwd=ROOT, env={**os.environ, **settings})
    stage.room.guardian.watch(process.pid)
    find: Callable[[], re.Match[str] | None] = lambda: re.search(  # noqa: E731
        r"serving (http://[\d.:]+)", log.read_text()
    )
    found = wait_until(find, READY_SECONDS, "the web serves")
    assert found is not None
    return process, found[1]


def live_document(length: int) -> dict[str, Any]:
    """Return a definition that changes every two seconds, and outlives the measuring."""
    steps = [
        {**make_step(f"s{number}", "Waits"), "config": {"seconds": 2.0}} for number in range(length)
    ]
    pairs = [(f"s{number}", f"s{number + 1}") for number in range(length - 1)]
    return {**make_document("live", steps, pairs), "slug": "live"}


def asking_document() -> dict[str, Any]:
    """Return a definition of some steps and a question, which nobody answers."""
    fields = [{"name": "decision", "type": "radio", "options": ["yes", "no"]}]
    form = {"title": "Is it right?", "fields": fields}
    ask = {"id": "ask", "type": "human_input", "config": {"ui_schema": form}}
    steps = [make_step("s0", "Hello"), make_step("s1", "Hello"), ask]
    pairs = [("s0", "s1"), ("s1", "ask")]
    return {**make_document("asking", steps, pairs), "slug": "asking"}
