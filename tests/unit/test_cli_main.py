"""How errors become exit codes and messages at the door, and that no bytes break `validate`.

Decides nothing; commands run in this process. Run by pytest.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iaflow.cli import root
from iaflow.cli.driving import Interrupted
from iaflow.cli.operating import find_worker_app
from iaflow.errors import (
    AnswerRefused,
    DefinitionRefused,
    InputRefused,
    NotFound,
    NotReachable,
    Problem,
)

PROBLEM = Problem("step_unknown", "/flow/start_at", "there is no step 'b'", "did you mean 'a'?")


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a command that raises the error of the parameter."""

    @click.command("fail")
    def fail() -> None:
        raise request.param

    root.add_command(fail)
    yield "fail"
    del root.commands["fail"]


@pytest.mark.parametrize(
    ("failing", "code", "words"),
    (
        (DefinitionRefused((PROBLEM,), "x.json"), 3, "x.json: the definition is refused"),
        (DefinitionRefused((PROBLEM,), "x.json"), 3, "/flow/start_at  step_unknown: there is no"),
        (DefinitionRefused((PROBLEM,), "x.json"), 3, "→ did you mean 'a'?"),
        (InputRefused((PROBLEM,)), 2, "no run was made"),
        (AnswerRefused((Problem("x", "/decision", "needed"),)), 2, "  decision  needed"),
        (NotFound("there is no run 'x'"), 2, "✗ error: there is no run 'x'"),
        (NotReachable("no server"), 5, "✗ error: no server"),
        (Interrupted("r1", "go on with:  iaflow resume r1"), 130, "iaflow resume r1"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (ZeroDivisionError("oops"), 1, "unexpected ZeroDivisionError: oops"),
        (ZeroDivisionError("oops"), 1, "iaflow --debug"),
    ),
    indirect=["failing"],
)
def test_an_error_is_one_message_and_a_code(failing: str, code: int, words: str) -> None:
    ran = CliRunner().invoke(root, [failing])
    assert ran.exit_code == code
    assert words in ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("failing", (ZeroDivisionError("oops"),), indirect=True)
def test_debug_lets_the_traceback_through(failing: str) -> None:
    assert isinstance(CliRunner().invoke(root, ["--debug", failing]).exception, ZeroDivisionError)


def test_a_deployments_own_worker_app_comes_first(tmp_path: Path) -> None:
    assert find_worker_app(tmp_path) == "iaflow.worker.app:app"
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "app.py").touch()
    assert find_worker_app(tmp_path) == "workers.app"


def nearly_json() -> st.SearchStrategy[bytes]:
    """Bytes, JSON, and JSON in the shape of a definition with anything in it."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    )
    keys = st.sampled_from(["name", "steps", "flow", "parameters", "outputs", "error_handling"])
    documents = st.dictionaries(keys, values)
    steps = st.lists(
        st.dictionaries(st.sampled_from(["id", "type", "module", "config", "join"]), values)
    )
    shaped = st.fixed_dictionaries({"name": st.text(), "steps": steps, "flow": values})
    texts = (values | documents | shaped).map(lambda value: json.dumps(value).encode())
    return st.binary() | texts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(content=nearly_json(), suffix=st.sampled_from([".json", ".json.gz"]))
def test_validate_answers_any_bytes_with_one_line(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    ran = CliRunner().invoke(root, ["validate", "--json", str(file)])
    assert ran.exit_code in (0, 2, 3)
    [line] = ran.stdout.splitlines()
    told = json.loads(line)
    assert told["ok"] is (ran.exit_code == 0)
    assert bool(told["errors"]) is (ran.exit_code != 0)
