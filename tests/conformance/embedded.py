"""Cases played by the embedded executor: in virtual time, or in scaled real time.

Decides how a case becomes a rehearsal and a rehearsal what the judge reads; never judges.
Called by the tests of this folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from iaflow.database.dialects import Database
from iaflow.rehearsal.outcome import Rehearsal
from iaflow.rehearsal.scripts import Answer, CancelRun, CancelStep, Signal
from iaflow.rehearsal.staging import rehearse_async
from iaflow.rehearsal.virtual_time import VirtualLoop
from tests.conformance.bodies import load_bodies, pair_log, read_log, scale_times, stub_steps
from tests.conformance.judge import Played
from tests.conformance.reading import Case, last_action

__all__ = ["play_all_scaled", "play_virtual"]

MANY = 1024
"""Steps at once where a case says nothing of workers."""

LIMIT_SECONDS = 60.0

SCALE = 0.3
"""Real seconds for each second of a case that is played in real time."""

AT_ONCE = 4

WARM_UP = Case(
    id="warm-up",
    document={
        "name": "Warm-up",
        "steps": [
            {"id": "a", "type": "human_input", "config": {"ui_schema": {"fields": []}}},
            {"id": "b", "module": "fixture_steps", "step_class": "Emit"},
        ],
        "flow": {"start_at": "b", "transitions": [{"from": "b", "to": "a"}]},
    },
    params={},
    answers=({"step": "a", "data": {}, "at": 1},),
    controls=({"do": "cancel_run", "at": 1},),
    signals=(),
    expect={},
)


def play_virtual(
    case: Case, *, bodies: ModuleType, database: str | Database, folder: Path
) -> Played:
    """Play a case in virtual time; `folder` is an empty one for the bodies' log."""
    os.environ["FIXTURE_DIR"] = str(folder)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        answers = _answers(case, 1.0)
        outcome = runner.run(_rehearse(case, case.document, answers, bodies, database, 1.0))
        entries = read_log(folder).get(outcome.run_id, [])
        return _describe(outcome, answers, entries, began=0.0, is_virtual=True)


async def play_all_scaled(
    cases: Sequence[Case], *, database: Database, folder: Path
) -> dict[str, Played | Exception]:
    """Play cases in scaled real time, some at once; return how each went, by id."""
    os.environ["FIXTURE_DIR"] = str(folder)
    bodies = load_bodies(scale=SCALE)
    places = asyncio.Semaphore(AT_ONCE)

    async def play(case: Case) -> Played | Exception:
        async with places:
            try:
                return await _play_scaled(case, bodies=bodies, database=database, folder=folder)
            except Exception as error:  # noqa: BLE001  raised in the test of this case
                return error

    # The first statements of a connection are slower than a script may be late.
    await play(WARM_UP)
    # The longest first: their scripts are mostly waiting.
    in_order = sorted(cases, key=lambda case: -last_action(case))
    results = await asyncio.gather(*map(play, in_order))
    return {case.id: result for case, result in zip(in_order, results, strict=True)}


async def _play_scaled(
    case: Case, *, bodies: ModuleType, database: Database, folder: Path, scale: float = SCALE
) -> Played:
    document = scale_times(case.document, scale)
    answers = _answers(case, scale)
    outcome = await _rehearse(case, document, answers, bodies, database, scale)
    entries = read_log(folder).get(outcome.run_id, [])
    return _describe(
        outcome, answers, entries, began=outcome.began_at.timestamp(), is_virtual=False
    )


async def _rehearse(
    case: Case,
    document: Any,
    answers: list[Answer],
    bodies: ModuleType,
    database: str | Database,
    scale: float,
) -> Rehearsal:
    children = {slug: scale_times(child, scale) for slug, child in (case.pipelines or {}).items()}
    steps = stub_steps(document, bodies)
    for slug, child in children.items():
        steps |= {f"{slug}/{name}": stub for name, stub in stub_steps(child, bodies).items()}
    return await rehearse_async(
        document,
        case.params,
        steps=steps,
        answers=answers,
        signals=[
            Signal(one["name"], one.get("data") or {}, at=one.get("at", 0) * scale)
            for one in case.signals
        ],
        controls=[
            CancelRun(at=one.get("at", 0) * scale)
            if one["do"] == "cancel_run"
            else CancelStep(one["step"], at=one.get("at", 0) * scale)
            for one in case.controls
        ],
        pipelines=children,
        until=None if scale == 1.0 else LIMIT_SECONDS,
        max_parallel=case.workers or MANY,
        database=database,
    )


def _answers(case: Case, scale: float) -> list[Answer]:
    return [
        Answer(one["step"], one["data"], at=one.get("at", 0) * scale, by=one.get("by", "somebody"))
        for one in case.answers
    ]


def _describe(
    outcome: Rehearsal,
    answers: list[Answer],
    entries: list[dict[str, Any]],
    *,
    began: float,
    is_virtual: bool,
) -> Played:
    def place(seconds: float | None) -> float | None:
        return None if seconds is None else began + seconds

    spans: Mapping[str, tuple[float | None, float | None]] = {
        step.step_id: (place(step.started_seconds), place(step.ended_seconds))
        for step in outcome.steps.values()
    }
    # The very same answer may have been given twice.
    reasons = {id(one.action): one.reason for one in outcome.refused}
    return Played(
        status=str(outcome.status),
        steps={step.step_id: str(step.status) for step in outcome.steps.values()},
        attempts={step.step_id: step.attempts for step in outcome.steps.values()},
        outputs=outcome.outputs,
        elapsed=outcome.elapsed_seconds if is_virtual else None,
        refused=[reasons.get(id(answer)) for answer in answers],
        executions=list(pair_log(entries, spans)),
        spans=spans,
        changed=[one.reason for one in outcome.refused if one.changed],
        error=outcome.error,
        story=outcome.timeline(),
    )
