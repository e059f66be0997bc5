"""Requests as bytes on a connection, and a server in a process of its own that is hasty.

Decides how a hostile client behaves and how what it got is read; never what is right. Used by the
tests of this folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2

from tests.servers import wait_until
from tests.servers.guardian import Guardian
from tests.servers.processes import read_tail, spawn

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0

HEAD_SECONDS = 1.0
BODY_SECONDS = 1.5
SLOW_SECONDS = 1.0
"""What `HastyServer` has in the place of the product's times."""


@dataclass(frozen=True)
class Reply:
    """One reply as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_problem(self) -> bool:
        """It is a problem of RFC 9457 that says the status it came with."""
        if self.headers.get("content-type") != "application/problem+json":
            return False
        told = json.loads(self.body)
        return told["status"] == self.status and bool(told["code"]) and "title" in told


@dataclass
class Outcome:
    """What became of a connection."""

    data: bytes = b""
    is_closed: bool = False
    seconds: float = 0.0
    sent: int = 0
    replies: list[Reply] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]

    def is_refused(self) -> bool:
        """Closed without a word, or told by a problem with a status of the 400s."""
        if not self.data:
            return self.is_closed
        return all(400 <= one.status < 500 and one.is_problem for one in self.replies)


class Wire:
    """A connection on which anything can be said."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.outcome = Outcome()
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> bool:
        """Send; False: the other end has hung up."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        self.outcome.sent += len(data)
        return True

    def drip(self, data: Iterator[bytes] | Sequence[bytes], *, pause: float) -> None:
        """Send part by part until something is replied or the connection ends."""
        self.socket.settimeout(pause)
        for part in data:
            if not self.say(part):
                return
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                self.outcome.is_closed = True
                return
            self.outcome.data += got
            self.outcome.is_closed = not got
            return

    def hear(self, *, seconds: float = PATIENCE, replies: int | None = None) -> Outcome:
        """Listen until the connection ends, `replies` have come, or the time is over."""
        until = time.monotonic() + seconds
        done = self.outcome
        while not done.is_closed and time.monotonic() < until:
            if replies is not None and len(read_replies(done.data)) >= replies:
                break
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                break
            except OSError:
                got = b""
            done.data += got
            done.is_closed = not got
        done.seconds = time.monotonic() - self._begun
        done.replies = read_replies(done.data)
        return done


def read_replies(data: bytes) -> list[Reply]:
    """Return the complete replies in what came; those without a length go to the end."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) ?.*", lines[0])
        if match is None or not _:
            break
        pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        status = int(match[1])
        if 100 <= status < 200:
            data = rest
            continue
        size = int(headers.get("content-length", len(rest)))
        if len(rest) < size:
            break
        found.append(Reply(status, headers, rest[:size]))
        data = rest[size:]
    return found


def write_request(
    method: str = "POST",
    target: str = "/api/v1/session",
    *headers: str,
    body: bytes = b"",
    json_body: bool = True,
    length: str | None = "",
    host: str = "127.0.0.1",
) -> bytes:
    """Return a request; `length` is the Content-Length, by default the true one, None: none."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if json_body and not any(line.lower().startswith("content-type") for line in headers):
        lines.append("Content-Type: application/json")
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class HastyServer:
    """`python -m iaflow.web` in a process of its own, with shorter patience; a context manager."""

    def __init__(self, guardian: Guardian, folder: Path, settings: Mapping[str, str]) -> None:
        self.log = folder / "web.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("IAFLOW_")}
        session = {k: v for k, v in os.environ.items() if k == "IAFLOW_TEST_SESSION"}
        self._env = {**kept, **session, **settings}
        self._guardian = guardian
        self._folder = folder

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "tests.security.wire", "--port", "0"]
        env = {**self._env, "PYTHONPATH": str(ROOT)}
        self.process: subprocess.Popen[bytes] = spawn(argv, log=self.log, cwd=self._folder, env=env)
        self._guardian.watch(self.process.pid)
        self.port = wait_until(self._find_port, 30, f"the server: {read_tail(self.log)}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._guardian.forget(self.process.pid)

    def _find_port(self) -> int | None:
        assert self.process.poll() is None, read_tail(self.log)
        told = re.search(rb"serving https?://127\.0\.0\.1:(\d+)", self.log.read_bytes())
        return int(told[1]) if told else None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget_peak(self) -> None:
        """Let `peak_mb` be of what comes now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the most memory that was resident since `forget_peak`, in MB."""
        return self._read_kb("VmHWM") / 1000

    def resident_mb(self) -> float:
        return self._read_kb("VmRSS") / 1000

    def _read_kb(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        assert found, text
        return int(found[1])


class Bystander:
    """Another client, who asks all the while and notes how long it takes; a context manager."""

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        self._url, self._path, self._headers = url, path, headers
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.took: list[float] = []
        self.faults: list[Any] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        wait_until(lambda: len(self.took) > 2, PATIENCE, "the bystander has been answered")
        self._is_over.set()
        self._thread.join(PATIENCE)

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, headers=dict(self._headers)) as client:
            while not self._is_over.wait(0.02):
                begun = time.monotonic()
                try:
                    status = client.get(self._path, timeout=PATIENCE).status_code
                    if status != 200:
                        self.faults.append(status)
                except httpx2.HTTPError as error:
                    self.faults.append(repr(error))
                self.took.append(time.monotonic() - begun)

    def p99(self) -> float:
        """Return the 99th percentile of how long it took, in seconds."""
        return sorted(self.took)[int(len(self.took) * 0.99)]


def _serve_hastily(arguments: Sequence[str]) -> int:
    from iaflow.web import event_stream, limits, server
    from iaflow.web.__main__ import main

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    options = parser.parse_args(arguments)
    patched: dict[str, Any] = {
        "HEAD_SECONDS": HEAD_SECONDS,
        "BODY_SECONDS": BODY_SECONDS,
        "SLOW_SECONDS": SLOW_SECONDS,
    }
    for module in (server, limits, event_stream):
        for name, value in patched.items():
            with contextlib.suppress(AttributeError):
                getattr(module, name)
                setattr(module, name, value)
    return main(["--port", options.port])


if __name__ == "__main__":
    raise SystemExit(_serve_hastily(sys.argv[1:]))
