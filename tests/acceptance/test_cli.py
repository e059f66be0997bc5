"""The command line as a user meets it: real processes in a folder of their own.

Decides whether every command does what `iaflow --help` says, with its exit code and its JSON.
Starts servers only where a test asks for them. Run by pytest.
"""

import contextlib
import gzip
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.acceptance.shell import IAFLOW, Shell, chain, step
from tests.servers.processes import wait_until

COMMANDS = (
    "answer cancel doctor graph import inbox pipelines resume rerun retry run runs schema show signal simulate start validate"
    " why"
).split()

STEPS = """
    import os
    import subprocess
    import time

    from iaflow.pipeline import Step


    class Greet(Step):
        async def work(self, data):
            print("printed by a step")
            subprocess.run(["echo", "printed by a child"], check=True)
            return {"greeting": f"Hello, {data.get('name', 'World')}!"}


    class Echo(Step):
        async def work(self, data):
            return dict(data)


    class Break(Step):
        def work(self, data):
            raise ValueError("the [bold]ledger[/bold] is closed")


    class Hold(Step):
        def work(self, data):
            with open("held", "a") as file:
                file.write("x")
            while not os.path.exists("go"):
                time.sleep(0.02)
            return {"held": True}
"""


FIELDS = [
    {"name": "decision", "type": "radio", "options": ["Approve", "Reject"]},
    {"name": "notes", "type": "textarea"},
    {"name": "tags", "type": "multiselect", "options": ["a", "b", "c"]},
]
ASK = {
    "id": "ask",
    "type": "human_input",
    "config": {
        "ui_schema": {"title": "Pay this?", "fields": FIELDS},
        "show": {"total": "{{ parameters.total }}"},
    },
}
DOCUMENTS = {
    "hello": chain(
        "Hello",
        step("greet", "Greet"),
        step("tell", "Echo", inputs={"said": "{{ greet.greeting }}"}),
    ),
    "broken": chain("Broken", step("first", "Echo"), step("bad", "Break"), step("after", "Echo")),
    "hold": chain("Hold", step("hold", "Hold"), step("after", "Echo", inputs={"ok": True})),
    "approval": {
        **chain("Approval", ASK, step("pay", "Echo", inputs={"said": "{{ ask.decision }}"})),
        "parameters": {"total": 12.5},
        "outputs": {
            "decision": "{{ ask.decision }}",
            "notes": "{{ ask.notes }}",
            "tags": "{{ ask.tags }}",
        },
    },
}
DOCUMENTS["approval"]["flow"]["transitions"][0]["condition"] = "result.decision == 'Approve'"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "cli_steps.py").write_text(textwrap.dedent(STEPS))
    (tmp_path / "pipelines").mkdir()
    for name, document in DOCUMENTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        (tmp_path / "pipelines" / f"{name}.json").write_text(json.dumps(document))
    return Shell(tmp_path)


# --- help


def test_help_names_every_command_and_exit_code(shell: Shell) -> None:
    told = shell.run("--help").stdout
    for command in (*COMMANDS, "db", "worker"):
        assert re.search(rf"^\W*{command}\s", told, re.MULTILINE), command
    for code in (0, 1, 2, 3, 4, 5, 130):
        assert re.search(rf"^\W*{code}\s", told, re.MULTILINE), code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_help(shell: Shell, command: str) -> None:
    assert "--json" in shell.run(command, "--help").stdout


def test_help_and_validate_load_no_driver() -> None:
    code = (
        "import sys; from iaflow.cli import root;"
        "from click.testing import CliRunner; CliRunner().invoke(root, ['validate', 'x.json']);"
        "heavy = {'sqlalchemy', 'celery', 'alembic', 'fast_sugiyama', 'psycopg2', 'uvicorn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_console_script_is_the_same_program(shell: Shell) -> None:
    script = Path(sys.executable).with_name("iaflow")
    if not script.exists():
        pytest.skip("iaflow is not installed here, only on the path")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == shell.run("--version").stdout


def test_a_wrong_option_is_usage(shell: Shell) -> None:
    assert "--jsn" in shell.run("runs", "--jsn", code=2).stderr


# --- run


def test_run_prints_what_steps_print_and_the_outputs(shell: Shell) -> None:
    ran = shell.run("run", "hello.json", "--input", "name=Developer")
    assert "printed by a step\n" in ran.stdout
    assert ran.stdout.endswith('{\n  "said": "Hello, Developer!"\n}\n')
    assert re.search(r"✓ succeeded +greet +\d", ran.stderr)
    assert re.search(r"✓ succeeded +tell +\d", ran.stderr)


def test_run_with_json_prints_one_object_and_nothing_else(shell: Shell) -> None:
    ran = shell.run("run", "hello.json", "--input", "name=1", "--json")
    result = json.loads(ran.stdout)
    assert result.keys() == {"run_id", "status", "outputs"}
    assert result["status"] == "succeeded"
    assert result["outputs"] == {"said": "Hello, 1!"}
    assert "printed by a child" in ran.stderr


def test_input_comes_from_a_file_or_stdin(shell: Shell) -> None:
    (shell.folder / "in.json").write_text('{"name": "File"}')
    assert shell.json("run", "hello.json", "-i", "@in.json")["outputs"]["said"] == "Hello, File!"
    piped = shell.json("run", "hello.json", "-i", "-", stdin='{"name": "Pipe"}')
    assert piped["outputs"]["said"] == "Hello, Pipe!"
    assert "cannot read" in shell.run("run", "hello.json", "-i", "@no.json", code=2).stderr


def test_the_same_key_is_the_same_run(shell: Shell) -> None:
    first = shell.json("run", "hello.json", "--key", "k", "-i", "name=A")
    assert shell.json("run", "hello.json", "--key", "k", "-i", "name=A") == first
    assert "'k'" in shell.run("run", "hello.json", "--key", "k", "-i", "name=B", code=2).stderr
    assert len(shell.json("runs")) == 1


def test_a_failing_run_exits_1_and_shows_the_steps_own_frames(shell: Shell) -> None:
    ran = shell.run("run", "broken.json", code=1)
    assert "✗ failed" in ran.stderr
    assert "step bad: ValueError: the [bold]ledger[/bold] is closed" in ran.stderr
    assert "cli_steps.py" in ran.stderr
    assert "iaflow/pipeline/attempt.py" not in ran.stderr
    result = shell.json("run", "broken.json", code=1)
    assert result.keys() == {"run_id", "status", "outputs", "error"}
    assert result["error"] == {
        "step_id": "bad",
        "code": "ValueError",
        "message": "the [bold]ledger[/bold] is closed",
    }
    assert (result["status"], result["outputs"]) == ("failed", None)


def test_a_refused_definition_exits_3_with_every_finding(shell: Shell) -> None:
    document = chain("Bad", step("a", "Echo"), step("b", "Echo"))
    document["flow"]["transitions"][0]["to"] = "bb"
    document["stepz"] = []
    (shell.folder / "bad.json").write_text(json.dumps(document))
    ran = shell.run("run", "bad.json", code=3)
    assert ran.stdout == ""
    assert "/flow/transitions/0/to" in ran.stderr
    assert "stepz" in ran.stderr
    assert shell.json("runs") == []


def test_input_that_does_not_fit_exits_2_and_makes_no_run(shell: Shell) -> None:
    document = {**DOCUMENTS["hello"], "input_schema": {"properties": {"name": {"type": "string"}}}}
    (shell.folder / "strict.json").write_text(json.dumps(document))
    assert "/name" in shell.run("run", "strict.json", "-i", "name=1", code=2).stderr
    assert shell.json("runs") == []


def test_a_missing_file_exits_2(shell: Shell) -> None:
    assert "cannot read no.json" in shell.run("run", "no.json", code=2).stderr


# --- people


def test_a_run_that_pauses_is_answered_by_the_command_it_prints(shell: Shell) -> None:
    ran = shell.run("run", "approval.json", code=4)
    assert "Pay this?" in ran.stdout
    assert "total: 12.5" in ran.stdout
    command = re.search(r"^ *iaflow (answer .*)$", ran.stdout, re.MULTILINE)
    assert command is not None
    arguments = shlex.split(command[1])
    assert arguments[2:] == ["--set", "decision=Approve"]
    result = shell.json(*arguments, "--set", "notes=123", "--set", "tags=a", "--set", "tags=c")
    assert result.keys() == {"run_id", "status", "outputs"}
    assert result["outputs"] == {"decision": "Approve", "notes": "123", "tags": ["a", "c"]}


def test_the_payload_of_a_waiting_run(shell: Shell) -> None:
    result = shell.json("run", "approval.json", code=4)
    assert result.keys() == {"run_id", "status", "outputs", "pauses", "events"}
    assert (result["status"], result["outputs"]) == ("waiting", None)
    [pause] = result["pauses"]
    assert {"pause_id", "run_id", "step_id", "ui_schema", "shown", "expires_at"} <= pause.keys()
    assert pause["ui_schema"] == ASK["config"]["ui_schema"]  # type: ignore[index]
    assert pause["shown"] == {"total": 12.5}
    [listed] = shell.json("inbox")
    assert listed["pause_id"] == pause["pause_id"]
    assert {"pause_id", "run_id", "step_id", "ui_schema"} <= listed.keys()
    assert pause["pause_id"] in shell.run("inbox").stdout


def test_an_answer_that_does_not_fit_is_told_by_field_and_changes_nothing(shell: Shell) -> None:
    pause_id = shell.json("run", "approval.json", code=4)["pauses"][0]["pause_id"]
    told = shell.run("answer", pause_id, "--set", "decision=Perhaps", "--set", "x=1", code=2).stderr
    assert "still open" in told
    assert re.search(r"^ +decision ", told, re.MULTILINE)
    assert re.search(r"^ +x ", told, re.MULTILINE)
    assert "decision" in shell.run("answer", pause_id, code=2).stderr
    assert len(shell.json("inbox")) == 1


def test_a_second_answer_is_refused_and_the_same_one_with_its_key_is_not(shell: Shell) -> None:
    pause_id = shell.json("run", "approval.json", code=4)["pauses"][0]["pause_id"]
    answer = ("answer", pause_id, "--set", "decision=Approve", "--as", "ann", "--key", "k")
    first = shell.json(*answer)
    assert shell.json(*answer) == first
    told = shell.run("answer", pause_id, "--set", "decision=Reject", code=2).stderr
    assert "answered by ann" in told


def test_a_person_is_asked_at_the_terminal(shell: Shell) -> None:
    pause_id = shell.json("run", "approval.json", code=4)["pauses"][0]["pause_id"]
    terminal = Terminal(shell, "answer", pause_id)
    terminal.expect("decision")
    terminal.say("7")
    terminal.expect("none of the options")
    terminal.say("1")
    terminal.expect("notes")
    terminal.say("fine")
    terminal.expect("tags")
    terminal.say("a, 3")
    shown = terminal.finish(code=0)
    assert "succeeded" in shown
    [run] = shell.json("runs")
    outputs = shell.json("show", run["run_id"])["outputs"]
    assert outputs == {"decision": "Approve", "notes": "fine", "tags": ["a", "c"]}


class Terminal:
    """A command with a pseudo terminal at all of its ends."""

    def __init__(self, shell: Shell, *args: str) -> None:
        self._head, tail = pty.openpty()
        self._process = subprocess.Popen(
            [*IAFLOW, *args],
            cwd=shell.folder,
            env={**shell.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
            stdin=tail,
            stdout=tail,
            stderr=tail,
            start_new_session=True,
        )
        os.close(tail)
        self._shown = ""

    def expect(self, text: str) -> None:
        wait_until(lambda: text in self._read(), 30, f"{text!r} on the terminal: {self._shown}")
        self._shown = self._shown.partition(text)[2]

    def say(self, text: str) -> None:
        os.write(self._head, f"{text}\n".encode())

    def finish(self, code: int) -> str:
        wait_until(lambda: self._read() and self._process.poll() is not None, 30, "the end")
        shown = self._read()
        os.close(self._head)
        assert self._process.returncode == code, shown
        return shown

    def _read(self) -> str:
        while select.select([self._head], [], [], 0)[0]:
            try:
                self._shown += os.read(self._head, 65536).decode()
            except OSError:  # the other end was closed
                break
        return self._shown


# --- looking


def test_runs_are_listed_filtered_and_paged(shell: Shell) -> None:
    ids = [shell.json("run", "hello.json")["run_id"] for _ in range(2)]
    ids.append(shell.json("run", "broken.json", code=1)["run_id"])
    listed = shell.json("runs")
    assert [run["run_id"] for run in listed] == ids[::-1]
    assert [run["run_id"] for run in shell.json("runs", "--status", "failed")] == ids[2:]
    assert [run["run_id"] for run in shell.json("runs", "--slug", "hello-v1")] == ids[1::-1]
    assert [run["run_id"] for run in shell.json("runs", "--limit", "1")] == ids[2:]
    assert [run["run_id"] for run in shell.json("runs", "--before", ids[1])] == ids[:1]
    table = shell.run("runs").stdout
    assert all(run_id in table for run_id in ids)
    assert "✗ failed" in table


def test_show_tells_where_every_step_stands(shell: Shell) -> None:
    run_id = shell.json("run", "broken.json", code=1)["run_id"]
    shown = shell.json("show", run_id)
    assert {"run_id", "status", "outputs", "steps", "parameters", "error"} <= shown.keys()
    steps = {one["step_id"]: one for one in shown["steps"]}
    assert {name: one["status"] for name, one in steps.items()} == {
        "first": "succeeded",
        "bad": "failed",
        "after": "skipped" if steps["after"]["status"] == "skipped" else "cancelled",
    }
    assert steps["bad"]["attempts"] == 1
    assert steps["bad"]["error"]["code"] == "ValueError"
    told = shell.run("show", run_id).stdout
    assert re.search(r"bad +✗ failed", told)


def test_an_unknown_run_step_or_pipeline_exits_2(shell: Shell) -> None:
    run_id = shell.json("run", "hello.json")["run_id"]
    assert "no run" in shell.run("show", "ffffffff", code=2).stderr
    assert "did you mean 'greet'" in shell.run("why", run_id, "gret", code=2).stderr
    assert "no pipeline" in shell.run("start", "nowhere", code=2).stderr
    assert "no file" in shell.run("graph", "nowhere.json", code=2).stderr


def test_why_tells_the_operands_as_seen(shell: Shell) -> None:
    waiting = shell.json("run", "approval.json", code=4)
    pause_id, run_id = waiting["pauses"][0]["pause_id"], waiting["run_id"]
    shell.run("answer", pause_id, "--set", "decision=Reject")
    told = shell.run("why", run_id, "pay").stdout
    assert "pay was skipped because the transition into it was not taken" in told
    assert 'refused: result.decision == "Approve" → "Reject" eq "Approve" is false' in told
    described = shell.json("why", run_id, "pay")
    assert described["sentence"] in told
    [decision] = described["decisions"]
    assert (decision["from"], decision["to"], decision["taken"]) == ("ask", "pay", False)
    assert decision["reason"]["left"] == {"path": "result.decision", "value": "Reject"}


@pytest.mark.parametrize(
    ("name", "beginning"), (("x.svg", "<svg"), ("x.mmd", "flowchart"), ("x.dot", "digraph"))
)
def test_graphs_are_drawn_of_files_and_runs(shell: Shell, name: str, beginning: str) -> None:
    shell.run("graph", "hello.json", "-o", name)
    assert (shell.folder / name).read_text().startswith(beginning)
    run_id = shell.json("run", "hello.json")["run_id"]
    shell.run("graph", run_id, "-o", name)
    assert "succeeded" in (shell.folder / name).read_text()
    form = {"svg": "svg", "mmd": "mermaid", "dot": "dot"}[name.partition(".")[2]]
    assert shell.run("graph", "hello.json", "--format", form).stdout.startswith(beginning)


def test_an_ending_that_is_no_drawing_is_usage(shell: Shell) -> None:
    assert "x.svg" in shell.run("graph", "hello.json", "-o", "x.png", code=2).stderr


# --- definitions


def test_validate_prints_one_line_of_json_for_each_file(shell: Shell) -> None:
    bad = json.dumps({**DOCUMENTS["hello"], "nmae": "x"})
    (shell.folder / "bad.json").write_text(bad)
    (shell.folder / "packed.json.gz").write_bytes(gzip.compress(bad.encode()))
    names = ["hello.json", "bad.json", "packed.json.gz", "missing.json"]
    ran = shell.run("validate", "--json", *names, code=3)
    lines = [json.loads(one) for one in ran.stdout.splitlines()]
    assert [one["file"] for one in lines] == names
    assert [one["ok"] for one in lines] == [True, False, False, False]
    assert all(one.keys() == {"file", "ok", "errors", "warnings"} for one in lines)
    [error] = lines[1]["errors"]
    assert error.keys() == {"code", "pointer", "message", "hint"}
    assert error["pointer"] == "/nmae"
    assert lines[2]["errors"] == lines[1]["errors"]
    told = shell.run("validate", *names, code=3).stdout
    assert "✓ ok" in told
    assert "✗ refused" in told


def test_the_schema_for_editors_is_printed_or_written(shell: Shell) -> None:
    printed = shell.run("schema")
    schema = json.loads(printed.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    judge = jsonschema.Draft202012Validator(schema)
    assert judge.is_valid(DOCUMENTS["approval"])
    assert not judge.is_valid({**DOCUMENTS["approval"], "nmae": "x"})
    written = shell.run("schema", "-o", "s.json")
    assert written.stdout == ""
    assert "s.json" in written.stderr
    assert (shell.folder / "s.json").read_text(encoding="utf-8") == printed.stdout
    assert shell.run("schema", "--json", "-o", "s.json").stdout == printed.stdout
    assert "cannot write" in shell.run("schema", "-o", "nowhere/s.json", code=2).stderr


def test_validate_survives_any_bytes(shell: Shell) -> None:
    hostile = {
        "empty": b"",
        "nul": b"\x00" * 100,
        "latin": b'{"name": "\xff"}',
        "bom": b"\xef\xbb\xbf{}",
        "deep": b"[" * 200_000,
        "number": b"1" * 100_000,
        "scalar": b"3",
        "nan": b'{"name": NaN}',
        "surrogate": b'{"name": "\\ud800"}',
        "twice": b'{"name": "a", "name": "b"}',
        "big": b'"' + b"x" * 2_000_000 + b'"',
        "steps": b'{"name": "a", "steps": [null, [], 1, {"id": {}}], "flow": 3}',
        "bomb.json.gz": gzip.compress(b" " * 50_000_000),
        "torn.json.gz": gzip.compress(b"{}" * 1000)[:40],
        "plain.json.gz": b"{}",
        "escape": b'{"name": "\\u001b[2J", "\\u001b]0;x": 1}',
    }
    for name, content in hostile.items():
        (shell.folder / name).write_bytes(content)
    ran = shell.run("validate", "--json", *hostile, ".", code=3)
    lines = [json.loads(one) for one in ran.stdout.splitlines()]
    assert len(lines) == len(hostile) + 1
    assert not any(one["ok"] for one in lines)
    assert all(one["errors"] for one in lines)
    assert "\x1b" not in shell.run("validate", *hostile, code=3).stdout


def test_validate_takes_thousands_of_files_in_seconds(shell: Shell) -> None:
    names = [f"f{k}.json" for k in range(3000)]
    for name in names:
        (shell.folder / name).write_text(json.dumps(DOCUMENTS["hello"]))
    began = time.monotonic()
    ran = shell.run("validate", "--json", *names)
    assert len(ran.stdout.splitlines()) == len(names)
    assert time.monotonic() - began < 30


def test_imported_pipelines_are_started_by_slug(shell: Shell) -> None:
    report = shell.json("import", "pipelines")
    assert {one["slug"] for one in report["imported"]} == {
        "approval-v1",
        "broken-v1",
        "hello-v1",
        "hold-v1",
    }
    assert shell.json("import", "pipelines")["imported"] == []
    assert [one["slug"] for one in shell.json("pipelines")][2] == "hello-v1"
    assert "hello-v1" in shell.run("pipelines").stdout
    started = shell.json("start", "hello-v1", "-i", "name=Slug")
    assert started.keys() == {"run_id", "status"}
    waited = shell.json("start", "hello-v1", "-i", "name=Slug", "--wait")
    assert waited.keys() == {"run_id", "status", "outputs"}
    assert waited["outputs"] == {"said": "Hello, Slug!"}
    assert "did you mean hello-v1" in shell.run("start", "helo-v1", code=2).stderr
    shell.run("start", "broken-v1", code=1)
    shell.run("start", "approval-v1", code=4)


def test_a_refused_file_keeps_no_other_out_of_the_import(shell: Shell) -> None:
    (shell.folder / "pipelines" / "bad.json").write_text("{")
    report = shell.json("import", "pipelines", code=3)
    assert len(report["imported"]) == 4
    assert [Path(one["file"]).name for one in report["refused"]] == ["bad.json"]
    assert "✗ refused" in shell.run("import", "pipelines/bad.json", code=3).stdout
    assert "no such file" in shell.run("import", "nowhere", code=2).stderr


# --- control


def test_a_waiting_run_is_cancelled_once(shell: Shell) -> None:
    waiting = shell.json("run", "approval.json", code=4)
    run_id = waiting["run_id"]
    cancelled = shell.json("cancel", run_id, "--reason", "not needed")
    assert cancelled == {"run_id": run_id, "status": "cancelled", "changed": True}
    assert shell.json("cancel", run_id)["changed"] is False
    pause_id = waiting["pauses"][0]["pause_id"]
    told = shell.run("answer", pause_id, "--set", "decision=Approve", code=2).stderr
    assert "withdrawn" in told
    assert shell.json("show", run_id)["error"]["message"] == "not needed"


def test_a_run_that_has_ended_is_not_cancelled(shell: Shell) -> None:
    run_id = shell.json("run", "hello.json")["run_id"]
    assert "has ended as succeeded" in shell.run("cancel", run_id, code=2).stderr


def test_a_killed_run_is_taken_up_by_resume(shell: Shell) -> None:
    shell.env["IAFLOW_LEASE_SECONDS"] = "1"
    with shell.start("run", "hold.json") as process:
        # Not only there: a process that is killed before it has written leaves an empty file.
        held = shell.folder / "held"
        wait_until(lambda: held.exists() and held.read_text() == "x", 30, "the step to begin")
        process.kill()
    assert shell.json("runs")[0]["status"] == "running"
    (shell.folder / "go").touch()
    ran = shell.run("resume")
    assert "step hold is held by worker" in ran.stderr
    assert '"ok": true' in ran.stdout
    assert (shell.folder / "held").read_text() == "xx"
    assert "nothing to resume" in shell.run("resume").stderr
    assert shell.json("resume") == []


def test_ctrl_c_keeps_the_run_and_says_how_to_go_on(shell: Shell) -> None:
    with shell.start("run", "hold.json") as process:
        wait_until((shell.folder / "held").exists, 30, "the step to begin")
        process.send_signal(signal.SIGINT)
        (shell.folder / "go").touch()
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    command = re.search(r"iaflow (resume .*)$", told, re.MULTILINE)
    assert command is not None, told
    assert "Traceback" not in told
    assert '"ok": true' in shell.run(*shlex.split(command[1])).stdout


def test_resume_names_waiting_runs_and_leaves_them(shell: Shell) -> None:
    run_id = shell.json("run", "approval.json", code=4)["run_id"]
    [described] = shell.json("resume", code=4)
    assert described["run_id"] == run_id
    assert described["pauses"]
    assert "iaflow answer" in shell.run("resume", code=4).stdout


# --- operating


def test_a_database_that_does_not_answer_exits_5(shell: Shell) -> None:
    nowhere = "postgresql://u:secret@127.0.0.1:1/x"
    told = shell.run("runs", "--db", nowhere, code=5).stderr
    assert "cannot be reached" in told
    assert "secret" not in told
    shell.run("run", "hello.json", "--db", nowhere, code=5)


def test_a_setting_that_cannot_work_exits_2(shell: Shell) -> None:
    shell.env["IAFLOW_LEASE_SECONDS"] = "soon"
    assert "IAFLOW_LEASE_SECONDS" in shell.run("runs", code=2).stderr
    shell.env.clear()
    assert "mysql" in shell.run("runs", "--db", "mysql://x/y", code=2).stderr


def test_the_command_to_answer_names_the_other_database(shell: Shell) -> None:
    db = "sqlite:///other place.db"
    ran = shell.run("run", "approval.json", "--db", db, code=4)
    command = re.search(r"^ *iaflow (answer .*)$", ran.stdout, re.MULTILINE)
    assert command is not None
    arguments = shlex.split(command[1])
    assert arguments[-2:] == ["--db", db]
    shell.run(*arguments)


def test_a_new_postgres_wants_its_tables_first(shell: Shell, empty_postgres_url: str) -> None:
    shell.env["IAFLOW_DATABASE_URL"] = empty_postgres_url
    assert "iaflow db upgrade" in shell.run("runs", code=2).stderr
    assert shell.json("db", "check", code=2)["is_current"] is False
    assert shell.json("doctor", code=1)["ok"] is False
    assert shell.json("db", "upgrade")["before"] is None
    assert shell.json("db", "check")["is_current"] is True
    shell.run("db", "upgrade")
    assert shell.json("run", "hello.json", "-i", "name=Pg")["outputs"]["said"] == "Hello, Pg!"


def test_old_runs_are_pruned(shell: Shell) -> None:
    run_id = shell.json("run", "hello.json")["run_id"]
    waiting = shell.json("run", "approval.json", code=4)["run_id"]
    assert "IAFLOW_RETENTION_DAYS" in shell.run("db", "prune", code=2).stderr
    assert "30 days" in shell.run("db", "prune", "--older-than", "30 days", code=2).stderr

    told = shell.json("db", "prune", "--older-than", "30d")
    assert told == {
        "dry_run": False,
        "older_than_seconds": 30 * 86_400,
        "runs": 0,
        "rows": 0,
        "fires": 0,
        "notices": 0,
    }
    told = shell.json("db", "prune", "--older-than", "0s", "--dry-run")
    assert (told["dry_run"], told["runs"]) == (True, 1)
    assert shell.json("show", run_id)["status"] == "succeeded"

    shell.env["IAFLOW_RETENTION_DAYS"] = "0.00000001"
    assert "removed 1 run, " in shell.run("db", "prune").stderr
    assert run_id in shell.run("show", run_id, code=2).stderr
    assert [run["run_id"] for run in shell.json("runs")] == [waiting]


def test_doctor_says_what_is_in_place(shell: Shell) -> None:
    shell.run("run", "hello.json")
    shell.env["IAFLOW_STEP_MODULES"] = "cli_steps"
    shell.env["IAFLOW_SECRET_KEY"] = "never shown: 7Qe-fPz2Lw_xV0rTn4Yk8uBd"
    report = shell.json("doctor", "--import")
    assert report["ok"] is True
    verdicts = {one["name"]: one["verdict"] for one in report["findings"]}
    assert verdicts.keys() >= {"database", "schema", "durability", "clock", "broker", "modules"}
    sources = {one["name"]: one["source"] for one in report["settings"]}
    assert sources["IAFLOW_STEP_MODULES"] == "set"
    assert sources["IAFLOW_DATABASE_URL"] == "default"
    assert "never shown" not in shell.run("doctor").stdout


def test_doctor_fails_on_what_must_be_mended(shell: Shell) -> None:
    shell.env["IAFLOW_STEP_MODULES"] = "not_there"
    shell.env["IAFLOW_BROKER_URL"] = "redis://:secret@127.0.0.1:1/0"
    ran = shell.run("doctor", code=1)
    assert "✗ fail  broker" in ran.stdout
    assert "✗ fail  modules" in ran.stdout
    assert "secret" not in ran.stdout
    assert (
        "✗ fail  database"
        in shell.run("doctor", "--db", "postgresql://127.0.0.1:1/x", code=1).stdout
    )


def test_a_worker_without_a_broker_is_refused(shell: Shell) -> None:
    assert "IAFLOW_BROKER_URL" in shell.run("worker", code=2).stderr


# --- with workers


@pytest.fixture
def workers(shell: Shell, postgres_url: str, redis_url: str) -> Iterator[Callable[[], Any]]:
    """A deployment; the function starts a worker by `iaflow worker` and waits until it is ready."""
    shell.env |= {
        "IAFLOW_DATABASE_URL": postgres_url,
        "IAFLOW_BROKER_URL": redis_url,
        "IAFLOW_STEP_MODULES": "cli_steps",
    }
    (shell.folder / "workers").mkdir()
    (shell.folder / "workers" / "app.py").write_text(
        "from iaflow.worker.app import create_app\n\napp = create_app()\n"
    )
    started: list[subprocess.Popen[bytes]] = []
    log = shell.folder / "worker.log"

    def start() -> None:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*IAFLOW, "worker", "--", "--pool", "threads", "--concurrency", "2", "-l", "INFO"],
                cwd=shell.folder,
                env=shell.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        wait_until(lambda: " ready." in log.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def test_workers_take_what_is_started_and_answered(
    shell: Shell, workers: Callable[[], Any]
) -> None:
    shell.json("import", "pipelines")
    early = shell.json("start", "hello-v1")
    assert early["status"] in ("pending", "running")
    # A file is run here, whatever broker is set.
    assert shell.json("run", "hello.json")["status"] == "succeeded"
    workers()
    done = shell.json("start", "hello-v1", "-i", "name=Worker", "--wait")
    assert done["outputs"] == {"said": "Hello, Worker!"}
    wait_until(lambda: shell.json("show", early["run_id"])["status"] == "succeeded", 60)
    shell.run("start", "broken-v1", "--wait", code=1)
    waiting = shell.json("start", "approval-v1", "--wait", code=4)
    pause_id = waiting["pauses"][0]["pause_id"]
    accepted = shell.json("answer", pause_id, "--set", "decision=Approve")
    assert accepted["run_id"] == waiting["run_id"]
    wait_until(lambda: shell.json("show", waiting["run_id"])["status"] == "succeeded", 60)
    again = shell.json("start", "approval-v1", "--wait", code=4)["pauses"][0]["pause_id"]
    ended = shell.json("answer", again, "--set", "decision=Approve", "--wait")
    assert ended["outputs"]["decision"] == "Approve"
    # The servers of a test run are not durable, and doctor says so.
    report = shell.json("doctor", code=None)
    assert {one["name"] for one in report["findings"]} >= {"eviction", "queue"}
