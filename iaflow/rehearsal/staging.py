"""A run rehearsed: the real engine and executor, on virtual time, with a script.

Decides how the parts are put together and what is reported; never what follows from a step's
end. Called by users' tests, by the pytest fixture and by simulations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from iaflow.client import Client
from iaflow.clock import Clock, SystemClock
from iaflow.data.records import NO_INDEX, StepRecord
from iaflow.data.status import RunStatus
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.errors import NotFound
from iaflow.explaining import Ledger
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.loader import Library, StepLoader
from iaflow.pipeline.services import ServiceRegistry
from iaflow.rehearsal.outcome import Rehearsal, StepOutcome
from iaflow.rehearsal.player import Player, RehearsalClock, RehearsalExecutor
from iaflow.rehearsal.scripts import Action, Answer, CancelRun, CancelStep, Signal
from iaflow.rehearsal.stubs import Stopped, Stub, StubLoader, require_known
from iaflow.rehearsal.virtual_time import DEFAULT_START, VirtualLoop
from iaflow.settings import load_settings

__all__ = ["Document", "Staged", "read_document", "rehearse", "rehearse_async", "stage"]

Document = Mapping[str, Any] | str | Path
"""A definition: a dict, its JSON text, or the path of its file."""

T = TypeVar("T")

LEASE_SECONDS = 1e9
"""No worker is lost in a rehearsal, however far its time jumps."""


def rehearse(
    definition: Document,
    input: Mapping[str, Any] | None = None,
    *,
    steps: Mapping[str, Stub] | None = None,
    answers: Iterable[Answer] = (),
    signals: Iterable[Signal] = (),
    controls: Iterable[CancelRun | CancelStep] = (),
    services: ServiceRegistry | Mapping[str, Any] | None = None,
    pipelines: Mapping[str, Document] | None = None,
    modules: Sequence[str] = (),
    start_at: datetime = DEFAULT_START,
    until: float | None = None,
    max_parallel: int = 64,
    database: str | Database = "sqlite://",
) -> Rehearsal:
    """
    Run a pipeline to its end, or until nothing more can happen, in virtual time.

    The engine, the planner, the checks and the executor are the real ones; only time, people
    and the steps that are stubbed are the test's.

    Args:
        definition: a dict, its JSON text, or the path of its file (whose folder's modules may
            then be used, as by `run_pipeline_from_json`).
        input: the run's input, laid over the document's `parameters`.
        steps: stubs by step id (``slug/step_id`` for one pipeline's): an output, a function of
            ``data`` or of ``data, context``, a step class, an exception, or a list of these,
            one per attempt. Other steps are the real ones.
        answers, signals, controls: what happens from outside; those of the same time in the
            order given, answers first.
        services: what steps are given: a registry, or services by name.
        pipelines: definitions by slug, for steps of type `pipeline`.
        modules: modules that real steps may come from, beside ``IAFLOW_STEP_MODULES``.
        start_at: the virtual instant of the start, aware.
        until: virtual seconds after which the rehearsal stops, however the run stands; by
            default when nothing more can happen (or a step works for a day without an end).
        max_parallel: steps at once.
        database: a URL, or an open database with tables; by default a new one in memory.

    Returns:
        How it went; a failed run is a result too, and raises nothing.

    Raises:
        DefinitionRefused, InputRefused: there was no run.
        ValueError: a stub or an answer is for no step.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(
            rehearse_async(
                definition,
                input,
                steps=steps,
                answers=answers,
                signals=signals,
                controls=controls,
                services=services,
                pipelines=pipelines,
                modules=modules,
                start_at=start_at,
                until=until,
                max_parallel=max_parallel,
                database=database,
            )
        )


async def rehearse_async(
    definition: Document,
    input: Mapping[str, Any] | None = None,
    *,
    steps: Mapping[str, Stub] | None = None,
    answers: Iterable[Answer] = (),
    signals: Iterable[Signal] = (),
    controls: Iterable[CancelRun | CancelStep] = (),
    services: ServiceRegistry | Mapping[str, Any] | None = None,
    pipelines: Mapping[str, Document] | None = None,
    modules: Sequence[str] = (),
    start_at: datetime = DEFAULT_START,
    until: float | None = None,
    max_parallel: int = 64,
    database: str | Database = "sqlite://",
) -> Rehearsal:
    """Do what `rehearse` does, on the running loop: in real time unless it is a `VirtualLoop`."""
    graph, folders = read_document(definition)
    children = [read_document(child, slug)[0] for slug, child in (pipelines or {}).items()]
    loader = StubLoader(
        steps or {}, [graph, *children], [*load_settings().step_modules, *modules], folders
    )
    return await stage(
        graph,
        input,
        children=children,
        loader=loader,
        services=_build_services(services),
        script=[*answers, *signals, *controls],
        start_at=start_at,
        until=until,
        max_parallel=max_parallel,
        database=database,
        report=_report,
    )


@dataclass(frozen=True, slots=True)
class Staged:
    """A run that has been played, and what it was played on: what a report is made from."""

    engine: Engine
    graph: Graph
    run_id: str
    player: Player
    stopped: Stopped | None = None


async def stage(
    graph: Graph,
    input: Mapping[str, Any] | None,
    *,
    children: Sequence[Graph],
    loader: StepLoader,
    services: ServiceRegistry,
    script: Sequence[Action],
    start_at: datetime,
    until: float | None,
    max_parallel: int,
    database: str | Database,
    report: Callable[[Staged], T],
) -> T:
    """
    Play a run on the running loop and return the report of it.

    Args:
        children: definitions for steps of type `pipeline`.
        loader, services: what stands for the steps and what they are given.
        report: is called while the database is still open.

    Raises:
        InputRefused: there was no run.
        ValueError: an answer is for no step.
    """
    loop = asyncio.get_running_loop()
    clock: Clock = (
        RehearsalClock(loop, start_at) if isinstance(loop, VirtualLoop) else SystemClock()
    )
    for action in script:
        if isinstance(action, Answer | CancelStep):
            known = [step for one in (graph, *children) for step in one.nodes]
            require_known(action.step, known, type(action).__name__)
    opened = database if isinstance(database, Database) else _open(database)
    try:
        engine = Engine(
            opened,
            clock,
            Library(PipelineStore(opened).read_document),
            # Jitter would make a rehearsal another one every time.
            draw=lambda: 0.0,
            lease_seconds=LEASE_SECONDS,
        )
        client = Client(engine=engine)
        for child in children:
            _publish(engine, child)
        client.save(graph)
        stopped = None
        async with RehearsalExecutor(
            engine, loader, services, max_parallel=max_parallel
        ) as executor:
            player = Player(client, executor, script, [])
            started = client.start_graph(graph, input)
            try:
                await player.play(started, until=until)
            except Stopped as reason:
                stopped = reason
        return report(Staged(engine, graph, started.run_id, player, stopped))
    finally:
        if opened is not database:
            opened.close()


def read_document(definition: Document, slug: str | None = None) -> tuple[Graph, tuple[Path, ...]]:
    """
    Return a compiled definition, and the folders whose modules may be used with it.

    Args:
        slug: the slug of a dict that has none.

    Raises:
        DefinitionRefused: with every finding.
    """
    if isinstance(definition, str) and not definition.lstrip().startswith("{"):
        definition = Path(definition)
    if isinstance(definition, Path):
        return compile_definition(definition.read_bytes(), source=str(definition)), (
            definition.resolve().parent,
        )
    if isinstance(definition, str):
        return compile_definition(definition), ()
    document = dict(definition)
    if slug is not None:
        document.setdefault("slug", slug)
    return compile_definition(document), ()


def _open(url: str) -> Database:
    database = Database(url)
    migrator.upgrade(database)
    return database


def _publish(engine: Engine, graph: Graph) -> None:
    definition = graph.definition
    engine.library.keep(graph)
    PipelineStore(engine.database).publish(
        content_hash=definition.content_hash,
        slug=definition.slug,
        version=definition.version,
        name=definition.name,
        description=definition.description,
        document=definition.text,
        now=engine.clock.now(),
    )


def _build_services(services: ServiceRegistry | Mapping[str, Any] | None) -> ServiceRegistry:
    if isinstance(services, ServiceRegistry):
        return services
    registry = ServiceRegistry()
    for name, service in (services or {}).items():
        registry.register(name, service)
    return registry


def _report(staged: Staged) -> Rehearsal:
    engine, graph, run_id, player = staged.engine, staged.graph, staged.run_id, staged.player
    reads = engine.reads
    run = reads.run(run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    rows = sorted(reads.steps(run_id), key=lambda row: row.index)
    found = {row.step_id: row for row in rows if row.index == NO_INDEX}
    events = reads.events(run_id, max(0, run.seq - 1))
    ended = run.finished_at or (events[-1].at if events else run.created_at)
    error = None
    if run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        error = {
            "code": run.error_code,
            "message": run.error_message,
            "step_id": run.error_step_id,
        }
    decisions = tuple(reads.decisions(run_id))
    items: dict[str, list[StepOutcome]] = {}
    for row in rows:
        if row.index != NO_INDEX:
            items.setdefault(row.step_id, []).append(_describe(row, run.created_at))
    return Rehearsal(
        run_id=run_id,
        status=run.status,
        outputs=run.outputs if run.status is RunStatus.SUCCEEDED else None,
        error=error,
        parameters=run.parameters,
        steps={
            step_id: _describe(found[step_id], run.created_at)
            if step_id in found
            else StepOutcome(step_id)
            for step_id in graph.nodes
        },
        items={step_id: tuple(rows) for step_id, rows in items.items()},
        decisions=decisions,
        refused=tuple(player.refused),
        waiting=tuple(engine.pauses.list_open(run_id=run_id)),
        began_at=run.created_at,
        elapsed_seconds=(ended - run.created_at).total_seconds(),
        history=tuple(player.history),
        ledger=Ledger.of(graph, run, rows, decisions),
    )


def _describe(row: StepRecord, start: datetime) -> StepOutcome:
    return StepOutcome(
        step_id=row.step_id,
        status=row.status,
        end=row.end,
        attempts=row.attempt - row.worker_losses,
        inputs=row.inputs,
        output=row.output,
        error=row.error,
        is_handled=row.handled,
        started_seconds=_since(start, row.started_at),
        ended_seconds=_since(start, row.finished_at),
        index=None if row.index == NO_INDEX else row.index,
    )


def _since(start: datetime, instant: datetime | None) -> float | None:
    return None if instant is None else (instant - start).total_seconds()
