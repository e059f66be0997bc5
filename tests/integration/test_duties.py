"""Duties that one process at a time has: who dies or freezes amid one keeps nobody else from it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iaflow.database.dialects import Database
from iaflow.database.locks import try_exclusively
from tests.servers import ServerRoom, wait_until
from tests.servers.worker import ROOT

HOLDER = """
import os
import signal
import sys

from iaflow.database import locks
from iaflow.database.dialects import Database

locks.MOST_SECONDS = 1.0


def stop():
    print("at it", flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))


locks.try_exclusively(Database(sys.argv[1]), "sweep", stop)
"""


@pytest.mark.parametrize("number", ("SIGSTOP", "SIGKILL"))
def test_a_process_that_is_frozen_amid_its_duty_loses_it(
    number: str, postgres_url: str, server_room: ServerRoom
) -> None:
    """A container is paused, say: the kernel keeps its connections alive, and nobody would sweep."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, postgres_url, number],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    server_room.guardian.watch(holder.pid)
    database = Database(postgres_url)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "at it\n"
        stat = Path(f"/proc/{holder.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZ", 10, number)
        wait_until(lambda: try_exclusively(database, "sweep", lambda: True), 10, "the duty")
    finally:
        holder.kill()
        holder.communicate()
        server_room.guardian.forget(holder.pid)
        database.close()


def test_a_duty_is_one_processs_at_a_time(postgres_url: str) -> None:
    database = Database(postgres_url)
    begun, over = threading.Event(), threading.Event()
    done: list[object] = []

    def work() -> str:
        begun.set()
        assert over.wait(30)
        return "done"

    def hold() -> None:
        done.append(try_exclusively(database, "sweep", work))
        database.release_thread()

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(30)
    assert try_exclusively(database, "sweep", lambda: "too") is None
    assert try_exclusively(database, "another", lambda: "beside") == "beside"
    over.set()
    thread.join()
    assert done == ["done"]
    assert try_exclusively(database, "sweep", lambda: "then") == "then"
    database.close()


def test_an_error_amid_a_duty_gives_it_back(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(ZeroDivisionError):
        try_exclusively(database, "sweep", lambda: 1 / 0)
    assert try_exclusively(database, "sweep", lambda: True) is True
    database.close()
