"""`./dev stack`: everything comes up, works, is mended, and leaves nothing when it ends.

Each stack is that of a checkout of its own (links to this one), so that a developer's own stack
may run meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerRoom, is_alive, stack, wait_until
from tests.servers.processes import list_descendants, read_tail, spawn
from tests.servers.worker import ROOT

UP_SECONDS = 60.0
END_SECONDS = 15.0


class Checkout:
    """A folder that looks like a checkout, and the stack that runs in it."""

    def __init__(self, folder: Path, room: ServerRoom) -> None:
        self.folder = folder
        self.log = folder / "terminal.log"
        self._room = room
        for name in ("iaflow", "workers", "pipelines", "celeryconfig.py"):
            (folder / name).symlink_to(ROOT / name)
        # A copy: where it lies decides which folder is the checkout's.
        pyc = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests" / "servers", folder / "tests" / "servers", ignore=pyc)
        (folder / "tests" / "__init__.py").touch()
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        argv = [sys.executable, "-m", "tests.servers.stack", *options]
        self.log.write_text("")
        self.process = spawn(argv, log=self.log, cwd=self.folder, env=self.environment)
        # Its own guardian ends what it starts; this one sees to it that the stack itself ends.
        self._room.guardian.watch(self.process.pid)
        wait_until(self._is_up_or_gone, UP_SECONDS, f"the stack: {read_tail(self.log)}")
        assert self.process.poll() is None, self.log.read_text()

    def _is_up_or_gone(self) -> bool:
        assert self.process is not None
        return "Ctrl-C ends all of it" in self.log.read_text() or self.process.poll() is not None

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=END_SECONDS)
        self._room.guardian.forget(self.process.pid)
        return code

    def family(self) -> list[int]:
        assert self.process is not None
        return [self.process.pid, *list_descendants(self.process.pid)]

    def exported(self) -> dict[str, str]:
        """Return what `eval "$(./dev stack --env)"` exports in a shell."""
        told = subprocess.run(
            [sys.executable, "-m", "tests.servers.stack", "--env"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        shown = subprocess.run(
            ["sh", "-c", 'eval "$1"; env -0', "sh", told],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return dict(one.split("=", 1) for one in shown.split("\0") if one)

    def iaflow(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "iaflow.cli", *words, "--json"],
            cwd=self.folder,
            env=self.exported(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    def password(self) -> str:
        found = re.search(r"^# Flower: \S+ (\S+)$", (self.secrets / "env.sh").read_text(), re.M)
        assert found is not None
        return found[1]

    @property
    def secrets(self) -> Path:
        return self.folder / ".iaflow" / "stack"

    def ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", self.log.read_text())]

    def pid_of(self, name: str) -> int:
        found = re.search(rf"^  {name} .*?  (\d+)  ", self.log.read_text(), re.M)
        assert found is not None
        return int(found[1])


@pytest.mark.root_only
@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs Postgres as themselves")
def test_data_lie_where_postgres_can_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout below a home that is closed to others, as root's is."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(stack, "FOLDER", tmp_path)
    monkeypatch.setattr(stack, "ROOT", tmp_path)
    folder = stack.choose_database_folder()
    try:
        assert folder.parent == Path("/var/tmp")
        assert stack.choose_database_folder() == folder
        user = stack.nobody()
        assert user is not None
        assert stack.can_pass(folder, user)
    finally:
        stack.remove_data()
    assert not folder.exists()


@pytest.fixture
def checkout(server_room: ServerRoom) -> Iterator[Checkout]:
    # Not pytest's own folder, which is closed to the user that Postgres runs as for root.
    made = Checkout(server_room.make_directory("stack"), server_room)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGTERM)


def is_open(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def look(url: str, sign_in: str | None = None) -> str:
    request = urllib.request.Request(url)  # noqa: S310  a URL of ours
    if sign_in:
        credentials = base64.b64encode(sign_in.encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  a URL of ours
        text: str = answer.read().decode()
        return text


@pytest.mark.timeout(170)
def test_a_stack_from_start_to_end(checkout: Checkout) -> None:
    checkout.start()
    family, ports = checkout.family(), checkout.ports()
    assert all(map(is_open, (ports[0], ports[1], ports[-1])))
    # The run goes through workers, and is seen in Flower, which wants to know who looks.
    run = checkout.iaflow("start", "hello-world-pipeline-v1", "--input", "name=Ada", "--wait")
    assert run["status"] == "succeeded"
    flower = checkout.exported()["IAFLOW_FLOWER_URL"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        look(f"{flower}/tasks")
    sign_in = checkout.password()
    assert sum(json.loads(look(f"{flower}/api/workers?status=1", sign_in)).values()) == 2
    wait_until(
        lambda: run["run_id"] in look(f"{flower}/api/tasks", sign_in), 10, "Flower to see the run"
    )
    # The web is another door to the same runs.
    web = checkout.exported()["IAFLOW_PUBLIC_URL"]
    assert json.loads(look(f"{web}/readyz")) == {"status": "ok"}
    assert json.loads(look(f"{web}/api/v1/runs/{run['run_id']}"))["status"] == "succeeded"
    steps = checkout.iaflow("show", run["run_id"])["steps"]
    assert all(step["flower"].startswith(f"{flower}/task/") for step in steps)
    # No secret lies open, and none is in a command line that everybody can read.
    passwords = json.loads((checkout.secrets / "passwords.json").read_text()).values()
    for name in ("passwords.json", "env.sh", "redis.conf"):
        assert (checkout.secrets / name).stat().st_mode & 0o077 == 0
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in family]
    assert not any(word in line for word in passwords for line in lines)
    # A worker that dies is started again.
    lost = checkout.pid_of("worker 1")
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: "worker 1 was started again" in checkout.log.read_text(), 20, "worker 1")
    assert "worker 1 ended by signal 9" in checkout.log.read_text()
    again = checkout.iaflow("start", "hello-world-pipeline-v1", "--wait")
    assert again["status"] == "succeeded"
    family = [*family, *checkout.family()]
    # A second one would write to the same folder.
    second = subprocess.run(
        [sys.executable, "-m", "tests.servers.stack"],
        cwd=checkout.folder,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (second.returncode, "runs already" in second.stderr) == (1, True)

    assert checkout.end(signal.SIGINT) == 0
    assert [pid for pid in family if is_alive(pid)] == []
    assert not any(map(is_open, ports))
    assert "was still there" not in checkout.log.read_text()
    with pytest.raises(subprocess.CalledProcessError):
        checkout.exported()

    # What was kept is there the next time; killed, it leaves nothing that runs.
    checkout.start()
    assert run["run_id"] in {one["run_id"] for one in checkout.iaflow("runs")}
    family, ports = checkout.family(), checkout.ports()
    assert checkout.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(map(is_alive, family)), 20, "the guardian to end the rest")
    assert not any(map(is_open, ports))
