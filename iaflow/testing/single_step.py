"""One step class, executed by itself: what a unit test of a step needs.

Decides what stands for the run around it; never for its work. Called by users' tests.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from iaflow.concurrency import run_blocking
from iaflow.pipeline.services import ServiceRegistry
from iaflow.pipeline.step import Step, StepContext
from iaflow.rehearsal.virtual_time import VirtualLoop

__all__ = ["make_context", "run_step", "run_step_async"]


def make_context(
    step_id: str = "step",
    *,
    run_id: str = "run",
    attempt: int = 1,
    item_index: int | None = None,
    is_cancelled: bool = False,
    progress: list[tuple[float, str]] | None = None,
    lines: list[tuple[str, dict[str, Any]]] | None = None,
) -> StepContext:
    """
    Return a context for a step that is executed without a run.

    Args:
        attempt: from 1.
        item_index: the item of a foreach.
        is_cancelled: what `context.cancelled` says.
        progress: collects what the step says of its progress: ``(fraction, message)``.
        lines: collects what it logs: ``(message, fields)``.
    """
    said = progress if progress is not None else []
    logged = lines if lines is not None else []
    return StepContext(
        run_id=run_id,
        step_id=step_id,
        attempt=attempt,
        item_index=item_index,
        report=lambda fraction, message: said.append((fraction, message)),
        log=lambda message, **fields: logged.append((message, fields)),
        is_cancelled=lambda: is_cancelled,
    )


def run_step(
    step_class: type[Step],
    data: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    services: ServiceRegistry | Mapping[str, Any] | None = None,
    context: StepContext | None = None,
) -> Any:
    """
    Execute one step in virtual time and return its output; what it raises is raised.

    Args:
        step_class: the class under test.
        data: what `work` gets; validated by the class's `Input`, if it has one.
        config: the step's static `config`.
        services: a registry, or services by name.
        context: see `make_context`, by default a plain one.

    Returns:
        The output, validated by the class's `Output`, if it has one.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(
            run_step_async(step_class, data, config=config, services=services, context=context)
        )


async def run_step_async(
    step_class: type[Step],
    data: Any = None,
    *,
    config: Mapping[str, Any] | None = None,
    services: ServiceRegistry | Mapping[str, Any] | None = None,
    context: StepContext | None = None,
) -> Any:
    """Do what `run_step` does, on the running loop and in its time."""
    registry = services if isinstance(services, ServiceRegistry) else ServiceRegistry()
    if isinstance(services, Mapping):
        for name, service in services.items():
            registry.register(name, service)
    step = step_class(config, registry)
    step.context = context if context is not None else make_context()
    given = {} if data is None else data
    if step_class.Input is not None:
        given = step_class.Input.model_validate(given)
    if inspect.iscoroutinefunction(step.work):
        result = await step.work(given)
    else:
        result = await run_blocking(step.work, given)
        if inspect.isawaitable(result):
            result = await result
    if step_class.Output is not None:
        result = step_class.Output.model_validate(result).model_dump(mode="json")
    return result
