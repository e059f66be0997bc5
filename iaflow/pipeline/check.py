"""The load-time check: everything that can be known to be wrong before a run is made.

Decides whether a definition may run, and collects every finding with its code, pointer and
nearest right spelling; never executes or stores anything. Called by whoever takes a definition
from a person: runner, importer, command line, web.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from iaflow.errors import DefinitionRefused, Problem
from iaflow.pipeline import (
    conditions,
    definition,
    forms,
    graph,
    input_schema,
    policies,
    reading,
    step_config,
    strict_json,
    templating,
)
from iaflow.pipeline.conditions import Otherwise, code_conditions, paths_of
from iaflow.pipeline.definition import (
    Definition,
    JoinType,
    On,
    StepDefinition,
    StepType,
    parse_definition,
    parse_document,
)
from iaflow.pipeline.graph import Edge, Graph, Node, ancestors, build_graph
from iaflow.pipeline.input_schema import find_schema_problems, known_parameters, merge_parameters
from iaflow.pipeline.joins import find_exclusive_joins
from iaflow.pipeline.policies import find_slips
from iaflow.pipeline.reading import Speller, clip
from iaflow.pipeline.secrets import find_secrets
from iaflow.pipeline.shapes import StepShape
from iaflow.pipeline.step_config import ANSWER_KEYS, find_config_problems
from iaflow.pipeline.strict_json import MAX_BYTES, join_pointer
from iaflow.pipeline.templating import RESERVED_ROOTS, Path, Template

__all__ = [
    "CODES",
    "Checked",
    "check",
    "compile_definition",
    "merge_parameters",
]

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **strict_json.CODES,
        **reading.CODES,
        **definition.CODES,
        **templating.CODES,
        **conditions.CODES,
        **forms.CODES,
        **graph.CODES,
        **input_schema.CODES,
        **step_config.CODES,
        **policies.CODES,
        "parameter_unknown": "there is no parameter of that name",
        "output_undeclared": "a step does not promise that output",
        "step_not_before": "a step is read by one that it does not run before",
        "reference_misplaced": "a path begins with a word that is not known here",
        "on_invalid": "a transition watches an end that its source cannot have",
        "condition_misplaced": "a condition that needs code cannot be judged at this end",
        "otherwise_duplicate": "two transitions with `otherwise` leave a step at the same end",
        "on_failure_conflict": "a step goes on after a failure and has failure transitions too",
        "join_impossible": "a join waits for what can never come",
        "cancels_invalid": "a step cancels itself or one that runs before it",
        "queue_unknown": "there is no queue of that name",
        "pipeline_recursion": "a pipeline runs itself",
        "secret_invalid": "an object with the key $secret is not just a name",
        "input_missing": "a step's class asks for an input that the definition does not give",
        "input_undeclared": "a step's class has no input of that name",
    }
)
"""The closed list of codes that a definition can be refused with, or warned of."""


ShapeOf = Callable[[StepDefinition], StepShape | None]
"""Returns what the models of a step's class say, if that can be known."""


@dataclass(frozen=True, slots=True)
class Checked:
    """
    What the check of a definition found.

    Attributes:
        graph: the compiled definition; None if there are errors.
        errors: all findings that keep it from running, in the order of the rules.
        warnings: what works, but should be mended.
        source: where it came from, for messages.
    """

    graph: Graph | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    source: str = ""


def check(
    text: str | bytes | dict[str, Any],
    *,
    queues: Collection[str] | None = None,
    source: str = "",
    max_bytes: int = MAX_BYTES,
    shape_of: ShapeOf = lambda step: None,
) -> Checked:
    """
    Check a definition; never raises, whatever it is given.

    Args:
        text: JSON text, or a document that is a Python dict already.
        queues: the names of the queues that workers take from; None: not judged.
        source: where it came from, such as a file's path.
        max_bytes: the longest text.
        shape_of: returns what a step's class says of its inputs and outputs, if that is known.

    Returns:
        The graph to run, or the errors; and the warnings.
    """
    if isinstance(text, str | bytes):
        found, errors, warnings = parse_definition(text, max_bytes=max_bytes)
    else:
        found, errors, warnings = parse_document(text, max_bytes=max_bytes)
    built = None
    if found is not None:
        built, more, more_warnings = build_graph(found)
        errors += more
        warnings += more_warnings
        errors += _check_schema(found)
    if built is not None:
        facts = _Facts(
            built, ancestors(built), known_parameters(built.definition), queues, shape_of
        )
        for rule in _RULES:
            errors += rule(facts)
        violations, empty = find_slips(built)
        errors += violations
        warnings += empty
    return Checked(None if errors else built, tuple(errors), tuple(warnings), source)


def compile_definition(
    text: str | bytes | dict[str, Any],
    *,
    source: str = "",
    queues: Collection[str] | None = None,
    max_bytes: int = MAX_BYTES,
    shape_of: ShapeOf = lambda step: None,
) -> Graph:
    """
    Return the graph of a definition that may run.

    Raises:
        DefinitionRefused: with every error, not the first.
    """
    checked = check(text, queues=queues, source=source, max_bytes=max_bytes, shape_of=shape_of)
    if checked.graph is None:
        raise DefinitionRefused(checked.errors, source)
    return checked.graph


class _Facts:
    """What the rules look at; every rule yields what it finds, and none stops another."""

    __slots__ = (
        "before",
        "graph",
        "parameters",
        "promises",
        "queues",
        "shapes",
        "speller",
        "words",
    )

    def __init__(
        self,
        graph: Graph,
        before: Mapping[str, int],
        parameters: frozenset[str],
        queues: Collection[str] | None,
        shape_of: ShapeOf,
    ) -> None:
        self.graph = graph
        self.before = before
        self.parameters = parameters
        self.queues = queues
        self.speller = Speller()
        # Looked up once for each step: one may promise thousands, and be read as often.
        self.shapes = {
            node.step.id: shape
            for node in graph.nodes.values()
            if node.step.module is not None and (shape := shape_of(node.step)) is not None
        }
        self.promises: dict[tuple[str, bool], dict[str, None] | None] = {}
        self.words = (*RESERVED_ROOTS, *graph.nodes)


def _check_schema(definition: Definition) -> Iterator[Problem]:
    if definition.input_schema is not None:
        for problem in find_schema_problems(definition.input_schema):
            pointer = "/input_schema" + problem.pointer
            yield Problem(problem.code, pointer, problem.message, problem.hint)


# --- references

_EVERYTHING: Final = -1
"""As a set of bits, every step there is."""


@dataclass(frozen=True, slots=True)
class _View:
    """
    From where a path looks.

    Attributes:
        reader: what reads, for messages.
        sees: the steps whose outputs and errors are known there, as bits of their positions.
        has_item: whether `item` and `index` are known.
        source: the step that `result` is the output of, in conditions.
    """

    reader: str
    sees: int
    has_item: bool = False
    source: Node | None = None


def _check_templates(facts: _Facts) -> Iterator[Problem]:
    for node in facts.graph.nodes.values():
        step = node.step
        here = f"/steps/{step.position}"
        outer = _View(f"step `{step.id}`", facts.before[step.id])
        inner = _View(outer.reader, outer.sees, has_item=step.foreach is not None)
        yield from _check_template(facts, node.inputs, f"{here}/inputs", inner)
        yield from _check_template(facts, node.concurrency_key, f"{here}/concurrency_key", inner)
        yield from _check_template(facts, node.foreach_items, f"{here}/foreach/items", outer)
        yield from _check_template(facts, node.shown, f"{here}/config/show", outer)
        timer = "until" if "until" in step.config else "seconds"
        yield from _check_template(facts, node.timer, f"{here}/config/{timer}", outer)
    everywhere = _View("the run's outputs", _EVERYTHING)
    yield from _check_template(facts, facts.graph.outputs, "/outputs", everywhere)


def _check_template(
    facts: _Facts, template: Template | None, pointer: str, view: _View
) -> Iterator[Problem]:
    if template is not None:
        for relative, path, _ in template.paths:
            problem = _judge_path(facts, path, pointer + relative, view)
            if problem:
                yield problem


def _check_conditions(facts: _Facts) -> Iterator[Problem]:
    for edge in facts.graph.edges:
        paths = paths_of(edge.condition)
        if not paths:
            continue
        source = facts.graph.nodes[edge.source]
        sees = facts.before[edge.source] | 1 << source.step.position
        view = _View(f"a transition from `{edge.source}`", sees, source=source)
        pointer = facts.graph.definition.transition_pointer(edge.index) + "/condition"
        for relative, path in paths:
            problem = _judge_path(facts, path, pointer + relative, view)
            if problem:
                yield problem


def _judge_path(facts: _Facts, path: Path, pointer: str, view: _View) -> Problem | None:
    match path.root:
        case "run":
            return None
        case "parameters":
            return _judge_parameter(facts, path, pointer)
        case "item" | "index":
            if view.has_item:
                return None
            message = f"`{path.root}` is known only in `inputs` of a step with `foreach`"
            return Problem("reference_misplaced", pointer, message)
        case "result":
            if view.source is not None:
                return _judge_output(facts, view.source, path, pointer)
            message = "`result` is known in conditions only"
            return Problem("reference_misplaced", pointer, message, "write the step's id")
        case _:
            return _judge_step(facts, path, pointer, view)


def _judge_parameter(facts: _Facts, path: Path, pointer: str) -> Problem | None:
    if not path.segments or path.segments[0] in facts.parameters:
        return None
    name = path.segments[0]
    hint = facts.speller.hint(name, facts.parameters) or (
        "give it a default in `parameters`, or name it in `input_schema.properties`"
    )
    return Problem("parameter_unknown", pointer, f"there is no parameter {clip(name)}", hint)


def _judge_step(facts: _Facts, path: Path, pointer: str, view: _View) -> Problem | None:
    step_id = path.step_id
    node = facts.graph.nodes.get(step_id or "")
    if node is None:
        hint = facts.speller.hint(step_id or "", facts.words)
        return Problem("step_unknown", pointer, f"there is no step {clip(step_id or '')}", hint)
    if not view.sees >> node.step.position & 1:
        message = f"`{step_id}` does not run before {view.reader}, so it cannot be read there"
        return Problem("step_not_before", pointer, message, f"add a path from `{step_id}` to it")
    return None if path.root == "errors" else _judge_output(facts, node, path, pointer)


def _judge_output(facts: _Facts, node: Node, path: Path, pointer: str) -> Problem | None:
    """Compare the keys of a path with the output that a step promises, if it does."""
    segments = path.segments
    # Below the list of results stand a place in it and then what each item promises.
    of_item = node.step.foreach is not None and segments[:1] == ("results",)
    if of_item:
        segments = segments[2:]
    key = (node.step.id, of_item)
    if key not in facts.promises:
        shape = facts.shapes.get(node.step.id)
        own = node.step.outputs if shape is None or node.step.outputs else shape.outputs
        names = own if of_item else _promised(node, own)
        facts.promises[key] = None if names is None else dict.fromkeys(names)
    promised = facts.promises[key]
    if not segments or promised is None or segments[0] in promised:
        return None
    known = ", ".join(islice(promised, 20)) or "nothing"
    hint = facts.speller.hint(segments[0], promised) or f"it promises {known[:200]}"
    message = f"step `{node.step.id}` has no output {clip(segments[0])}"
    return Problem("output_undeclared", pointer, message, hint)


def _promised(node: Node, own: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the keys that a step's output has, `own` by itself; None if only `work` knows."""
    step = node.step
    if step.foreach is not None:
        return ("results",)
    if step.type is StepType.HUMAN_INPUT and node.form is not None:
        fields = tuple(field.name for field in node.form.fields)
        if own is not None or step.module is None:
            return (*(own or ()), *fields, *ANSWER_KEYS)
    if step.type is StepType.PIPELINE and not step.wait:
        return ("run_id",)
    return own


# --- transitions

_ENDS_ONLY_OF: Final[Mapping[On, frozenset[StepType]]] = MappingProxyType(
    {
        On.TIMEOUT: frozenset({StepType.TASK, StepType.PIPELINE, StepType.TERMINATE}),
        On.EXPIRED: frozenset({StepType.HUMAN_INPUT, StepType.EVENT}),
        On.REJECTED: frozenset({StepType.HUMAN_INPUT}),
    }
)
_FAILURES: Final = frozenset({On.FAILURE, On.TIMEOUT, On.EXPIRED, On.REJECTED})


def _check_ends(facts: _Facts) -> Iterator[Problem]:
    for edge in facts.graph.edges:
        step = facts.graph.nodes[edge.source].step
        pointer = facts.graph.definition.transition_pointer(edge.index)
        types = _ENDS_ONLY_OF.get(edge.on)
        if types is not None and step.type not in types:
            message = f"`{step.id}` is of type {step.type} and never ends as {edge.on}"
            hint = f"`{edge.on}` is for {', '.join(sorted(types))}"
            yield Problem("on_invalid", f"{pointer}/on", message, hint)
        if edge.on in {On.SKIPPED, On.EXPIRED} and code_conditions(edge.condition):
            message = f"no worker is there to ask when a step is {edge.on}"
            yield Problem("condition_misplaced", f"{pointer}/condition", message)
        if step.policy.on_failure == "continue" and edge.on in _FAILURES:
            message = f"`{step.id}` has on_failure: continue, so this is never taken"
            hint = "remove one of the two"
            yield Problem("on_failure_conflict", pointer, message, hint)


def _check_otherwise(facts: _Facts) -> Iterator[Problem]:
    first: dict[tuple[str, On], Edge] = {}
    for edge in facts.graph.edges:
        if not isinstance(edge.condition, Otherwise):
            continue
        before = first.setdefault((edge.source, edge.on), edge)
        if before is not edge:
            pointer = f"{facts.graph.definition.transition_pointer(edge.index)}/condition"
            message = f"transition {before.index} says `otherwise` for this end already"
            yield Problem("otherwise_duplicate", pointer, message)


# --- joins and cancels


def _check_joins(facts: _Facts) -> Iterator[Problem]:
    for node in facts.graph.nodes.values():
        join = node.step.join
        if join.type is JoinType.N_OF_M and join.n > len(node.incoming):
            pointer = f"/steps/{node.step.position}/join"
            message = f"{join.n} of {len(node.incoming)} transitions can never be taken"
            yield Problem("join_impossible", pointer, message, "lower `n`")
    for node, one, other in find_exclusive_joins(facts.graph):
        pointer = f"/steps/{node.step.position}/join"
        message = (
            f"`{node.step.id}` waits for all, but transitions {one.index} (to `{one.target}`) and"
            f" {other.index} (to `{other.target}`) from `{one.source}` exclude each other"
        )
        yield Problem("join_impossible", pointer, message, "use all_taken, or any")


def _check_cancels(facts: _Facts) -> Iterator[Problem]:
    for node in facts.graph.nodes.values():
        step = node.step
        for index, step_id in enumerate(step.cancels):
            pointer = f"/steps/{step.position}/cancels/{index}"
            other = facts.graph.nodes.get(step_id)
            if other is None:
                hint = facts.speller.hint(step_id, facts.graph.nodes.keys())
                yield Problem("step_unknown", pointer, f"there is no step {clip(step_id)}", hint)
            elif other is node:
                yield Problem("cancels_invalid", pointer, "a step cannot cancel itself")
            elif facts.before[step.id] >> other.step.position & 1:
                message = f"`{step_id}` has ended before `{step.id}` begins"
                yield Problem("cancels_invalid", pointer, message)


# --- steps


def _check_steps(facts: _Facts) -> Iterator[Problem]:
    slug = facts.graph.definition.slug
    for node in facts.graph.nodes.values():
        step = node.step
        here = f"/steps/{step.position}"
        if step.foreach is not None and step.type not in {StepType.TASK, StepType.PIPELINE}:
            message = f"`foreach` is for tasks and pipelines, not for type {step.type}"
            yield Problem("key_misplaced", f"{here}/foreach", message)
        n = None if step.foreach is None else step.foreach.n
        if (
            step.foreach
            and n
            and isinstance(step.foreach.items, list)
            and n > len(step.foreach.items)
        ):
            message = f"{n} successes of {len(step.foreach.items)} items are out of reach"
            yield Problem("value_invalid", f"{here}/foreach/n", message, "lower `n`")
        if step.foreach is not None and isinstance(step.foreach.items, str):
            template = node.foreach_items
            if template is not None and not (template.is_reference or template.is_broken):
                message = "text is never a list of items"
                hint = "write a list, or one template such as {{ step.list }}"
                yield Problem("value_invalid", f"{here}/foreach/items", message, hint)
        if step.concurrency_key is not None and step.type is StepType.HUMAN_INPUT:
            message = "people are not limited by a `concurrency_key`"
            yield Problem("key_misplaced", f"{here}/concurrency_key", message)
        if step.pipeline is not None and step.pipeline == slug:
            message = f"this is the pipeline {clip(slug)} itself: it would never end"
            yield Problem("pipeline_recursion", f"{here}/pipeline", message)
        if facts.queues is not None and step.queue is not None and step.queue not in facts.queues:
            hint = facts.speller.hint(step.queue, facts.queues)
            message = f"no worker takes from a queue {clip(step.queue)}"
            yield Problem("queue_unknown", f"{here}/queue", message, hint)
        yield from find_config_problems(node)
        yield from _check_promises(node)
        yield from _check_shape(facts, node)
        yield from _check_reject_when(facts, node)


def _check_shape(facts: _Facts, node: Node) -> Iterator[Problem]:
    """Compare `inputs` and `outputs` with the models of the step's class."""
    step, shape = node.step, facts.shapes.get(node.step.id)
    if shape is None or step.type is not StepType.TASK:
        return
    here = f"/steps/{step.position}"
    if step.inputs is not None:
        for name in shape.required:
            if name not in step.inputs:
                message = f"`{step.step_class}` asks for the input {clip(name)}"
                yield Problem("input_missing", f"{here}/inputs", message, f"add `{name}`")
        known = shape.inputs
        for name in step.inputs if known is not None else ():
            if known is not None and name not in known:
                hint = facts.speller.hint(name, known)
                message = f"`{step.step_class}` has no input {clip(name)}"
                yield Problem(
                    "input_undeclared", join_pointer(f"{here}/inputs", name), message, hint
                )
    for index, name in enumerate(step.outputs or ()):
        if shape.outputs is not None and name not in shape.outputs:
            hint = facts.speller.hint(name, shape.outputs)
            message = f"`{step.step_class}` gives no output {clip(name)}"
            yield Problem("output_undeclared", f"{here}/outputs/{index}", message, hint)


def _check_promises(node: Node) -> Iterator[Problem]:
    """What people answer is known: a built-in step for them gives its fields, and no more."""
    step, form = node.step, node.form
    if step.type is not StepType.HUMAN_INPUT or step.module is not None or form is None:
        return
    fields = {field.name for field in form.fields} | set(ANSWER_KEYS)
    for index, name in enumerate(step.outputs or ()):
        if name not in fields:
            message = f"the form has no field {clip(name)}"
            hint = f"its fields are {', '.join(sorted(fields))[:200]}"
            yield Problem(
                "output_undeclared", f"/steps/{step.position}/outputs/{index}", message, hint
            )


def _check_reject_when(facts: _Facts, node: Node) -> Iterator[Problem]:
    """Judge the parameters of the condition on an answer; the rest of it needs only the form."""
    for relative, path in paths_of(node.reject_when) if node.reject_when else ():
        if path.root == "parameters":
            pointer = f"/steps/{node.step.position}/config/reject_when{relative}"
            problem = _judge_parameter(facts, path, pointer)
            if problem:
                yield problem


def _check_secrets(facts: _Facts) -> Iterator[Problem]:
    for node, key, pointer, value in find_secrets(facts.graph):
        step = node.step
        name = value["$secret"]
        if len(value) > 1 or not isinstance(name, str) or not name:
            message = 'a secret is written {"$secret": "name"} and nothing beside it'
            yield Problem("secret_invalid", pointer, message)
        elif key == "inputs" and step.type is not StepType.TASK:
            # People would see it, the outputs keep it, a child run has it as a parameter.
            message = f"the inputs of a step of type {step.type} are kept and shown"
            yield Problem("secret_invalid", pointer, message, "only tasks are given secrets")
        elif pointer == f"/steps/{step.position}/{key}":
            message = f"`{key}` is an object; a secret is a value in it"
            yield Problem("secret_invalid", pointer, message)
        elif step.type is not StepType.TASK and pointer.split("/")[4] in _KEPT_CONFIG:
            message = "what people are shown or asked is kept"
            yield Problem("secret_invalid", pointer, message, "only `work` is given secrets")


_KEPT_CONFIG: Final = frozenset({"show", "ui_schema"})


_RULES: Final[tuple[Callable[[_Facts], Iterator[Problem]], ...]] = (
    _check_templates,
    _check_conditions,
    _check_ends,
    _check_otherwise,
    _check_joins,
    _check_cancels,
    _check_steps,
    _check_secrets,
)
