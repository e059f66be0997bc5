"""`./dev up`: web, executor and examples in one process, soon there, and gone with Ctrl-C.

The checkout is one of its own that links to this one, with an environment that counts as made.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers import ServerRoom, is_alive, wait_until
from tests.servers.processes import list_descendants, read_tail, spawn
from tests.servers.worker import ROOT

UP_SECONDS = 3.0
"""What people wait for, once the environment is made; checked where no other test runs beside."""


class Up:
    """The process of one `./dev up`, and what it says."""

    def __init__(self, folder: Path, room: ServerRoom) -> None:
        self.folder, self.log, self._room = folder, folder / "terminal.log", room
        for name in ("iaflow", "pipelines", "pyproject.toml", "lock"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copy(ROOT / "dev", folder / "dev")
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / "python").chmod(0o755)
        sums = subprocess.run(
            ["cksum", "pyproject.toml", "lock/dev.txt"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (folder / ".venv" / "made-from").write_text(f"{folder}\n{sums}")
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *options: str) -> float:
        """Start it, and return the seconds until it answers."""
        begun = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        self.log.write_text("")
        self.process = spawn(
            ["sh", "./dev", "up", "--port", "0", *options],
            log=self.log,
            cwd=self.folder,
            env=environment,
        )
        self._room.guardian.watch(self.process.pid)
        process = self.process
        wait_until(
            lambda: "Ctrl-C ends" in self.log.read_text() or process.poll() is not None,
            30,
            f"the web: {read_tail(self.log)}",
        )
        found = re.search(r"serving (http://\S+?),", self.log.read_text())
        assert found is not None, self.log.read_text()
        self.url = found[1]
        assert self.read("/readyz") == {"status": "ok"}
        return time.monotonic() - begun

    def read(self, path: str) -> Any:
        reply = httpx2.get(f"{self.url}{path}", timeout=10, trust_env=False)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, path: str, body: Any) -> Any:
        reply = httpx2.post(f"{self.url}{path}", json=body, timeout=10, trust_env=False)
        assert reply.status_code in (200, 201, 202), reply.text
        return reply.json()

    def wait_for(self, run_id: str, status: str) -> Any:
        path = f"/api/v1/runs/{run_id}"
        wait_until(lambda: self.read(path)["status"] == status, 20, f"{run_id} is {status}")
        return self.read(path)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._room.guardian.forget(self.process.pid)
        return code


@pytest.fixture
def up(tmp_path: Path, server_room: ServerRoom) -> Iterator[Up]:
    made = Up(tmp_path.resolve(), server_room)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGKILL)


@pytest.mark.alone
def test_it_is_soon_there_and_carries_runs_itself(up: Up) -> None:
    took = up.start()
    for _ in range(2):
        # A machine may be busy with something else for once; with all of it, it is too slow.
        if took >= UP_SECONDS:
            up.end()
            took = up.start()
    assert took < UP_SECONDS, "too long to wait for"
    assert up.log.read_text().count("\n") == 1
    slugs = [one["slug"] for one in up.read("/api/v1/pipelines")["items"]]
    assert "hello-world-pipeline-v1" in slugs
    assert "invoice-approval-v1" in slugs
    started = up.post("/api/v1/pipelines/hello-world-pipeline-v1/runs", {"input": {"name": "Ann"}})
    up.wait_for(started["run_id"], "succeeded")
    page = httpx2.get(up.url, timeout=10, trust_env=False)
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert (up.folder / ".iaflow" / "iaflow.db").is_file()
    assert up.process is not None
    family = [up.process.pid, *list_descendants(up.process.pid)]
    assert up.end() == 0
    assert not [pid for pid in family if is_alive(pid)]
    # Nothing but its one line: Ctrl-C is how it ends, and no fault. (The example prints.)
    said = [one for one in up.log.read_text().splitlines() if "Hello, Ann!" not in one]
    assert len(said) == 1, said
    with pytest.raises(httpx2.TransportError):
        httpx2.get(up.url, timeout=2, trust_env=False)


def test_a_question_outlives_the_process(up: Up) -> None:
    invoice = {
        "invoice_number": "INV-2002",
        "vendor": "Steel & Sons",
        "amount": 4800,
        "lines": [{"description": "Shelf", "quantity": 8, "unit_price": 600}],
    }
    up.start()
    run = up.post("/api/v1/pipelines/invoice-approval-v1/runs", {"input": invoice})["run_id"]
    up.wait_for(run, "waiting")
    up.end(signal.SIGTERM)
    up.start()
    [pause] = up.read("/api/v1/pauses")["items"]
    assert pause["run_id"] == run
    fields = up.read(f"/api/v1/pauses/{pause['pause_id']}")["ui_schema"]["fields"]
    [decision] = [one for one in fields if one["name"] == "decision"]
    options = [one if isinstance(one, str) else one["value"] for one in decision["options"]]
    answer = {"decision": options[0]}
    up.post(f"/api/v1/pauses/{pause['pause_id']}/answer", {"answer": answer})
    up.wait_for(run, "succeeded")
    assert up.end() == 0
