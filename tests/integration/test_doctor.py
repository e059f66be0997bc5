"""`iaflow doctor` before real servers that are not as they should be."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from pydantic import SecretStr

from iaflow.cli.diagnosing import find_all, list_settings
from iaflow.cli.findings import Finding
from iaflow.cli.surroundings import _judge_line, is_open_line
from iaflow.database import migrator
from iaflow.settings import Settings
from tests.integration.houses import House, document
from tests.servers import PostgresServer, RedisServer, wait_until
from tests.servers.fixtures import StartWorker
from tests.servers.processes import find_free_port

STRONG = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"


def look(database_url: str = "sqlite://", **settings: Any) -> dict[str, list[Finding]]:
    """Return what the doctor finds, by its names."""
    chosen = Settings().model_copy(update={"database_url": database_url, **settings})
    found: dict[str, list[Finding]] = {}
    for one in find_all(chosen, do_import=False):
        found.setdefault(one.name, []).append(one)
    assert all(one.advice for ones in found.values() for one in ones if one.verdict == "fail")
    return found


def verdicts(found: dict[str, list[Finding]], name: str) -> list[str]:
    return [one.verdict for one in found[name]]


def test_a_server_that_forgets(private_postgres: PostgresServer) -> None:
    url = private_postgres.create_database()
    assert verdicts(look(url), "durability") == ["ok"]
    assert verdicts(look(url), "schema") == ["fail"]
    migrator.upgrade(url)
    assert verdicts(look(url), "schema") == ["ok"]
    for name, verdict in (("synchronous_commit", "warn"), ("fsync", "fail")):
        private_postgres.execute(f"ALTER SYSTEM SET {name} = off")
        private_postgres.execute("SELECT pg_reload_conf()")
        # The server tells its processes in its own time.
        seen = partial(turned, url, name)
        [told] = wait_until(seen, 10, f"{name} to be off")
        assert told.verdict == verdict


def turned(url: str, name: str) -> list[Finding]:
    found = look(url)["durability"]
    return [one for one in found if name in one.message and "off" in one.message]


def test_a_broker_that_drops_messages(private_redis: RedisServer) -> None:
    with contextlib.closing(redis.Redis.from_url(private_redis.url)) as client:
        assert verdicts(look(broker_url=private_redis.url), "eviction") == ["ok"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        found = look(broker_url=private_redis.url)
    assert verdicts(found, "eviction") == ["fail"]
    assert "noeviction" in found["eviction"][0].advice
    private_redis.stop()
    assert verdicts(look(broker_url=private_redis.url), "broker") == ["fail"]


def test_queues_that_nobody_reads(
    postgres_url: str, redis_url: str, start_worker: StartWorker
) -> None:
    settings: dict[str, Any] = {"broker_url": redis_url, "queues": ("iaflow", "heavy")}
    found = look(postgres_url, **settings)
    assert verdicts(found, "workers") == ["warn"]
    assert verdicts(found, "queue") == ["warn", "warn"]
    house = House(postgres_url)
    run_id = house.start(document({"root": {"queue": "heavy"}}))
    found = look(postgres_url, **settings)
    assert verdicts(found, "queue") == ["warn", "fail"]
    assert "1 steps ready" in found["queue"][1].message
    assert "-Q heavy" in found["queue"][1].advice
    start_worker(
        database_url=postgres_url,
        redis_url=redis_url,
        env={"IAFLOW_QUEUES": "iaflow,heavy"},
        args=("-Q", "iaflow", "--pool", "threads"),
    )
    found = look(postgres_url, **settings)
    assert verdicts(found, "workers") == ["ok"]
    assert verdicts(found, "queue") == ["ok", "fail"]
    assert house.claim(run_id, "root")
    assert verdicts(look(postgres_url, **settings), "steps") == ["ok"]
    house.database.close()


def test_a_step_whose_worker_is_gone(postgres_url: str, redis_url: str) -> None:
    house = House(postgres_url, lease_seconds=0.05)
    house.claim(house.start(document({"root": {}})), "root")
    wait_until(
        lambda: verdicts(look(postgres_url, broker_url=redis_url), "steps") == ["warn"],
        10,
        "the lease to be over",
    )
    house.database.close()


def test_what_a_hook_and_a_page_must_have() -> None:
    closed = find_free_port()
    found = look(notify_url=f"http://127.0.0.1:{closed}/x", flower_url=f"http://127.0.0.1:{closed}")
    assert verdicts(found, "notifier") == ["fail"]
    assert verdicts(found, "flower") == ["warn"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        assert verdicts(look(notify_url=url), "notifier") == ["ok", "warn"]
    assert verdicts(look(), "notifier") == ["ok"]
    assert "flower" not in look()


@pytest.mark.parametrize(
    ("url", "is_open"),
    (
        ("redis://127.0.0.1/0", False),
        ("redis://[::1]:6379/0", False),
        ("redis://localhost", False),
        ("postgresql:///name", False),
        ("redis://10.0.0.7", True),
        ("redis://redis:6379", True),
        ("postgresql://db.example.org/x", True),
    ),
)
def test_an_open_line_leads_to_another_machine(url: str, is_open: bool) -> None:
    assert is_open_line(url) is is_open


@pytest.mark.parametrize(
    ("url", "count"),
    (
        ("redis://127.0.0.1/0", 0),
        ("redis://broker/0", 2),
        ("redis://:word@broker/0", 1),
        ("rediss://:word@broker/0", 0),
        ("amqp://ann:word@broker//", 1),
        ("amqps://ann:word@broker//", 0),
    ),
)
def test_a_broker_elsewhere_is_guarded(url: str, count: int) -> None:
    found = list(_judge_line(url))
    assert [one.verdict for one in found] == ["warn"] * count
    assert not any("word" in one.message and ":word" in one.advice for one in found)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "NOTIFY_SECRET"):
        monkeypatch.setenv(f"IAFLOW_{name}", "canary-of-a-secret-" * 3)
    shown = {one["name"]: one["value"] for one in list_settings(Settings(), db=None)}
    assert shown["IAFLOW_SECRET_KEY"] == shown["IAFLOW_NOTIFY_SECRET"] == "(set, not shown)"


# --- a pooler


@pytest.fixture
def start_pooler() -> Iterator[Callable[..., str]]:
    """A function that puts what a pooler does to the beginning of a connection before a server."""
    listening: list[socket.socket] = []

    def start(url: str, *, refuse: bool = False) -> str:
        parts = urlsplit(url)
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)
        target = (parts.hostname or "", parts.port or 5432)
        threading.Thread(target=accept, args=(server, target, refuse), daemon=True).start()
        port = server.getsockname()[1]
        return parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()

    yield start
    for server in listening:
        server.close()


def accept(server: socket.socket, target: tuple[str, int], refuse: bool) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            threading.Thread(target=serve, args=(client, target, refuse), daemon=True).start()


def serve(client: socket.socket, target: tuple[str, int], refuse: bool) -> None:
    """Pass everything on but the start parameter `options`, as PgBouncer can be told to."""
    with contextlib.suppress(OSError), client:
        code, body = read_start(client)
        while code in (80877103, 80877104):  # may we speak TLS, or GSS? no
            client.sendall(b"N")
            code, body = read_start(client)
        if refuse:
            text = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            client.sendall(b"E" + struct.pack("!I", len(text) + 4) + text)
            return
        words = body.rstrip(b"\0").split(b"\0")
        pairs = [
            pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0] != b"options"
        ]
        start = b"".join(word + b"\0" for pair in pairs for word in pair) + b"\0"
        with socket.create_connection(target) as upstream:
            upstream.sendall(struct.pack("!II", len(start) + 8, code) + start)
            back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
            back.start()
            pump(client, upstream)
            back.join(timeout=5)


def read_start(client: socket.socket) -> tuple[int, bytes]:
    length, code = struct.unpack("!II", client.recv(8, socket.MSG_WAITALL))
    return code, client.recv(length - 8, socket.MSG_WAITALL) if length > 8 else b""


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)


def test_a_pooler_between(postgres_url: str, start_pooler: Callable[..., str]) -> None:
    assert "connection" not in look(postgres_url)
    pooled = start_pooler(postgres_url)
    psycopg2.connect(pooled).close()
    found = look(pooled)
    assert verdicts(found, "connection") == ["warn"]
    assert "IAFLOW_PREPARE_STATEMENTS=false" in found["connection"][0].advice
    found = look(start_pooler(postgres_url, refuse=True))
    assert verdicts(found, "database") == ["fail"]
    assert "pooler" in found["database"][0].advice


# --- the web


@pytest.mark.parametrize(
    ("settings", "expected", "told"),
    (
        ({}, ["ok"], "starts with --dev alone"),
        ({"public_url": "http://127.0.0.1:8000"}, ["fail"], "is not set"),
        ({"secret_key": ""}, ["ok"], "is not set"),
        ({"secret_key": STRONG}, ["ok"], "long enough"),
        ({"secret_key": "short-one"}, ["fail"], "9 bytes"),
        ({"secret_key": "changeme" * 8}, ["fail"], "can be guessed"),
        (
            {"secret_key": STRONG, "public_url": "http://flows.example.org"},
            ["ok", "fail"],
            "over https alone",
        ),
        (
            {"secret_key": STRONG, "public_url": "https://flows.example.org"},
            ["ok", "warn"],
            "no proxy is trusted",
        ),
        (
            {
                "secret_key": STRONG,
                "public_url": "https://flows.example.org",
                "trusted_proxies": ("10.0.0.0/8",),
            },
            ["ok"],
            "long enough",
        ),
        ({"secret_key": STRONG, "trusted_proxies": ("0.0.0.0/0",)}, ["ok", "fail"], "everybody"),
    ),
)
def test_what_the_web_signs_with_and_how_it_is_reached(
    settings: dict[str, Any], expected: list[str], told: str
) -> None:
    if "secret_key" in settings:
        settings = {**settings, "secret_key": SecretStr(settings["secret_key"])}
    found = look(**settings)
    assert verdicts(found, "web") == expected
    assert told in " ".join(one.message for one in found["web"])
    shown = str(found) + str(list_settings(Settings().model_copy(update=settings), db=None))
    assert "changeme" not in shown
    assert STRONG not in shown
