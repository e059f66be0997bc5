"""One random definition, executed somewhere, and what is compared of it.

Decides what two executions must have in common: statuses, outputs, errors, decisions with their
operands; never times, ids or who worked. Called by the fuzzers.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.data.records import StepRecord
from iaflow.data.status import END_OF_RUN
from iaflow.pipeline.check import compile_definition
from iaflow.settings import load_settings
from tests.fuzz.definitions import draw_definition, draw_slug

__all__ = [
    "FOLDER",
    "Seen",
    "describe_difference",
    "draw",
    "import_children",
    "open_here",
    "play_here",
    "play_on_workers",
    "read_run",
    "start",
]

FOLDER = Path(__file__).parent
"""Where the module of the steps is."""

LIMIT_SECONDS = 120.0
POLL_SECONDS = 0.05
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What came of a run.

    Attributes:
        status: the run's.
        outputs: of the run, None if it did not succeed.
        steps: (step id, index) to status, end, tries, output, error code.
        decisions: transition to taken and reason.
    """

    status: str
    outputs: Any
    steps: Mapping[str, Any]
    decisions: Mapping[int, Any]


def draw(seed: int) -> dict[str, Any]:
    """Return the definition of a seed."""
    return draw_definition(seed, children=tuple(map(draw_slug, _children_of(seed))))


async def play_here(app: Application, seed: int) -> Seen:
    """Execute the definition of a seed in this process; those that it may run are kept there."""
    run_id = start(app, seed)
    async with open_local_executor(app, folders=[FOLDER]) as executor:
        await executor.drive(run_id)
    return read_run(app, run_id)


def play_on_workers(app: Application, seeds: Sequence[int]) -> dict[int, Seen]:
    """Start the definitions of all seeds, and wait until workers have ended them."""
    waiting = {seed: start(app, seed) for seed in seeds}
    seen: dict[int, Seen] = {}
    deadline = time.monotonic() + LIMIT_SECONDS
    while waiting:
        for seed, run_id in list(waiting.items()):
            if app.client.run(run_id).status in END_OF_RUN:
                seen[seed] = read_run(app, run_id)
                del waiting[seed]
        if time.monotonic() > deadline:
            stuck = {seed: read_run(app, run_id).steps for seed, run_id in waiting.items()}
            raise AssertionError(f"these runs do not end: {stuck}")
        time.sleep(POLL_SECONDS)
    return seen


def open_here(url: str) -> Application:
    """Return the parts on a database, with no workers."""
    settings = load_settings().model_copy(update={"database_url": url, "broker_url": None})
    return open_application(settings)


def import_children(app: Application, seeds: Sequence[int]) -> None:
    """Import what the definitions of these seeds may run."""
    for child in sorted({child for seed in seeds for child in _children_of(seed)}):
        graph = compile_definition(draw(child))
        app.client.save(graph)
        app.pipelines.publish(
            slug=graph.definition.slug,
            name=graph.definition.name,
            description="",
            content_hash=graph.definition.content_hash,
            version=graph.definition.version,
            document=graph.definition.text,
            now=app.engine.clock.now(),
        )


def start(app: Application, seed: int) -> str:
    """Start the definition of a seed and return the run's id."""
    graph = compile_definition(draw(seed))
    app.client.save(graph)
    return app.client.start_graph(graph, {}).run_id


def read_run(app: Application, run_id: str) -> Seen:
    """Return what came of a run, without what differs from one execution to the next."""
    run = app.client.run(run_id)
    return Seen(
        status=str(run.status),
        outputs=run.outputs,
        steps={f"{s.step_id}[{s.index}]": _describe(s) for s in app.client.steps(run_id)},
        decisions={
            d.transition: (d.taken, _without_ids(d.reason))
            for d in app.client.decisions(run_id)
            if not d.superseded
        },
    )


def describe_difference(one: Seen, other: Seen) -> str:
    """Return what two executions have not in common; empty if they are alike."""
    lines = []
    if (one.status, one.outputs) != (other.status, other.outputs):
        lines.append(f"{one.status} {one.outputs} | {other.status} {other.outputs}")
    for name, left, right in (
        ("step", one.steps, other.steps),
        ("transition", one.decisions, other.decisions),
    ):
        lines += (
            f"{name} {key}: {left.get(key)} | {right.get(key)}"
            for key in sorted({*left, *right}, key=str)
            if left.get(key) != right.get(key)
        )
    return "\n".join(lines)


def _children_of(seed: int) -> tuple[int, ...]:
    """Return the seeds of what the definition of a seed may run: earlier ones that run none."""
    return () if seed % 4 else tuple(k for k in range(max(0, seed - 7), seed) if k % 4)


def _describe(step: StepRecord) -> Any:
    error = None if step.error is None else step.error.get("code")
    return (
        str(step.status),
        None if step.end is None else str(step.end),
        step.attempt - step.worker_losses,
        _without_ids(step.output),
        error,
        step.handled,
    )


def _without_ids(value: Any) -> Any:
    return json.loads(_RUN_ID.sub("run", json.dumps(value)))
