"""`iaflow web`: under which settings it starts, what it says of that, and that it ends in order."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from iaflow.settings import Settings
from iaflow.web.__main__ import find_doubts, main
from tests.servers import ServerRoom, wait_until
from tests.servers.processes import read_tail, spawn
from tests.servers.worker import ROOT

KEY = "tq8-9Vw_Zr4nXe2LkM7sBy5DgHj1Pc6u"
EVERYWHERE = "0.0.0.0"  # noqa: S104  what is asked for, and doubted


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "IAFLOW_DATABASE_URL": f"sqlite:///{folder / 'web.db'}", **more}


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """A function that tries to start the web here, and returns its exit code and what it said."""

    def start(*options: str, **more: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        for name, value in environment(tmp_path, **more).items():
            monkeypatch.setenv(name, value)
        code = main(["--port", "0", *options])
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return start


@contextmanager
def serving(
    room: ServerRoom, folder: Path, *options: str, **more: str
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Give the address of a web that this command serves, its process and what it says."""
    log = folder / "web.log"
    process = spawn(
        [sys.executable, "-m", "iaflow.cli", "web", "--port", "0", *options],
        log=log,
        cwd=folder,
        env=environment(folder, PYTHONPATH=str(ROOT), **more),
    )
    room.guardian.watch(process.pid)
    try:
        wait_until(
            lambda: b"serving " in log.read_bytes() or process.poll() is not None,
            30,
            f"the web: {read_tail(log)}",
        )
        found = re.search(r"serving (https?://\S+?)[,;]", log.read_text())
        assert found is not None, log.read_text()
        yield found[1], process, log
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=20)
        room.guardian.forget(process.pid)


@pytest.mark.parametrize(
    ("options", "more", "told"),
    (
        ((), {}, "secrets.token_urlsafe(32)"),
        ((), {"IAFLOW_SECRET_KEY": "short"}, "IAFLOW_SECRET_KEY"),
        ((), {"IAFLOW_SECRET_KEY": "changeme" * 8}, "IAFLOW_SECRET_KEY"),
        (("--dev", "--host", EVERYWHERE), {}, "127.0.0.1 alone"),
        (("--dev", "--host", "example.org"), {}, "127.0.0.1 alone"),
        (("--ssl-certfile", "x"), {"IAFLOW_SECRET_KEY": KEY}, "--ssl-keyfile"),
        (
            ("--ssl-certfile", "x", "--ssl-keyfile", "y"),
            {"IAFLOW_SECRET_KEY": KEY},
            "there is no file",
        ),
        ((), {"IAFLOW_SECRET_KEY": KEY, "IAFLOW_PUBLIC_URL": "flows"}, "IAFLOW_PUBLIC_URL"),
    ),
)
def test_it_refuses_to_start(
    start: Callable[..., tuple[int, str]],
    options: tuple[str, ...],
    more: dict[str, str],
    told: str,
) -> None:
    code, said = start(*options, **more)
    assert (code, told in said) == (2, True), said
    assert said.startswith("iaflow web: error: ")
    assert "Traceback" not in said
    for secret in ("changeme" * 8, KEY):
        assert secret not in said


def test_it_says_what_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "iaflow.cli", "web", "--dev"),
            *("--db", "postgresql://ann:hidden-word@127.0.0.1:1/x"),
        ],
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert (done.returncode, "Traceback" in said, "hidden-word" in said) == (5, False, False), said


def test_a_port_that_is_taken(start: Callable[..., tuple[int, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = start("--dev", "--port", port)
    assert (code, f"cannot listen on 127.0.0.1:{port}" in said) == (2, True), said


def test_it_serves_until_it_is_told_to_end(server_room: ServerRoom, tmp_path: Path) -> None:
    with serving(server_room, tmp_path, IAFLOW_SECRET_KEY=KEY) as (url, process, log):
        assert httpx2.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx2.get(f"{url}/readyz").json() == {"status": "ok"}
        assert httpx2.get(f"{url}/api/v1/runs").status_code == 401
        assert log.read_text().count("\n") == 1
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{url}/healthz")


def test_in_the_development_mode_this_machine_needs_no_sign_in(
    server_room: ServerRoom, tmp_path: Path
) -> None:
    with serving(server_room, tmp_path, "--dev") as (url, _, log):
        assert "development mode" in log.read_text()
        me = httpx2.get(f"{url}/api/v1/session").json()
        assert me["roles"] == ["admin"]
        assert me["csrf_token"] is None
        definition = {
            "name": "Empty",
            "slug": "empty",
            "steps": [{"id": "ask", "type": "human_input", "config": {"ui_schema": {}}}],
            "flow": {"start_at": "ask", "transitions": []},
        }
        sent = httpx2.post(f"{url}/api/v1/pipelines", json={"definition": definition})
        assert sent.status_code == 201, sent.text
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            refused = httpx2.post(
                f"{url}/api/v1/pipelines", json={"definition": definition}, headers=headers
            )
            assert refused.status_code == 403, headers
        assert httpx2.get(f"{url}/api/v1/runs", headers={"Host": "evil.example"}).status_code == 403


def test_it_speaks_tls(server_room: ServerRoom, tmp_path: Path) -> None:
    from tests.servers.certificates import make_certificates

    made = make_certificates(tmp_path)
    options = ("--ssl-certfile", str(made.certificate), "--ssl-keyfile", str(made.key))
    with serving(server_room, tmp_path, *options, IAFLOW_SECRET_KEY=KEY) as (url, _, _log):
        assert url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(made.authority))
        # The certificates of tests are good for this name alone.
        url = url.replace("127.0.0.1", "localhost")
        replied = httpx2.get(f"{url}/healthz", verify=trusted)
        assert replied.status_code == 200
        assert "max-age" in replied.headers["strict-transport-security"]


def test_it_doubts_what_others_can_read() -> None:
    def doubts(host: str, *, has_tls: bool = False, **more: object) -> int:
        settings = Settings().model_copy(update=more)
        return len([*find_doubts(settings, host, has_tls=has_tls)])

    assert doubts(EVERYWHERE) == 1
    assert doubts("10.0.0.1") == 1
    assert doubts("127.0.0.1") == 0
    assert doubts(EVERYWHERE, has_tls=True) == 0
    assert doubts(EVERYWHERE, public_url="https://flows.example.org") == 0
    assert doubts(EVERYWHERE, trusted_proxies=("10.0.0.0/8",)) == 0


def test_nothing_of_the_web_is_imported_by_the_command_line() -> None:
    program = "import sys, iaflow.cli; print([m for m in sys.modules if m.startswith(('iaflow.web', 'fastapi'))])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
