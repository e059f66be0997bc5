"""`iaflow simulate` as a user meets it: the way of a run, with nothing run and nothing written.

Decides whether what is supposed leads where the definition says. Run by pytest.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import Shell, chain, step

DAY = 86400
# A module that would be noticed: it must never be imported.
STEPS = "open('imported', 'w').write('x')\nraise RuntimeError('imported')\n"
LOOK: dict[str, Any] = {
    "id": "look",
    "type": "human_input",
    "config": {
        "ui_schema": {
            "title": "Is it right?",
            "fields": [{"name": "right", "type": "boolean", "required": True}],
        },
        "assignees": {"users": ["ann", "bob", "cid"]},
        "quorum": 2,
        "expires_in": 3 * DAY,
        "show": {"total": "{{ count.total }}"},
    },
}
DOCUMENTS: dict[str, Any] = {
    "review": {
        "name": "Review",
        "parameters": {"least": 2},
        "steps": [
            step("count", "Count", outputs=["total"]),
            LOOK,
            step("pay", "Pay", error_handling={"retries": 1, "retry_delay": 60, "timeout": 30}),
            step("remind", "Remind"),
            step("mend", "Mend"),
        ],
        "flow": {
            "start_at": "count",
            "transitions": [
                {"from": "count", "to": "look"},
                {"from": "look", "to": "pay", "condition": "result.right"},
                {"from": "look", "to": "remind", "on": "expired"},
                {"from": "pay", "to": "mend", "on": "failure"},
            ],
        },
    },
    "family": {
        "name": "Family",
        "steps": [
            {"id": "rest", "type": "wait", "config": {"seconds": 3600}},
            {"id": "kids", "type": "pipeline", "pipeline": "kid-v1", "inputs": {},
             "foreach": {"items": [1, 2, 3]}},
            step("each", "Each", outputs=["m"], foreach={"items": [1, 2, 3], "tolerated_failures": 1}),
        ],
        "flow": {
            "start_at": "rest",
            "transitions": [{"from": "rest", "to": "kids"}, {"from": "kids", "to": "each"}],
        },
    },
    "kid": chain(
        "Kid",
        {"id": "hear", "type": "event", "config": {"name": "bell", "expires_in": DAY}},
        step("go", "Go", inputs={"token": {"$secret": "t"}}),
    ),
    "routed": {
        "name": "Routed",
        "steps": [step("a", "A"), step("b", "B"), step("c", "C")],
        "flow": {
            "start_at": "a",
            "transitions": [
                {"from": "a", "to": "b", "condition": {
                    "type": "function", "config": {"module": "rules", "function": "is_big"}}},
                {"from": "a", "to": "c", "condition": {
                    "type": "agent", "config": {"service": "router", "question": "Which?",
                                                "choices": ["b", "c"], "choice": "c"}}},
            ],
        },
    },
}  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    for module in ("cli_steps", "rules"):
        (tmp_path / f"{module}.py").write_text(STEPS)
    for name, document in DOCUMENTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return Shell(tmp_path)


@pytest.fixture(autouse=True)
def leaves_no_trace(tmp_path: Path, shell: Shell) -> Any:
    before = sorted(path.name for path in tmp_path.iterdir())
    yield
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def find(story: dict[str, Any], step_id: str, status: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in story["path"] if (one["step_id"], one["status"]) == (step_id, status)
    )
    return found


def test_a_question_that_nobody_answers_expires(shell: Shell) -> None:
    story = shell.json("simulate", "review.json", "--outputs", 'count={"total": 3}')
    assert story["status"] == "succeeded"
    assert story["elapsed_seconds"] == 3 * DAY
    assert story["steps"]["remind"] == "succeeded"
    assert find(story, "look", "failed")["at"] == 3 * DAY
    [form] = story["forms"]
    assert form["ui_schema"] == LOOK["config"]["ui_schema"]
    assert (form["shown"], form["quorum"], form["status"]) == ({"total": 3}, 2, "expired")
    assert story["timers"][0] == {
        "kind": "expiry", "step_id": "look", "set_at": 0.0, "due_at": 3.0 * DAY,
    }  # fmt: skip
    assert story["assumed"] == {"remind": {}}


def test_answers_come_at_their_time_from_as_many_people_as_are_wanted(shell: Shell) -> None:
    args = ("--answer", "look.right=yes", "--after", "look=7200")
    story = shell.json("simulate", "review.json", *args)
    assert find(story, "look", "succeeded")["words"] == "answered by bob"
    assert story["elapsed_seconds"] == 7200
    [to_pay, to_remind] = find(story, "look", "succeeded")["transitions"]
    assert to_pay == {
        "from": "look", "to": "pay", "taken": True,
        "words": "result.right == true → true eq true is true",
    }  # fmt: skip
    assert to_remind["taken"] is False
    # What was not given is null where it was promised, and said.
    assert story["assumed"] == {"count": {"total": None}, "pay": {}}


def test_a_failure_is_retried_and_routed(shell: Shell) -> None:
    args = ("--answer", "look.right=true", "--fail", "pay=OSError")
    told = shell.run("simulate", "review.json", *args)
    assert "↻ retrying   OSError: supposed to fail; again after 1 min 00 s" in told.stdout
    assert "✗ failed     OSError: supposed to fail; handled" in told.stdout
    assert "→ mend  ✓ taken    it has no condition" in told.stdout
    assert "✓ succeeded  after 1 min 00 s of virtual time" in told.stdout
    assert "--outputs STEP=JSON" in told.stderr
    story = shell.json("simulate", "review.json", *args[:2], "--fail", "pay=timeout")
    assert find(story, "pay", "failed")["words"].startswith("timeout: ")
    assert story["elapsed_seconds"] == 30 + 60 + 30


def test_the_exit_code_is_that_of_a_run(shell: Shell, tmp_path: Path) -> None:
    assert shell.json("simulate", "review.json", "--fail", "count", code=1)["error"] == {
        "step_id": "count", "code": "Failed", "message": "supposed to fail",
    }  # fmt: skip
    told = shell.run("simulate", "family.json", "--signal", "bell", "--fail", "each[0]", code=0)
    assert "✗ failed     Failed: supposed to fail" in told.stdout
    endless = {**DOCUMENTS["kid"], "name": "Endless"}
    endless["steps"] = [{"id": "hear", "type": "event", "config": {"name": "bell"}}]
    endless["flow"] = {"start_at": "hear"}
    (tmp_path / "kid.json").write_text(json.dumps(endless))
    told = shell.run("simulate", "kid.json", code=4)
    assert "waits for the signal bell: give it with  --signal bell" in told.stderr
    assert shell.json("simulate", "kid.json", code=4)["waiting"] == ["hear"]
    assert "cannot read" in shell.run("simulate", "no.json", code=2).stderr
    (tmp_path / "kid.json").write_text("{}")
    shell.run("simulate", "kid.json", code=3)


def test_runs_below_are_told_where_they_belong(shell: Shell) -> None:
    args = ("--signal", 'bell={"by": "x"}', "--after", "hear=60")
    story = shell.json("simulate", "family.json", *args, "--outputs", 'go={"n": 1}')
    places = [(one["step_id"], one["status"]) for one in story["path"]]
    first = places.index(("kids[0]/hear", "waiting"))
    assert places.index(("kids", "waiting")) < first
    assert places.index(("kids[2]/", "succeeded")) < places.index(("each", "succeeded"))
    assert [one["name"] for one in story["events"]] == ["bell"] * 3
    assert story["timers"][0]["kind"] == "timer"
    assert story["elapsed_seconds"] == 3600 + 60
    assert story["outputs"] == {"results": [{"m": None}] * 3}
    told = shell.run("simulate", "family.json", *args).stdout
    assert "each (3 items)" in told
    assert "kids[1]/run" in told


def test_a_list_is_one_output_for_each_item(shell: Shell, tmp_path: Path) -> None:
    given = {"each": [{"m": 1}, {"m": 2}, {"m": 3}]}
    outside = tmp_path.with_name(f"{tmp_path.name}-given.json")
    outside.write_text(json.dumps(given))
    story = shell.json("simulate", "family.json", "--signal", "bell", "--outputs", outside)
    assert story["outputs"] == {"results": given["each"]}


def test_items_beside_a_failing_one_give_what_is_declared(shell: Shell, tmp_path: Path) -> None:
    args = ("--signal", "bell", "--fail", "each[1]=KeyError")
    story = shell.json("simulate", "family.json", *args)
    assert story["outputs"] == {"results": [{"m": None}, None, {"m": None}]}
    assert story["assumed"] == {"go": {}, "each": {"m": None}}
    story = shell.json("simulate", "family.json", *args[:2], "--outputs", 'kid-v1/go={"n": 1}')
    assert "go" not in story["assumed"]


def test_conditions_in_code_are_answered_or_stop_it(shell: Shell) -> None:
    stopped = shell.json("simulate", "routed.json", code=2)["stopped"]
    assert "--function rules.is_big=true" in stopped
    one = ("--function", "rules.is_big=false")
    assert "--choose router=b" in shell.run("simulate", "routed.json", *one, code=2).stdout
    story = shell.json("simulate", "routed.json", *one, "--choose", "router=c")
    assert (story["steps"]["b"], story["steps"]["c"]) == ("skipped", "succeeded")
    [to_b, to_c] = find(story, "a", "succeeded")["transitions"]
    assert to_b["words"] == "rules.is_big() is false"
    assert to_c["words"] == 'router answered "c", and the choice is "c"'
    story = shell.json("simulate", "routed.json", *one, "--choose", "a.router=b")
    assert story["steps"]["c"] == "skipped"


def test_what_is_never_waited_for_is_said(shell: Shell) -> None:
    told = shell.run("simulate", "review.json", "--fail", "count", "--answer", "look", code=1)
    assert "answer to look: step 'look' never waited for it" in told.stderr
    story = shell.json("simulate", "review.json", "--answer", "look.right=maybe")
    assert "/right" in story["unused"][0]


@pytest.mark.parametrize(
    ("args", "words"),
    (
        (("--outputs", "coutn={}"), "did you mean 'count'"),
        (("--outputs", "count=3"), "write an object"),
        (("--outputs", "look={}"), "is of type human_input"),
        (("--fail", "look"), "without one it expires"),
        (("--fail", "mend=timeout"), "has no timeout"),
        (("--answer", "count.x=1"), "asks nobody"),
        (("--answer", "look=1"), "STEP.FIELD=VALUE"),
        (("--after", "look=60"), "no answer or signal"),
        (("--after", "look=soon"), "no number of seconds"),
        (("--signal", "bell"), "no step waits for the signal"),
        (("--function", "a.b=true"), "no condition calls the function"),
        (("--function", "a.b=1"), "write true or false"),
        (("--choose", "a=b"), "no condition asks the service"),
        (("--start", "noon"), "is no time"),
    ),
)
def test_what_the_definition_does_not_have_is_usage(
    shell: Shell, args: tuple[str, ...], words: str
) -> None:
    told = " ".join(shell.run("simulate", "review.json", *args, code=2).stderr.split())
    assert words in told.replace("│ │ ", "")
