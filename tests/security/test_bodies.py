"""What no decent client sends (T17): refused or cut off, at no cost for others.

Decides that every such request ends in a problem of the 400s or a closed connection, that the
process does not grow by it, and that who asks beside it hardly notices.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.passwords import Passwords
from iaflow.settings import Settings
from tests.security.wire import (
    BODY_SECONDS,
    HEAD_SECONDS,
    Bystander,
    HastyServer,
    Outcome,
    Wire,
    write_request,
)
from tests.servers import ServerRoom

SECRET_KEY = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"
PASSWORD = "plum-cradle-oxide-74"
MOST_MB = 50.0
SLACK = 2.0
"""Seconds that a busy machine may add to a time-out."""
IMPORT = "/api/v1/pipelines"
"""Takes the longest bodies: a definition."""
KIB, MIB, GIB = 1024, 1024**2, 1024**3


@dataclass
class Target:
    """A server, and somebody who may send it definitions."""

    server: HastyServer
    bearer: str

    def ask(self, *parts: bytes, replies: int | None = None, half_close: bool = False) -> Outcome:
        with Wire(self.server.port) as wire:
            for part in parts:
                if not wire.say(part):
                    break
            if half_close:
                wire.socket.shutdown(socket.SHUT_WR)
            return wire.hear(replies=replies)

    def import_(self, body: bytes, *headers: str) -> bytes:
        return write_request("POST", IMPORT, f"Authorization: {self.bearer}", *headers, body=body)


@pytest.fixture(scope="module")
def target(server_room: ServerRoom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("bodies")
    url = f"sqlite:///{folder / 'runs.db'}"
    with SessionManager(
        url,
        secret_key=SECRET_KEY,
        settings=Settings(),
        passwords=Passwords(time_cost=1, memory_kib=8),
    ) as sessions:
        sessions.accounts.create("adele", roles=("admin",), password=PASSWORD, caller=Caller("t"))
        me = sessions.sign_in("adele", PASSWORD).principal
        scopes = ("pipelines:write", "runs:read")
        _, text = sessions.tokens.create(me, "hostile", scopes, 1, caller=Caller("adele"))
    settings = {"IAFLOW_DATABASE_URL": url, "IAFLOW_SECRET_KEY": SECRET_KEY}
    with HastyServer(server_room.guardian, folder, settings) as server:
        target = Target(server, f"Bearer {text}")
        # Warm: what any first request loads is not what a hostile one costs.
        for body in (b"{}", b'{"definition": {"name": "x"}}'):
            assert target.ask(target.import_(body), replies=1).statuses == [422]
        yield target


@pytest.fixture(scope="module", autouse=True)
def bystander(target: Target) -> Iterator[Bystander]:
    """Somebody who asks beside all of it, and must not notice."""
    path, headers = "/api/v1/runs", {"Authorization": target.bearer}
    before = target.server.resident_mb()
    with Bystander(target.server.url, path, headers) as bystander:
        yield bystander
    grown = target.server.resident_mb() - before
    print(f"all of it together: +{grown:.1f} MB")
    assert grown < MOST_MB
    worst, p99 = max(bystander.took), bystander.p99()
    print(f"bystander: {len(bystander.took)} requests, p99 {p99:.3f} s, slowest {worst:.3f} s")
    assert bystander.faults == []
    assert p99 < 1.0
    assert worst < 5.0


@pytest.fixture(autouse=True)
def _guard(target: Target) -> Iterator[None]:
    """Nothing of it may grow the process, not even for a moment."""
    target.server.forget_peak()
    before = target.server.resident_mb()
    yield
    grown = target.server.peak_mb() - before
    print(f"  peak +{grown:.1f} MB")
    assert grown < MOST_MB


def sign_in(body: bytes, *headers: str, **more: Any) -> bytes:
    return write_request("POST", "/api/v1/session", *headers, body=body, **more)


GOOD = b'{"name": "nobody-at-all", "password": "%s"}'
CHUNKED = "Transfer-Encoding: chunked"

NOT_HTTP: dict[str, bytes] = {
    "two lengths": sign_in(b"{}", "Content-Length: 5"),
    "one length, twice as a list": sign_in(b"{}", length="2, 3"),
    "length and chunks": sign_in(b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, length="2"),
    "length that is negative": sign_in(b"{}", length="-2"),
    "length with a sign": sign_in(b"{}", length="+2"),
    "length in hexadecimal": sign_in(b"{}", length="0x2"),
    "length of 40 digits": sign_in(b"{}", length="9" * 40),
    "chunks coded twice": sign_in(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked", length=None),
    "chunked spelt otherwise": sign_in(b"0\r\n\r\n", "Transfer-Encoding: xchunked", length=None),
    "chunked twice": sign_in(b"0\r\n\r\n", CHUNKED, CHUNKED, length=None),
    "chunk of a negative size": sign_in(b"-1\r\nx\r\n0\r\n\r\n", CHUNKED, length=None),
    "chunk of a size in 0x": sign_in(b"0x2\r\n{}\r\n0\r\n\r\n", CHUNKED, length=None),
    "chunk longer than it says": sign_in(b"2\r\n{}}}\r\n0\r\n\r\n", CHUNKED, length=None),
    "chunk size of 1 MB": sign_in(b"0" * MIB, CHUNKED, length=None),
    "two hosts": write_request("GET", "/healthz", "Host: other.example"),
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "one header of 1 MB": write_request("GET", "/healthz", "X-Long: " + "x" * MIB),
    "many headers": write_request("GET", "/healthz", *(f"X-{n}: y" for n in range(20_000))),
    "a request line of 1 MB": write_request("GET", "/" + "a" * MIB),
    "a query of 1 MB": write_request("GET", "/healthz?" + "a=1&" * (MIB // 4)),
    "NUL in a header": write_request("GET", "/healthz", "X-A: a\x00b"),
    "a name with a space": write_request("GET", "/healthz", "X-A : b"),
    "no name of a header": write_request("GET", "/healthz", ": b"),
    "a line that CR ends": write_request("GET", "/healthz", "X-A: a\rX-B: b"),
    "a path that is not ASCII": b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\nHost: a\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200,
    "noise": bytes(range(256)) * 64,
    "a head that never ends": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    "line ends without end": b"\r\n" * MIB,
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_refused(target: Target, name: str) -> None:
    outcome = target.ask(NOT_HTTP[name])
    print(f"{name}: {outcome.statuses or 'closed'} after {outcome.seconds:.2f} s")
    assert outcome.is_refused(), outcome.data[:500]
    assert outcome.is_closed, "what follows on this connection may be anything"
    assert len(outcome.replies) <= 1
    assert outcome.seconds < HEAD_SECONDS + SLACK


def nest(depth: int) -> bytes:
    return b'{"definition": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def say_keys(count: int) -> bytes:
    return b'{"definition": {' + b",".join(b'"k%d":1' % n for n in range(count)) + b"}}"


LATIN = "Content-Type: application/json; charset=latin-1"
BODIES: dict[str, tuple[int, bytes, tuple[str, ...]]] = {
    "nested 65 deep": (422, nest(65), ()),
    "nested 20,000 deep": (422, nest(20_000), ()),
    "opened 1,000,000 deep": (422, b"[" * 1_000_000, ()),
    "opened 1,000,000 objects": (422, b'{"":' * 250_000, ()),
    "100,000 keys": (422, say_keys(100_000), ()),
    "1,000,000 keys": (413, say_keys(1_000_000), ()),
    "a key twice": (422, b'{"definition": {}, "definition": {}}', ()),
    "NaN": (422, b'{"definition": NaN}', ()),
    "Infinity": (422, b'{"definition": -Infinity}', ()),
    "1e400": (422, b'{"definition": {"a": 1e400}}', ()),
    "5,000 digits": (422, b'{"definition": {"a": %s}}' % (b"7" * 5_000), ()),
    "1,000,000 digits": (422, b'{"definition": {"a": %s}}' % (b"7" * 1_000_000), ()),
    "NUL, escaped": (422, b'{"definition": {"a": "\\u0000"}}', ()),
    "NUL, bare": (422, b'{"definition": {"a": "\0"}}', ()),
    "half of a surrogate pair": (422, b'{"definition": {"a": "\\ud800"}}', ()),
    "half of one as UTF-8": (422, b'{"definition": {"a": "\xed\xa0\x80"}}', ()),
    "a byte order mark": (422, b"\xef\xbb\xbf{}", ()),
    "UTF-16": (422, '{"definition": {}}'.encode("utf-16"), ()),
    "UTF-16 without a mark": (422, '{"definition": {}}'.encode("utf-16-le"), ()),
    "Latin-1 that says nothing": (422, '{"definition": "é"}'.encode("latin-1"), ()),
    "Latin-1 that says so": (415, b"{}", (LATIN,)),
    "gzip": (415, b"\x1f\x8b\x08\x00", ("Content-Encoding: gzip",)),
    "gzip and br": (415, b"{}", ("Content-Encoding: br, gzip",)),
    "coded twice": (415, b"{}", ("Content-Encoding: identity", "Content-Encoding: gzip")),
    "a form": (415, b"definition=1", ("Content-Type: application/x-www-form-urlencoded",)),
    "parts": (415, b"--x--", ("Content-Type: multipart/form-data; boundary=x",)),
    "text": (415, b"{}", ("Content-Type: text/plain",)),
    "two types": (415, b"{}", ("Content-Type: application/json", "Content-Type: text/plain")),
    "no type": (415, b"{}", ("Content-Type:",)),
    "a list": (422, b"[]", ()),
    "nothing": (422, b"", ()),
    "a comment": (422, b"{/**/}", ()),
    "trailing words": (422, b"{} {}", ()),
    "a string of 300 KB": (422, b'{"definition": "%s"}' % (b"a" * 300_000), ()),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_no_strict_json_is_refused(target: Target, name: str) -> None:
    status, body, headers = BODIES[name]
    outcome = target.ask(target.import_(body, *headers), replies=1)
    print(f"{name}: {outcome.statuses} after {outcome.seconds:.2f} s, {len(body):,} bytes")
    assert outcome.statuses == [status], outcome.data[:500]
    assert outcome.is_refused()
    assert outcome.seconds < 1 + SLACK
    assert len(outcome.data) < 64 * KIB, "a refusal is shorter than what it refuses"


def test_a_gigabyte_that_says_so_is_refused_unread(target: Target) -> None:
    with Wire(target.server.port) as wire:
        wire.say(sign_in(b"", length=str(GIB)))
        outcome = wire.hear(replies=1)
    print(f"refused after {outcome.seconds:.3f} s and {outcome.sent} bytes")
    assert outcome.statuses == [413]
    assert outcome.is_refused()


def test_a_gigabyte_of_chunks_is_cut_off(target: Target) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with Wire(target.server.port) as wire:
        wire.say(sign_in(b"", CHUNKED, length=None))
        while wire.outcome.sent < GIB and wire.say(chunk):
            pass
        outcome = wire.hear()
    print(f"cut off after {outcome.sent / MIB:.1f} MiB and {outcome.seconds:.2f} s")
    # What stands in the buffers of both ends counts too.
    assert outcome.sent < 32 * MIB, "who was refused may go on sending"
    assert outcome.is_closed
    assert outcome.is_refused()
    assert set(outcome.statuses) <= {413}


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "a head, letter by letter": lambda: iter(
        [b"GET / HTTP/1.1\r\n", *(b"X-%d: y\r\n" % n for n in range(1_000))]
    ),
    "a first line, letter by letter": lambda: repeat(b"G", 1_000),
    "empty lines": lambda: repeat(b"\r\n", 1_000),
    "a body, letter by letter": lambda: iter([sign_in(b"", length="60000"), *repeat(b" ", 1_000)]),
    "chunks without end": lambda: iter(
        [sign_in(b"", CHUNKED, length=None), *repeat(b"1\r\n \r\n", 1_000)]
    ),
    "one chunk without end": lambda: iter(
        [sign_in(b"", CHUNKED, length=None), b"ea60\r\n", *repeat(b" ", 1_000)]
    ),
    "trailers without end": lambda: iter(
        [sign_in(b"2\r\n{}\r\n0\r\n", CHUNKED, length=None), *repeat(b"X-A: b\r\n", 1_000)]
    ),
    "a head, then nothing": lambda: iter([b"GET / HTTP/1.1\r\nHost: a\r\n", *repeat(b"", 200)]),
    "a body that was promised": lambda: iter([sign_in(b"", length="10"), *repeat(b"", 200)]),
    "a body that waits for 100": lambda: iter(
        [sign_in(b"", "Expect: 100-continue", length="10"), *repeat(b"", 200)]
    ),
    "nothing at all": lambda: repeat(b"", 200),
}


def test_who_takes_too_long_is_given_up(target: Target) -> None:
    def ask(name: str) -> Outcome:
        with Wire(target.server.port) as wire:
            wire.drip(ENDLESS[name](), pause=0.05)
            if wire.outcome.data == b"HTTP/1.1 100 Continue\r\n\r\n":
                wire.outcome.data = b""
                wire.drip(repeat(b"", 200), pause=0.05)
            return wire.hear(seconds=BODY_SECONDS + SLACK)

    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        outcomes = dict(zip(ENDLESS, pool.map(ask, ENDLESS), strict=True))
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.statuses or 'closed'} after {outcome.seconds:.2f} s")
        assert outcome.is_closed, f"{name}: it is still open"
        assert outcome.is_refused(), (name, outcome.data[:500])


def test_a_kept_connection_without_a_request_is_closed(target: Target) -> None:
    with Wire(target.server.port) as wire:
        wire.say(write_request("GET", "/healthz", json_body=False))
        assert wire.hear(replies=1).statuses == [200]
        wire.drip(repeat(b"\r\n", 400), pause=0.05)
        outcome = wire.hear()
    print(f"closed after {outcome.seconds:.2f} s")
    assert outcome.is_closed
    assert outcome.seconds < 5 + HEAD_SECONDS + SLACK


def test_pipelined_requests_are_answered_in_order(target: Target) -> None:
    asked = [("/healthz", 200), ("/nothing-here", 401), ("/readyz", 200)] * 50
    sent = b"".join(write_request("GET", path, json_body=False) for path, _ in asked)
    outcome = target.ask(sent, replies=len(asked))
    print(f"{len(outcome.replies)} replies in {outcome.seconds:.2f} s")
    assert outcome.statuses == [status for _, status in asked]


def test_a_request_inside_a_refused_body_is_not_answered(target: Target) -> None:
    inner = write_request("GET", "/healthz", json_body=False)
    smuggled = {
        "in a body that is refused unread": sign_in(inner, length=str(100_000)),
        "in a body of a GET": write_request("GET", "/readyz", body=inner),
        "behind chunks and a length": sign_in(b"0\r\n\r\n" + inner, CHUNKED, length="5"),
        "behind two lengths": sign_in(inner, "Content-Length: 0"),
    }
    for name, sent in smuggled.items():
        with Wire(target.server.port) as wire:
            wire.say(sent)
            outcome = wire.hear(seconds=HEAD_SECONDS + SLACK)
        print(f"{name}: {outcome.statuses}")
        assert len(outcome.replies) == 1, name


def test_half_closed_connections_end(target: Target) -> None:
    halves = {
        "before a word": b"",
        "in a head": b"GET /healthz HT",
        "in a body": sign_in(b'{"na', length="100"),
        "in a chunk": sign_in(b"ff\r\n{", CHUNKED, length=None),
        "behind a request": write_request("GET", "/healthz", json_body=False),
    }
    for name, sent in halves.items():
        outcome = target.ask(sent, half_close=True)
        print(f"{name}: {outcome.statuses or 'closed'} after {outcome.seconds:.2f} s")
        assert outcome.is_closed, name
        assert outcome.seconds < HEAD_SECONDS + SLACK, name


def test_two_hundred_who_dawdle_keep_nobody_out(target: Target) -> None:
    beginnings = [
        b"",
        b"GET /healthz HTTP/1.1\r\n",
        sign_in(b'{"name', length="60000"),
        sign_in(b"", CHUNKED, length=None),
    ]
    wires = [Wire(target.server.port) for _ in range(200)]
    try:
        for n, wire in enumerate(wires):
            wire.say(beginnings[n % len(beginnings)])
        outcomes = [wire.hear(seconds=BODY_SECONDS + SLACK) for wire in wires]
    finally:
        for wire in wires:
            wire.socket.close()
    closed = sum(outcome.is_closed for outcome in outcomes)
    print(
        f"{closed} of {len(wires)} closed, slowest after {max(o.seconds for o in outcomes):.1f} s"
    )
    assert closed == len(wires)
    assert all(outcome.is_refused() for outcome in outcomes)


def test_who_breaks_off_at_once_leaves_nothing(target: Target) -> None:
    sent = target.import_(b'{"definition": {}}')
    for n in range(300):
        with Wire(target.server.port) as wire:
            wire.say(sent[: n * len(sent) // 300])
            # Without a farewell: the connection is reset.
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert target.ask(sent, replies=1).statuses == [422]
    assert b"Traceback" not in target.server.log.read_bytes()
