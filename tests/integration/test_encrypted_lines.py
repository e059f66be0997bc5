"""Encrypted lines: to Postgres, Redis and RabbitMQ by their URLs alone, and to nobody else's.

Decides whom a client and a worker speak to, by certificates of this run; the servers tell how
many of their connections are encrypted. What a server lacks is said and left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psycopg2
import pytest
import redis
from kombu import pools

from iaflow.bootstrap import Application
from iaflow.data.status import RunStatus
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.errors import NotReachable, SettingsRefused
from iaflow.pipeline.executors.brokers import read_broker
from iaflow.pipeline.executors.celery import CeleryExecutor
from tests.integration.fleets import Broker, Fleet, Room, chain, count, start, wait_for_end
from tests.servers import RabbitServer, ServerRoom, wait_until
from tests.servers.certificates import Certificates
from tests.servers.fixtures import StartWorker
from tests.servers.postgres import OwnPostgresServer
from tests.servers.processes import find_free_port, nobody
from tests.servers.rabbitmq import OwnRabbitServer
from tests.servers.valkey import OwnRedisServer

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Line:
    """A broker's encrypted port, by the name in its certificate; who counts its connections."""

    url: str
    count_encrypted: Callable[[], int]

    def trusting(self, authority: Path, *, host: str = "localhost", **more: str) -> str:
        """Return the URL that trusts an authority's signature, and no other."""
        url = self.url.replace("@localhost:", f"@{host}:").replace("//localhost:", f"//{host}:")
        return f"{url}?{urlencode({'ssl_ca_certs': authority, **more})}"


def open_redis_line(server: OwnRedisServer, certificates: Certificates) -> Line:
    """Let a Redis listen on an encrypted port too."""
    port = find_free_port()
    client = redis.Redis.from_url(server.url)
    try:
        for name, value in (
            ("tls-cert-file", certificates.certificate),
            ("tls-key-file", certificates.key),
            ("tls-ca-cert-file", certificates.authority),
            ("tls-auth-clients", "no"),
            ("tls-port", port),
        ):
            client.config_set(name, str(value))
    except redis.ResponseError as error:
        pytest.skip(f"left out: {server.label} speaks no TLS ({error})")

    def count_encrypted() -> int:
        return sum(one["laddr"].endswith(f":{port}") for one in client.client_list())

    return Line(f"rediss://localhost:{port}/0", count_encrypted)


@pytest.fixture(params=("redis", "rabbitmq"))
def line(request: pytest.FixtureRequest, server_room: ServerRoom) -> Line:
    """The encrypted port of a broker."""
    if request.param == "redis":
        server: OwnRedisServer = request.getfixturevalue("private_redis")
        return open_redis_line(server, server_room.certificates)
    rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
    if not isinstance(rabbit, OwnRabbitServer):
        pytest.skip("left out: the RabbitMQ elsewhere has no certificate of this run")
    url: str = request.getfixturevalue("rabbitmq_url")

    def count_encrypted() -> int:
        """The node's end of the connections to its encrypted port."""
        return count_established(rabbit.tls_port)

    return Line(rabbit.tls_url(url), count_encrypted)


def count_established(port: int) -> int:
    """Return how many TCP connections of this machine end at a port that somebody listens on."""
    found = 0
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for row in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = row.split()
            found += fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port
    return found


@pytest.fixture
def encrypted_postgres(
    start_postgres: Callable[..., OwnPostgresServer], server_room: ServerRoom
) -> str:
    """The URL, by the name in the certificate, of a Postgres that takes encrypted lines alone."""
    server = start_postgres(durable=False)
    certificates = server_room.certificates
    key = server_room.make_directory("key") / "server.key"
    shutil.copyfile(certificates.key, key)
    # Postgres takes no key that others may read.
    key.chmod(0o600)
    if user := nobody():
        os.chown(key, *user)
    for name, value in (("ssl_cert_file", certificates.certificate), ("ssl_key_file", key)):
        server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    try:
        server.execute("ALTER SYSTEM SET ssl = on")
    except psycopg2.Error as error:
        pytest.skip(f"left out: Postgres {server.label} speaks no TLS ({error})")
    server.execute("SELECT pg_reload_conf()")
    url = server.create_database()
    return urlsplit(url)._replace(netloc=f"postgres@localhost:{urlsplit(url).port}").geturl()


def verify(url: str, authority: Path, mode: str = "verify-full") -> str:
    return f"{url}?{urlencode({'sslmode': mode, 'sslrootcert': authority})}"


def test_all_that_is_said_is_encrypted(
    encrypted_postgres: str,
    line: Line,
    server_room: ServerRoom,
    room: Room,
    start_worker: StartWorker,
    open_app: Callable[..., Application],
) -> None:
    """Runs from their start to their end: every connection of client and worker is encrypted."""
    authority = server_room.certificates.authority
    database_url = verify(encrypted_postgres, authority)
    migrator.upgrade(database_url)
    broker_url = line.trusting(authority)
    app = open_app(database_url, broker_url)
    fleet = Fleet(app, room, start_worker, Broker(None, broker_url))  # type: ignore[arg-type]
    fleet.worker(concurrency=2)
    runs = [start(app, chain(length=3)) for _ in range(5)]
    ended = wait_for_end(app, *runs)
    assert all(run.status is RunStatus.SUCCEEDED for run in ended)
    room.assert_executed(count(runs, length=3))
    with contextlib.closing(psycopg2.connect(database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name = 'iaflow'"
        )
        encrypted = [one for (one,) in cursor.fetchall()]
    brokers = line.count_encrypted()
    print(f"{len(encrypted)} encrypted connections to Postgres, {brokers} to the broker")
    assert len(encrypted) >= 3
    assert all(encrypted)
    assert brokers >= 2
    fleet.close()


def test_a_broker_that_somebody_else_signed_is_told_nothing(
    postgres_url: str,
    line: Line,
    server_room: ServerRoom,
    open_app: Callable[..., Application],
) -> None:
    """No message goes to a stranger, nor to another name; the run is kept for the sweep."""
    certificates = server_room.certificates

    def reaches(url: str) -> bool:
        # kombu lends connections by host and port, whatever was said of certificates.
        pools.reset()
        app = open_app(postgres_url, url)
        assert isinstance(app.executor, CeleryExecutor)
        run_id = start(app, chain(length=1))
        assert app.client.run(run_id).status is RunStatus.RUNNING
        return app.executor.depth() is not None

    assert reaches(line.trusting(certificates.authority))
    assert not reaches(line.trusting(certificates.other_authority))
    # The certificate is good for `localhost` alone.
    assert not reaches(line.trusting(certificates.authority, host="127.0.0.1"))
    assert reaches(
        line.trusting(certificates.authority, host="127.0.0.1", ssl_check_hostname="false")
    )
    assert reaches(line.trusting(certificates.other_authority, ssl_cert_reqs="none"))


def test_a_database_that_somebody_else_signed_is_not_used(
    encrypted_postgres: str, server_room: ServerRoom
) -> None:
    certificates = server_room.certificates

    def ask(url: str) -> None:
        database = Database(url)
        try:
            database.read_clock()
        finally:
            database.close()

    wait_until(lambda: reaches_at_all(encrypted_postgres, certificates), 10, "the server's TLS")
    with pytest.raises(NotReachable, match="certificate verify failed"):
        ask(verify(encrypted_postgres, certificates.other_authority))
    elsewhere = encrypted_postgres.replace("@localhost:", "@127.0.0.1:")
    with pytest.raises(NotReachable, match="does not match host name"):
        ask(verify(elsewhere, certificates.authority))
    ask(verify(elsewhere, certificates.authority, "verify-ca"))


def reaches_at_all(url: str, certificates: Certificates) -> bool:
    """Whether the server has heard of its certificate: a reload comes in its own time."""
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(verify(url, certificates.authority)).close()
        return True
    return False


@pytest.mark.parametrize(
    ("url", "match"),
    (
        ("redis://host/0?ssl_ca_certs=x", "not encrypted"),
        ("amqp://host//?ssl_cert_reqs=none", "not encrypted"),
        ("rediss://host/0?ssl_ca_cert=x", "ssl_ca_cert"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "maybe"),
    ),
)
def test_what_a_url_cannot_ask_for_is_refused(url: str, match: str) -> None:
    with pytest.raises(SettingsRefused, match=match):
        read_broker(url)
