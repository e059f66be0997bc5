"""A user's terminal for the tests of the command line, and short ways to write definitions.

Decides how a command is run and what every command must keep to; never what it should say. Used
by the tests of this folder.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["IAFLOW", "ROOT", "Shell", "chain", "step"]

ROOT = Path(__file__).resolve().parents[2]
# -P: as the console script, which does not put the current folder on the path.
IAFLOW = [sys.executable, "-P", "-m", "iaflow.cli"]


def step(name: str, step_class: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "module": "cli_steps", "step_class": step_class, **more}


def chain(name: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    ids = [one["id"] for one in steps]
    transitions = [{"from": a, "to": b} for a, b in itertools.pairwise(ids)]
    flow = {"start_at": ids[0], "transitions": transitions}
    return {"name": name, "steps": list(steps), "flow": flow, **more}


class Shell:
    """A user's terminal: a folder, and what is exported in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.env}

    def run(
        self, *args: str | Path, code: int | None = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [*IAFLOW, *map(str, args)],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = f"exit {ran.returncode}\n--- stdout\n{ran.stdout}\n--- stderr\n{ran.stderr}"
        assert code is None or ran.returncode == code, told
        assert "Traceback (most recent call last)" not in ran.stderr, told
        return ran

    def json(self, *args: str | Path, code: int | None = 0, stdin: str = "") -> Any:
        return json.loads(self.run(*args, "--json", code=code, stdin=stdin).stdout)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*IAFLOW, *args],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
