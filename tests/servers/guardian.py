"""The guardian: a small process that sees to it that a test run leaves nothing behind.

Decides how what is left is ended and removed, however the run ended, SIGKILL included; never
starts a server and imports nothing but the standard library. Started by `ServerRoom` with one end
of a pipe as its stdin: when the pipe closes, the run is over.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["SESSION_VARIABLE", "Guardian", "release_shared_memory"]

# In the environment of every process that the run starts; its value is the run's folder.
SESSION_VARIABLE = "IAFLOW_TEST_SESSION"

GRACE_SECONDS = 5.0
LIMIT_SECONDS = 20.0


class Guardian:
    """The run's end of the pipe.

    What is told here is ended even if this process is killed in the very next moment. The folder
    `directory` and all in it is removed at the end.
    """

    def __init__(self, directory: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != SESSION_VARIABLE}
        self._process = subprocess.Popen(
            # -I -S: nothing of the environment or of site-packages can break or slow it.
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The id of the guardian's process."""
        return self._process.pid

    def watch(self, pid: int, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the process group `pid` when the run is over, first with `stop_signal`."""
        self._tell({"watch": pid, "signal": int(stop_signal)})

    def forget(self, pid: int) -> None:
        """Leave `pid` alone: it has ended, and the number may soon be another's."""
        self._tell({"forget": pid})

    def run_at_end(self, argv: list[str]) -> None:
        """Run a command when all processes are gone, such as dropping databases elsewhere."""
        self._tell({"run": argv})

    def close(self) -> list[str]:
        """End the run, wait for the guardian, and return what it still found running."""
        output, _ = self._process.communicate(timeout=60)
        return output.splitlines()

    def _tell(self, message: dict[str, object]) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the guardian was started without a pipe")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def main(directory: str) -> None:
    """Listen until the run is over, then end and remove what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, int] = {}
    commands: list[list[str]] = []
    for line in read_until_orphaned():
        message = json.loads(line)
        match message:
            case {"watch": pid, "signal": number}:
                watched[pid] = number
            case {"forget": pid}:
                watched.pop(pid, None)
            case {"run": argv}:
                commands.append(argv)
    end_processes(watched, directory)
    for argv in commands:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(argv, timeout=30, check=False, stdout=subprocess.DEVNULL)
    for data in Path(directory).glob("*/data"):
        release_shared_memory(data)
    remove_directory(directory)


def read_until_orphaned() -> list[str]:
    """Return the lines told on stdin once it is at its end or our parent is gone.

    The end of the pipe alone would not do: a forked child of the run may hold it open.
    """
    parent = os.getppid()
    told = b""
    while os.getppid() == parent:
        if select.select([0], [], [], 0.5)[0]:
            block = os.read(0, 65536)
            if not block:
                break
            told += block
    # A line without its end was cut by the death of the writer.
    return told.decode().splitlines()[: told.count(b"\n")]


def end_processes(watched: dict[int, int], directory: str) -> None:
    """Ask every process of the run to end, and insist after a grace."""
    for pid, number in watched.items():
        if is_running(pid):
            report(pid)
            send_to_group(pid, number)
    for pid in find_strays(directory):
        if pid not in watched:
            report(pid)
            send(pid, signal.SIGTERM)
    started = time.monotonic()
    while time.monotonic() - started < LIMIT_SECONDS:
        groups = [pid for pid in watched if is_running(pid)]
        strays = find_strays(directory)
        if not groups and not strays:
            return
        if time.monotonic() - started > GRACE_SECONDS:
            for pid in groups:
                send_to_group(pid, signal.SIGKILL)
            for pid in strays:
                send(pid, signal.SIGKILL)
        time.sleep(0.02)


def find_strays(directory: str) -> list[int]:
    """Return the processes that carry the run's mark or work inside its folder.

    Servers rewrite the memory that holds their environment, hence the second sign. Where there is
    no /proc only the watched processes are known.
    """
    mark = f"{SESSION_VARIABLE}={directory}".encode()
    strays: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
            inside = f"{(entry / 'cwd').readlink()}/".startswith(f"{directory}/")
        except OSError:
            continue  # another user's, or it ended while we looked
        if (marked or inside) and pid != os.getpid() and is_running(pid):
            strays.append(pid)
    return strays


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def report(pid: int) -> None:
    """Name a process that the run should have ended itself; shown if the run still listens."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        words = "?"
    with contextlib.suppress(OSError):
        print(f"{pid} {words[:160]}", flush=True)


def send_to_group(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, number)


def send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def release_shared_memory(data: Path) -> None:
    """Remove the System V segment of a Postgres that was killed: it belongs to no file or process.

    Its id is the second number on the seventh line of the `postmaster.pid` in its folder `data`.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        segment = int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(segment, 0, None)


def remove_directory(directory: str) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while Path(directory).exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
