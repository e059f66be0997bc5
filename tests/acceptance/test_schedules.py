"""`iaflow schedules`, as somebody types it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import Shell, chain, step
from tests.servers import wait_until

STEPS = """
from iaflow.pipeline import Step


class Work(Step):
    async def work(self, data):
        return dict(data)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "cli_steps.py").write_text(STEPS)
    (tmp_path / "pipelines").mkdir()
    document = chain(
        "Night",
        step("work", "Work"),
        slug="night",
        parameters={"region": "all", "at": ""},
        input_schema={"type": "object", "properties": {"region": {"type": "string"}}},
    )
    (tmp_path / "pipelines" / "night.json").write_text(json.dumps(document))
    shell = Shell(tmp_path)
    shell.run("import", "pipelines")
    return shell


def read(shell: Shell, *arguments: str) -> Any:
    return shell.json("schedules", *arguments)


def test_a_schedule_is_written_looked_at_and_removed(shell: Shell) -> None:
    assert read(shell) == []
    assert "there is no schedule" in shell.run("schedules").stderr
    given = ("--cron", "30 2 * * MON-FRI", "--zone", "America/New_York", "-i", "region=north")
    kept = read(shell, "set", "nightly", "night", *given)
    assert (kept["cron"], kept["zone"], kept["input"]) == (
        "30 2 * * MON-FRI",
        "America/New_York",
        {"region": "north"},
    )
    shell.run("schedules", "set", "poll", "night", "--every", "1h30m", "--misfire", "all")
    listed = shell.run("schedules").stdout
    assert "30 2 * * MON-FRI  America/New_York" in listed
    assert "every 1h30m" in listed
    assert [one["name"] for one in read(shell)] == ["nightly", "poll"]

    instants = read(shell, "next", "nightly", "-n", "3")
    assert len(set(instants)) == 3
    assert "02:30:00 -0" in shell.run("schedules", "next", "nightly").stdout

    assert read(shell, "pause", "poll")["next_at"] is None
    assert "paused" in shell.run("schedules").stdout
    assert read(shell, "resume", "poll")["next_at"] is not None

    fired = read(shell, "fire", "poll")
    assert fired["status"] == "succeeded"  # there is no broker: it was driven here
    [fire] = read(shell, "show", "poll")["fires"]
    assert (fire["status"], fire["run_id"], fire["error"]) == ("started", fired["run_id"], None)
    assert "all start" in shell.run("schedules", "show", "poll").stdout

    assert read(shell, "delete", "poll") == {"name": "poll", "deleted": True}
    assert [one["name"] for one in read(shell)] == ["nightly"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        (("--cron", "61 * * * *"), "'61' is no minute"),
        (("--cron", "0 0 31 2 *"), "no month has such a day"),
        (("--cron", "@daily", "--zone", "Mars/Base"), "there is no zone 'Mars/Base'"),
        ((), "either a cron or an interval"),
        (("--every", "soon"), "'soon' is no interval such as 90s"),
        (("--cron", "@daily", "--starts-at", "2026-01-01T00:00:00"), "append Z"),
        (("--cron", "@daily", "-i", "region=1"), "/given/region"),
    ),
)
def test_a_schedule_that_cannot_work_is_refused(
    shell: Shell, arguments: tuple[str, ...], words: str
) -> None:
    said = shell.run("schedules", "set", "bad", "night", *arguments, code=2)
    assert said.returncode == 2
    assert words in said.stderr
    assert read(shell) == []


def test_a_name_that_is_nearly_right_is_named(shell: Shell) -> None:
    shell.run("schedules", "set", "nightly", "night", "--cron", "@daily")
    for command in ("show", "next", "pause", "resume", "delete", "fire"):
        said = shell.run("schedules", command, "nightli", code=2)
        assert said.returncode == 2
        assert "did you mean nightly" in said.stderr
    said = shell.run("schedules", "set", "x", "nigth", "--cron", "@daily", code=2)
    assert "no pipeline 'nigth'" in said.stderr


# --- without workers


def test_serve_fires_and_executes_and_another_goes_on_after_a_kill(shell: Shell) -> None:
    """Two at once, one killed, one interrupted: every instant has one run, and all succeed."""
    # What the killed one held is taken over soon.
    shell.env["IAFLOW_LEASE_SECONDS"] = "2"
    shell.run("schedules", "set", "beat", "night", "--every", "1s", "--instant-as", "at")
    first, second = (shell.start("schedules", "serve") for _ in range(2))
    try:
        wait_until(lambda: count_fires(shell) >= 2, 60, "two fires")
        first.kill()
        seen = count_fires(shell)
        wait_until(lambda: count_fires(shell) >= seen + 2, 60, "more fires")
        shell.run("schedules", "pause", "beat")
        second.send_signal(signal.SIGINT)
        said = second.communicate(timeout=60)[1]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert second.returncode == 130, said
    assert "succeeded" in said
    # What the killed one held, and what the interrupted one gave back.
    shell.run("resume")
    fires = read(shell, "show", "beat", "-n", "200")["fires"]
    runs = shell.json("runs", "--limit", "500")
    assert len({fire["fire_at"] for fire in fires}) == len(fires)
    assert {fire["run_id"] for fire in fires} == {run["run_id"] for run in runs}
    assert {run["status"] for run in runs} == {"succeeded"}


def test_serve_ends_by_sigterm(shell: Shell) -> None:
    process = shell.start("schedules", "serve")
    assert process.stderr is not None
    assert "Ctrl-C ends" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    try:
        said = process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130, said
    assert "Traceback" not in said


def count_fires(shell: Shell) -> int:
    return len(read(shell, "show", "beat", "-n", "200")["fires"])
