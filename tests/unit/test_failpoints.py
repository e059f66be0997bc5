"""How failpoints are written, and that a process without them has none of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iaflow import failpoints
from iaflow.database.dialects import Database
from iaflow.errors import SettingsRefused
from iaflow.failpoints import FOLDER_VARIABLE, VARIABLE, Failpoint, read_failpoints


def test_failpoints_are_read() -> None:
    assert read_failpoints("a.b=kill, move_step.before_commit=sleep:0.5*3@7/10,c=lose") == {
        "a.b": Failpoint("a.b", "kill", 0, 1, 1, 1),
        "move_step.before_commit": Failpoint("move_step.before_commit", "sleep", 0.5, 3, 7, 10),
        "c": Failpoint("c", "lose", 0, 1, 1, 1),
    }
    assert read_failpoints("") == {}


@pytest.mark.parametrize(
    "text", ("a", "a=", "a=explode", "a=sleep", "A=kill", "a=kill/0", "a=kill@x")
)
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(SettingsRefused, match="place=kill"):
        read_failpoints(text)


def test_without_them_connections_are_plain() -> None:
    assert not failpoints.ACTIVE
    database = Database("sqlite://")
    assert type(database._connection()).__name__ == "SqliteConnection"
    database.close()


VISITS = """
from iaflow.failpoints import reach

for _ in range(12):
    try:
        reach("here", lambda: 1 / 0)
    except ZeroDivisionError:
        print("lost")
    reach("elsewhere")
"""


def test_it_happens_as_often_as_it_says(tmp_path: Path) -> None:
    """Two processes count their visits together."""
    env = {VARIABLE: "here=lose*3@10/5", FOLDER_VARIABLE: str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", VISITS], env=env, capture_output=True, text=True, check=True
        ).stdout.count("lost")
        for _ in range(2)
    ]
    assert said == [1, 2]
    assert len((tmp_path / "here.visits").read_text()) == 24
    assert len((tmp_path / "here.hits").read_text().splitlines()) == 3
    assert not (tmp_path / "elsewhere.visits").exists()
