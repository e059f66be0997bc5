"""What all test servers share: starting a process, watching it, waiting for something to be so.

Decides nothing about a particular server; never sleeps for luck, every wait has a condition and a
deadline. Called by the server classes and, for `wait_until`, by any test.
"""

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.servers.guardian import Guardian

__all__ = [
    "ServerError",
    "find_free_port",
    "is_alive",
    "list_descendants",
    "nobody",
    "read_tail",
    "spawn",
    "start_listening",
    "wait_until",
]

T = TypeVar("T")

POLL_SECONDS = 0.015
START_SECONDS = 60.0


class ServerError(RuntimeError):
    """A test server could not be found, started or reached; the message says how to mend it."""


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Return the first truthy value of `predicate`, asked every few milliseconds.

    This is how tests wait: a fixed sleep is either too long or, on a busy machine, too short.
    `timeout` is in seconds; `what` completes the sentence "waited N s for ..." of the
    AssertionError that is raised when the time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what or predicate}, in vain")
        time.sleep(POLL_SECONDS)


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process as the head of a process group of its own, its output appended to `log`.

    A group of its own keeps a Ctrl-C meant for pytest away from it and lets one signal reach it
    with its children. `user` is (uid, gid) to become, or None to stay who we are.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(os.environ if env is None else env),
            start_new_session=True,
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )


def start_listening(
    launch: Callable[[int], subprocess.Popen[bytes]],
    answers: Callable[[int], bool],
    guardian: Guardian,
    *,
    port: int | None,
    name: str,
    log: Path,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and return its process and port once it answers.

    Without a `port` a free one is found, and another one if somebody was quicker to take it.
    Raises ServerError with the end of `log` if the server ends or stays silent.
    """
    for _ in range(3 if port is None else 1):
        number = port or find_free_port()
        process = launch(number)
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if answers(number):
                return process, number
            time.sleep(POLL_SECONDS)
        process.kill()
        process.wait()
        guardian.forget(process.pid)
    raise ServerError(f"{name} did not start; its log ends:\n{read_tail(log)}")


def nobody() -> tuple[int, int] | None:
    """Return the (uid, gid) for servers that refuse to run as root, or None if we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return (65534, 65534)
    return (entry.pw_uid, entry.pw_gid)


def find_free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Tell whether a process still runs; one that merely waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def list_descendants(pid: int) -> list[int]:
    """Return the ids of all living processes below `pid`, nearest first."""
    parents = read_parents()
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return [child for child in found[1:] if is_alive(child)]


def read_tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, for the message of an error."""
    if not log.exists():
        return f"(no log at {log})"
    text = log.read_text(errors="replace").splitlines()
    return "\n".join(text[-lines:]) or "(the log is empty)"


def read_parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    if Path("/proc/self/stat").exists():
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(stat.parent.name)] = int(fields[1])
    else:
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        for line in listing.stdout.splitlines():
            child, parent = line.split()
            parents[int(child)] = int(parent)
    return parents
