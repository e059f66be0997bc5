"""The checker: from three records to what was violated. Pure, and itself tested (tests/unit).

A violation is a sentence that begins with the invariant of RELIABILITY.md that it breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.chaos.records import Asked, Entry, Rows, RunRow

__all__ = ["check"]

ENDS = frozenset({"succeeded", "failed", "cancelled"})
LIVE = frozenset({"ready", "running", "retrying", "waiting"})


def check(
    asked: Iterable[Asked],
    ledger: Sequence[Entry],
    rows: Rows,
    *,
    losses_allowed: bool = True,
    in_order: bool = False,
    crashes: int = 0,
) -> list[str]:
    """
    Return what is violated, in no particular order; an empty list: nothing.

    Args:
        losses_allowed: executions that were lost with their worker may come on top of those that
            are expected, as often as the rows admit. False: no process was harmed.
        in_order: no process was held up between taking a step and beginning it: the execution
            that began last is then the one that may write.
        crashes: how often the database was. A claim is not flushed: each crash may undo one of a
            step, which is then executed once more without counting as lost.
    """
    by_key: dict[str | None, list[RunRow]] = defaultdict(list)
    for run in rows.runs:
        by_key[run.key].append(run)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger:
        entries[entry.run_id].append(entry)
    found: list[str] = []
    for one in asked:
        runs = by_key.get(one.key, [])
        if len(runs) != 1:
            found.append(f"I1/I2: {len(runs)} runs of key {one.key}")
            continue
        [run] = runs
        if one.run_id is not None and one.run_id != run.run_id:
            found.append(f"I2: {one.run_id} was acknowledged for {one.key}, {run.run_id} is there")
        found += _check_end(one, run)
        found += _check_answers(one, run)
        found += _check_executions(
            one, run, entries[run.run_id], losses_allowed=losses_allowed, crashes=crashes
        )
    for run in rows.runs:
        found += _check_steps(run)
        found += _check_completions(run, entries[run.run_id], in_order=in_order)
        found += _check_events(run)
    return found


def _check_end(asked: Asked, run: RunRow) -> Iterator[str]:
    if run.status not in ENDS:
        yield f"I1: run {run.run_id} has not ended: {run.status}"
    elif run.status != asked.expected:
        yield f"I1: run {run.run_id} ended {run.status}, not {asked.expected}"
    elif asked.outputs is not None and _strip(run.outputs) != dict(asked.outputs):
        yield f"I4: run {run.run_id} returned {run.outputs}, not {asked.outputs}"


def _strip(outputs: Any) -> Any:
    """Return outputs without the nonces, which nobody can foresee."""
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: value for name, value in outputs.items() if name != "nonce"}


def _check_answers(asked: Asked, run: RunRow) -> Iterator[str]:
    if asked.answer is None:
        return
    if len(run.answers) != 1:
        yield f"I15: run {run.run_id} has {len(run.answers)} answers"
    elif dict(run.answers[0]) != dict(asked.answer):
        yield f"I15: run {run.run_id} has {run.answers[0]}, but {asked.answer} was accepted"
    if run.open_pauses:
        yield f"I15: run {run.run_id} still asks"


def _check_steps(run: RunRow) -> Iterator[str]:
    if run.status in ENDS:
        for step in run.steps:
            if step.status in LIVE:
                yield f"I6: run {run.run_id} has ended, its step {step.step_id} is {step.status}"


def _check_executions(
    asked: Asked,
    run: RunRow,
    entries: Sequence[Entry],
    *,
    losses_allowed: bool,
    crashes: int,
) -> Iterator[str]:
    """Each step is executed as often as its policy says, and once more for each loss."""
    begun = Counter(entry.step_id for entry in entries if entry.phase == "begun")
    losses = {step.step_id: step.worker_losses for step in run.steps}
    for step_id in begun.keys() | asked.executions.keys():
        least = asked.executions.get(step_id, 0)
        most = least + crashes + (losses.get(step_id, 0) if losses_allowed else 0)
        # A worker may have died before its step said a word.
        if not least <= begun[step_id] <= most:
            yield (
                f"I10/I12: step {step_id} of run {run.run_id} was executed {begun[step_id]} times, "
                f"not {least} to {most}"
            )
        if not losses_allowed and losses.get(step_id):
            yield f"I9: step {step_id} of run {run.run_id} was taken from a live worker"


def _check_completions(run: RunRow, entries: Sequence[Entry], *, in_order: bool) -> Iterator[str]:
    """What was recorded was done: by one execution that is in the ledger, after its inputs."""
    ended = {entry.nonce: entry for entry in entries if entry.phase == "ended"}
    latest: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda one: one.at):
        if entry.phase == "begun":
            latest[entry.step_id] = entry
    for step in run.steps:
        nonce = step.output.get("nonce") if isinstance(step.output, Mapping) else None
        if step.status == "succeeded" and nonce is not None:
            entry = ended.get(nonce)
            if entry is None or entry.step_id != step.step_id:
                yield f"I3: the output of step {step.step_id} of run {run.run_id} is nobody's"
            elif in_order and latest[step.step_id].nonce != nonce:
                yield f"I7: step {step.step_id} of run {run.run_id} was written by a lost worker"
    completed = Counter(step_id for event in run.events for step_id in event.completed)
    for step_id, times in completed.items():
        if times > 1:
            yield f"I3: step {step_id} of run {run.run_id} was completed {times} times"


def _check_events(run: RunRow) -> Iterator[str]:
    if [event.seq for event in run.events] != list(range(1, len(run.events) + 1)):
        yield f"I23: the events of run {run.run_id} have gaps"
    for place, event in enumerate(run.events):
        if event.kind in ENDS and place != len(run.events) - 1:
            yield f"I6: run {run.run_id} has events after its end"
