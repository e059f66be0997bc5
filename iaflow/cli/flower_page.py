"""What a task's row says in Flower: which run, which step, and how to look at the run.

Decides the words of a row; never what is in it: a message has ids alone. Read by Flower as its
configuration, or imported from a `flowerconfig.py` of your own.
"""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["format_task"]


def format_task(task: Any) -> Any:
    """Return a copy of a task whose args are in words; one that is not iaflow's stays as it is."""
    if not str(task.name or "").startswith("iaflow."):
        return task
    try:
        ids = ast.literal_eval(task.args or "()")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return task
    match ids:
        case (str(run_id), str(step_id), int(index), int(attempt)):
            item = f"[{index}]" if index >= 0 else ""
            told = f"run {run_id}, step {step_id}{item}, attempt {attempt}: iaflow show {run_id}"
            task.args = told
        case (str(pause_id),):
            task.args = f"answer to {pause_id}"
        case _:
            pass
    return task
