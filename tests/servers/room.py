"""The room that a test run keeps its servers in: one folder, one guardian, servers made on demand.

Decides when a server is started and which one is shared; never outlives the run. Made by the
pytest plugin in `fixtures`, used through its fixtures.
"""

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import redis

from tests.servers import pgbouncer, postgres, rabbitmq, valkey
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.guardian import SESSION_VARIABLE, Guardian
from tests.servers.postgres import OwnPostgresServer, PostgresServer
from tests.servers.processes import ServerError
from tests.servers.rabbitmq import OwnRabbitServer, RabbitServer
from tests.servers.valkey import OwnRedisServer, RedisServer
from tests.servers.worker import ROOT

__all__ = ["ServerRoom"]


class ServerRoom:
    """What one test run has started, and where.

    `directory` is removed with all in it when the run ends, however it ends.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="iaflow-")).resolve()
        # Postgres runs as another user where we are root, and must be able to pass.
        self.directory.chmod(0o711)
        self.guardian = Guardian(self.directory)
        os.environ[SESSION_VARIABLE] = str(self.directory)
        self._servers: list[PostgresServer | RedisServer | RabbitServer] = []
        self._next_database = 0
        self._next_vhost = 0

    def close(self) -> list[str]:
        """Stop all servers, then let the guardian end the rest; return what it had to end."""
        try:
            for server in reversed(self._servers):
                server.close()
        finally:
            os.environ.pop(SESSION_VARIABLE, None)
            left = self.guardian.close()
        return left

    def make_directory(self, name: str) -> Path:
        """Make a new folder in the room that every user may enter and read."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        path.chmod(0o755)
        return path

    # Postgres -------------------------------------------------------------------------------

    @cached_property
    def postgres(self) -> PostgresServer:
        """The Postgres that all tests share."""
        url = os.environ.get(postgres.URL_VARIABLE)
        if not url:
            return self.open_postgres()
        try:
            version = postgres.read_server_version(url)
        except psycopg2.OperationalError as error:
            raise ServerError(f"{postgres.URL_VARIABLE} does not answer: {error}") from error
        # On a server elsewhere the databases are what could be left behind.
        argv = [sys.executable, "-m", "tests.servers.postgres", url, self._database_prefix]
        self.guardian.run_at_end(["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *argv])
        return PostgresServer(url, label=version)

    def open_postgres(self, *, durable: bool = False) -> OwnPostgresServer:
        """Start a Postgres; `durable` makes it flush to disk as in production."""
        directory = self.make_directory("postgres")
        programs = postgres.copy_wheel(postgres.find_programs(), self.directory)
        server = OwnPostgresServer(programs, directory, self.guardian, durable=durable)
        self._servers.append(server)
        return server

    @cached_property
    def _database_prefix(self) -> str:
        return f"iaflow_test_{uuid.uuid4().hex[:8]}"

    def create_database(self, template: str | None = None) -> str:
        """Create a database on the shared Postgres and return its URL."""
        return self.postgres.create_database(template, prefix=self._database_prefix)

    def make_template(self, migrate: Callable[[str], None]) -> str:
        """Make a database, let `migrate` fill it, close it to all and return its name."""
        url = self.create_database()
        migrate(url)
        return self.postgres.freeze_database(url)

    def open_pooler(self, url: str) -> pgbouncer.Pooler:
        """Start a PgBouncer before the Postgres of a URL; raises NotInstalled."""
        program = pgbouncer.find()
        return pgbouncer.Pooler(program, self.make_directory("pgbouncer"), self.guardian, url)

    # Redis ----------------------------------------------------------------------------------

    @cached_property
    def redis(self) -> RedisServer:
        """The Redis that all tests share."""
        url = os.environ.get(valkey.URL_VARIABLE)
        if not url:
            return self.open_redis()
        try:
            return RedisServer(url, label=valkey.read_server_version(url))
        except redis.RedisError as error:
            raise ServerError(f"{valkey.URL_VARIABLE} does not answer: {error}") from error

    def open_redis(self) -> OwnRedisServer:
        """Start a Redis that keeps nothing on disk."""
        server = OwnRedisServer(valkey.find_program(), self.make_directory("redis"), self.guardian)
        self._servers.append(server)
        return server

    def take_redis_database(self) -> str:
        """Return the URL of the next logical database in turn.

        In turn, so that what a dying worker of the last test still writes meets nobody.
        """
        number = self._next_database % valkey.DATABASES
        self._next_database += 1
        return self.redis.database_url(number)

    # RabbitMQ -------------------------------------------------------------------------------

    @cached_property
    def rabbitmq(self) -> RabbitServer:
        """The RabbitMQ that all tests share; raises NotInstalled where there is none."""
        url = os.environ.get(rabbitmq.URL_VARIABLE)
        return RabbitServer(url, label=describe_host(url)) if url else self.open_rabbitmq()

    def open_rabbitmq(self, *, settings: Sequence[str] = ()) -> OwnRabbitServer:
        """Start a node of our own, with further lines of its configuration."""
        program = rabbitmq.find()
        directory = self.make_directory("rabbitmq")
        server = OwnRabbitServer(
            program, directory, self.guardian, self.certificates, settings=settings
        )
        self._servers.append(server)
        return server

    def take_vhost(self) -> str:
        """Return the URL of the next vhost in turn, without queues; as `take_redis_database`."""
        url = self.rabbitmq.vhost_url(self._next_vhost)
        self._next_vhost += 1
        self.rabbitmq.forget(url)
        return url

    @cached_property
    def certificates(self) -> Certificates:
        """Certificates for servers whose lines are encrypted."""
        return make_certificates(self.make_directory("certificates"))

    # What the header of the report says -----------------------------------------------------

    def describe_postgres(self) -> str:
        """Name the Postgres that tests will use, without starting it."""
        url = os.environ.get(postgres.URL_VARIABLE)
        try:
            if url:
                version = postgres.read_server_version(url)
                return f"{version} at {describe_host(url)} ({postgres.URL_VARIABLE})"
            programs = postgres.find_programs()
        except (ServerError, psycopg2.OperationalError) as error:
            return f"NONE: {error}"
        return f"{programs.version} from {programs.origin} ({programs.folder})"

    def describe_redis(self) -> str:
        """Name the Redis that tests will use, without starting it."""
        url = os.environ.get(valkey.URL_VARIABLE)
        try:
            if url:
                version = valkey.read_server_version(url)
                return f"{version} at {describe_host(url)} ({valkey.URL_VARIABLE})"
            program = valkey.find_program()
        except (ServerError, redis.RedisError) as error:
            return f"NONE: {error}"
        return f"{program.version} from {program.origin} ({program.path})"

    def describe_rabbitmq(self) -> str:
        """Name the RabbitMQ that tests will use, without starting or installing it."""
        url = os.environ.get(rabbitmq.URL_VARIABLE)
        if url:
            return f"at {describe_host(url)} ({rabbitmq.URL_VARIABLE})"
        return rabbitmq.describe_program()


def describe_host(url: str) -> str:
    """Return host and port of a URL, never its password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
