"""A definition simulated: the real engine, with given outputs and answers in place of the world.

Decides what stands for steps, people, signals and conditions in code; never imports or runs
code of a step and never writes anything. Called by `iaflow simulate`.
"""

from __future__ import annotations

import asyncio
import builtins
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from iaflow.pipeline.conditions import AgentCondition, FunctionCondition, code_conditions
from iaflow.pipeline.definition import StepDefinition, StepType
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.judging import ConditionContext
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.neighbours import find_beside
from iaflow.pipeline.services import ServiceRegistry
from iaflow.pipeline.step import Step, StepContext
from iaflow.rehearsal.account import Simulation, give_account
from iaflow.rehearsal.scripts import Action, Answer, Signal
from iaflow.rehearsal.staging import Staged, stage
from iaflow.rehearsal.stubs import Stopped, StubLoader, make_stub, require_known
from iaflow.rehearsal.virtual_time import DEFAULT_START, VirtualLoop

__all__ = ["Suppositions", "find_children", "simulate"]

AT_ONCE: Final = 1024
TIMEOUT: Final = "timeout"


@dataclass(frozen=True, slots=True)
class Suppositions:
    """
    What is supposed to come from outside; steps by id, or by ``slug/step_id``.

    Attributes:
        outputs: an object for each attempt and item of a step, or a list: one per item of a
            foreach, else one per attempt; the last one stays.
        failures: the code that each attempt of a step fails with, by step, or by ``step[3]`` for
            one item; ``timeout`` takes the time that the step has.
        answers: to the question of a step, each time that it asks.
        signals: payloads by name, each time that one is waited for.
        functions: verdicts by ``module.function``.
        choices: what routing services answer, by service, or by ``step.service``.
        after: virtual seconds from the question, or the waiting, of a step to its answer.
    """

    outputs: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    signals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    functions: Mapping[str, bool] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


def simulate(
    graph: Graph,
    input: Mapping[str, Any] | None = None,
    given: Suppositions | None = None,
    *,
    children: Sequence[Graph] = (),
    start_at: datetime = DEFAULT_START,
) -> Simulation:
    """
    Return how a run of a definition would go, were the world as it is supposed to be.

    Nothing is written, no module is imported, and no time passes. A step without a given output
    gives the names that it declares, each null; a question or signal that nobody supposed is
    waited for, to its expiry or for ever.

    Args:
        input: the run's input, laid over the document's `parameters`.
        children: the definitions that its `pipeline` steps run.
        start_at: the virtual instant of the start, aware.

    Raises:
        InputRefused: there would be no run.
        ValueError: something is supposed of a step, signal, function or service that the
            definitions do not have.
    """
    given = given or Suppositions()
    graphs = [graph, *children]
    _require_all_known(given, graphs)
    loader = _Supposed(given, graphs)
    services = ServiceRegistry(secrets=_Secrets())
    for name in _find_services(graphs):
        services.register(name, _Chooser(name, given.choices))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(
            stage(
                graph,
                input,
                children=children,
                loader=loader,
                services=services,
                script=[*_write_answers(given, graphs), *_write_signals(given, graphs)],
                start_at=start_at,
                until=None,
                max_parallel=AT_ONCE,
                database="sqlite://",
                report=partial(_give_account, loader=loader),
            )
        )


def find_children(graph: Graph, folder: Path) -> list[Graph]:
    """Return the definitions that a graph's `pipeline` steps run, and those they run in turn."""
    found: dict[str, Graph] = {}
    wanted = [graph]
    while wanted:
        for node in wanted.pop().nodes.values():
            slug = node.step.pipeline
            if slug is None or slug in found or slug == graph.definition.slug:
                continue
            child = find_beside(slug, folder)
            if child is not None:
                found[slug] = child
                wanted.append(child)
    return list(found.values())


# --- what stands for the world


class _Supposed(StubLoader):
    """A loader that imports nothing: every step is what is supposed of it."""

    def __init__(self, given: Suppositions, graphs: Sequence[Graph]) -> None:
        steps = _list_steps(graphs)
        names = [*given.outputs, *(name.partition("[")[0] for name in given.failures)]
        self.assumed: dict[str, Mapping[str, Any]] = {}
        stubs = {}
        for name in dict.fromkeys(names):
            output = given.outputs.get(name)
            if output is None:
                output = dict.fromkeys(steps[name].outputs or ())
                if name not in given.failures:
                    # Some items of it fail, the others give what nobody has said.
                    self.assumed[steps[name].id] = output
            stubs[name] = _Stub(name, output, given.failures)
        super().__init__(stubs, graphs)
        self._functions = given.functions

    def load(self, step: StepDefinition) -> type[Step]:
        """Return what was supposed of a step; of its own class nothing is known."""
        stub = self.find_stub(step)
        if stub is not None:
            return stub
        if step.type is not StepType.TASK:
            return StepLoader.load(self, replace(step, module=None, step_class=None))
        self.assumed[step.id] = dict.fromkeys(step.outputs or ())
        return make_stub(step.id, self.assumed[step.id])

    def load_function(self, module: str, name: str) -> Any:
        """Return a function that gives the supposed verdict; it stops where there is none."""

        async def judge(context: ConditionContext) -> bool:
            verdict = self._functions.get(f"{module}.{name}")
            if verdict is None:
                raise Stopped(
                    f"step {context.step_id} has ended, and a transition out of it asks "
                    f"{module}.{name}(), which is not called here: say --function "
                    f"{module}.{name}=true or =false"
                )
            return verdict

        return judge


class _Stub:
    """What a step gives, attempt by attempt and item by item."""

    def __init__(self, name: str, output: Any, failures: Mapping[str, str]) -> None:
        self._name = name
        self._output = output
        self._failures = failures

    async def __call__(self, data: Any, context: StepContext) -> Any:
        item = context.item_index
        code = self._failures.get(self._name)
        if item is not None:
            code = self._failures.get(f"{self._name}[{item}]", code)
        if code == TIMEOUT:
            await asyncio.Event().wait()
        if code is not None:
            raise _make_error(code)
        output = self._output
        if isinstance(output, list):
            place = context.attempt - 1 if item is None else item
            output = output[min(place, len(output) - 1)]
        return copy.deepcopy(output)


class _Chooser:
    """A routing service that answers what is supposed."""

    def __init__(self, name: str, choices: Mapping[str, str]) -> None:
        self._name = name
        self._choices = choices

    async def choose(self, question: str, choices: list[str], context: ConditionContext) -> str:
        own = self._choices.get(f"{context.step_id}.{self._name}")
        choice = own if own is not None else self._choices.get(self._name)
        if choice is None:
            raise Stopped(
                f"step {context.step_id} has ended, and a transition out of it asks the service "
                f"{self._name}, which is not asked here: {question!r}; say --choose "
                f"{self._name}={choices[0]} (or {', '.join(choices[1:])})"
            )
        return choice


class _Secrets:
    """A secrets service that has every secret, and tells none."""

    def get(self, name: str) -> str:
        return f"(the secret {name})"


class _Failure(Exception):
    """A failure that was supposed; `code` is what the run records."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__("supposed to fail")


def _make_error(code: str) -> Exception:
    """Return an exception of the code; a built-in one, as `retry_on` may name one of its bases."""
    known = getattr(builtins, code, None)
    if isinstance(known, type) and issubclass(known, Exception):
        try:
            return known("supposed to fail")
        except TypeError:
            pass
    return _Failure(code)


# --- the script


def _write_answers(given: Suppositions, graphs: Sequence[Graph]) -> Iterable[Action]:
    """Write an answer for each person that a question wants, in the order of its assignees."""
    for step_id, data in given.answers.items():
        node = _find_node(graphs, step_id)
        asked = node.step.config.get("assignees") or {}
        users, roles = list(asked.get("users") or ()), tuple(asked.get("roles") or ())
        for place in range(node.step.config.get("quorum") or 1):
            name = users[place] if place < len(users) else f"somebody{place + 1 if place else ''}"
            after = given.after.get(step_id, 0.0)
            yield Answer(step_id, data, by=name, roles=roles, after=after, always=True)


def _write_signals(given: Suppositions, graphs: Sequence[Graph]) -> Iterable[Action]:
    for name, data in given.signals.items():
        after = [
            given.after[n.step.id] for n in _find_events(graphs, name) if n.step.id in given.after
        ]
        yield Signal(name, data, at=None, after=max(after, default=0.0), always=True)


def _find_node(graphs: Sequence[Graph], step_id: str) -> Node:
    return next(graph.nodes[step_id] for graph in graphs if step_id in graph.nodes)


def _find_events(graphs: Sequence[Graph], name: str | None = None) -> list[Node]:
    return [
        node
        for graph in graphs
        for node in graph.nodes.values()
        if node.step.type is StepType.EVENT and name in (None, node.step.config["name"])
    ]


def _find_services(graphs: Sequence[Graph]) -> list[str]:
    conditions = _find_code(graphs)
    return [one.service for one in conditions if isinstance(one, AgentCondition)]


def _find_code(graphs: Sequence[Graph]) -> list[FunctionCondition | AgentCondition]:
    return [one for g in graphs for edge in g.edges for one in code_conditions(edge.condition)]


# --- checks

_CURES: Final = {
    StepType.HUMAN_INPUT: "what it gives is an answer, and without one it expires",
    StepType.EVENT: "what it gives is a signal, and without one it expires",
    StepType.PIPELINE: "what it gives comes of the steps of that pipeline",
    StepType.WAIT: "it gives nothing, and its time is virtual",
    StepType.TERMINATE: "what it does is written in the definition",
}


def _list_steps(graphs: Sequence[Graph]) -> dict[str, StepDefinition]:
    """Return the steps by id, of several the first one's, and by ``slug/id``."""
    listed: dict[str, StepDefinition] = {}
    for graph in graphs:
        for step_id, node in graph.nodes.items():
            listed.setdefault(step_id, node.step)
            listed[f"{graph.definition.slug}/{step_id}"] = node.step
    return listed


def _require_all_known(given: Suppositions, graphs: Sequence[Graph]) -> None:
    nodes = {node.step.id: node for graph in reversed(graphs) for node in graph.nodes.values()}
    people = [name for name, node in nodes.items() if node.step.type is StepType.HUMAN_INPUT]
    events = [name for name, node in nodes.items() if node.step.type is StepType.EVENT]
    for name in given.answers:
        require_known(name, nodes, "an answer")
        if name not in people:
            raise ValueError(f"step {name!r} asks nobody: those that do are {people}")
    for name in given.after:
        require_known(name, nodes, "a time")
        if name not in given.answers and name not in events:
            raise ValueError(f"step {name!r} is given no answer or signal that could come later")
    steps = _list_steps(graphs)
    for name in (*given.outputs, *(name.partition("[")[0] for name in given.failures)):
        require_known(name, [one for one in steps if ("/" in one) == ("/" in name)], "an output")
        if steps[name].type in _CURES:
            cure = _CURES[steps[name].type]
            raise ValueError(f"step {name!r} is of type {steps[name].type}: {cure}")
    for name, code in given.failures.items():
        step = steps[name.partition("[")[0]]
        if code == TIMEOUT and step.policy.timeout is None:
            raise ValueError(f"step {step.id!r} has no timeout that it could exceed")
    code_known = _find_code(graphs)
    functions = [f"{c.module}.{c.function}" for c in code_known if isinstance(c, FunctionCondition)]
    services = _find_services(graphs)
    signals = [node.step.config["name"] for node in _find_events(graphs)]
    own = [f"{step_id}.{service}" for step_id in nodes for service in services]
    for what, names, there in (
        ("no step waits for the signal", given.signals, signals),
        ("no condition calls the function", given.functions, functions),
        ("no condition asks the service", given.choices, [*services, *own]),
    ):
        for name in names:
            if name not in there:
                near = ", ".join(list(dict.fromkeys(there))[:10])
                raise ValueError(f"{what} {name!r}; there are: {near or 'none'}")


def _give_account(staged: Staged, *, loader: _Supposed) -> Simulation:
    return give_account(staged, assumed=loader.assumed)
