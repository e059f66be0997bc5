"""Runs that go on, and what is shown of them: retry, rerun, signal; items, families, waiting.

Decides whether the commands do what they say, with their exit codes and their JSON. Run by pytest.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import Shell, chain, step

STEPS = """
    import os

    from iaflow.pipeline import Step


    class Echo(Step):
        def work(self, data):
            return dict(data)


    class NeedsFile(Step):
        def work(self, data):
            if not os.path.exists("mended"):
                raise OSError("the disk is full")
            return {"mended": True}


    class Pack(Step):
        def work(self, data):
            if data["n"] % 10 == 7 and not os.path.exists("mended"):
                raise ValueError(f"box {data['n']} is wet")
            return {"packed": data["n"]}
"""
ASK: dict[str, Any] = {
    "id": "ask",
    "type": "human_input",
    "config": {
        "ui_schema": {"title": "Go?", "fields": [{"name": "ok", "type": "boolean"}]},
        "assignees": {"users": ["ann", "bob", "cid"]},
        "quorum": 2,
    },
}
BELL: dict[str, Any] = {
    "id": "hear", "type": "event", "config": {"name": "bell", "expires_in": 86400},
}  # fmt: skip
ITEMS = {"items": [{"n": n} for n in range(30)]}
DOCUMENTS = {
    "mend": chain(
        "Mend",
        step("first", "Echo", inputs={"n": "{{ parameters.n }}"}),
        step("disk", "NeedsFile"),
        step("last", "Echo", inputs={"n": "{{ first.n }}"}),
        parameters={"n": 1},
    ),
    "bell": chain("Bell", BELL, step("say", "Echo", inputs={"by": "{{ hear.by | default('?') }}"})),
    "ask": chain("Ask", ASK, step("say", "Echo", inputs={})),
    "family": chain(
        "Family", {"id": "kid", "type": "pipeline", "pipeline": "ask-v1", "inputs": {}}
    ),
    "deep": chain("Deep", {"id": "kid", "type": "pipeline", "pipeline": "bell-v1", "inputs": {}}),
    "boxes": chain("Boxes", step("pack", "Pack", foreach={**ITEMS, "tolerated_failures": 3})),
    "wet": chain("Wet", step("pack", "Pack", foreach={**ITEMS, "max_parallel": 1})),
    "rest": chain("Rest", {"id": "rest", "type": "wait", "config": {"seconds": 0.5}}),
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "cli_steps.py").write_text(textwrap.dedent(STEPS))
    for name, document in DOCUMENTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return Shell(tmp_path)


# --- retry


def test_a_failed_run_is_reopened_and_keeps_what_it_has(shell: Shell) -> None:
    run_id = shell.json("run", "mend.json", "--input", "n=5", code=1)["run_id"]
    again = shell.json("retry", run_id, code=1)
    assert (again["run_id"], again["status"]) == (run_id, "failed")
    assert again["error"]["step_id"] == "disk"
    (shell.folder / "mended").touch()
    told = shell.run("retry", run_id[:13])
    assert f"✓ run {run_id} reopened" in told.stderr
    assert "first" not in told.stderr.replace(f"run {run_id}", "")
    assert json.loads(told.stdout) == {"n": 5}
    steps = {one["step_id"]: one for one in shell.json("show", run_id)["steps"]}
    assert steps["first"]["attempts"] == 1


def test_what_has_not_failed_is_not_retried(shell: Shell) -> None:
    run_id = shell.json("run", "rest.json")["run_id"]
    refused = shell.run("retry", run_id, code=2)
    assert refused.stdout == ""
    assert "only a failed run is retried" in refused.stderr
    assert "there is no run" in shell.run("retry", "ffffffff", code=2).stderr


def test_of_a_foreach_only_the_failed_items_go_on(shell: Shell) -> None:
    run_id = shell.json("run", "wet.json", code=1)["run_id"]
    (shell.folder / "mended").touch()
    assert len(shell.json("retry", run_id)["outputs"]["results"]) == 30
    items = [one for one in shell.json("show", run_id, "--items")["steps"] if one["index"] == 3]
    assert items[0]["attempts"] == 1


# --- rerun


def test_a_rerun_is_a_new_run_that_says_of_which(shell: Shell) -> None:
    (shell.folder / "mended").touch()
    run_id = shell.json("run", "mend.json", "--input", "n=5")["run_id"]
    again = shell.json("rerun", run_id, "last", "--input", "n=9")
    assert (again["status"], again["outputs"]) == ("succeeded", {"n": 9})
    assert again["run_id"] != run_id
    assert shell.json("show", run_id)["outputs"] == {"n": 5}
    assert shell.json("show", again["run_id"])["rerun_of"] == run_id
    assert re.search(rf"reruns +run {run_id}", shell.run("show", again["run_id"]).stdout)
    told = shell.run("rerun", run_id, "disk")
    assert re.search(r"✓ run \S+ began", told.stderr)


def test_a_rerun_that_cannot_be_is_refused(shell: Shell) -> None:
    waiting = shell.json("run", "bell.json", code=4)["run_id"]
    assert "cancel it, or let it end" in shell.run("rerun", waiting, "say", code=2).stderr
    assert "no step 'nosuch'" in shell.run("rerun", waiting, "nosuch", code=2).stderr
    assert "there is no run" in shell.run("rerun", "ffffffff", "say", code=2).stderr


# --- signal


def test_a_run_that_waits_for_a_signal_says_how_to_send_it(shell: Shell) -> None:
    ran = shell.run("run", "bell.json", code=4)
    command = re.search(r"^ *iaflow (signal \S+ bell) --input …$", ran.stdout, re.MULTILINE)
    assert command is not None
    assert "expires at" in ran.stdout
    told = shell.run("resume", code=4)
    assert command[0] in told.stdout
    sent = shell.run(*command[1].split(), "--input", "by=me")
    assert json.loads(sent.stdout) == {"by": "me"}
    assert "got bell" in sent.stderr
    late = shell.run(*command[1].split(), code=2)
    assert "does not wait for the signal 'bell'" in late.stderr


def test_a_signal_in_json(shell: Shell) -> None:
    waiting = shell.json("run", "bell.json", code=4)
    assert waiting["pauses"] == []
    [event] = waiting["events"]
    assert event.keys() == {"pause_id", "run_id", "step_id", "name", "expires_at"}
    assert (event["step_id"], event["name"]) == ("hear", "bell")
    assert "it waits for bell" in shell.run("signal", event["run_id"], "bel", code=2).stderr
    sent = shell.json("signal", event["run_id"], "bell", "--key", "k")
    assert (sent["status"], sent["outputs"]) == ("succeeded", {"by": "?"})
    # The same one with its key is no second one.
    assert shell.json("signal", event["run_id"], "bell", "--key", "k") == sent


def test_the_events_of_runs_below_are_listed_above(shell: Shell) -> None:
    waiting = shell.json("run", "deep.json", code=4)
    [event] = waiting["events"]
    assert event["run_id"] != waiting["run_id"]
    told = shell.run("show", waiting["run_id"]).stdout
    assert f"of run {event['run_id']}" in told
    sent = shell.json("signal", event["run_id"], "bell", "--input", "by=you")
    assert (sent["run_id"], sent["outputs"]) == (waiting["run_id"], {"by": "you"})


# --- what is shown


def test_items_are_one_line_and_the_failed_ones_are_listed(shell: Shell) -> None:
    ran = shell.run("run", "boxes.json")
    assert len(re.findall(r"pack", ran.stderr)) == 4
    assert re.search(r"! ended +pack +\S+ s +30 items: 27 succeeded, 3 failed", ran.stderr)
    assert "items: 27 of 30 succeeded, 3 failed" in ran.stderr
    run_id = shell.json("runs")[0]["run_id"]
    shown = shell.run("show", run_id).stdout
    assert re.search(r"pack +✓ succeeded +.*30 items: 27 succeeded, 3 failed", shown)
    assert re.findall(r"pack\[(\d+)\] +✗ failed .*ValueError: box \1 is wet", shown) == [
        "7", "17", "27",
    ]  # fmt: skip
    assert "pack[8]" not in shown
    assert shell.run("show", run_id, "--items").stdout.count("pack[") == 30
    listed = shell.json("show", run_id)["steps"]
    assert [one["index"] for one in listed] == [None, 7, 17, 27]
    assert listed[0]["items"] == {"total": 30, "ended": 30, "succeeded": 27, "failed": 3}
    assert len(shell.json("show", run_id, "--items")["steps"]) == 31
    why = shell.run("why", run_id, "pack").stdout
    assert "30 items: 27 succeeded, 3 failed; item 7 failed: ValueError: box 7 is wet" in why


def test_the_first_failed_item_is_shown_where_it_failed_the_run(shell: Shell) -> None:
    told = shell.run("run", "wet.json", code=1).stderr
    assert "step pack: items_failed" in told
    assert "item 7: ValueError: box 7 is wet" in told


def test_parents_and_children_name_each_other(shell: Shell) -> None:
    waiting = shell.json("run", "family.json", code=4)
    [pause] = waiting["pauses"]
    child, parent = pause["run_id"], waiting["run_id"]
    assert re.search(rf"part of +run {parent}, step kid", shell.run("show", child).stdout)
    above = shell.run("show", parent).stdout
    assert re.search(rf"kid +‖ waiting .*for run {child}", above)
    assert f"of run {child}" in above
    why = shell.run("why", parent, "kid").stdout
    assert "kid waits for a run of ask-v1, which waits for somebody" in why
    assert shell.json("show", child)["parent"] == {
        "run_id": parent, "step_id": "kid", "index": None,
    }  # fmt: skip
    [below] = shell.json("show", parent)["children"]
    assert (below["run_id"], below["slug"], below["status"]) == (child, "ask-v1", "waiting")


def test_the_inbox_says_who_is_asked_and_what_is_still_wanted(shell: Shell) -> None:
    waiting = shell.json("run", "family.json", code=4)
    pause_id = waiting["pauses"][0]["pause_id"]
    shell.run("answer", pause_id, "--set", "ok=yes", "--as", "ann", code=4)
    [listed] = shell.json("inbox")
    assert (listed["quorum"], listed["answers"]) == (2, 1)
    assert listed["assignees"] == {"users": ["ann", "bob", "cid"]}
    assert listed["top"] == {"run_id": waiting["run_id"], "slug": "family-v1"}
    told = shell.run("inbox").stdout
    assert "ann, bob, cid: 1 of 2 answers" in told
    assert "family-v1 / ask-v1 / ask" in told
    assert "for ann, bob, cid: 1 of 2 answers" in shell.run("show", listed["run_id"]).stdout
    shell.run("answer", pause_id, "--set", "ok=yes", "--as", "bob")


def test_a_timer_and_a_signal_are_named_where_they_are_waited_for(shell: Shell) -> None:
    run_id = shell.json("run", "bell.json", code=4)["run_id"]
    assert re.search(r"hear +‖ waiting .*for the signal bell", shell.run("show", run_id).stdout)
    assert "hear waits for the signal bell" in shell.run("why", run_id, "hear").stdout


def test_on_postgres_the_same_is_shown(shell: Shell, postgres_url: str) -> None:
    shell.env |= {"IAFLOW_DATABASE_URL": postgres_url, "IAFLOW_STEP_MODULES": "cli_steps"}
    run_id = shell.json("run", "boxes.json")["run_id"]
    assert [one["index"] for one in shell.json("show", run_id)["steps"]] == [None, 7, 17, 27]
    assert "30 items: 27 succeeded, 3 failed" in shell.run("show", run_id).stdout
    assert "item 7 failed" in shell.run("why", run_id, "pack").stdout
    above = shell.json("run", "deep.json", code=4)
    [event] = above["events"]
    [below] = shell.json("show", above["run_id"])["children"]
    assert below["run_id"] == event["run_id"]
    shell.run("run", "family.json", code=4)
    [listed] = shell.json("inbox")
    assert (listed["answers"], listed["top"]["slug"]) == (0, "family-v1")
    assert shell.json("signal", event["run_id"], "bell")["status"] == "succeeded"
