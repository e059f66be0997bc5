"""PgBouncer for tests: before a Postgres, it lends out its few connections by the transaction.

Decides between the program of this machine and Debian's package; never keeps a connection for a
client between two transactions. Called by `ServerRoom`.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from tests.servers.guardian import Guardian
from tests.servers.installing import find_or_install
from tests.servers.postgres import connect, replace_database
from tests.servers.processes import nobody, spawn, start_listening

__all__ = ["Pooler", "find"]

PACKAGE = "pgbouncer"
CANDIDATES = ("/usr/sbin/pgbouncer", "pgbouncer")
USER = "postgres"

SETTINGS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "trust",
    "pool_mode": "transaction",
    # Fewer than there are clients: one transaction after the other, each on another connection.
    "default_pool_size": "4",
    "max_client_conn": "500",
    "ignore_startup_parameters": "options,extra_float_digits",
}


def find() -> Path:
    """Return the PgBouncer of this machine, installed if need be; raises NotInstalled."""
    return find_or_install(PACKAGE, CANDIDATES)


class Pooler:
    """A PgBouncer in transaction mode, before the Postgres of a URL."""

    def __init__(self, program: Path, directory: Path, guardian: Guardian, url: str) -> None:
        self._program = program
        self._directory = directory
        self._log = directory / "log"
        self._guardian = guardian
        self._user = nobody()
        self._behind = urlsplit(url)
        (directory / "users").write_text(f'"{USER}" ""\n')
        self._process, self._port = start_listening(
            self._launch, self._answers, guardian, port=None, name="PgBouncer", log=self._log
        )

    def url_of(self, url: str) -> str:
        """Return the URL by which a database of that Postgres is reached through the pooler."""
        return replace_database(self._describe(self._port), urlsplit(url).path.lstrip("/"))

    def close(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)
        self._guardian.forget(self._process.pid)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _describe(self, port: int) -> str:
        return f"postgresql://{USER}@127.0.0.1:{port}/postgres"

    def _launch(self, port: int) -> "subprocess.Popen[bytes]":
        settings = SETTINGS | {
            "listen_port": str(port),
            "auth_file": str(self._directory / "users"),
        }
        lines = [
            "[databases]",
            f"* = host={self._behind.hostname} port={self._behind.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        path = self._directory / "pgbouncer.ini"
        path.write_text("\n".join(lines) + "\n")
        process = spawn(
            [self._program, path],
            log=self._log,
            cwd=self._directory,
            env=dict(os.environ),
            user=self._user,
        )
        self._guardian.watch(process.pid)
        return process

    def _answers(self, port: int) -> bool:
        try:
            with connect(self._describe(port)):
                return True
        except psycopg2.OperationalError:
            return False
