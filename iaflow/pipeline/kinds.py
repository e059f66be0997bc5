"""What becomes of an attempt by the type of its step: work, a question, a timer, a run.

Decides the outcome from the resolved inputs and what the step's class returned; never writes
it, and never runs the class (the attempt does). Called by attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import uuid_utils

from iaflow.data.records import (
    Failed,
    Fanned,
    NewPause,
    Outcome,
    Paused,
    Spawned,
    Succeeded,
    Timed,
)
from iaflow.errors import DefinitionRefused, InputRefused
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.definition import MAX_SECONDS, StepType, check_json_value
from iaflow.pipeline.endings import MESSAGE_KEPT, check_output
from iaflow.pipeline.engine import Claimed
from iaflow.pipeline.fields import parse_instant
from iaflow.pipeline.forms import form_digest
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.reminders import list_upcoming

__all__ = ["MAX_DEPTH", "conclude_work", "fan_out"]

MAX_DEPTH: Final = 16
"""How many runs may stand above a run (LANGUAGE section 2)."""


def fan_out(claimed: Claimed) -> Outcome | None:
    """Return that a foreach has its items now; None if this is no such claim."""
    items = claimed.inputs.items
    return None if items is None else Fanned(items, claimed.inputs.keys)


def conclude_work(
    claimed: Claimed,
    result: Any,
    *,
    now: datetime,
    find_pipeline: Callable[[str], Graph | None],
    keep_version: Callable[[Graph], None],
) -> Outcome:
    """
    Return the outcome of an attempt whose `work` returned.

    Args:
        result: what it returned.
        now: the instant.
        find_pipeline: returns the definition that a slug stands for; may raise DefinitionRefused.
        keep_version: keeps that, before a run of it is made.
    """
    step_type = claimed.node.step.type
    if step_type is StepType.TASK:
        return check_output(claimed.node, result)
    extra = result if result is not None else {}
    if not isinstance(extra, Mapping):
        return check_output(claimed.node, result)
    match step_type:
        case StepType.HUMAN_INPUT:
            return _ask(claimed, extra)
        case StepType.EVENT:
            return _listen(claimed)
        case StepType.WAIT:
            return _wait(claimed, now)
        case StepType.TERMINATE:
            data = claimed.inputs.data
            return check_output(claimed.node, {**data, **extra} if extra else data)
        case StepType.PIPELINE:
            return _spawn(claimed, extra, find_pipeline, keep_version)


def _ask(claimed: Claimed, extra: Mapping[str, Any]) -> Outcome:
    step, config = claimed.node.step, claimed.node.step.config
    shown = claimed.inputs.shown
    if shown is None:
        shown = {} if step.inputs is None else claimed.inputs.data
    if extra:
        shown = {**(shown if isinstance(shown, dict) else {"value": shown}), **extra}
    _, problems = check_json_value(shown)
    if problems:
        return Failed("output_invalid", problems[0].message[:MESSAGE_KEPT], retryable=False)
    ui_schema = config.get("ui_schema") or {}
    upcoming = list_upcoming(config)
    return Paused(
        NewPause(
            ui_schema,
            shown,
            form_digest(ui_schema, shown, claimed.claim.content_hash),
            config.get("expires_in", step.policy.timeout),
            assignees=config.get("assignees") or {},
            quorum=config.get("quorum") or 1,
            exclude_starter=bool(config.get("exclude_starter")),
            notice_in=upcoming[0].after if upcoming else None,
        )
    )


def _listen(claimed: Claimed) -> Outcome:
    step = claimed.node.step
    name = step.config["name"]
    digest = form_digest({}, {"event": name}, claimed.claim.content_hash)
    expires_in = step.config.get("expires_in", step.policy.timeout)
    return Paused(NewPause({}, {}, digest, expires_in, event=name))


def _wait(claimed: Claimed, now: datetime) -> Outcome:
    value = claimed.inputs.timer
    until = parse_instant(value) if "until" in claimed.node.step.config else _add(now, value)
    if until is None:
        message = (
            f"{value!r} is no instant: write one such as 2030-01-31T09:00:00Z"
            if "until" in claimed.node.step.config
            else f"{value!r} is no number of seconds from 0 to {MAX_SECONDS}"
        )
        return Failed("wait_invalid", message[:MESSAGE_KEPT], retryable=False)
    return Timed(until) if until > now else Succeeded({}, "{}")


def _add(now: datetime, seconds: Any) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return now + timedelta(seconds=seconds) if 0 <= seconds <= MAX_SECONDS else None


def _spawn(
    claimed: Claimed,
    extra: Mapping[str, Any],
    find_pipeline: Callable[[str], Graph | None],
    keep_version: Callable[[Graph], None],
) -> Outcome:
    step, header = claimed.node.step, claimed.header
    slug = step.pipeline or ""
    if header.depth >= MAX_DEPTH:
        message = f"{MAX_DEPTH} runs stand above this one already: {slug!r} is not started"
        return Failed("pipeline_too_deep", message, retryable=False)
    try:
        graph = find_pipeline(slug)
        if graph is None:
            message = f"there is no pipeline {slug!r}: import it, or put its file beside this one"
            return Failed("pipeline_unknown", message, retryable=False)
        parameters = merge_parameters(graph.definition, {**claimed.inputs.data, **extra})
    except DefinitionRefused as error:
        return Failed("pipeline_refused", str(error)[:MESSAGE_KEPT], retryable=False)
    except InputRefused as error:
        return Failed("input_invalid", str(error)[:MESSAGE_KEPT], retryable=False)
    keep_version(graph)
    run_id = str(uuid_utils.uuid7())
    return Spawned(graph.definition.content_hash, parameters, step.wait, run_id)
