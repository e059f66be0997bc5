"""RabbitMQ for tests: where its program comes from, and a node that can be ended.

Decides between a URL that was given, the program of this machine and Debian's package; never
joins a node or an epmd of somebody else. Called by `ServerRoom` and the fixtures.
"""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import amqp

from tests.servers.certificates import Certificates
from tests.servers.guardian import Guardian
from tests.servers.installing import (
    NotInstalled,
    describe_lack,
    find_or_install,
    find_program,
)
from tests.servers.processes import (
    ServerError,
    find_free_port,
    is_alive,
    list_descendants,
    nobody,
    spawn,
    start_listening,
    wait_until,
)

__all__ = ["PACKAGE", "URL_VARIABLE", "OwnRabbitServer", "RabbitServer", "describe_program", "find"]

URL_VARIABLE = "IAFLOW_TEST_RABBITMQ_URL"
PACKAGE = "rabbitmq-server"

# Debian's own on PATH is a wrapper that becomes the user of the system's node.
CANDIDATES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

USER = "iaflow"
VHOSTS = 16
QUEUES = ("iaflow", "alone", "urgent", "empty")


@dataclass(frozen=True, slots=True)
class RabbitProgram:
    """The script that starts a node, and the daemon by which nodes find each other."""

    path: Path
    epmd: Path


def find() -> RabbitProgram:
    """Return the RabbitMQ of this machine, installed if need be; raises NotInstalled."""
    path = find_or_install(PACKAGE, CANDIDATES)
    epmd = find_program(("epmd", "/usr/lib/erlang/bin/epmd"))
    if epmd is None:
        raise NotInstalled(f"{PACKAGE} is installed, but epmd is not found")
    return RabbitProgram(path, epmd)


def describe_program() -> str:
    """Say for the report's header what tests will use, without starting or installing it."""
    found = find_program(CANDIDATES)
    if found:
        return f"from {found}"
    lack = describe_lack(PACKAGE)
    if lack:
        return f"LEFT OUT: {lack}"
    return f"not here yet: {PACKAGE} is installed with apt-get when a test asks for it"


class RabbitServer:
    """One RabbitMQ: a node of our own, or one elsewhere that a URL names.

    `url` leads to its first vhost and stays the same over `stop` and `start`.
    """

    def __init__(self, url: str, *, label: str) -> None:
        self.url = url
        self.label = label

    @property
    def pids(self) -> list[int]:
        """The processes of this server on this machine; none for one elsewhere."""
        return []

    def vhost_url(self, number: int) -> str:
        """Return the URL of the vhost `number`; a server elsewhere has one alone."""
        return self.url

    def flush(self, url: str, queues: Sequence[str] = QUEUES) -> int:
        """Empty the queues of a vhost, as if it had lost every message; return how many it had."""
        return sum(each_queue(url, queues, delete=False))

    def forget(self, url: str, queues: Sequence[str] = QUEUES) -> None:
        """Remove the queues of a vhost, so that the next test finds none."""
        each_queue(url, queues, delete=True)

    def start(self) -> None:
        """Start the node and wait until it answers; again on the ports that it had."""
        raise ServerError(f"the RabbitMQ of {URL_VARIABLE} is not ours to start")

    def stop(self, *, crash: bool = False) -> None:
        """Stop the node; `crash` kills it without a word. Durable queues are kept."""
        raise ServerError(f"the RabbitMQ of {URL_VARIABLE} is not ours to stop")

    def close(self) -> None:
        """End the server for good if it is ours."""


class OwnRabbitServer(RabbitServer):
    """A node that this run starts in a folder of its own, with an epmd, a name and a cookie too."""

    def __init__(
        self,
        program: RabbitProgram,
        directory: Path,
        guardian: Guardian,
        certificates: Certificates,
        *,
        settings: Sequence[str] = (),
    ) -> None:
        self._program = program
        self._directory = directory
        self._data = directory / "data"
        self._log = directory / "log"
        self._guardian = guardian
        self._certificates = certificates
        self._settings = settings
        self._user = nobody()
        self._process: subprocess.Popen[bytes] | None = None
        self._dist_port, self._epmd_port = find_free_port(), find_free_port()
        self.tls_port = find_free_port()
        super().__init__("", label=f"RabbitMQ from {program.path}")
        # The cookie is made in here, so nobody else may look.
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._data, *self._user)
        self._write_definitions()
        self._epmd = self._start_epmd()
        try:
            self.start()
        except BaseException:
            self._end_epmd()
            raise

    @property
    def pids(self) -> list[int]:
        if self._process is None:
            return []
        return [self._process.pid, *list_descendants(self._process.pid)]

    def vhost_url(self, number: int) -> str:
        return urlsplit(self.url)._replace(path=f"/test{number % VHOSTS}").geturl()

    def tls_url(self, url: str) -> str:
        """Return the URL of the same vhost, by the encrypted port and the certificate's name."""
        parts = urlsplit(url)
        where = f"{parts.username}:{parts.password}@localhost:{self.tls_port}"
        return parts._replace(scheme="amqps", netloc=where).geturl()

    def start(self) -> None:
        if self._process is not None:
            raise ServerError(f"RabbitMQ at {self.url} runs already")
        self._process, port = start_listening(
            self._launch,
            self._answers,
            self._guardian,
            port=urlsplit(self.url).port,
            name="RabbitMQ",
            log=self._log,
        )
        self.url = describe_url(port)

    def stop(self, *, crash: bool = False) -> None:
        process = self._process
        if process is None:
            raise ServerError(f"RabbitMQ at {self.url} does not run")
        family = self.pids
        if crash:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        wait_until(lambda: not any(map(is_alive, family)), 30, "the processes of RabbitMQ to end")
        self._guardian.forget(process.pid)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            # Its data are removed next: no need to write them out.
            self.stop(crash=True)
        self._end_epmd()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write_definitions(self) -> None:
        names = [f"test{number}" for number in range(VHOSTS)]
        definitions = {
            "users": [
                {
                    "name": USER,
                    "password_hash": hash_password(USER),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": [],
                }
            ],
            "vhosts": [{"name": name} for name in names],
            "permissions": [
                {"user": USER, "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
                for name in names
            ],
        }
        (self._directory / "definitions.json").write_text(json.dumps(definitions))
        (self._directory / "plugins").write_text("[].\n")

    def _write_settings(self, port: int) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{port}",
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {self._certificates.authority}",
            f"ssl_options.certfile = {self._certificates.certificate}",
            f"ssl_options.keyfile = {self._certificates.key}",
            f"load_definitions = {self._directory / 'definitions.json'}",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "disk_free_limit.absolute = 50MB",
            *self._settings,
        ]
        (self._directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def _environment(self) -> dict[str, str]:
        # Nothing of the system's node: neither its settings nor its cookie, name or ports.
        kept = {name: os.environ[name] for name in os.environ if not name.startswith("RABBITMQ_")}
        folder, data = self._directory, self._data
        return {
            **kept,
            "HOME": str(data),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"iaflow{self._dist_port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_BASE": str(data),
            "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(data / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(data / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"
            # Threads that spin for work would take it from the workers.
            " +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        self._write_settings(port)
        process = spawn(
            [self._program.path],
            log=self._log,
            cwd=self._data,
            env=self._environment(),
            user=self._user,
        )
        self._guardian.watch(process.pid)
        return process

    def _answers(self, port: int) -> bool:
        try:
            open_connection(describe_url(port)).close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def _start_epmd(self) -> subprocess.Popen[bytes]:
        # In the foreground: the one that a node starts by itself would outlive it.
        process = spawn(
            [self._program.epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)],
            log=self._log,
            cwd=self._data,
            env=self._environment(),
            user=self._user,
        )
        self._guardian.watch(process.pid)
        wait_until(
            lambda: process.poll() is not None or listens(self._epmd_port), 30, "epmd to listen"
        )
        return process

    def _end_epmd(self) -> None:
        self._epmd.kill()
        self._epmd.wait(timeout=30)
        self._guardian.forget(self._epmd.pid)


def describe_url(port: int) -> str:
    return f"amqp://{USER}:{USER}@127.0.0.1:{port}/test0"


def hash_password(password: str) -> str:
    """Return a password as RabbitMQ keeps it: four bytes of salt, then the digest of both."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def open_connection(url: str) -> amqp.Connection:
    """Open a connection to the vhost of a URL; raises OSError or amqp.AMQPError."""
    parts = urlsplit(url)
    connection = amqp.Connection(
        host=f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        virtual_host=parts.path.removeprefix("/") or "/",
        connect_timeout=5,
    )
    connection.connect()
    return connection


def each_queue(url: str, queues: Sequence[str], *, delete: bool) -> list[int]:
    """Purge or delete queues; return how many messages each had that nobody held."""
    counts: list[int] = []
    connection = open_connection(url)
    try:
        for queue in queues:
            channel = connection.channel()
            try:
                done = channel.queue_delete(queue) if delete else channel.queue_purge(queue)
                counts.append(int(done or 0))
                channel.close()
            except amqp.NotFound:
                continue
    finally:
        connection.close()
    return counts
