"""`iaflow pipelines` and `iaflow reassign`, as somebody types them."""

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
        return dict(data)
"""

ASK = {
    "id": "ask",
    "type": "human_input",
    "config": {
        "ui_schema": {"title": "Fine?", "fields": [{"name": "note", "type": "text"}]},
        "assignees": {"users": ["eve"]},
    },
}


def write(shell: Shell, **more: Any) -> None:
    document = chain("Night", step("work", "Work"), ASK, slug="night", **more)
    (shell.folder / "pipelines" / "night.json").write_text(json.dumps(document))
    shell.run("import", "pipelines")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "cli_steps.py").write_text(STEPS)
    (tmp_path / "pipelines").mkdir()
    shell = Shell(tmp_path)
    write(shell)
    return shell


def test_a_pipeline_rests_and_goes_on(shell: Shell) -> None:
    [known] = shell.json("pipelines")
    assert (known["slug"], known["is_paused"]) == ("night", False)
    assert shell.json("pipelines", "pause", "night")["is_paused"]
    assert "paused" in shell.run("pipelines").stdout
    refused = shell.run("start", "night", code=2)
    assert "iaflow pipelines resume night" in " ".join(refused.stderr.split())
    write(shell, description="another")
    assert shell.json("pipelines")[0]["is_paused"], "an import keeps the pause"
    assert "night goes on" in shell.run("pipelines", "resume", "night").stderr
    assert shell.json("start", "night", code=4)["status"] == "waiting"
    assert "did you mean night" in shell.run("pipelines", "pause", "nigth", code=2).stderr


def test_versions_are_listed_and_compared(shell: Shell) -> None:
    write(shell, description="another", parameters={"deep": {"n": 1}})
    assert [one["number"] for one in shell.json("pipelines", "versions", "night")] == [2, 1]
    assert "import" in shell.run("pipelines", "versions", "night").stdout
    found = shell.json("pipelines", "diff", "night", "1", "2")
    assert {(one["kind"], one["pointer"]) for one in found} == {
        ("added", "/description"),
        ("added", "/parameters/deep/n"),
    }
    shown = shell.run("pipelines", "diff", "night", "2", "1").stdout
    assert "/parameters/deep/n" in shown
    assert "removed" in shown
    assert "mean the same" in shell.run("pipelines", "diff", "night", "1", "1").stderr
    assert "has no version 7" in shell.run("pipelines", "diff", "night", "1", "7", code=2).stderr


def test_a_question_is_asked_of_others(shell: Shell) -> None:
    shell.json("start", "night", code=4)
    [asked] = shell.json("inbox")
    pause_id = asked["pause_id"]
    done = shell.json(
        "reassign", pause_id, "--user", "ada", "--role", "finance", "--role", "legal", "--as", "eve"
    )
    assert done["assignees"] == {"users": ["ada"], "roles": ["finance", "legal"]}
    assert shell.json("inbox")[0]["assignees"] == done["assignees"]
    told = shell.run("reassign", pause_id[:35], "--user", "bob").stderr
    assert "bob" in told
    assert "names nobody" in shell.run("reassign", pause_id, code=2).stderr
    shell.run("answer", pause_id, "--set", "note=fine", "--as", "bob")
    assert "answered by bob" in shell.run("reassign", pause_id, "--user", "eve", code=2).stderr
