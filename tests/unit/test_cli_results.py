"""What a command says of a run at its end, and the command lines that it prints.

Decides nothing; touches no store. Run by pytest.
"""

import shlex
from typing import Any

import pytest

from iaflow.cli.inputs import read_answer
from iaflow.cli.results import _own_frames, answer_command, quote_db, show_question
from iaflow.pipeline.forms import parse_form, validate_answer

EVERY_TYPE: list[dict[str, Any]] = [
    {"name": "text", "type": "text", "required": True},
    {"name": "area", "type": "textarea", "required": True},
    {"name": "number", "type": "number", "required": True, "maximum": 1},
    {"name": "integer", "type": "integer", "required": True, "minimum": 7},
    {"name": "boolean", "type": "boolean", "required": True},
    {"name": "box", "type": "checkbox", "required": True},
    {"name": "radio", "type": "radio", "options": ["It's ok", "No"]},
    {"name": "select", "type": "select", "options": [{"value": 3, "label": "three"}]},
    {"name": "multi", "type": "multiselect", "required": True, "options": ["a", "b"]},
    {"name": "date", "type": "date", "required": True},
    {"name": "time", "type": "datetime", "required": True},
    {"name": "mail", "type": "email", "required": True},
    {"name": "url", "type": "url", "required": True},
    {"name": "json", "type": "json", "required": True},
    {"name": "optional", "type": "text"},
    {"name": "given", "type": "select", "options": ["x"], "default": "x"},
]


def test_the_printed_answer_fits_its_form() -> None:
    ui_schema = {"fields": EVERY_TYPE}
    words = shlex.split(answer_command({"pause_id": "p1", "ui_schema": ui_schema}, db=None))
    assert words[:3] == ["iaflow", "answer", "p1"]
    given = words[4::2]
    assert set(words[3::2]) == {"--set"}
    assert [pair.partition("=")[0] for pair in given] == [
        spec["name"] for spec in EVERY_TYPE if spec["name"] not in ("optional", "given")
    ]
    form, problems = parse_form(ui_schema)
    assert form is not None, problems
    assert validate_answer(form, read_answer(ui_schema, given))[1] == []


def test_a_form_without_fields_needs_none() -> None:
    pause = {"pause_id": "p1", "ui_schema": {"title": "Go on?"}}
    assert answer_command(pause, db=None) == "iaflow answer p1"


@pytest.mark.parametrize(
    ("db", "words"),
    (
        (None, ""),
        ("sqlite:///a b.db", " --db 'sqlite:///a b.db'"),
        ("postgresql://u:secret@h/n", " --db 'postgresql://u:***@h/n'"),
    ),
)
def test_the_database_option_is_repeated_without_its_password(db: str | None, words: str) -> None:
    assert quote_db(db) == words


def test_a_question_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;title\x07"
    pause = {
        "pause_id": "p1",
        "step_id": "ask",
        "ui_schema": {
            "title": evil,
            "description": evil,
            "fields": [{"name": "f", "type": "text", "label": evil, "required": True}],
        },
        "shown": {"a": evil, "b": [evil], "c": "two\nlines"},
    }
    show_question(pause, db=None)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "  c: two\n     lines\n" in shown


def test_only_the_steps_own_frames_are_shown() -> None:
    trace = """Traceback (most recent call last):
  File "/x/iaflow/pipeline/attempt.py", line 1, in _work
    result = await step.work(data)
             ^^^^^^^^^^^^^^^^^^^^^
  File "/home/me/steps.py", line 17, in work
    return self.divide(1, 0)
           ^^^^^^^^^^^^^^^^^
  File "/home/me/steps.py", line 19, in divide
    return a / b
           ~~^~~
ZeroDivisionError: division by zero
"""
    assert _own_frames(trace) == [
        '  File "/home/me/steps.py", line 17, in work',
        "    return self.divide(1, 0)",
        '  File "/home/me/steps.py", line 19, in divide',
        "    return a / b",
        "ZeroDivisionError: division by zero",
    ]
    assert _own_frames("") == []
    assert _own_frames("no frames at all") == ["no frames at all"]
    ours = 'Traceback:\n  File "/x/iaflow/pipeline/a.py", line 1, in f\n    f()\nE: x'
    assert _own_frames(ours) == ["E: x"]
