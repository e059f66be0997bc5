"""How what is typed becomes values: `--input`, `--set`.

Decides nothing; reads small files in a temporary folder. Run by pytest.
"""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from iaflow.cli.inputs import read_answer, read_inputs, read_value, split_pair


@pytest.mark.parametrize(
    ("text", "value"),
    (
        ("5", 5),
        ("1.0", 1.0),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ('["a", 1]', ["a", 1]),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ("Developer", "Developer"),
        ("007", "007"),
        ("", ""),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e999", "1e999"),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("a=b", "a=b"),
        ("True", "True"),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5000, "9" * 5000),
    ),
)
def test_a_value_is_json_if_it_parses_else_text(text: str, value: Any) -> None:
    read = read_value(text)
    assert read == value
    assert type(read) is type(value)


def test_only_the_first_equals_sign_divides() -> None:
    assert split_pair("url=http://x/?a=b", "--input") == ("url", "http://x/?a=b")


@pytest.mark.parametrize("text", ("name", "=value", ""))
def test_what_is_no_pair_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"name=value, @file\.json or -"):
        read_inputs([text])


def test_later_inputs_win_over_earlier_ones_and_over_files(tmp_path: Path) -> None:
    file = tmp_path / "in.json"
    file.write_text('{"a": 1, "b": 2}')
    assert read_inputs(["a=0", f"@{file}", "b=3"]) == {"a": 1, "b": 3}


def test_an_object_is_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a": [1, 2.0]}')))
    assert read_inputs(["-"]) == {"a": [1, 2.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b"[1]", "is an object"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "twice"),
    ),
)
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "in.json"
    file.write_bytes(content)
    with pytest.raises(click.UsageError, match=message):
        read_inputs([f"@{file}"])


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"cannot read .*nowhere\.json"):
        read_inputs([f"@{tmp_path / 'nowhere.json'}"])


def one_field(**spec: Any) -> dict[str, Any]:
    return {"fields": [{"name": "f", **spec}]}


@pytest.mark.parametrize(
    ("spec", "given", "value"),
    (
        ({"type": "text"}, ["f=123"], "123"),
        ({"type": "textarea"}, ["f=true"], "true"),
        ({"type": "date"}, ["f=2026-01-31"], "2026-01-31"),
        ({"type": "number"}, ["f=1.5"], 1.5),
        ({"type": "integer"}, ["f=2"], 2),
        ({"type": "integer"}, ["f=two"], "two"),
        ({"type": "boolean"}, ["f=true"], True),
        ({"type": "checkbox"}, ["f=Yes"], True),
        ({"type": "checkbox"}, ["f=off"], False),
        ({"type": "boolean"}, ["f=perhaps"], "perhaps"),
        ({"type": "radio", "options": ["Approve", "Reject"]}, ["f=Approve"], "Approve"),
        ({"type": "select", "options": ["1", "2"]}, ["f=1"], "1"),
        ({"type": "select", "options": [{"value": 1, "label": "one"}]}, ["f=1"], 1),
        ({"type": "select", "options": [{"value": 1, "label": "one"}]}, ["f=one"], 1),
        ({"type": "select", "options": [{"value": True}]}, ["f=true"], True),
        ({"type": "select", "options": ["a"]}, ["f=b"], "b"),
        ({"type": "multiselect", "options": ["a", "b"]}, ["f=a", "f=b"], ["a", "b"]),
        ({"type": "multiselect", "options": ["a", "b"]}, ['f=["b"]'], ["b"]),
        ({"type": "multiselect", "options": [1, 2]}, ["f=2"], [2]),
        ({"type": "multiselect", "options": ["a"]}, ["f="], []),
        ({"type": "json"}, ['f={"a": [1]}'], {"a": [1]}),
        ({"type": "json"}, ["f=plain"], "plain"),
    ),
)
def test_an_answer_has_the_types_that_the_form_asks_for(
    spec: dict[str, Any], given: list[str], value: Any
) -> None:
    answer = read_answer(one_field(**spec), given)
    assert answer == {"f": value}
    assert type(answer["f"]) is type(value)


def test_an_unknown_field_is_handed_on_for_the_form_to_refuse() -> None:
    assert read_answer({"fields": []}, ["g=1"]) == {"g": 1}


def test_a_number_option_is_not_taken_for_true() -> None:
    assert read_answer(one_field(type="select", options=[{"value": True}]), ["f=1"]) == {"f": "1"}
