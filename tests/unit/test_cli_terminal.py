"""What is written to a terminal: signs, durations, and nothing that could steer it.

Decides nothing; writes to captured streams. Run by pytest.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from iaflow.cli.terminal import (
    LOOKS,
    format_age,
    format_seconds,
    format_value,
    guard_stdout,
    line,
    plain,
    status_text,
    table,
    write_error,
    write_json,
    write_json_line,
)
from iaflow.data.status import RunStatus, StepStatus


@pytest.mark.parametrize(
    ("seconds", "words"),
    (
        (0.004, "0.00 s"),
        (1.5, "1.50 s"),
        (12.34, "12.3 s"),
        (59.99, "60.0 s"),
        (245, "4 min 05 s"),
        (7380, "2 h 03 min"),
        (49 * 3600, "2 d 1 h"),
    ),
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words


def test_ages_point_both_ways() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert format_age(now - timedelta(seconds=30), now) == "30 s ago"
    assert format_age(now + timedelta(minutes=5), now) == "in 5 min 00 s"
    assert format_age(now, now) == "now"


@pytest.mark.parametrize("status", (*RunStatus, *StepStatus))
def test_every_status_has_a_sign_beside_its_word(status: str) -> None:
    assert status_text(status).plain == f"{LOOKS[status].glyph} {status}"


def test_signs_of_step_statuses_differ() -> None:
    signs = [LOOKS[status].glyph for status in StepStatus]
    assert len(set(signs)) == len(signs)


def test_what_could_steer_a_terminal_is_taken_out() -> None:
    assert plain("a\x1b[31mb\x07c\u202ed\r\ne\tf") == "a\ufffd[31mb\ufffdc\ufffdd\ufffd\ne\tf"


def test_no_part_of_a_line_steers_the_terminal_whatever_its_style() -> None:
    assert line("a\x1b[2J", ("b\x1b]0;x\x07", "dim"), status_text("\x9b31m")).plain == (
        "a\ufffd[2Jb\ufffd]0;x\ufffd· \ufffd31m"
    )


def test_errors_show_markup_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    write_error("no [bold]markup[/bold] :smile:\nsecond line", "do this")
    assert capsys.readouterr().err == (
        "✗ error: no [bold]markup[/bold] :smile:\nsecond line\n  → do this\n"
    )


def test_lines_are_never_wrapped_where_a_program_reads(capsys: pytest.CaptureFixture[str]) -> None:
    write_error("word " * 500)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_has_aligned_columns_and_no_trailing_blanks() -> None:
    lines = [row.plain for row in table(["a", "b", ""], [["xyz", "1", ""], ["", "22", "n"]])]
    assert lines == ["a    b", "xyz  1", "     22  n"]


def test_long_values_are_cut() -> None:
    shown = format_value({"a": "x" * 500}, longest=20)
    assert len(shown) == 20
    assert shown.endswith("…")


def test_json_comes_back_as_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": 1.0, "b": "ü☃", "c": 10**30, "d": None}
    write_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_json_lines_stay_lines_and_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": "".join(map(chr, (0x1B, 0x7F, 0x85, 0x9B, 0x2028, 0x2029, 0x202E, 0xD800)))}
    write_json_line(value)
    text = capsys.readouterr().out
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert json.loads(text) == value


def test_guarded_stdout_stays_empty_for_every_kind_of_printing() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from iaflow.cli.terminal import guard_stdout, write_json\n"
        "with guard_stdout():\n"
        "    print('step')\n"
        "    os.write(1, b'raw\\n')\n"
        "    subprocess.run(['echo', 'child'])\n"
        "write_json({'a': 1})\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {"a": 1}
    assert sorted(ran.stderr.split()) == ["child", "raw", "step"]


def test_guarded_stdout_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    with guard_stdout():
        print("inside")
    print("outside")
    captured = capsys.readouterr()
    assert captured.out == "outside\n"
    assert captured.err == "inside\n"
