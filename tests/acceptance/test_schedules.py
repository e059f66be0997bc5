"""`iaflow schedules`, as somebody types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import Shell, chain, step

STEPS = """
from iaflow.pipeline import Step


class Work(Step):
    async def work(self, data):
        return {}
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "cli_steps.py").write_text(STEPS)
    (tmp_path / "pipelines").mkdir()
    document = chain(
        "Night",
        step("work", "Work"),
        slug="night",
        parameters={"region": "all"},
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

    run_id = read(shell, "fire", "poll")["run_id"]
    assert run_id in shell.run("runs").stdout
    assert read(shell, "show", "poll")["fires"] == []
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
