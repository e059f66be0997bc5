"""The compiled graph of a definition: nodes, edges, and all that is parsed only once.

Decides whether the transitions make a graph that can run (known ends, acyclic, all reachable);
never judges what references mean. Called by check and, for every plan, by the planner.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import Problem
from iaflow.pipeline.conditions import ALWAYS, Condition, parse_condition, paths_of
from iaflow.pipeline.definition import (
    Definition,
    JoinType,
    On,
    StepDefinition,
    StepType,
    Transition,
)
from iaflow.pipeline.forms import Form, parse_form
from iaflow.pipeline.reading import Speller, clip
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import Path, Template, compile_template

__all__ = ["CODES", "Edge", "Graph", "Node", "ancestors", "build_graph", "name_path"]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "step_unknown": "there is no step of that id",
        "start_has_incoming": "a transition leads to the first step",
        "step_unreachable": "no path leads from the first step to this one",
        "transition_duplicate": "two transitions have the same ends, `on` and condition",
        "cycle": "steps wait for each other in a circle",
    }
)
"""Codes of the problems that `build_graph` finds beside those of templates, conditions, forms."""


@dataclass(frozen=True, slots=True)
class Edge:
    """
    A transition with its condition parsed.

    Attributes:
        index: its place in the document; also in `Graph.edges`.
        reads: steps other than the source whose output the condition refers to.
        reads_errors: steps whose error it refers to, the source included.
    """

    index: int
    source: str
    target: str
    on: On
    condition: Condition
    name: str | None
    reads: tuple[str, ...]
    reads_errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """
    A step with its edges and its templates compiled.

    Attributes:
        incoming, outgoing: in document order.
        inputs: None if the step has no `inputs`.
        foreach_items: the template of `foreach.items`.
        shown: the template of `config.show` of a person's step.
        reads: steps whose outputs its templates refer to, in document order.
        reads_errors: steps whose errors they refer to.
        input_reads: steps whose outputs `inputs` alone refers to: what an item must be brought.
        form: what a person's step asks; None on other types.
        reject_when: the condition on the answer; reads `result` and the parameters only.
        concurrency_key: the template of the key.
        key_reads, key_reads_errors: what that alone refers to.
        timer: the template of `config.seconds` or `config.until` of a wait.
    """

    step: StepDefinition
    incoming: tuple[Edge, ...]
    outgoing: tuple[Edge, ...]
    inputs: Template | None
    foreach_items: Template | None
    shown: Template | None
    reads: tuple[str, ...]
    reads_errors: tuple[str, ...]
    form: Form | None
    reject_when: Condition | None = None
    concurrency_key: Template | None = None
    key_reads: tuple[str, ...] = ()
    key_reads_errors: tuple[str, ...] = ()
    timer: Template | None = None
    input_reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """
    A definition that is compiled.

    Attributes:
        nodes: by step id, in document order.
        edges: by transition index.
        start: id of the first step.
        outputs: the template of the run's outputs; None if the document has none.
        output_reads, output_reads_errors: steps whose outputs and errors it refers to.
        order: step ids, every step after all its ancestors, else in document order.
        has_early_joins: some join may run before all its branches have ended.
        has_keys: some step has a concurrency key.
        has_children: some step is a pipeline of its own.
    """

    definition: Definition
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    start: str
    outputs: Template | None
    output_reads: tuple[str, ...]
    output_reads_errors: tuple[str, ...]
    order: tuple[str, ...]
    has_early_joins: bool = False
    has_keys: bool = False
    has_children: bool = False


def build_graph(
    definition: Definition,
) -> tuple[Graph | None, list[Problem], list[Problem]]:
    """
    Compile a definition: check its transitions, parse its conditions and templates.

    Takes time in proportion to steps and transitions, however many paths there are.

    Returns:
        The graph (None if the transitions make none), the errors and the warnings. There may be
        both a graph and errors, so that checks of meaning can go on.
    """
    builder = _Builder(definition)
    is_sound = builder.check_ends()
    builder.check_duplicates()
    order = builder.sort()
    if is_sound:
        builder.check_reachable()
    graph = builder.compile(order or ())
    return graph if is_sound and order is not None else None, builder.errors, builder.warnings


def ancestors(graph: Graph) -> Mapping[str, int]:
    """
    Return the ancestors of every step as a set of bits.

    Returns:
        Step id to an integer whose bit p is set if the step at position p of the document is an
        ancestor: ``ancestors(graph)[b] >> graph.nodes[a].step.position & 1``.
    """
    bits: dict[str, int] = {}
    for step_id in graph.order:
        found = 0
        for source in {edge.source for edge in graph.nodes[step_id].incoming}:
            found |= bits[source] | 1 << graph.nodes[source].step.position
        bits[step_id] = found
    return bits


def name_path(step_ids: list[str]) -> str:
    """Write a path as ``a -> b -> c``, the middle of a very long one left out."""
    shown = step_ids
    for half in (_LONG_PATH // 2, 10, 5, 2, 1):
        if len(step_ids) > 2 * half:
            left_out = f"… {len(step_ids) - 2 * half:,} more …"
            shown = [*step_ids[:half], left_out, *step_ids[-half:]]
        if sum(map(len, shown)) <= _LONG_TEXT:
            break
    return " -> ".join(shown)


# --- building


class _Builder:
    """What is known of a graph while it is built, and what was found wrong."""

    __slots__ = ("definition", "errors", "leaving", "parsed", "positions", "speller", "warnings")

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.positions = {step.id: step.position for step in definition.steps}
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.speller = Speller()
        self.parsed: dict[str, tuple[Condition | None, list[Problem]]] = {}
        # Only transitions between known steps; an unknown end is said once and then left out.
        self.leaving: dict[str, list[Transition]] = defaultdict(list)
        for transition in definition.transitions:
            if transition.source in self.positions and transition.target in self.positions:
                self.leaving[transition.source].append(transition)

    # -- the shape

    def check_ends(self) -> bool:
        """Refuse unknown steps at either end, and transitions to the first step."""
        definition = self.definition
        start = definition.start_at
        is_sound = self._check_known(start, "/flow/start_at")
        for transition in definition.transitions:
            pointer = definition.transition_pointer(transition.index)
            from_known = self._check_known(transition.source, f"{pointer}/from")
            is_sound &= self._check_known(transition.target, f"{pointer}/to") and from_known
            if transition.target == start and start in self.positions:
                message = f"the first step `{start}` cannot follow {clip(transition.source)}"
                hint = "begin at a step that no transition leads to"
                self.errors.append(Problem("start_has_incoming", pointer, message, hint))
        return is_sound

    def _check_known(self, step_id: str, pointer: str) -> bool:
        if step_id in self.positions:
            return True
        hint = self.speller.hint(step_id, self.positions)
        message = f"there is no step {clip(step_id)}"
        self.errors.append(Problem("step_unknown", pointer, message, hint))
        return False

    def check_duplicates(self) -> None:
        """Refuse transitions that say the same; other conditions on the same way are legal."""
        alike: dict[tuple[str, str, On], list[Transition]] = defaultdict(list)
        for transition in self.definition.transitions:
            alike[transition.source, transition.target, transition.on].append(transition)
        for group in alike.values():
            if len(group) > 1:
                self._check_group(group)

    def _check_group(self, group: list[Transition]) -> None:
        first: dict[str, int] = {}
        for transition in group:
            said = dump_json(transition.condition, sort_keys=True)
            before = first.setdefault(said, transition.index)
            if before != transition.index:
                pointer = self.definition.transition_pointer(transition.index)
                message = f"this says the same as transition {before}"
                hint = "remove one of them, or give them different conditions"
                self.errors.append(Problem("transition_duplicate", pointer, message, hint))

    def sort(self) -> tuple[str, ...] | None:
        """Return the steps in topological order, or name a cycle."""
        steps = self.definition.steps
        waits_for = dict.fromkeys(self.positions, 0)
        for transitions in self.leaving.values():
            for transition in transitions:
                waits_for[transition.target] += 1
        ready = [step.position for step in steps if waits_for[step.id] == 0]
        order: list[str] = []
        while ready:
            step_id = steps[heapq.heappop(ready)].id
            order.append(step_id)
            for transition in self.leaving.get(step_id, ()):
                waits_for[transition.target] -= 1
                if waits_for[transition.target] == 0:
                    heapq.heappush(ready, self.positions[transition.target])
        if len(order) == len(steps):
            return tuple(order)
        self._name_cycle([step.id for step in steps if waits_for[step.id] > 0])
        return None

    def _name_cycle(self, stuck: list[str]) -> None:
        """Name one cycle among steps each of which waits for another of them."""
        follows: dict[str, Transition] = {}
        for step_id in stuck:
            for transition in self.leaving.get(step_id, ()):
                follows.setdefault(transition.target, transition)
        seen: dict[str, int] = {}
        trail: list[str] = []
        step_id = stuck[0]
        while step_id not in seen:
            seen[step_id] = len(trail)
            trail.append(step_id)
            step_id = follows[step_id].source
        loop = trail[seen[step_id] :][::-1]
        begin = loop.index(min(loop, key=self.positions.__getitem__))
        loop = loop[begin:] + loop[:begin]
        closing = follows[loop[0]]
        pointer = self.definition.transition_pointer(closing.index)
        message = f"these steps wait for each other: {name_path([*loop, loop[0]])}"
        self.errors.append(Problem("cycle", pointer, message, "remove one of these transitions"))

    def check_reachable(self) -> None:
        """Refuse steps to which no path leads from the first."""
        reached = {self.definition.start_at}
        todo = [self.definition.start_at]
        while todo:
            for transition in self.leaving.get(todo.pop(), ()):
                if transition.target not in reached:
                    reached.add(transition.target)
                    todo.append(transition.target)
        for step in self.definition.steps:
            if step.id not in reached:
                message = f"no path leads from `{self.definition.start_at}` to `{step.id}`"
                hint = "add a transition to it, or remove it"
                pointer = f"/steps/{step.position}"
                self.errors.append(Problem("step_unreachable", pointer, message, hint))

    # -- conditions and templates

    def compile(self, order: tuple[str, ...]) -> Graph:
        """Parse all that stands in the document as text, once."""
        incoming: dict[str, list[Edge]] = defaultdict(list)
        outgoing: dict[str, list[Edge]] = defaultdict(list)
        edges = tuple(self._compile_edge(item) for item in self.definition.transitions)
        for edge in edges:
            outgoing[edge.source].append(edge)
            incoming[edge.target].append(edge)
        nodes = {
            step.id: self._compile_node(
                step, tuple(incoming.get(step.id, ())), tuple(outgoing.get(step.id, ()))
            )
            for step in self.definition.steps
        }
        outputs = self._compile_template(self.definition.outputs, "/outputs")
        reads, reads_errors = self._find_reads(outputs)
        return Graph(
            definition=self.definition,
            nodes=MappingProxyType(nodes),
            edges=edges,
            start=self.definition.start_at,
            outputs=outputs,
            output_reads=reads,
            output_reads_errors=reads_errors,
            order=order,
            has_early_joins=any(node.step.join.type is JoinType.N_OF_M for node in nodes.values()),
            has_keys=any(node.concurrency_key is not None for node in nodes.values()),
            has_children=any(node.step.type is StepType.PIPELINE for node in nodes.values()),
        )

    def _compile_edge(self, transition: Transition) -> Edge:
        condition: Condition = ALWAYS
        reads: tuple[str, ...] = ()
        reads_errors: tuple[str, ...] = ()
        if transition.condition != "always":
            pointer = self.definition.transition_pointer(transition.index) + "/condition"
            condition = self._compile_condition(transition.condition, pointer) or ALWAYS
            paths = [path for _, path in paths_of(condition)]
            reads, reads_errors = self._sort_reads(paths, transition.source)
        return Edge(
            index=transition.index,
            source=transition.source,
            target=transition.target,
            on=transition.on,
            condition=condition,
            name=transition.name,
            reads=reads,
            reads_errors=reads_errors,
        )

    def _compile_node(
        self, step: StepDefinition, incoming: tuple[Edge, ...], outgoing: tuple[Edge, ...]
    ) -> Node:
        here = f"/steps/{step.position}"
        config = step.config
        is_person = step.type is StepType.HUMAN_INPUT
        inputs = self._compile_template(step.inputs, f"{here}/inputs", single_brace=True)
        items = step.foreach.items if step.foreach else None
        foreach_items = self._compile_template(items, f"{here}/foreach/items")
        shown = (
            self._compile_template(config.get("show"), f"{here}/config/show") if is_person else None
        )
        key = self._compile_template(step.concurrency_key, f"{here}/concurrency_key")
        timer = self._compile_timer(step, here)
        reads, reads_errors = self._find_reads(inputs, foreach_items, shown, key, timer)
        key_reads, key_reads_errors = self._find_reads(key)
        return Node(
            step=step,
            incoming=incoming,
            outgoing=outgoing,
            inputs=inputs,
            foreach_items=foreach_items,
            shown=shown,
            reads=reads,
            reads_errors=reads_errors,
            form=self._compile_form(config, here) if is_person else None,
            reject_when=self._compile_reject(config, here) if is_person else None,
            concurrency_key=key,
            key_reads=key_reads,
            key_reads_errors=key_reads_errors,
            timer=timer,
            input_reads=self._find_reads(inputs)[0],
        )

    def _compile_timer(self, step: StepDefinition, here: str) -> Template | None:
        if step.type is not StepType.WAIT:
            return None
        key = "until" if "until" in step.config else "seconds"
        return self._compile_template(step.config.get(key), f"{here}/config/{key}")

    def _compile_form(self, config: Mapping[str, Any], here: str) -> Form | None:
        form, problems = parse_form(config.get("ui_schema", {}))
        self._add(problems, f"{here}/config/ui_schema")
        return form

    def _compile_reject(self, config: Mapping[str, Any], here: str) -> Condition | None:
        if "reject_when" not in config:
            return None
        return self._compile_condition(config["reject_when"], f"{here}/config/reject_when")

    def _compile_condition(self, value: Any, pointer: str) -> Condition | None:
        # The same few words stand on many transitions; each is parsed once.
        if not isinstance(value, str):
            condition, problems = parse_condition(value)
        elif value in self.parsed:
            condition, problems = self.parsed[value]
        else:
            condition, problems = self.parsed[value] = parse_condition(value)
        self._add(problems, pointer)
        return condition

    def _compile_template(
        self, value: Any, pointer: str, *, single_brace: bool = False
    ) -> Template | None:
        if value is None:
            return None
        template, problems = compile_template(value, single_brace=single_brace)
        self._add(problems, pointer)
        self.warnings += [_below(pointer, warning) for warning in template.warnings]
        return template

    def _add(self, problems: Iterable[Problem], pointer: str) -> None:
        self.errors += [_below(pointer, problem) for problem in problems]

    # -- what is read

    def _find_reads(self, *templates: Template | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        paths = [path for template in templates if template for _, path, _ in template.paths]
        return self._sort_reads(paths, None) if paths else ((), ())

    def _sort_reads(
        self, paths: Iterable[Path], source: str | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the known steps whose outputs, and whose errors, these paths look into."""
        outputs: set[str] = set()
        errors: set[str] = set()
        for path in paths:
            step_id = path.step_id
            if step_id in self.positions and step_id is not None:
                if path.root == "errors":
                    errors.add(step_id)
                elif step_id != source:
                    outputs.add(step_id)
        place = self.positions.__getitem__
        return tuple(sorted(outputs, key=place)), tuple(sorted(errors, key=place))


_LONG_PATH: Final = 40
_LONG_TEXT: Final = 300


def _below(pointer: str, problem: Problem) -> Problem:
    return Problem(problem.code, pointer + problem.pointer, problem.message, problem.hint)
