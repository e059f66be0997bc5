"""Celery worker processes for tests, started as a deployment starts them.

Decides how such a process is launched, known to be ready and ended, gently or not; never looks
into what it works on. Called by the fixture `start_worker`.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.servers.guardian import Guardian
from tests.servers.processes import (
    ServerError,
    is_alive,
    list_descendants,
    read_tail,
    spawn,
    wait_until,
)

__all__ = ["ROOT", "WorkerProcess"]

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
numbers = itertools.count(1)


class WorkerProcess:
    """One `celery worker` with its children, ready for messages once the constructor returns.

    `log` is the file with all that it writes. `modules` are the step modules it may import,
    `pythonpath` the folders where they lie, `env` further variables, `args` further arguments of
    `celery worker`.
    """

    def __init__(
        self,
        *,
        database_url: str,
        redis_url: str,
        log_directory: Path,
        guardian: Guardian,
        modules: str | Iterable[str] = (),
        pythonpath: Sequence[str | Path] = (),
        concurrency: int = 1,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        application: str = "workers.app",
    ) -> None:
        self.name = f"worker{next(numbers)}"
        self.log = log_directory / f"{self.name}.log"
        self._guardian = guardian
        settings = {
            "IAFLOW_DATABASE_URL": database_url,
            "IAFLOW_BROKER_URL": redis_url,
            "IAFLOW_STEP_MODULES": modules if isinstance(modules, str) else ",".join(modules),
            "PYTHONPATH": os.pathsep.join(map(str, [*pythonpath, ROOT])),
            "PYTHONUNBUFFERED": "1",
        }
        argv = [
            *(sys.executable, "-m", "celery", "-A", application, "worker"),
            *("-l", "INFO", "--without-gossip", "--without-mingle"),
            *("-c", str(concurrency), "-n", f"{self.name}@%h"),
            *args,
        ]
        self._process = spawn(
            argv, log=self.log, cwd=ROOT, env={**os.environ, **settings, **(env or {})}
        )
        guardian.watch(self._process.pid)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> list[int]:
        """The living processes of this worker, the head first."""
        if not self.is_running:
            return []
        return [self._process.pid, *list_descendants(self._process.pid)]

    @property
    def is_running(self) -> bool:
        """Whether the head of the worker still runs."""
        return self._process.poll() is None

    def read_log(self) -> str:
        """Return all that the worker has written so far."""
        return self.log.read_text(errors="replace")

    def terminate(self, timeout: float = 30.0) -> int:
        """Ask the worker to finish what it has and leave; return its exit code.

        Raises AssertionError with the end of its log if it has not left after `timeout` seconds.
        """
        family = self.pids
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(
                    f"{self.name} did not leave within {timeout:g} s of SIGTERM;"
                    f" its log ends:\n{read_tail(self.log)}"
                ) from None
        self._finish(family)
        return self._process.returncode

    def kill(self) -> None:
        """Kill the worker and its children in one blow, as a lost machine would."""
        family = self.pids
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        send(family, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._finish(family)

    def kill_children(self) -> list[int]:
        """Kill the processes that do the work and leave the head; return whom."""
        children = self.pids[1:]
        send(children, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, children)), 30, f"the children of {self.name}")
        return children

    def _finish(self, family: Sequence[int]) -> None:
        wait_until(lambda: not any(map(is_alive, family)), 30, f"{self.name} to be gone")
        self._guardian.forget(self._process.pid)

    def _wait_until_ready(self) -> None:
        def is_ready_or_gone() -> bool:
            return not self.is_running or " ready." in self.read_log()

        try:
            wait_until(is_ready_or_gone, READY_SECONDS)
        except AssertionError:
            raise ServerError(
                f"{self.name} was not ready after {READY_SECONDS:g} s;"
                f" its log ends:\n{read_tail(self.log)}"
            ) from None
        if not self.is_running:
            raise ServerError(
                f"{self.name} ended with {self._process.returncode} before it was ready;"
                f" its log ends:\n{read_tail(self.log)}"
            )


def send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it ended between the look and the blow
